"""The tracking server dies while a step trains: training goes on and no metric is lost."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from tests.support.project import ROOT
from tests.support.server import Server

STEPS = 300


@pytest.fixture
def server(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    one = Server(tmp_path, tmp_path / "mlflow.db")
    one.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", one.uri)
    mlflow.set_tracking_uri(one.uri)
    yield one
    one.kill()


def launch(name: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", f"steps.{name}", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(config: Path, overrides: str) -> "subprocess.Popen[str]":
    prepare = launch("preprocess", "--config", str(config))
    said, _ = prepare.communicate(timeout=120)
    assert prepare.returncode == 0, said
    logging = f"training.hyperparameters.max_steps={STEPS} training.logging.log_steps=1 "
    logging += f"training.logging.eval_steps=100 training.logging.save_steps={STEPS} "
    sampling = "training.mlflow.system_metrics_seconds=0.5 "
    return launch(
        "finetune", "--config", str(config), "--overrides", logging + sampling + overrides
    )


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def journal_lines(folder: Path) -> int:
    files = list((folder / "cache" / "spool").glob("*/journal.jsonl"))
    return files[0].read_bytes().count(b"\n") if files else 0


def finetune_run() -> "mlflow.entities.Run":
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    return client.search_runs(
        [experiment.experiment_id], "tags.`forge.step` = 'finetune'", max_results=1
    )[0]


def assert_every_step_is_there_once(run_id: str) -> None:
    client = mlflow.MlflowClient()
    for name in ("train/loss", "train/learning_rate", "train/tokens_seen"):
        steps = [m.step for m in client.get_metric_history(run_id, name)]
        assert sorted(steps) == list(range(1, STEPS + 1)), name
    steps = [m.step for m in client.get_metric_history(run_id, "validation/bits_per_byte")]
    assert sorted(steps) == [0, 100, 200, 300]
    losses = client.get_metric_history(run_id, "train/loss")
    times = [m.timestamp for m in sorted(losses, key=lambda m: m.step)]
    # Measured one after the other, not when the server was back.
    assert times == sorted(times)
    assert len(set(times)) > STEPS / 4
    samples = [
        m.step for m in client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    ]
    assert sorted(samples) == list(range(len(samples)))
    assert len(samples) > 2


def best_so_far(run_id: str) -> list[int]:
    history = mlflow.MlflowClient().get_metric_history(run_id, "validation/bits_per_byte")
    found = {metric.step: metric.value for metric in history if metric.step > 0}
    return [
        step
        for step, value in found.items()
        if all(value < other for earlier, other in found.items() if earlier < step)
    ]


@pytest.mark.slow
def test_a_killed_server_stops_no_training_and_every_metric_is_there_once_when_it_is_back(
    server: Server, tiny_config: Path, tmp_path: Path
) -> None:
    process = train(tiny_config, "")
    wait_for(lambda: journal_lines(tmp_path) > 20, process)
    server.kill()
    before = journal_lines(tmp_path)
    wait_for(lambda: journal_lines(tmp_path) > before + 100, process)
    server.start()
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said

    run = finetune_run()
    assert run.info.status == "FINISHED"
    assert_every_step_is_there_once(run.info.run_id)
    client = mlflow.MlflowClient()
    assert client.get_model_version_by_alias("tiny", "challenger").run_id == run.info.run_id
    kept = {f.path for f in client.list_artifacts(run.info.run_id, "checkpoints")}
    # The last step's, and one of each step whose validation was the best so far.
    saved = {*best_so_far(run.info.run_id), STEPS}
    assert kept == {f"checkpoints/checkpoint-{step}" for step in saved}
    assert not list((tmp_path / "cache" / "spool").iterdir())


@pytest.mark.slow
def test_a_server_that_is_back_after_the_last_step_gets_the_adapter_and_the_version(
    server: Server, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever talks to the store without waiting for it fails in seconds, not minutes.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    last = 40
    shorter = f"training.hyperparameters.max_steps={last} training.logging.eval_steps=20"
    process = train(tiny_config, shorter)
    wait_for(lambda: journal_lines(tmp_path) > 5, process)
    server.kill()

    def has_ended() -> bool:
        files = list((tmp_path / "cache" / "spool").glob("*/journal.jsonl"))
        return any(f'"step":{last},' in re.sub(r"\s", "", f.read_text()) for f in files)

    wait_for(has_ended, process)
    # Longer than the one retry takes.
    time.sleep(20)
    assert process.poll() is None, process.communicate()[0]
    server.start()
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    run = finetune_run()
    assert run.info.status == "FINISHED"
    assert "forge.wrapper" in run.data.tags
    adapter = {f.path for f in mlflow.MlflowClient().list_artifacts(run.info.run_id, "adapter")}
    assert "adapter/adapter_model.safetensors" in adapter
    version = mlflow.MlflowClient().get_model_version_by_alias("tiny", "challenger")
    assert version.run_id == run.info.run_id


@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_step_with_the_command_that_sends_the_rest(
    server: Server, tiny_config: Path, tmp_path: Path
) -> None:
    process = train(tiny_config, "training.mlflow.spool_minutes=0.02")
    wait_for(lambda: journal_lines(tmp_path) > 20, process)
    server.kill()
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    error = next(line for line in said.splitlines() if line.startswith("error:"))
    assert "training is done and the adapter is safe" in error
    command = re.search(r"`python (.*?)`", error)
    assert command is not None, error

    server.start()
    sent = launch(shlex.split(command[1])[1].removeprefix("steps."), *shlex.split(command[1])[2:])
    said, _ = sent.communicate(timeout=120)
    assert sent.returncode == 0, said
    run = finetune_run()
    assert run.info.status == "FAILED"
    assert "is away" in run.data.tags["forge.error"]
    assert_every_step_is_there_once(run.info.run_id)
    adapter = {f.path for f in mlflow.MlflowClient().list_artifacts(run.info.run_id, "adapter")}
    assert "adapter/adapter_model.safetensors" in adapter
    # Nothing half-registered.
    assert len(mlflow.MlflowClient().search_model_versions("name = 'tiny'")) == 0
    assert not list((tmp_path / "cache" / "spool").iterdir())
