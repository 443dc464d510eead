"""The steps on the stores that a lab has: PostgreSQL, S3, a login, a slow link, a breaking one."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import mlflow
import pytest

from tests.support.extras import extra_folder
from tests.support.link import Link
from tests.support.processes import step
from tests.support.project import ROOT
from tests.support.real_servers import (
    PASSWORD,
    Bucket,
    Database,
    lab_server,
    postgresql,
    python_path,
    s3,
)
from tests.support.server import Server

# What a pipeline of two variants asks a server for, signs of life left out, because how many there
# are depends on time: 9 runs, of which the files alone are some 160. It was 536 when last counted.
MOST_REQUESTS = 600
BEATS = "POST runs/set-tag"

SHORT = " ".join(
    (
        "training.hyperparameters.max_steps=6",
        *(f"training.logging.{key}_steps=3" for key in ("save", "eval")),
    )
)
TWO_TRIALS = "sweep.method=grid sweep.parameters.hyperparameters.learning_rate=[2e-2,1e-3]"
TWO_VARIANTS = "variants: {lora: {qlora: {method: lora}}, rslora: {qlora: {method: rslora}}}"
# Each entry point with what it is given; in the order in which each finds what it needs.
ENTRY_POINTS: tuple[tuple[str, ...], ...] = (
    ("plan",),
    ("import_papers",),
    ("preprocess",),
    ("finetune",),
    ("evaluate",),
    ("ab_compare",),
    ("prune_checkpoints", "--apply", "true"),
    ("compare_runs",),
    ("generate", "--model", "models:/tiny/1", "--prompt", "Variants in BRCA1"),
    ("release", "--model", "models:/tiny/1", "--formats", "adapter"),
    ("sweep",),
    ("status",),
    ("main",),
)


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with postgresql() as one:
        yield one


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3() as one:
        yield one


@pytest.fixture
def client_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache and a working folder of this test's own; the store is named later."""
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture
def lab(database: Database, bucket: Bucket, client_of: None, tmp_path: Path) -> Iterator[Server]:
    """MLflow with a login on PostgreSQL and S3, through which artifacts pass."""
    with lab_server(tmp_path, database, bucket, proxied=True) as server:
        yield server


