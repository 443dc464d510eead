"""Speed and memory of training, side by side: this project, TRL, and transformers' Trainer.

    python -m benchmarks.training --papers genomics_abstracts.json --articles fulltext_articles.json
    python -m benchmarks.training --report

LoRA and QLoRA at 512 and at 2,048 tokens, the same number of tokens in a row of rows; see
`benchmarks/training_side.py` for what each side does. `trl_tuned` is TRL whose user has told malloc
to keep freed memory. The sides take turns, each in a fresh process; a finished one is a line of the
results file at once, and a second call goes on where the first one ended. TRL's environment is made
from the package index where there is none.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from benchmarks.tiny_models import save_tiny_llama
from steps.cache_folder import cache_folder
from steps.config.file import load_config
from steps.config.sections import Hardware
from steps.models.devices import pick_device, pick_dtype
from steps.models.sources import resolve_base

PROJECT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("training_side.py")
SIDES = ("ours", "trl", "trl_tuned", "trainer")
TRL = "1.16.0"
# Of our own environment, so that the sides differ in nothing else.
SHARED_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")
TOKENS_OF_A_STEP = 2048
PAIRS = {512: 5, 2048: 3}
HELD_OUT = 12
# What a user sets who knows that glibc gives memory back after each step.
KEEPS_MEMORY = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296"
    ":glibc.malloc.trim_threshold=4294967296"
)


@dataclass(frozen=True)
class Case:
    """One process to run.

    Attributes:
        pair: Number of the round.
        method: "lora" or "qlora".
        length: Tokens of a row.
        side: One of `SIDES`.
    """

    pair: int
    method: str
    length: int
    side: str

    def is_in(self, results: list[dict[str, Any]]) -> bool:
        """Whether it was measured already."""
        return any(all(one[name] == value for name, value in vars(self).items()) for one in results)


def cases(sides: tuple[str, ...], lengths: dict[int, int]) -> Iterator[Case]:
    """All processes: round by round, so that an early end leaves some of everything."""
    for pair in range(max(lengths.values())):
        for length, pairs in lengths.items():
            for method in ("lora", "qlora"):
                for side in sides[pair % len(sides) :] + sides[: pair % len(sides)]:
                    if pair < pairs:
                        yield Case(pair, method, length, side)


def texts_of(file: Path) -> list[str]:
    """Title and text of each paper of a file in the papers layout."""
    content = json.loads(file.read_text(encoding="utf-8"))
    records = content["papers"] if isinstance(content, dict) else content
    bodies = ((one["title"], one.get("abstract") or one.get("full_text")) for one in records)
    return [f"{title}\n\n{body}" for title, body in bodies if body]


def trl_python(folder: Path) -> Path:
    """The interpreter of an environment with TRL, made where it is missing."""
    python = folder / "bin" / "python"
    if not python.is_file():
        click.echo(f"making an environment with TRL {TRL} in {folder}")
        packages = [f"trl=={TRL}", *(f"{one}=={version(one)}" for one in SHARED_PACKAGES)]
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        uv = shutil.which("uv")
        install = [uv, "pip", "install", "--python", str(python)] if uv else []
        install = install or [str(python), "-m", "pip", "install"]
        subprocess.run([*install, "--quiet", *packages], check=True)
    return python


def measured(case: Case, job: dict[str, Any], python: Path) -> dict[str, Any]:
    """Run one side in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    if case.side == "trl_tuned":
        environment["GLIBC_TUNABLES"] = KEEPS_MEMORY
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "job.json", Path(folder) / "result.json"
        side = case.side.removesuffix("_tuned")
        question.write_text(json.dumps({**job, "side": side, "folder": folder}), encoding="utf-8")
        finished = subprocess.run(
            [str(python), str(WORKER), str(question), str(answer)],
            env=environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            raise click.ClickException(f"{case} failed:\n{finished.stderr[-3000:]}")
        result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return {**vars(case), **result, "dtype": job["dtype"], "device": job["device"]}


def report(results: list[dict[str, Any]]) -> Iterator[str]:
    """The figures as lines of Markdown: medians, and ratios round by round with their range."""
    for length in sorted({one["length"] for one in results}):
        for method in ("lora", "qlora"):
            here = [one for one in results if (one["method"], one["length"]) == (method, length)]
            ours = {one["pair"]: one for one in here if one["side"] == "ours"}
            yield f"**{method}, rows of {length} tokens** ({len(ours)} rounds)\n"
            yield (
                "| side | tokens/s | ours is faster by | peak GB | ours takes of it "
                "| held-out loss (base) | targets |"
            )
            yield "|---|---|---|---|---|---|---|"
            for side in SIDES:
                mine = [one for one in here if one["side"] == side and one["pair"] in ours]
                if mine:
                    yield _row(side, mine, ours)
            yield ""


def _row(side: str, mine: list[dict[str, Any]], ours: dict[int, dict[str, Any]]) -> str:
    faster = [ours[one["pair"]]["tokens_per_second"] / one["tokens_per_second"] for one in mine]
    smaller = [ours[one["pair"]]["peak_bytes"] / one["peak_bytes"] for one in mine]
    cells = [
        side,
        _spread([one["tokens_per_second"] for one in mine], 0),
        _spread(faster, 2),
        _spread([one["peak_bytes"] / 1e9 for one in mine], 2),
        _spread(smaller, 2),
        f"{statistics.median(one['loss'] for one in mine):.4f} ({mine[0]['base_loss']:.4f})",
        f"{round(statistics.median(one['targets'] for one in mine)):,}",
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def read_results(file: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines]


@click.command()
@click.option("--papers", type=click.Path(exists=True, path_type=Path), help="Abstracts.")
@click.option("--articles", type=click.Path(exists=True, path_type=Path), help="For 2,048 tokens.")
@click.option("--results", default="training.jsonl", type=click.Path(path_type=Path))
@click.option("--report", "only_report", is_flag=True, help="Only print what was measured.")
@click.option("--sides", default=",".join(SIDES), show_default=True)
@click.option("--targets", default=8000, show_default=True, help="Target tokens to train on.")
@click.option("--tiny", is_flag=True, help="A tiny random model, one round: does it run?")
@click.option("--device", default="auto", show_default=True)
def main(
    papers: Path | None,
    articles: Path | None,
    results: Path,
    only_report: bool,
    sides: str,
    targets: int,
    tiny: bool,
    device: str,
) -> None:
    """Measure what is not measured yet, and print all."""
    if not only_report:
        if papers is None:
            raise click.UsageError("--papers is missing: a file of abstracts in the papers layout")
        measure_all(
            papers, articles or papers, results, tuple(sides.split(",")), targets, tiny, device
        )
    for line in report(read_results(results)):
        click.echo(line)


def measure_all(
    papers: Path,
    articles: Path,
    results: Path,
    sides: tuple[str, ...],
    targets: int,
    tiny: bool,
    device: str,
) -> None:
    """Run all cases that the results file lacks."""
    hardware = Hardware(device=device)  # type: ignore[arg-type]
    place = pick_device(hardware.device)
    dtype = str(pick_dtype(hardware, place)).removeprefix("torch.")
    lengths = {64: 1} if tiny else PAIRS
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "model"
        if tiny:
            save_tiny_llama(base, texts_of(papers)[:50])
        else:
            base = resolve_base(load_config("configs/demo.yaml", "").training.model).folder
        needs_trl = any(side.startswith("trl") for side in sides)
        trl = trl_python(cache_folder() / f"trl-{TRL}") if needs_trl else Path()
        for case in cases(sides, lengths):
            if case.is_in(read_results(results)):
                continue
            abstracts, texts = texts_of(papers), texts_of(articles if case.length > 512 else papers)
            own = texts if case.length > 512 else abstracts[HELD_OUT:]
            job = {
                "base": str(base),
                "method": case.method,
                "length": case.length,
                "rows": max(1, TOKENS_OF_A_STEP // case.length) if not tiny else 2,
                "rank": 16,
                "learning_rate": 2e-4,
                "targets": targets if not tiny else 200,
                "most_steps": 10_000,
                "seed": 42 + case.pair,
                "dtype": dtype,
                "device": place,
                "texts": own[:200],
                "held_out": abstracts[:HELD_OUT],
            }
            python = trl if case.side.startswith("trl") else Path(sys.executable)
            line = measured(case, job, python)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            click.echo(
                f"{case.pair} {case.method} {case.length} {case.side}: "
                f"{line['tokens_per_second']:.0f} tokens/s, {line['peak_bytes'] / 1e9:.2f} GB"
            )


if __name__ == "__main__":
    main()
