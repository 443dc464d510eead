"""A sweep from end to end, on a real store: used again, killed, failed, stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.support.processes import wait_for
from tests.support.project import ROOT, write_tiny_config

GRID = "sweep.method=grid sweep.parameters.hyperparameters.learning_rate=[2e-2,1e-3,5e-3]"
SHORT = "hyperparameters.max_steps=6 logging.eval_steps=3 logging.save_steps=3"


@dataclass(frozen=True)
class Swept:
    """A store with a dataset, and how to sweep on it."""

    folder: Path
    client: mlflow.MlflowClient

    def command(self, step: str, overrides: str, *more: str) -> list[str]:
        """The command line of a step."""
        given = ["--config", str(self.folder / "tiny.yaml"), "--overrides", overrides, *more]
        return [sys.executable, "-m", f"steps.{step}", *given]

    def step(self, step: str, overrides: str, *more: str, code: int = 0) -> str:
        """Run a step as a process of its own; what it says."""
        done = subprocess.run(
            self.command(step, overrides, *more),
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert "Traceback" not in said
        return said

    def runs(self, step: str) -> list[Any]:
        """The runs of a step, the oldest first."""
        experiment = self.client.get_experiment_by_name("tiny").experiment_id
        query = f"tags.`forge.step` = '{step}'"
        return list(
            self.client.search_runs([experiment], query, order_by=["attributes.start_time ASC"])
        )

    def result(self) -> dict[str, Any]:
        """The newest sweep's `sweep.json`."""
        run_id = self.runs("sweep")[-1].info.run_id
        file = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="sweep.json")
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        assert isinstance(content, dict)
        return content


