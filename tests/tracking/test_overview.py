"""What a store holds, from runs as the steps leave them."""

import os
import time
from pathlib import Path

import mlflow
import pytest

from steps.papers.retractions import Retractions
from tests.support.seen_store import SeenStore
from tests.support.stored_runs import sign_of_life


@pytest.fixture
def seen(client: mlflow.MlflowClient, tmp_path: Path) -> SeenStore:
    return SeenStore(client, tmp_path)


def test_runs_are_counted_by_step_and_by_what_became_of_them(seen: SeenStore) -> None:
    seen.run("evaluate")
    seen.run("evaluate", "FAILED", error="no such model")
    seen.run("evaluate", "KILLED")
    seen.run("finetune", "RUNNING", heartbeat=sign_of_life(time.time()))
    silent = seen.run("finetune", "RUNNING", heartbeat=sign_of_life(time.time() - 86400))
    seen.run(None)
    overview = seen.overview()
    assert overview.runs["evaluate"] == {"finished": 1, "living": 0, "killed": 1, "failed": 1}
    assert overview.runs["finetune"] == {"finished": 0, "living": 1, "killed": 1, "failed": 0}
    assert overview.runs["(no step)"]["finished"] == 1
    notes = {line.state: line.note for line in overview.unfinished}
    assert notes["failed"] == "no such model"
    assert "sign of life" in notes["living"]
    assert silent in {line.run_id for line in overview.unfinished if line.state == "killed"}
    assert overview.resumable == []


def test_the_run_of_whoever_asks_does_not_count(seen: SeenStore) -> None:
    seen.run("status", "RUNNING")
    assert seen.overview().runs == {}


def test_datasets_and_decisions_begin_with_the_newest(seen: SeenStore) -> None:
    seen.run("preprocess", metrics={"papers/train": 3, "papers/test": 1}, dataset_digest="sha256:a")
    seen.run("preprocess", metrics={"papers/train": 5}, dataset_digest="sha256:b")
    seen.run("preprocess", "FAILED", error="no papers")
    seen.run("ab_compare", decision="inconclusive", decision_reason="too few papers")
    seen.run("ab_compare", decision="promote", champion_after="models:/lab/1")
    overview = seen.overview()
    assert [one.digest for one in overview.datasets] == ["sha256:b", "sha256:a"]
    assert overview.datasets[1].papers == {"train": 3, "test": 1}
    assert [one.outcome for one in overview.decisions] == ["promote", "inconclusive"]


def test_a_version_shows_its_newest_test_figure_whatever_its_objective(seen: SeenStore) -> None:
    seen.client.create_registered_model("lab")
    for number in (1, 2):
        seen.client.create_model_version("lab", source=f"s3://somewhere/{number}")
    seen.client.set_registered_model_alias("lab", "champion", "1")
    for value in (1.5, 1.25):
        seen.run(
            "evaluate",
            metrics={"test/bits_per_byte": value, "test/bits_per_byte_ci_low": 1.0},
            model_uri="models:/lab/1",
            split="test",
            objective="causal",
        )
    seen.run(
        "evaluate",
        metrics={"validation/bits_per_byte": 9.0},
        model_uri="models:/lab/2",
        split="validation",
        objective="causal",
    )
    seen.run(
        "evaluate", metrics={"test/mlm_loss": 2.0}, model_uri="base", split="test",
        objective="masked",
    )  # fmt: skip
    second, first = seen.overview().versions
    assert first.aliases == ("champion",)
    assert first.figure is not None and (first.figure.value, first.figure.low) == (1.25, 1.0)
    assert second.figure is None
    base = seen.overview().base
    assert base is not None and base.name == "mlm_loss"


def test_of_many_runs_the_newest_are_counted_and_what_matters_is_found_all_the_same(
    seen: SeenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steps.tracking.overview.MOST_RUNS", 4)
    seen.client.create_registered_model("lab")
    seen.client.create_model_version("lab", source="s3://somewhere/1")
    seen.client.set_registered_model_alias("lab", "champion", "1")
    seen.run("preprocess", dataset_digest="sha256:a")
    seen.run("finetune", dataset_digest="sha256:a")
    seen.run("evaluate", "FAILED", error="no such model")
    seen.run("ab_compare", decision="promote")
    seen.run(
        "evaluate", metrics={"test/bits_per_byte": 1.0}, model_uri="models:/lab/1", split="test"
    )
    for _ in range(6):
        seen.run("plan")
    overview = seen.overview()
    assert not overview.all_runs
    assert overview.runs == {"plan": {"finished": 4, "living": 0, "killed": 0, "failed": 0}}
    assert [one.digest for one in overview.datasets] == ["sha256:a"]
    assert overview.trained_on == ["sha256:a"]
    assert [one.note for one in overview.unfinished] == ["no such model"]
    assert [one.outcome for one in overview.decisions] == ["promote"]
    assert overview.versions[0].figure is not None


def test_a_dataset_of_another_experiment_is_pointed_at(seen: SeenStore) -> None:
    run = seen.client.create_run("0", tags={"forge.step": "preprocess"})
    seen.client.set_terminated(run.info.run_id)
    assert seen.overview().elsewhere == "Default"
    seen.run("preprocess", dataset_digest="sha256:b")
    assert seen.overview().elsewhere == ""


def test_versions_are_held_against_a_list_of_retractions(seen: SeenStore) -> None:
    seen.client.create_registered_model("lab")
    run_id = seen.run("finetune")
    seen.client.create_model_version("lab", source="s3://somewhere/1", run_id=run_id)
    overview = seen.overview(Retractions("list.csv", frozenset({"102"})))
    assert overview.retractions == "list.csv"
    assert [one.uri for one in overview.affected] == ["models:/lab/1"]
    assert overview.affected[0].unknown
    assert seen.overview().affected == []


def test_nothing_of_the_store_changes(seen: SeenStore) -> None:
    seen.training_run(2, 4)
    files = {file: file.stat().st_mtime_ns for file in seen.folder.rglob("*") if file.is_file()}
    seen.overview()
    scratch = os.fspath(seen.folder / "scratch")
    now = {file: file.stat().st_mtime_ns for file in seen.folder.rglob("*") if file.is_file()}
    assert {f for f in now if not os.fspath(f).startswith(scratch)} <= files.keys()
    assert now[seen.folder / "mlflow.db"] == files[seen.folder / "mlflow.db"]
