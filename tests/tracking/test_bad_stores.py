"""A store that cannot be used is refused at the start, in one line that says what it is."""

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from steps.config.sections import Mlflow, Training
from steps.errors import UserError
from steps.tracking.credentials import without_credentials
from steps.tracking.runs import step_run
from steps.tracking.store import connect, reason

PAGE = b"<!doctype html>\n<html><body>" + b"<p>welcome</p>" * 200 + b"</body></html>"


@pytest.fixture
def answering() -> Iterator[Callable[[int, bytes], str]]:
    """Starts servers that answer every request alike; gives their URLs."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(code: int, body: bytes) -> str:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError) as refused:
        connect(Training())
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 600
    assert uri in message
    return message


@pytest.mark.parametrize(
    ("code", "body", "words"),
    [
        (200, PAGE, "a page instead of JSON"),
        (
            401,
            b"You are not authenticated.",
            "asks for a login (401): set MLFLOW_TRACKING_USERNAME",
        ),
        (403, b"Permission denied", "refuses this user (403)"),
        (404, PAGE, "no MLflow server answers there (404)"),
        (302, b"", "no MLflow server answers there (302)"),
        (500, PAGE, "server error (500)"),
    ],
)
def test_a_server_that_is_no_tracking_server_for_us_is_named_by_its_answer(
    store: str,
    answering: Callable[[int, bytes], str],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    body: bytes,
    words: str,
) -> None:
    assert words in refusal(answering(code, body), monkeypatch)


def test_a_closed_port_and_an_unknown_host_are_named(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Connection refused" in refusal("http://127.0.0.1:1", monkeypatch)
    assert "does not answer" in refusal("http://no-such-host.invalid:5000", monkeypatch)


def test_a_server_that_never_answers_is_given_up_within_seconds(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steps.tracking.store.REQUEST_SECONDS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "does not answer in time" in refusal(uri, monkeypatch)


def test_a_file_that_is_no_database_is_named(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "junk.db").write_text("no database" * 100)
    message = refusal(f"sqlite:///{tmp_path / 'junk.db'}", monkeypatch)
    assert "junk.db is not a SQLite database" in message


def test_a_folder_that_cannot_be_made_is_named(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in refusal(f"sqlite:///{tmp_path}/file/below/mlflow.db", monkeypatch)


def test_a_read_only_store_is_refused_before_any_run_is_made(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.set_experiment("here")
    # MLflow makes a folder "file:" where it is started.
    monkeypatch.chdir(tmp_path)
    read_only = f"sqlite:///file:{tmp_path / 'mlflow.db'}?mode=ro&uri=true"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", read_only)
    training = Training(mlflow=Mlflow(experiment_name="here"))
    with (
        pytest.raises(UserError, match="it is read-only"),
        step_run("probe", training, verbose=False),
    ):
        pytest.fail("the step began")
    mlflow.set_tracking_uri(store)
    assert mlflow.active_run() is None
    assert not mlflow.search_runs(search_all_experiments=True, output_format="list")


def test_an_artifact_folder_that_cannot_be_written_is_named(store: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    mlflow.create_experiment("elsewhere", artifact_location=f"file://{tmp_path}/taken")
    training = Training(mlflow=Mlflow(experiment_name="elsewhere"))
    file = tmp_path / "config.yaml"
    file.write_text("a: 1")
    with (
        pytest.raises(UserError, match="taken"),
        step_run("probe", training, verbose=False) as run,
    ):
        run.artifact(file)


def test_credentials_of_a_uri_are_never_shown() -> None:
    assert without_credentials("postgresql://me:secret@host/db") == "postgresql://host/db"
    assert without_credentials("http://host:5000") == "http://host:5000"
    assert without_credentials("sqlite:///a@b.db") == "sqlite:///a@b.db"


def test_a_long_answer_becomes_one_short_line() -> None:
    assert len(reason(ValueError("one\ntwo " * 500))) < 210


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "(psycopg.OperationalError) connection failed: FATAL: password authentication failed "
            'for user "me" (Background on this error at: https://sqlalche.me/e/20/e3q8)',
            "the database refuses this user and password",
        ),
        (
            "(psycopg.OperationalError) connection timeout expired (Background on this error at: "
            "https://sqlalche.me/e/20/e3q8)",
            "connection timeout expired",
        ),
        ("(sqlite3.OperationalError) disk I/O error [SQL: select 1]", "disk I/O error"),
    ],
)
def test_what_a_database_says_is_told_without_its_wrapping(message: str, expected: str) -> None:
    """As PostgreSQL 15 by psycopg 3 and SQLite say it through SQLAlchemy."""
    assert reason(ValueError(message)) == expected