def environment() -> dict[str, str]:
    """Of a step."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory, _migrated_database: Path, tiny_llama_folder: Path
) -> Iterator[Swept]:
    """A store in which a grid of three was swept once."""
    folder = tmp_path_factory.mktemp("swept")
    shutil.copy(_migrated_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("FORGE_CACHE", str(folder / "cache"))
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        write_tiny_config(folder, tiny_llama_folder)
        made = Swept(folder, mlflow.MlflowClient())
        made.step("preprocess", SHORT)
        made.step("sweep", f"{SHORT} {GRID}")
        yield made


def test_the_best_validated_trial_alone_challenges_and_is_evaluated_once(swept: Swept) -> None:
    (sweep,), trials = swept.runs("sweep")[:1], swept.runs("finetune")[:3]
    assert sweep.info.status == "FINISHED"
    for number, trial in enumerate(trials):
        assert trial.data.tags["mlflow.parentRunId"] == sweep.info.run_id
        assert trial.data.tags["forge.trial"] == str(number)
    best = min(trials, key=lambda run: float(run.data.metrics["validation/bits_per_byte"]))
    rates = {r.data.params["hyperparameters.learning_rate"] for r in trials}
    assert rates == {"0.02", "0.001", "0.005"}
    challenger = swept.client.get_model_version_by_alias("tiny", "challenger")
    assert challenger.run_id == best.info.run_id
    versions = swept.client.search_model_versions("name = 'tiny'")
    assert {v.run_id for v in versions} >= {trial.info.run_id for trial in trials}
    evaluated = swept.runs("evaluate")
    assert sorted(run.data.tags["forge.model_uri"] for run in evaluated[:2]) == [
        "base",
        f"models:/tiny/{challenger.version}",
    ]
    assert {run.data.tags["forge.split"] for run in evaluated} == {"test"}


def test_a_second_sweep_trains_nothing_and_finds_the_same_winner(swept: Swept) -> None:
    before = len(swept.runs("finetune")), len(swept.runs("evaluate"))
    said = swept.step("sweep", f"{SHORT} {GRID}")
    assert said.count("reused  trial") == 3
    assert (len(swept.runs("finetune")), len(swept.runs("evaluate"))) == before
    result = swept.result()
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 3
    values = [trial["value"] for trial in result["trials"]]
    assert result["winner"] == values.index(min(values))
    assert all(len(trial["history"]) == 2 for trial in result["trials"])


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_and_a_trial_with_it(swept: Swept) -> None:
    grid = "sweep.method=grid sweep.parameters.qlora.r=[2,4] "
    # The second trial is killed between its checkpoint and its end.
    long = "hyperparameters.max_steps=120 logging.eval_steps=60 logging.save_steps=10"
    done = len(swept.runs("finetune"))
    process = subprocess.Popen(
        swept.command("sweep", f"{grid} {long}"), cwd=swept.folder, env=environment()
    )

    def has_a_checkpoint() -> bool:
        under_way = swept.runs("finetune")[done:]
        return bool(under_way) and "checkpoints" in {
            file.path for file in swept.client.list_artifacts(under_way[-1].info.run_id)
        }

    wait_for(has_a_checkpoint)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (killed,) = swept.runs("finetune")[done:]
    wait_for(lambda: swept.client.get_run(killed.info.run_id).info.status != "RUNNING")
    said = swept.step("sweep", f"{grid} {long}")
    resumed = swept.runs("finetune")[done + 1 :]
    assert len(resumed) == 2, said
    origin = resumed[0].data.tags["forge.resumed_from"]
    assert origin.startswith(killed.info.run_id)
    assert [trial["state"] for trial in swept.result()["trials"]] == ["complete"] * 2


@pytest.mark.slow
def test_a_trial_that_diverges_counts_as_failed_and_is_not_tried_again(swept: Swept) -> None:
    rates = "sweep.method=grid sweep.parameters.hyperparameters.learning_rate=[1e30,2e-2]"
    wild = f"{SHORT} {rates} logging.log_steps=1 hyperparameters.max_grad_norm=1e9"
    said = swept.step("sweep", wild)
    assert "failed  trial 0 (learning_rate=1e+30" in said
    result = swept.result()
    assert [trial["state"] for trial in result["trials"]] == ["failed", "complete"]
    assert result["winner"] == 1
    before = len(swept.runs("finetune"))
    assert "not tried again, unless that run is deleted" in swept.step("sweep", wild)
    assert len(swept.runs("finetune")) == before

    only = f"{wild} sweep.trials=1"
    said = swept.step("sweep", only, code=2)
    assert "of 1 trial none reached its end" in said
    assert swept.runs("sweep")[-1].info.status == "FAILED"


@pytest.mark.slow
def test_a_trial_that_validates_worse_is_stopped_and_stays_so(swept: Swept) -> None:
    rates = "sweep.method=grid sweep.parameters.hyperparameters.learning_rate=[2e-2,1e-7]"
    median = (
        f"{rates} sweep.pruner=median sweep.startup_trials=1 hyperparameters.max_steps=150 "
        "logging.eval_steps=10 logging.save_steps=100 scheduler.type=constant"
    )
    versions = len(swept.client.search_model_versions("name = 'tiny'"))
    said = swept.step("sweep", median)
    assert "stopped trial 1 (learning_rate=1e-07" in said
    states = [trial["state"] for trial in swept.result()["trials"]]
    assert states == ["complete", "stopped"]
    stopped = swept.runs("finetune")[-1]
    assert stopped.data.tags["forge.trial_state"] == "stopped"
    assert stopped.info.status == "KILLED"
    assert len(swept.client.search_model_versions("name = 'tiny'")) == versions + 1
    before = len(swept.runs("finetune"))
    assert "stopped trial 1" in swept.step("sweep", median)
    assert len(swept.runs("finetune")) == before


def test_what_cannot_be_ranked_is_one_line_and_exit_code_2(swept: Swept) -> None:
    before = len(swept.runs("finetune"))
    for overrides, words in (
        (f"{SHORT} sweep.trials=2", "training.sweep.parameters is empty"),
        (f"{SHORT} {GRID} logging.eval_steps=50", "eval_steps is 50"),
        (f"{SHORT} {GRID} logging.metric_for_best_model=mlm_loss", "is not measured for a causal"),
    ):
        said = swept.step("sweep", overrides, code=2)
        assert words in said
        assert len(said.strip().splitlines()) == 1
    assert "no finished preprocess run" not in said
    missing = swept.step("sweep", f"{SHORT} {GRID}", "--dataset", "0" * 32, code=2)
    assert "has no dataset that can be read" in missing
    assert len(swept.runs("finetune")) == before
