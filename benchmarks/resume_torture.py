"""Kill training runs with SIGKILL at random moments, resume them, and compare every bit.

    python -m benchmarks.resume_torture --method lora --runs 25
    python -m benchmarks.resume_torture --method qlora --runs 25

Each run is the finetune step itself (`resume=auto`, a real store, dropout on, accumulation,
several epochs) on a tiny random model, in a process of its own that is really killed. Processes
fork from one that has imported the libraries: 50 runs take minutes, not hours.

A run counts as identical where the sha256 of its adapter and its whole loss curve are those
of the untouched run, and each resume did no more than the steps that were left. Killed "within
a save" means that the half-written folder was still there when the process was dead.
"""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.tiny_models import save_tiny_llama

ROOT = Path(__file__).resolve().parent.parent
STEPS = 40
TIMED = (
    "train/tokens_per_second",
    "train/mean_tokens_per_second",
    "train/memory_gb",
    "train/seconds",
)
EXPERIMENT = "torture"
# What a fresh process would spend its first ten seconds on.
PRELOADED = [
    "mlflow",
    "bitsandbytes",
    "datasets",
    "peft",
    "transformers.models.llama.modeling_llama",
    "steps.finetune",
    "steps.tracking.checkpoints.resume",
    "steps.tracking.registry.versions",
    "steps.models.adapted",
    "steps.training.trainer",
]


