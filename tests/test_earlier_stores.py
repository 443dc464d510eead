"""Stores that earlier commits made: each of them is read, gone on from, and pruned.

tests/support/make_store.py makes such a store; whatever lies in tests/fixtures/stores is tested.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.support.processes import newest, step
from tests.support.stores import PROJECT, StoredStore, unpack_store

ARCHIVES = sorted((PROJECT / "tests" / "fixtures" / "stores").glob("*.tar.gz"))
ASK = """
import json
import sys

import mlflow

model = mlflow.pyfunc.load_model(sys.argv[1])
(answer,) = model.predict([sys.argv[2]], params={"max_new_tokens": int(sys.argv[3])})
print(json.dumps([answer, model.unwrap_python_model().probe_difference()]))
"""


@pytest.fixture(params=ARCHIVES, ids=lambda archive: archive.name.partition(".")[0])
def earlier(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StoredStore:
    """A store of an earlier commit, unpacked for this test alone, and set as the one in use."""
    unpacked = unpack_store(request.param, tmp_path / "earlier")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", unpacked.uri)
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    # An adapter names its base by digest; no step of this machine has met the base yet.
    monkeypatch.setenv("FORGE_BASE_MODELS", str(unpacked.model))
    mlflow.set_tracking_uri(unpacked.uri)
    return unpacked


def test_there_are_stores_of_earlier_commits() -> None:
    assert ARCHIVES


def test_evaluate_gives_the_champion_and_its_base_the_figures_that_they_had(
    earlier: StoredStore, tmp_path: Path
) -> None:
    asked = ("--model", earlier.champion, "--split", "test")
    step("evaluate", tmp_path / "work", "--config", str(earlier.config), *asked)
    champion = f"models:/{earlier.facts.registered_model}/1"
    scored = {"champion": evaluations_of(champion)[0], "base": evaluations_of("base")[0]}
    assert scored["champion"].info.run_id != earlier.facts.runs["evaluate"]
    figures = {name: run.data.metrics["test/bits_per_byte"] for name, run in scored.items()}
    assert figures == pytest.approx(earlier.facts.bits_per_byte, rel=1e-5)


def test_finetune_goes_on_from_the_killed_run_and_ends_as_if_it_had_not_been_killed(
    earlier: StoredStore, tmp_path: Path
) -> None:
    client, killed = mlflow.MlflowClient(), earlier.facts.killed
    assert client.get_run(killed.run).info.status == "RUNNING"
    overrides = f"{killed.overrides} training.mlflow.log_model=false"
    asked = ("--resume", "auto", "--overrides", overrides)
    said = step("finetune", tmp_path / "work", "--config", str(earlier.config), *asked)

    run = newest(client, "finetune")
    assert run.info.status == "FINISHED"
    origin = f"{killed.run}:{killed.checkpoint}"
    assert run.data.tags.get("forge.resumed_from") == origin, said
    left = killed.steps - killed.checkpoint
    assert f"steps done after the resume: {left} of {killed.steps}" in said
    history = client.get_metric_history(run.info.run_id, "train/loss")
    losses = {point.step: point.value for point in history}
    assert losses == pytest.approx(killed.losses, rel=1e-4)
    assert client.get_run(killed.run).info.status == "KILLED"


def test_prune_checkpoints_plans_over_the_old_checkpoints_and_deletes_what_it_planned(
    earlier: StoredStore, tmp_path: Path
) -> None:
    client, killed = mlflow.MlflowClient(), earlier.facts.killed
    given = ("--config", str(earlier.config))
    before = stored_checkpoints(earlier)
    step("prune_checkpoints", tmp_path / "plan", *given)
    assert stored_checkpoints(earlier) == before
    plan = newest_plan(tmp_path / "plan")
    verdicts = {(entry["run"], entry["step"]): entry["verdict"] for entry in plan}
    # Each is known, with its size and its figure; that of the killed run can still be resumed.
    assert verdicts.keys() == before
    assert all(entry["bytes"] > 0 and entry["metric"] is not None for entry in plan)
    assert verdicts[killed.run, killed.checkpoint] == "keep"
    assert set(verdicts.values()) == {"keep", "delete"}

    step("prune_checkpoints", tmp_path / "apply", *given, "--apply", "true")
    kept = {key for key, verdict in verdicts.items() if verdict == "keep"}
    assert stored_checkpoints(earlier) == kept
    ranked = client.search_logged_models([newest(client, "finetune").info.experiment_id])
    names = {(m.source_run_id, m.name) for m in ranked if m.name.startswith("checkpoint-")}
    assert names == {(run_id, f"checkpoint-{number}") for run_id, number in kept}


@pytest.mark.parametrize("beside", ["nothing", "importable", "imported"])
def test_the_champion_answers_as_it_did_whatever_of_the_project_is_beside_it(
    earlier: StoredStore, tmp_path: Path, beside: str
) -> None:
    facts = earlier.facts
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if beside != "nothing":
        environment["PYTHONPATH"] = str(PROJECT)
    # A program that has used the project of today before it loads the model of then.
    first = "import steps.errors\n" if beside == "imported" else ""
    finished = subprocess.run(
        [sys.executable, "-c", first + ASK, earlier.champion, facts.prompt, str(facts.new_tokens)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    answer, difference = json.loads(finished.stdout.splitlines()[-1])
    # By the logits that the trainer of then had.
    assert difference < 1e-3
    assert answer == facts.answer


def evaluations_of(model: str) -> list[mlflow.entities.Run]:
    """The evaluations of a model, newest first."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    filters = f"tags.`forge.step` = 'evaluate' and tags.`forge.model_uri` = '{model}'"
    return list(client.search_runs([experiment.experiment_id], filters))


def stored_checkpoints(earlier: StoredStore) -> set[tuple[str, int]]:
    """Run and step of each checkpoint that the store holds."""
    client = mlflow.MlflowClient()
    return {
        (run_id, int(folder.path.rpartition("-")[2]))
        for run_id in (earlier.facts.runs["finetune"], earlier.facts.killed.run)
        for folder in client.list_artifacts(run_id, "checkpoints")
    }


def newest_plan(folder: Path) -> list[dict[str, Any]]:
    """What the newest pruning run says of each checkpoint."""
    client = mlflow.MlflowClient()
    run_id = newest(client, "prune_checkpoints").info.run_id
    file = Path(client.download_artifacts(run_id, "plan.json", str(folder)))
    return list(json.loads(file.read_text(encoding="utf-8"))["checkpoints"])
