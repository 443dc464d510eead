"""A step's run lands in the configured experiment, however it was started."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from steps.config.file import load_config
from steps.tracking.presentation import run_link, score_sentences, version_link
from steps.tracking.runs import step_run
from tests.support.project import ROOT


@pytest.fixture(autouse=True)
def _ends_runs() -> Iterator[None]:
    yield
    while mlflow.active_run() is not None:
        mlflow.end_run()


def waiting_run(store: str, name: str | None, experiment: str | None = None) -> str:
    """A run as `mlflow run` makes it, before it starts a step."""
    client = mlflow.MlflowClient(store)
    place = client.create_experiment(experiment) if experiment else "0"
    run = client.create_run(place, run_name=name, tags={"mlflow.project.entryPoint": "preprocess"})
    client.log_param(run.info.run_id, "papers", "some.json")
    return str(run.info.run_id)


def opened(config: Path, run_id: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The run of a step that was started with one that waits for it."""
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    training = load_config(config).training
    with step_run("preprocess", training, verbose=False) as run:
        run.present("52 papers", ["**52 papers**", version_link("models:/tiny/3")])
        return run.client.get_run(run.id)


def test_a_run_that_waits_in_default_is_moved_with_all_that_mlflow_has_noted(
    store: str, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = waiting_run(store, None)
    run = opened(tiny_config, made, monkeypatch)
    client = mlflow.MlflowClient(store)
    assert client.get_experiment(run.info.experiment_id).name == "tiny"
    assert run.data.params["papers"] == "some.json"
    assert run.data.tags["mlflow.project.entryPoint"] == "preprocess"
    assert run.info.run_name == "preprocess · 52 papers"
    assert run.data.tags["mlflow.note.content"] == (
        "- **52 papers**\n- [tiny v3](#/models/tiny/versions/3)"
    )
    left = client.get_run(made)
    # `mlflow run` writes an end into it, which a deleted run would refuse.
    assert (left.info.lifecycle_stage, left.info.status) == ("active", "RUNNING")
    assert left.data.tags["forge.moved_to"] == run.info.run_id
    assert run.info.run_id in left.data.tags["mlflow.note.content"]
    assert client.get_run(run.info.run_id).info.status == "FINISHED"


def test_what_an_earlier_step_has_left_in_default_goes_unless_its_launcher_may_write(
    store: str, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient(store)
    ended, waits, foreign = (waiting_run(store, None) for _ in range(3))
    for made in (ended, waits):
        opened(tiny_config, made, monkeypatch)
    client.set_terminated(ended, "FINISHED")
    client.set_terminated(foreign, "FINISHED")
    opened(tiny_config, waiting_run(store, None), monkeypatch)
    stages = [client.get_run(made).info.lifecycle_stage for made in (ended, waits, foreign)]
    assert stages == ["deleted", "active", "active"]


@pytest.mark.slow
@pytest.mark.parametrize("papers", ["", "nothere.json"])
def test_mlflow_run_leaves_one_run_and_it_is_where_the_configuration_says(
    papers: str, store: str, tiny_config: Path
) -> None:
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local"]
    command += ["-e", "preprocess", "-P", f"config={tiny_config}", "-P", f"papers={papers}"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert (done.returncode == 0) == (papers == ""), done.stderr
    # What MLflow says where a step fails is its own.
    assert "must be in the 'active' state" not in done.stderr
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.status == ("FINISHED" if papers == "" else "FAILED")
    end = time.monotonic() + 60
    while client.search_runs(["0"]):
        assert time.monotonic() < end
        time.sleep(0.2)


def test_the_name_that_a_user_has_given_stays(
    store: str, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(tiny_config, waiting_run(store, "my first papers"), monkeypatch)
    assert run.info.run_name == "my first papers"
    assert run.data.tags["mlflow.note.content"].startswith("- **52 papers**")


def test_an_experiment_that_was_named_is_kept(
    store: str, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = waiting_run(store, None, "mine")
    run = opened(tiny_config, made, monkeypatch)
    assert run.info.run_id == made
    assert run.info.run_name == "preprocess · 52 papers"


def test_default_is_kept_where_its_user_names_it(
    store: str, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "Default")
    made = waiting_run(store, None)
    assert opened(tiny_config, made, monkeypatch).info.run_id == made


def test_the_runs_of_a_parent_keep_the_name_that_it_gave_them(
    store: str, tiny_config: Path
) -> None:
    training = load_config(tiny_config).training
    with step_run("main", training, verbose=False) as parent:
        with step_run("finetune", training, verbose=False, run_name="finetune lora") as run:
            run.present("r16 · SmolLM2", ["**lora**"])
            assert run.client.get_run(run.id).info.run_name == "finetune lora · r16 · SmolLM2"
        assert run_link(parent, "training", run.id) == (
            f"[training](#/experiments/{parent.experiment_id}/runs/{run.id})"
        )
    assert "MLFLOW_RUN_ID" not in os.environ


def test_the_score_of_each_objective_is_told_with_its_interval() -> None:
    told = list(
        score_sentences(
            {"bits_per_byte": 0.87, "bits_per_byte_ci_low": 0.86, "bits_per_byte_ci_high": 0.88}
        )
    )
    assert told == ["**bits per byte 0.8700** (95% 0.8600 to 0.8800), lower is better"]
    assert list(score_sentences({"mlm_loss": 2.0})) == ["**mlm loss 2.0000**, lower is better"]
    assert version_link("base") == "`base`"
