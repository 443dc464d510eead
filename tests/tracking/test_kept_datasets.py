"""Datasets of a server that are kept on this machine."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from steps.preprocess import main
from steps.tracking.datasets import fetch_dataset
from steps.tracking.kept_datasets import MOST_KEPT, keep_dataset
from tests.support.link import Link
from tests.support.server import Server

Kept = tuple[Link, mlflow.MlflowClient, str]


@pytest.fixture
def kept(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """A dataset behind a server, of which preprocess has kept a copy here."""
    artifacts = str(tmp_path / "artifacts")
    server = Server(tmp_path, tmp_path / "mlflow.db", "--artifacts-destination", artifacts)
    server.start()
    before = mlflow.get_tracking_uri()
    with Link(server.port) as link:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", link.uri)
        monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
        mlflow.set_tracking_uri(link.uri)
        made = CliRunner().invoke(main, ["--config", str(tiny_config)])
        assert made.exit_code == 0, made.output
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("tiny")
        (run,) = client.search_runs([experiment.experiment_id])
        link.requests.clear()
        yield link, client, str(run.info.run_id)
    mlflow.set_tracking_uri(before)
    server.kill()


def files_fetched(link: Link) -> int:
    return sum(
        n for kind, n in link.requests.items() if kind.startswith("GET") and ".arrow" in kind
    )


def the_copy(cache: Path) -> Path:
    (one,) = (cache / "datasets").iterdir()
    return one


def test_a_copy_is_used_while_it_is_whole_and_the_store_has_the_dataset(
    kept: Kept, tmp_path: Path
) -> None:
    link, client, run_id = kept
    found = fetch_dataset(client, run_id, tmp_path / "first")
    assert files_fetched(link) == 0
    arrow = "train/data-00000-of-00001.arrow"
    content = (found.folder / arrow).read_bytes()

    # A copy that was cut short, one whose manifest is no JSON, one that lacks a file.
    os.truncate(the_copy(tmp_path / "cache") / arrow, 100)
    again = fetch_dataset(client, run_id, tmp_path / "second")
    assert files_fetched(link) == 3 and (again.folder / arrow).read_bytes() == content
    (the_copy(tmp_path / "cache") / "manifest.json").write_text("{")
    again = fetch_dataset(client, run_id, tmp_path / "third")
    assert files_fetched(link) == 6 and again.digest == found.digest
    (the_copy(tmp_path / "cache") / "README.md").unlink()
    fetch_dataset(client, run_id, tmp_path / "fourth")
    assert files_fetched(link) == 9

    # What the store has lost is lost, whatever this machine still has.
    (gone,) = (tmp_path / "artifacts").rglob("dataset/README.md")
    gone.unlink()
    fetch_dataset(client, run_id, tmp_path / "fifth")
    assert files_fetched(link) == 12


def test_of_datasets_the_newest_stay_and_what_a_killed_step_has_left_goes(
    kept: Kept, tmp_path: Path
) -> None:
    _, client, run_id = kept
    folder = tmp_path / "dataset"
    shutil.copytree(the_copy(tmp_path / "cache"), folder)
    left, under_way = (tmp_path / "cache" / "datasets" / name for name in ("new-old", "new-now"))
    left.mkdir()
    under_way.mkdir()
    os.utime(left, (time.time() - 90_000,) * 2)
    for number in range(MOST_KEPT + 2):
        keep_dataset(client, run_id, folder, f"sha256:{number}{'0' * 63}")
    names = {path.name for path in (tmp_path / "cache" / "datasets").iterdir()}
    assert len(names - {"new-now"}) == MOST_KEPT and "new-now" in names and "new-old" not in names
