"""What a step costs outside its work: its processor time on a tiny model, and where it goes.

    python -m benchmarks.overhead --repeat 5
    python -m benchmarks.overhead --steps plan,finetune

Each step is a process of its own, as its user starts it, on the demo papers and a random model of
a few kilobytes, in a store and a cache that begin empty; a training takes two optimiser steps. So
nearly all of the time is overhead. Reported are processor seconds (user and system, of the step
and of the processes that it starts), which other work on the machine disturbs less than wall
time, by their median and range, and wall seconds. A further pass shares each step's time out
(see `benchmarks.profiled_step`): imports by package, calls of MLflow, processes that the step
starts (finetune's check of the registered version), and the rest.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.tiny_models import save_tiny_llama

ROOT = Path(__file__).resolve().parent.parent
PAPERS = ROOT / "data" / "high_quality_papers_demo.json"

# In the order of a pass; each finds what the ones before have left in the store.
PASSES: dict[str, tuple[str, ...]] = {
    "preprocess in a new store": ("preprocess",),
    "preprocess": ("preprocess",),
    "finetune": ("finetune",),
    "evaluate base": ("evaluate", "--model", "base"),
    "evaluate": ("evaluate", "--model", "models:/tiny@challenger"),
    "ab_compare": ("ab_compare",),
    "prune_checkpoints": ("prune_checkpoints",),
    "plan": ("plan",),
}
PACKAGES_SHOWN = 8


@dataclass
class Cost:
    """What one step took, a figure for each repeat.

    Attributes:
        processor: Processor seconds, child processes included.
        wall: Seconds.
        profile: Its processor time shared out, of one further pass.
    """

    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    profile: dict[str, Any] = field(default_factory=dict)


def write_config(folder: Path) -> Path:
    """A tiny model, and a configuration by which every step does as little as it can."""
    content = json.loads(PAPERS.read_text(encoding="utf-8"))
    texts = [f"{p['title']}\n\n{p['abstract']}" for p in content["papers"] if p.get("abstract")]
    model = save_tiny_llama(folder / "model", texts)
    file = folder / "tiny.yaml"
    file.write_text(
        f"""
extends: {ROOT / "configs" / "training.yaml"}
training:
  model: {{name: {model}, max_length: 256}}
  qlora: {{method: lora, lora_dropout: 0.0}}
  hyperparameters: {{batch_size: 2, gradient_accumulation_steps: 1, max_steps: 2}}
  scientific_data:
    data_file: {PAPERS}
    filters: {{min_score: 50}}
    sections: [title, abstract]
    split: {{validation_fraction: 0.1, test_fraction: 0.25}}
    num_workers: 1
  logging: {{log_steps: 1, eval_steps: 2, save_steps: 2}}
  memory_optimization: {{gradient_checkpointing: false}}
  hardware: {{device: cpu, bf16: false}}
  mlflow: {{experiment_name: tiny, registered_model_name: tiny}}
  evaluation: {{generation: {{prompts: 1, max_new_tokens: 4}}, cloze_items: 2}}
""",
        encoding="utf-8",
    )
    return file


def run_step(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Run a step's process to its end; processor seconds, with its children's, and seconds."""
    environment = {
        name: value
        for name, value in os.environ.items()
        # Where compiled modules may not be kept, every import compiles them again.
        if not name.startswith(("MLFLOW_", "FORGE_")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    environment |= {
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "FORGE_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    with (folder / "said.log").open("w+", encoding="utf-8") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=said,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            raise click.ClickException(f"{' '.join(arguments)} failed:\n{said.read()}")
    return used.ru_utime + used.ru_stime, seconds


def measure(folder: Path, chosen: list[str], costs: dict[str, Cost], *, profiled: bool) -> None:
    """One pass over the steps in a new store; only the chosen ones are counted."""
    folder.mkdir()
    given = ["--config", str(write_config(folder))]
    last = max(list(PASSES).index(name) for name in chosen)
    for name, (step, *options) in list(PASSES.items())[: last + 1]:
        file = folder / "profile.json"
        if profiled and name in chosen:
            run_step(["benchmarks.profiled_step", str(file), step, *given, *options], folder)
            costs[name].profile = json.loads(file.read_text(encoding="utf-8"))
            continue
        processor, wall = run_step([f"steps.{step}", *given, *options], folder)
        if name in chosen:
            costs[name].processor.append(processor)
            costs[name].wall.append(wall)


def show(costs: dict[str, Cost]) -> None:
    """Print the figures as tables in Markdown."""
    click.echo("| step | processor s | range | wall s | imports | store | processes | rest |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for name, cost in costs.items():
        parts = cost.profile
        imports = sum(parts["imports"].values())
        children, store = parts["children"], parts["store"]
        rest = parts["process"] - imports - store
        figures = [
            f"{statistics.median(cost.processor):.1f}",
            f"{min(cost.processor):.1f} to {max(cost.processor):.1f}",
            f"{statistics.median(cost.wall):.1f}",
            *(f"{part:.1f}" for part in (imports, store, children, rest)),
        ]
        click.echo(f"| {name} | {' | '.join(figures)} |")
    click.echo("\nprocessor seconds of imports, by package:\n")
    for name, cost in costs.items():
        packages = sorted(cost.profile["imports"].items(), key=lambda item: -item[1])
        shown = ", ".join(f"{package} {part:.2f}" for package, part in packages[:PACKAGES_SHOWN])
        click.echo(f"- {name}: {shown}")


@click.command()
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--steps", default="", help="Which to count, comma-separated; empty: all.")
def main(repeat: int, steps: str) -> None:
    """Measure and print."""
    chosen = [name.strip() for name in steps.split(",") if name.strip()] or list(PASSES)
    unknown = [name for name in chosen if name not in PASSES]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of: {'; '.join(PASSES)}")
    costs = {name: Cost() for name in PASSES if name in chosen}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(repeat):
            measure(Path(scratch) / str(number), chosen, costs, profiled=False)
        measure(Path(scratch) / "profiled", chosen, costs, profiled=True)
    show(costs)


if __name__ == "__main__":
    main()