@dataclass(frozen=True)
class Arena:
    """A folder with a tiny model, a store with a dataset in it, and a configuration."""

    folder: Path
    config: Path

    @property
    def store(self) -> str:
        """URI of the tracking store."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def outputs(self) -> Path:
        """Where the runs write their checkpoints."""
        return self.folder / "outputs"


@dataclass
class Outcome:
    """What became of one run.

    Attributes:
        kills: How often it was killed.
        within_save: How many of these left a half-written checkpoint.
        resumes: (steps done, checkpoint's step) of the last process; the others were killed.
        adapter: sha256 of the final adapter.
        curve: Every reported value that does not depend on the clock, by (name, step).
        repeated: Points that stand twice in the final run.
    """

    kills: int = 0
    within_save: int = 0
    resumes: list[tuple[int, int]] = field(default_factory=list)
    adapter: str = ""
    curve: dict[tuple[str, int], float] = field(default_factory=dict)
    repeated: list[tuple[str, int]] = field(default_factory=list)


def build_arena(folder: Path, method: str, steps: int = STEPS) -> Arena:
    """Make a tiny random model, and a dataset of the demo papers in a fresh store."""
    folder.mkdir(parents=True, exist_ok=True)
    _in_process(_make_model, folder)
    config = folder / "torture.yaml"
    config.write_text(
        f"""
extends: {ROOT / "configs" / "training.yaml"}
training:
  model: {{name: {folder / "model"}, max_length: 128}}
  qlora: {{method: {method}, r: 4, lora_dropout: 0.1}}
  hyperparameters:
    {{batch_size: 2, gradient_accumulation_steps: 2, max_steps: {steps}, learning_rate: 1e-2}}
  scientific_data:
    data_file: {ROOT / "data" / "high_quality_papers_demo.json"}
    text_fields: [title]
    filters: {{min_score: 50, min_words: 3, language: null}}
    sections: [title]
    num_workers: 1
  logging: {{log_steps: 3, eval_steps: 7, save_steps: 4}}
  output: {{output_dir: {folder / "outputs"}, save_total_limit: 2}}
  memory_optimization: {{gradient_checkpointing: false}}
  hardware: {{bf16: false}}
  mlflow: {{experiment_name: {EXPERIMENT}, log_model: false}}
""",
        encoding="utf-8",
    )
    arena = Arena(folder, config)
    code = finish(start(arena, "preprocess", "preprocess.log"))
    if code != 0:
        raise RuntimeError((folder / "preprocess.log").read_text(encoding="utf-8"))
    return arena


def start(arena: Arena, step: str, log: str, *options: str) -> Any:
    """Start a step as a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(
        target=_run_step,
        args=(step, ["--config", str(arena.config), *options], arena.folder, log, arena.store),
    )
    process.start()
    return process


def finish(process: Any, seconds: float = 300.0) -> int:
    """Wait for a process; its exit code (negative: the signal)."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise RuntimeError(f"process {process.pid} did not end within {seconds:g} s")
    return int(process.exitcode)


def run_untouched(arena: Arena) -> Outcome:
    """Train once without touching it."""
    if finish(start(arena, "finetune", "untouched.log")) != 0:
        raise RuntimeError((arena.folder / "untouched.log").read_text(encoding="utf-8"))
    outcome = Outcome()
    read_result(arena, outcome)
    return outcome


def run_killed(
    arena: Arena, number: int, kills: int, in_save: bool, steps: int, dice: random.Random
) -> Outcome:
    """Start a run, kill it so many times, and let the last process finish it."""
    outcome = Outcome()
    log = f"run-{number}.log"
    options = ("--resume", "never")
    reached = 0
    # Moments in ascending order: each kill lies in what is left after the one before.
    for target in sorted(dice.sample(range(4, steps - 4), kills)):
        known = set(arena.outputs.glob("*"))
        process = start(arena, "finetune", log, *options)
        while process.is_alive() and reached < target:
            reached = max(reached, _newest_step(arena, known))
            time.sleep(0.002)
        if in_save:
            while process.is_alive() and not _half_written(arena, process.pid):
                time.sleep(0.0002)
        time.sleep(dice.uniform(0.0, 0.005 if in_save else 0.3))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        if finish(process) != -signal.SIGKILL:
            break
        outcome.kills += 1
        outcome.within_save += bool(_half_written(arena, process.pid))
        options = ("--resume", "auto")
    else:
        if finish(start(arena, "finetune", log, *options)) != 0:
            raise RuntimeError((arena.folder / log).read_text(encoding="utf-8"))
    read_result(arena, outcome)
    text = (arena.folder / log).read_text(encoding="utf-8")
    for block in text.split("resumed from run ")[1:]:
        checkpoint = int(block.partition("checkpoint-")[2].split()[0])
        _, found, rest = block.partition("steps done after the resume: ")
        if found:
            outcome.resumes.append((int(rest.split()[0]), checkpoint))
    return outcome


def read_result(arena: Arena, outcome: Outcome) -> None:
    """Read the newest finished run: adapter and curve."""
    import mlflow

    client = mlflow.MlflowClient(arena.store)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    run = client.search_runs(
        [experiment.experiment_id],
        "tags.`forge.step` = 'finetune' and attributes.status = 'FINISHED'",
        max_results=1,
    )[0]
    file = Path(run.info.artifact_uri.removeprefix("file://")) / "adapter"
    content = (file / "adapter_model.safetensors").read_bytes()
    outcome.adapter = hashlib.sha256(content).hexdigest()
    for name in run.data.metrics:
        # What the machine had free is no part of the curve.
        if name in TIMED or name.startswith(("system/", "plan/")):
            continue
        for point in client.get_metric_history(run.info.run_id, name):
            if (name, point.step) in outcome.curve:
                outcome.repeated.append((name, point.step))
            outcome.curve[name, point.step] = point.value


def judge(outcome: Outcome, untouched: Outcome, steps: int) -> list[str]:
    """What is wrong with a run; empty: it ended as the untouched one, bit for bit."""
    wrong = []
    if outcome.adapter != untouched.adapter:
        wrong.append("another adapter")
    if outcome.curve != untouched.curve:
        wrong.append("another curve")
    if outcome.repeated:
        wrong.append(f"points twice: {outcome.repeated[:3]}")
    if outcome.kills and not outcome.resumes:
        wrong.append("it was not resumed")
    wrong += [
        f"{done} steps after checkpoint-{checkpoint}"
        for done, checkpoint in outcome.resumes
        if done != steps - checkpoint
    ]
    return wrong


def torture(
    arena: Arena, runs: int, seed: int, steps: int = STEPS
) -> Iterator[tuple[int, Outcome, list[str]]]:
    """Kill and resume so many runs: a third within a save, a third of them twice."""
    untouched = run_untouched(arena)
    dice = random.Random(seed)
    for number in range(runs):
        kills = 2 if number % 3 == 2 else 1
        outcome = Outcome()
        # A run that was faster than the dice proves nothing.
        while outcome.kills < kills:
            outcome = run_killed(arena, number, kills, number % 3 == 1, steps, dice)
        yield number, outcome, judge(outcome, untouched, steps)


def _run_step(step: str, options: list[str], folder: Path, log: str, store: str) -> None:
    import importlib

    descriptor = os.open(folder / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = store
    os.environ["FORGE_CACHE"] = str(folder / "cache")
    importlib.import_module(f"steps.{step}").main(options, prog_name=step)


def _in_process(work: Any, *arguments: Any) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=work, args=arguments)
    process.start()
    if finish(process) != 0:
        raise RuntimeError(f"{work.__name__} failed")


def _make_model(folder: Path) -> None:
    papers = json.loads((ROOT / "data/high_quality_papers_demo.json").read_text(encoding="utf-8"))
    titles = [paper["title"] for paper in papers["papers"]]
    save_tiny_llama(folder / "model", titles, vocabulary=400, positions=256)


def _newest_step(arena: Arena, but: set[Path]) -> int:
    """Step of the newest checkpoint of runs other than those."""
    found = (p for p in arena.outputs.glob("*/checkpoint-*") if p.parent not in but)
    return max((int(p.name.rpartition("-")[2]) for p in found), default=0)


def _half_written(arena: Arena, pid: int | None) -> list[Path]:
    return list(arena.outputs.glob(f"*/.checkpoint-*.partial-{pid}"))


@click.command()
@click.option("--method", type=click.Choice(["lora", "qlora"]), default="lora", show_default=True)
@click.option("--runs", default=25, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, help="Of the moments of the kills.")
@click.option("--folder", type=click.Path(path_type=Path), help="Kept; default: a temporary one.")
def main(method: str, runs: int, seed: int, folder: Path | None) -> None:
    """Kill, resume, compare."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="resume-torture-") as scratch:
        arena = build_arena(folder or Path(scratch), method)
        identical = kills = within_save = twice = 0
        for number, outcome, wrong in torture(arena, runs, seed):
            identical += not wrong
            kills += outcome.kills
            within_save += outcome.within_save
            twice += outcome.kills > 1
            steps = ", ".join(f"{done} steps = {STEPS} - {at}" for done, at in outcome.resumes)
            state = "; ".join(wrong) or "identical"
            click.echo(
                f"run {number}: {outcome.kills} kill(s), {outcome.within_save} within a save; "
                f"{steps}; {state}"
            )
        click.echo(
            f"{method}: {identical} of {runs} identical to the untouched run "
            f"({kills} kills, {within_save} within a save, {twice} runs killed twice)"
        )
    sys.exit(0 if identical == runs else 1)


if __name__ == "__main__":
    main()
