"""No password or token reaches the store, its artifacts, logs, the terminal, or a command line."""

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests
import yaml

from steps.config.file import load_config
from steps.errors import UserError
from steps.tracking.credentials import holds_secret, login_in_environment, without_credentials
from tests.support.processes import step
from tests.support.project import ROOT
from tests.support.server import Server

# Of eight kinds, each to be recognised again wherever it may turn up.
SECRETS = {
    "uri": "S3cretOfTheServer",
    "hub": "hf_abcdefghijklmnopqrstuvwxyz123456",
    "github": "ghp_abcdefghijklmnopqrstuvwxyz123456",
    "aws": "AWSsecretKey/abcdefghijklmnop",
    "tracking token": "trackingTokenOfMine123",
    "package index": "indexPassword987",
    "papers": "passwordOfThePapers55",
    "database": "databasePassword77",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pw@host:5000/x", "http://host:5000/x"),
        ("postgresql://me:p%40w@host/db", "postgresql://host/db"),
        ("postgresql://host/db?user=me&password=pw", "postgresql://host/db?user=me&password=***"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
        ("a token hf_abcdefghijklmnopqrstuvwxyz here", "a token *** here"),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_credentials_are_taken_out_of_a_text(text: str, expected: str) -> None:
    assert without_credentials(text) == expected


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("training.mlflow.tracking_uri=http://me:pw@host", True),
        ("training.model.token=abc", True),
        ("training.evaluation.generation.max_new_tokens=64", False),
        ("training.scientific_data.split.salt=hf", False),
        (f"training.model.name={SECRETS['hub']}", True),
    ],
)
def test_secrets_of_a_command_line_are_seen(text: str, secret: bool) -> None:
    assert holds_secret(text) is secret


def test_the_login_of_a_server_goes_into_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "http://me:p%40w@host:5000"
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert login_in_environment(uri) == "http://host:5000" == os.environ["MLFLOW_TRACKING_URI"]
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p@w"
    assert login_in_environment("sqlite:///a@b.db") == "sqlite:///a@b.db"


@pytest.fixture
def asking_for_login(store: str, tmp_path: Path) -> Iterator[str]:
    """A tracking server behind one that asks for a login; gives a URI with user and password."""
    server = Server(tmp_path, tmp_path / "mlflow.db")
    server.start()

    class Proxy(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            import base64

            expected = base64.b64encode(f"me:{SECRETS['uri']}".encode()).decode()
            if self.headers.get("Authorization") != f"Basic {expected}":
                self.send_response(401)
                self.end_headers()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            passed = requests.request(
                self.command,
                server.uri + self.path,
                data=body,
                headers={"Content-Type": self.headers.get("Content-Type", "")},
                timeout=60,
            )
            self.send_response(passed.status_code)
            self.send_header("Content-Type", passed.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(passed.content)))
            self.end_headers()
            self.wfile.write(passed.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            return

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield f"http://me:{SECRETS['uri']}@127.0.0.1:{proxy.server_port}"
    proxy.shutdown()
    proxy.server_close()
    server.kill()


class CommandLines(threading.Thread):
    """Looks at the command lines of all processes while something runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.found: set[str] = set()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit():
                    try:
                        line = (folder / "cmdline").read_bytes().decode(errors="replace")
                    except OSError:
                        continue
                    self.found |= {name for name, secret in SECRETS.items() if secret in line}
            time.sleep(0.02)


def test_secrets_of_eight_kinds_are_nowhere_after_a_training(
    asking_for_login: str, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", asking_for_login)
    monkeypatch.setenv("HF_TOKEN", SECRETS["hub"])
    monkeypatch.setenv("GITHUB_TOKEN", SECRETS["github"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["aws"])
    monkeypatch.setenv("PIP_INDEX_URL", f"https://me:{SECRETS['package index']}@example.org/simple")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{SECRETS['database']}@example.org/db")
    content = yaml.safe_load(tiny_config.read_text(encoding="utf-8"))
    content["training"]["mlflow"]["tracking_uri"] = (
        f"postgresql://me:{SECRETS['papers']}@example.org/db"
    )
    config = tiny_config.with_name("with-secrets.yaml")
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    watching = CommandLines()
    watching.start()
    said = step("preprocess", tmp_path, "--config", str(config))
    said += step("finetune", tmp_path, "--config", str(config), "--verbose")
    watching.ended.set()
    watching.join()
    assert watching.found == set()
    assert [name for name, secret in SECRETS.items() if secret in said] == []
    places = [file for file in tmp_path.rglob("*") if file.is_file() and file != config]
    assert any(file.name == "mlflow.db" for file in places)
    assert any(file.name == "config.yaml" for file in places)
    for file in places:
        content = file.read_bytes()
        found = [name for name, secret in SECRETS.items() if secret.encode() in content]
        assert found == [], file


def test_a_password_in_overrides_is_refused_and_its_run_deleted(
    store: str, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    run = client.create_run(client.create_experiment("made by mlflow run"))
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    overrides = f"training.mlflow.tracking_uri=http://me:{SECRETS['uri']}@host"
    said = step(
        "evaluate", tmp_path, "--config", str(tiny_config), "--overrides", overrides, code=2
    )
    assert SECRETS["uri"] not in said
    assert f"mlflow gc --run-ids {run.info.run_id}" in said
    assert client.get_run(run.info.run_id).info.lifecycle_stage == "deleted"


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"])
def test_a_configuration_reads_no_secret_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, SECRETS["aws"])
    file = tmp_path / "config.yaml"
    file.write_text(f"training:\n  scientific_data:\n    data_file: ${{oc.env:{name}}}\n")
    with pytest.raises(UserError) as refused:
        load_config(file)
    assert SECRETS["aws"] not in str(refused.value)
    assert "are read from the environment" in str(refused.value)


def test_places_are_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    file = tmp_path / "config.yaml"
    data = "data_file: ${oc.env:SCRATCH}/papers.json"
    file.write_text(f"training:\n  scientific_data:\n    {data}\n")
    assert load_config(file).training.scientific_data.data_file == "/scratch/me/papers.json"


def test_what_a_database_or_a_bucket_needs_is_named(tmp_path: Path) -> None:
    program = (
        "from steps.config.sections import Training\n"
        "from steps.tracking.store import connect\n"
        "connect(Training())\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": f"postgresql://me:{SECRETS['database']}@127.0.0.1:1/db",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "extras/postgres.txt" in finished.stderr
    assert SECRETS["database"] not in finished.stderr.splitlines()[-1]