def use(uri: str, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """Name the store to this process and to those that it starts."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient()


def two_variants(config: Path) -> Path:
    text = config.read_text(encoding="utf-8")
    changed = text.replace("variants: {lora: {}}", TWO_VARIANTS)
    assert changed != text
    config.write_text(changed, encoding="utf-8")
    return config


def of_steps(requests: Mapping[str, int]) -> int:
    return sum(requests.values()) - requests.get(BEATS, 0)


@pytest.mark.slow
def test_a_pipeline_on_postgresql_and_s3_behind_a_login_asks_the_server_so_often(
    lab: Server, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Link(lab.port) as link:
        client = use(link.uri, monkeypatch)
        said = step(
            "main", tmp_path, "--config", str(two_variants(tiny_config)), "--overrides", SHORT
        )
        assert of_steps(link.requests) <= MOST_REQUESTS, link.requests.most_common()
        experiment = client.get_experiment_by_name("tiny")
        runs = client.search_runs([experiment.experiment_id])
        assert len(runs) == 9 and {run.info.status for run in runs} == {"FINISHED"}
        assert {run.info.artifact_uri.partition(":")[0] for run in runs} == {"mlflow-artifacts"}
        assert client.get_model_version_by_alias("tiny", "champion") or "inconclusive" in said
        link.requests.clear()
        said = step("main", tmp_path, "--config", str(tiny_config), "--overrides", SHORT)
        assert "nothing had changed: every step was reused" in said
        assert of_steps(link.requests) <= 60, link.requests.most_common()


def every_entry_point(config: Path, folder: Path) -> None:
    for name, *arguments in ENTRY_POINTS:
        given = ["--config", str(config), "--overrides", SHORT, *arguments]
        if name == "sweep":
            given[3] += f" {TWO_TRIALS}"
        step(name, folder, *given)


@pytest.mark.slow
def test_every_entry_point_works_on_postgresql_and_s3_behind_a_login(
    lab: Server, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(lab.uri, monkeypatch)
    every_entry_point(tiny_config, tmp_path)


@pytest.mark.slow
def test_every_entry_point_works_on_postgresql_and_s3_without_a_server(
    bucket: Bucket,
    client_of: None,
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packages = [extra_folder("postgres"), extra_folder("s3")]
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    for folder in packages:
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("tests.support.processes.ROOT", python_path(ROOT, *packages))
    with postgresql() as database:
        client = use(database.uri, monkeypatch)
        client.create_experiment("tiny", artifact_location=f"{bucket.uri}/direct")
        every_entry_point(tiny_config, tmp_path)


@pytest.fixture
def link(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """A link to a server on SQLite."""
    server = Server(tmp_path, tmp_path / "mlflow.db")
    server.start()
    with Link(server.port) as one:
        use(one.uri, monkeypatch)
        yield one
    server.kill()


@pytest.mark.slow
def test_every_entry_point_works_over_a_slow_link(
    link: Link, tiny_config: Path, tmp_path: Path
) -> None:
    link.latency = 0.1
    every_entry_point(tiny_config, tmp_path)


@pytest.mark.slow
def test_every_entry_point_works_over_a_link_that_breaks_now_and_then(
    link: Link, tiny_config: Path, tmp_path: Path
) -> None:
    link.cut_every(40)
    every_entry_point(tiny_config, tmp_path)


@pytest.mark.slow
def test_a_step_whose_link_is_away_for_some_seconds_goes_on(
    link: Link, tiny_config: Path, tmp_path: Path
) -> None:
    step("preprocess", tmp_path, "--config", str(tiny_config))
    training = subprocess.Popen(
        [
            *(sys.executable, "-m", "steps.finetune", "--config", str(tiny_config)),
            *("--overrides", "training.logging.log_steps=1 training.hyperparameters.max_steps=60"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not any(kind.endswith("plan.json") for kind in link.requests):
        assert training.poll() is None, training.communicate()[0]
        link.cut_every(None)
    link.refuse(15)
    said, _ = training.communicate(timeout=600)
    assert training.returncode == 0, said
    assert link.refused


def test_artifacts_that_the_server_cannot_store_end_a_step_with_one_line(
    store: str, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a client a full disk is an answer 500, as is a folder that cannot be made."""
    (tmp_path / "full").touch()
    destination = str(tmp_path / "full" / "artifacts")
    # On a busy machine a server may be slow; that is another line.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    server = Server(tmp_path, tmp_path / "mlflow.db", "--artifacts-destination", destination)
    server.start()
    with Link(server.port) as link:
        use(link.uri, monkeypatch)
        said = step("preprocess", tmp_path, "--config", str(tiny_config), code=2)
        puts = sum(n for kind, n in link.requests.items() if kind.startswith("PUT"))
    server.kill()
    last = said.strip().splitlines()[-1]
    assert "artifacts" in last and "disk" in last
    # Eight at a time, each asked again for some seconds, and the log of the step.
    assert puts <= 100, link.requests


def test_an_artifact_store_on_s3_names_the_extra_that_reads_it(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    assert not any((Path(folder) / "boto3").is_dir() for folder in sys.path)
    client = mlflow.MlflowClient()
    client.create_experiment("tiny", artifact_location="s3://lab/mlflow")
    said = step("preprocess", tmp_path, "--config", str(tiny_config), code=2)
    assert "the artifact store s3://lab/mlflow" in said and "extras/s3.txt" in said
    run = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])[0]
    assert run.info.status == "FAILED"


def test_a_database_names_the_extra_that_reads_it(
    client_of: None, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://lab:{PASSWORD}@127.0.0.1:1/mlflow")
    said = step("preprocess", tmp_path, "--config", str(tiny_config), code=2)
    assert "the tracking store postgresql://127.0.0.1:1/mlflow" in said
    assert "extras/postgres.txt" in said and PASSWORD not in said
