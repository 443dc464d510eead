"""finetune, stopped on one number of processes, goes on on another: one history, one adapter."""

import signal
import time
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow.entities import Run

from tests.support.launches import Launch, is_past
from tests.support.processes import wait_for
from tests.support.rank_runs import adapter, losses, newest_run

STEPS = 24
# Four forward passes a step on one process, and Adam kept from blowing rounding up.
SETTINGS = {
    "hyperparameters__max_steps": str(STEPS),
    "hyperparameters__gradient_accumulation_steps": "4",
    "optimizer__epsilon": "1e-6",
    "qlora__lora_dropout": "0.0",
}
FSDP2 = {"distributed__enabled": "true", "distributed__backend": "fsdp2", "qlora__method": "lora"}


@pytest.fixture
def dataset(store: str, tiny_config: Path) -> Path:
    """A store with a dataset; gives the configuration."""
    from click.testing import CliRunner

    from steps.preprocess import main

    result = CliRunner().invoke(main, ["--config", str(tiny_config)])
    assert result.exit_code == 0, result.output
    return tiny_config


def launch(config: Path, folder: Path, processes: int, *more: str, **overrides: str) -> Launch:
    """A finetune step on so many processes."""
    options = ("-m", "steps.finetune", "--num-processes", str(processes), *more)
    return Launch(config, folder, *options, **{**SETTINGS, **overrides})


def stopped(config: Path, folder: Path, processes: int, **overrides: str) -> Run:
    """A run that was told to end in the midst of its steps."""
    before = time.time() * 1000
    running = launch(config, folder, processes, **overrides)

    def is_under_way() -> bool:
        assert running.process.poll() is None, running.said
        return is_past(5)() and newest_run().info.start_time >= before

    wait_for(is_under_way, 300)
    running.process.send_signal(signal.SIGTERM)
    assert running.wait() == 143, running.said
    return newest_run()


def assert_equal(run: Run, other: Run, folder: Path) -> None:
    """Two runs report the same steps, once each, and end on the same adapter to rounding."""
    one, two = losses(run), losses(other)
    assert [step for step, _ in one] == [step for step, _ in two] == list(range(1, STEPS + 1))
    for (_, loss), (_, expected) in zip(one, two, strict=True):
        assert loss == pytest.approx(expected, abs=1e-4)
    weights, whole = adapter(run, folder / "one"), adapter(other, folder / "two")
    assert weights.keys() == whole.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, whole[name], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_stopped_on_one_process_a_run_goes_on_on_two(dataset: Path, tmp_path: Path) -> None:
    untouched = launch(dataset, tmp_path, 1)
    assert untouched.wait() == 0, untouched.said
    whole = newest_run()
    killed = stopped(dataset, tmp_path, 1)

    refused = launch(dataset, tmp_path, 3, "--resume", "auto")
    assert refused.wait() == 2, refused.said
    (line,) = [line for line in refused.said.splitlines() if line.startswith("error")]
    assert "which 3 processes cannot share evenly" in line and "1, 2 or 4 process(es)" in line
    assert "Traceback" not in refused.said

    second = launch(dataset, tmp_path, 2, "--resume", "auto")
    assert second.wait() == 0, second.said
    run = newest_run()
    origin, _, step = run.data.tags["forge.resumed_from"].partition(":")
    assert origin == killed.info.run_id and int(step) >= 5
    assert "2 processes, before 1: gradient accumulation is 2 (before 4)" in second.said
    tags = {name: run.data.tags[f"forge.{name}"] for name in ("processes", "processes_before")}
    assert tags == {"processes": "2", "processes_before": "1"}
    assert run.data.tags["forge.processes_note"] in " ".join(second.said.split())
    # What the user configured stays what he configured.
    assert run.data.params["hyperparameters.gradient_accumulation_steps"] == "4"
    assert_equal(run, whole, tmp_path)


@pytest.mark.slow
def test_a_run_under_fsdp2_is_resumed_on_one_process_and_registered(
    dataset: Path, tmp_path: Path
) -> None:
    shared = {**FSDP2, "hyperparameters__gradient_accumulation_steps": "2"}
    shared |= {"logging__eval_strategy": "steps", "logging__eval_steps": "6"}
    shared |= {"memory_optimization__gradient_checkpointing": "true"}
    untouched = launch(dataset, tmp_path, 2, **shared)
    assert untouched.wait() == 0, untouched.said
    whole = newest_run()
    assert whole.data.tags["forge.wrapper"] == "FSDP2"
    assert "2 processes, FSDP2" in untouched.said
    stopped(dataset, tmp_path, 2, **shared)
    again = launch(
        dataset, tmp_path, 1, "--resume", "auto", **{**shared, "mlflow__log_model": "true"}
    )
    assert again.wait() == 0, again.said
    run = newest_run()
    assert run.data.tags["forge.wrapper"] == "FSDP2"
    assert run.data.tags["forge.processes_before"] == "2"
    assert_equal(run, whole, tmp_path)
    # A fresh process has loaded the adapter and found the logits that the trainer had.
    assert mlflow.MlflowClient().search_model_versions(f"run_id='{run.info.run_id}'")
