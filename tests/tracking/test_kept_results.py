"""Files of evaluations that are kept on this machine."""

from pathlib import Path

import mlflow
import pytest

from steps.digests import file_sha256
from steps.tracking.kept_results import fetch_results, keep_results
from tests.support.link import Link
from tests.support.server import Server

NAME = "per_paper.parquet"


@pytest.fixture
def result(tmp_path: Path) -> Path:
    file = tmp_path / NAME
    file.write_bytes(b"rows of an evaluation" * 100)
    return file


def stored(client: mlflow.MlflowClient, file: Path) -> str:
    run_id = str(client.create_run(client.create_experiment("kept")).info.run_id)
    client.log_artifact(run_id, str(file))
    return run_id


def test_a_kept_file_is_not_fetched_and_a_damaged_one_is(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    server = Server(
        tmp_path, tmp_path / "mlflow.db", "--artifacts-destination", str(tmp_path / "artifacts")
    )
    server.start()
    target, sha256 = tmp_path / "fetched", file_sha256(result)
    target.mkdir()

    def fetches(link: Link) -> int:
        return sum(n for kind, n in link.requests.items() if kind.endswith(NAME))

    with Link(server.port) as link:
        client = mlflow.MlflowClient(link.uri)
        run_id = stored(client, result)
        link.requests.clear()
        keep_results(client, run_id, {result: sha256})
        found = fetch_results(client, run_id, {NAME: sha256}, target)
        assert found[NAME].read_bytes() == result.read_bytes() and fetches(link) == 0

        (tmp_path / "cache" / "results" / sha256).write_bytes(b"cut short")
        found = fetch_results(client, run_id, {NAME: sha256}, target)
        assert found[NAME].read_bytes() == result.read_bytes() and fetches(link) == 1
        # A run that states no digest is asked for its files.
        found = fetch_results(client, run_id, {NAME: None}, target)
        assert found[NAME].read_bytes() == result.read_bytes() and fetches(link) == 2
    server.kill()


def test_of_a_store_on_this_machine_nothing_is_kept(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    run_id = stored(client, result)
    keep_results(client, run_id, {result: file_sha256(result)})
    assert not (tmp_path / "cache").exists()
    assert fetch_results(client, run_id, {NAME: file_sha256(result)}, tmp_path / "x")[NAME].exists()
