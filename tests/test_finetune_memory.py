"""The finetune step plans before it loads, takes what fits, and says what to do otherwise."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner

from steps import finetune, preprocess
from steps.config.file import load_config
from steps.models.devices import Placement
from steps.planning.models import model_from_config
from steps.planning.plan import plan_memory
from tests.support.project import ROOT


@pytest.fixture
def given(store: str, tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a finetune step whose dataset is in a store of its own."""
    # MLflow remembers the experiment of an earlier test's store.
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    given = ["--config", str(tiny_config)]
    result = CliRunner().invoke(preprocess.main, given)
    assert result.exit_code == 0, result.output
    return given


def last_run() -> Any:
    return mlflow.search_runs(search_all_experiments=True, output_format="list")[0]


def plan_of(run: Any) -> dict[str, Any]:
    return mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/plan.json")


def test_what_cannot_fit_is_refused_with_its_plan_before_the_weights_are_loaded(
    given: list[str],
) -> None:
    overrides = "training.hyperparameters.batch_size=1000000"
    result = CliRunner().invoke(finetune.main, [*given, "--overrides", overrides])
    assert result.exit_code == 2, result.output
    message = result.output.strip().splitlines()[-1]
    assert message.startswith("error: tiny-llama, lora, 1000000 x 256 tokens needs ")
    assert "(free memory of this machine). Cheapest ways to make it fit: (1) training." in message
    run = last_run()
    assert run.info.status == "FAILED"
    assert run.data.tags["forge.exit_code"] == "2"
    assert not plan_of(run)["memory"]["fits"]
    planned, budget = (run.data.tags[f"forge.plan.{name}_gb"] for name in ("memory", "budget"))
    assert float(planned) > float(budget)
    # As metrics they would be the first charts that the run's page shows.
    assert not any(name.startswith("plan/") for name in run.data.metrics)
    assert "train/trainable_parameters" not in run.data.metrics


def test_checkpoints_that_the_disk_cannot_hold_are_refused_before_the_weights_are_loaded(
    given: list[str],
) -> None:
    # All checkpoints of a very long run.
    overrides = (
        "training.hyperparameters.max_steps=1000000000 training.output.save_total_limit=null "
        "training.logging.save_steps=1"
    )
    result = CliRunner().invoke(finetune.main, [*given, "--overrides", overrides])
    assert result.exit_code == 2, result.output
    assert "error: the checkpoints and the adapter need" in result.output
    assert "training.logging.save_steps higher" in result.output
    run = last_run()
    assert run.info.status == "FAILED"
    assert "train/trainable_parameters" not in run.data.metrics


@pytest.mark.slow
def test_auto_takes_the_rows_of_a_step_at_once_where_they_fit_and_full_weights_are_float32(
    given: list[str],
) -> None:
    overrides = (
        "training.hyperparameters.batch_size=auto training.hyperparameters.max_steps=2 "
        "training.hyperparameters.gradient_accumulation_steps=6 "
        "training.hyperparameters.learning_rate=1e-3 training.hardware.bf16=true "
        "training.qlora.method=full training.qlora.quantization.load_in_4bit=false"
    )
    result = CliRunner().invoke(finetune.main, [*given, "--overrides", overrides])
    # Registering loads it back in another process, and compares logits.
    assert result.exit_code == 0, result.output
    run = last_run()
    plan = plan_of(run)
    assert (plan["micro_batch"], plan["gradient_accumulation_steps"]) == (6, 1)
    assert plan["memory"]["fits"]
    assert plan["time"]["optimizer_steps"] == 2
    assert plan["memory"]["parts"]["weights"] == 4 * plan["parameters"]

    from safetensors import safe_open

    folder = mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/adapter")
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118


SMALL_AND_INTERRUPTED = """
import os, signal, sys
import transformers
from steps.finetune import main
from steps.planning import budget
from steps.training.trainer import ModelTrainer

class Interruption(transformers.TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

def train(self, *arguments, _train=ModelTrainer.train, **keywords):
    self.add_callback(Interruption())
    return _train(self, *arguments, **keywords)

free = int(sys.argv.pop(1))
budget.free_host_memory = lambda: free
ModelTrainer.train = train
main()
"""


@pytest.mark.slow
def test_a_resumed_run_keeps_the_micro_batch_that_auto_became_on_a_machine_with_less_memory(
    given: list[str], tiny_llama_folder: Path
) -> None:
    overrides = (
        "training.hyperparameters.batch_size=auto training.hyperparameters.max_steps=4 "
        "training.hyperparameters.gradient_accumulation_steps=6 training.mlflow.log_model=false"
    )
    arguments = [*given, "--overrides", overrides]
    model = model_from_config(json.loads((tiny_llama_folder / "config.json").read_text()))
    training = load_config(given[1], overrides).training
    for_two_rows = plan_memory(
        model, training, micro_batch=2, length=256, placement=Placement("cpu", "float32")
    ).total
    stopped = subprocess.run(
        [sys.executable, "-c", SMALL_AND_INTERRUPTED, str(for_two_rows), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 143, stopped.stderr
    first = plan_of(last_run())
    assert (first["micro_batch"], first["gradient_accumulation_steps"]) == (2, 3)

    result = CliRunner().invoke(finetune.main, [*arguments, "--resume", "auto"])
    assert result.exit_code == 0, result.output
    resumed = last_run()
    assert resumed.data.tags["forge.resumed_from"].endswith(":3")
    assert resumed.data.metrics["train/steps"] == 4
    second = plan_of(resumed)
    assert (second["micro_batch"], second["gradient_accumulation_steps"]) == (2, 3)
    # Left to itself, the same run would have taken all six rows at once.
    assert second["memory"]["largest_micro_batch"] >= 6


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from steps.finetune import main
from steps.training.trainer import ModelTrainer

def train(self, *arguments, _train=ModelTrainer.train, **keywords):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 100 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return _train(self, *arguments, **keywords)

ModelTrainer.train = train
main()
"""


@pytest.mark.slow
def test_out_of_memory_in_training_stops_with_the_plan_and_the_setting_that_fits(
    given: list[str],
) -> None:
    overrides = "training.hyperparameters.batch_size=64"
    finished = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, *given, "--overrides", overrides],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2, finished.stderr
    message = finished.stderr.strip().splitlines()[-1]
    assert message.startswith("error: out of memory while training with 64 x 256 tokens: ")
    assert "The plan was" in message
    assert "training.hyperparameters.batch_size=32" in message
    assert "Traceback" not in finished.stderr
    assert last_run().info.status == "FAILED"
