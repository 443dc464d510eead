"""The finetune step, killed for real and resumed, ends as a run that was never touched."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from benchmarks.resume_torture import (
    EXPERIMENT,
    STEPS,
    Arena,
    Outcome,
    build_arena,
    finish,
    judge,
    read_result,
    run_killed,
    run_untouched,
    start,
    torture,
)


def runs_of(arena: Arena) -> list[Any]:
    client = mlflow.MlflowClient(arena.store)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], "tags.`forge.step` = 'finetune'"))


def log_of(arena: Arena, name: str) -> str:
    return (arena.folder / name).read_text(encoding="utf-8")


def test_killed_within_a_save_a_run_ends_bit_for_bit_as_untouched(tmp_path: Path) -> None:
    arena = build_arena(tmp_path / "arena", "lora", steps=20)
    untouched = run_untouched(arena)
    dice, outcome = random.Random(0), Outcome()
    # A process that ended before it could be killed proves nothing.
    while not outcome.kills:
        outcome = run_killed(arena, 0, 1, True, 20, dice)
    assert judge(outcome, untouched, 20) == []
    # The killed run, which could not close itself, is closed by the one that went on.
    assert [run.info.status for run in runs_of(arena)][:2] == ["FINISHED", "KILLED"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_killed_anywhere_and_twice_runs_end_bit_for_bit_as_untouched(
    tmp_path: Path, method: str
) -> None:
    arena = build_arena(tmp_path / "arena", method)
    for number, outcome, wrong in torture(arena, 6, seed=1):
        assert wrong == [], f"run {number}"
        assert outcome.kills == (2 if number % 3 == 2 else 1)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    return build_arena(tmp_path_factory.mktemp("arena"), "lora")


@pytest.fixture(scope="module")
def untouched(arena: Arena) -> Outcome:
    return run_untouched(arena)


def stop_in_training(arena: Arena, log: str, number: int, checkpoints: int = 1) -> int:
    """Send a signal once so many checkpoints are there; the exit code."""
    known = set(arena.outputs.glob("*"))
    process = start(arena, "finetune", log)
    while (
        len([p for p in arena.outputs.glob("*/checkpoint-*") if p.parent not in known])
        < checkpoints
    ):
        assert process.is_alive(), log_of(arena, log)
        time.sleep(0.005)
    os.kill(process.pid, number)
    return finish(process)


def resume(arena: Arena, log: str, reference: str) -> Outcome:
    assert finish(start(arena, "finetune", log, "--resume", reference)) == 0, log_of(arena, log)
    outcome = Outcome(kills=1)
    read_result(arena, outcome)
    text = log_of(arena, log).partition("resumed from run ")[2]
    checkpoint = int(text.partition("checkpoint-")[2].split()[0])
    done = int(text.partition("steps done after the resume: ")[2].split()[0])
    outcome.resumes.append((done, checkpoint))
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)]
)
def test_a_signal_saves_the_step_and_says_killed(
    arena: Arena, untouched: Outcome, number: signal.Signals, code: int
) -> None:
    log = f"{number.name}.log"
    assert stop_in_training(arena, log, number) == code
    stopped = runs_of(arena)[0]
    assert stopped.info.status == "KILLED"
    assert stopped.data.tags["forge.exit_code"] == str(code)
    said = log_of(arena, log).partition("stopped after step ")[2]
    step = int(said.split()[0])
    outcome = resume(arena, f"{number.name}-resumed.log", stopped.info.run_id)
    assert outcome.resumes == [(STEPS - step, step)]
    assert judge(outcome, untouched, STEPS) == []


@pytest.mark.slow
def test_from_the_store_into_an_empty_folder(arena: Arena, untouched: Outcome) -> None:
    assert stop_in_training(arena, "store.log", signal.SIGTERM) == 143
    shutil.rmtree(arena.outputs)
    outcome = resume(arena, "store-resumed.log", runs_of(arena)[0].info.run_id)
    assert "(artifact store)" in log_of(arena, "store-resumed.log")
    assert judge(outcome, untouched, STEPS) == []


@pytest.mark.slow
def test_of_two_launches_at_the_same_moment_one_goes_on_and_the_other_says_so(
    arena: Arena, untouched: Outcome
) -> None:
    assert stop_in_training(arena, "shared.log", signal.SIGKILL) == -signal.SIGKILL
    killed = runs_of(arena)[0].info.run_id
    logs = ("shared-one.log", "shared-other.log")
    launched = [start(arena, "finetune", log, "--resume", "auto") for log in logs]
    assert [finish(process) for process in launched] == [0, 0]
    said = [log_of(arena, log) for log in logs]
    assert sorted(f"resumed from run {killed}, " in text for text in said) == [False, True]
    (other,) = [text for text in said if f"resumed from run {killed}, " not in text]
    assert "passed over" in other
    assert "starting anew" in other
    # Both end as the untouched run does; each has its own history.
    for run in runs_of(arena)[:2]:
        file = Path(run.info.artifact_uri.removeprefix("file://")) / "adapter"
        content = (file / "adapter_model.safetensors").read_bytes()
        assert hashlib.sha256(content).hexdigest() == untouched.adapter


@pytest.mark.slow
def test_a_corrupted_newest_checkpoint_gives_way_to_the_one_before(
    arena: Arena, untouched: Outcome
) -> None:
    assert stop_in_training(arena, "corrupted.log", signal.SIGTERM, checkpoints=2) == 143
    run = runs_of(arena)[0]
    stored = Path(run.info.artifact_uri.removeprefix("file://")) / "checkpoints"
    steps = sorted(int(p.name.rpartition("-")[2]) for p in stored.iterdir())
    for root in (stored, arena.outputs / run.info.run_id):
        file = root / f"checkpoint-{steps[-1]}" / "optimizer.pt"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    outcome = resume(arena, "corrupted-resumed.log", run.info.run_id)
    said = log_of(arena, "corrupted-resumed.log")
    assert said.count(f"checkpoint-{steps[-1]} of run {run.info.run_id}") == 2
    assert f"resumed from run {run.info.run_id}, checkpoint-{steps[-2]} " in said
    assert judge(outcome, untouched, STEPS) == []


@pytest.mark.slow
def test_a_full_disk_costs_checkpoints_and_not_the_training(
    arena: Arena, untouched: Outcome
) -> None:
    small_disk = arena.folder / "small"
    small_disk.mkdir()
    # Only this process and its children see the mount. What a run needs was free when it began;
    # then somebody else fills the disk.
    script = f"""
        mount -t tmpfs -o size=64m tmpfs {small_disk} || exit
        (until ls {small_disk}/*/checkpoint-4; do sleep 0.005; done
         cat /dev/zero > {small_disk}/of_somebody_else) > {arena.folder}/filler.log 2>&1 &
        exec python -m steps.finetune --config {arena.config} --overrides \
            "training.output.output_dir={small_disk} training.output.save_total_limit=null"
    """
    finished = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script],
        cwd=arena.folder,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
            "MLFLOW_TRACKING_URI": arena.store,
            "FORGE_CACHE": str(arena.folder / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "could not be written" in finished.stderr
    run = runs_of(arena)[0]
    assert "could not be written" in run.data.tags["forge.checkpoint_error"]
    stored = Path(run.info.artifact_uri.removeprefix("file://")) / "checkpoints"
    assert (stored / "checkpoint-4" / "manifest.json").is_file()
    outcome = Outcome()
    read_result(arena, outcome)
    assert outcome.adapter == untouched.adapter
    assert json.loads((stored / "checkpoint-4" / "manifest.json").read_text())["step"] == 4
