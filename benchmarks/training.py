"""Speed and memory of training, side by side: this project, TRL, and transformers' Trainer.

    python -m benchmarks.training --papers genomics_abstracts.json --articles fulltext_articles.json
    python -m benchmarks.training --report

LoRA and QLoRA at 512 and at 2,048 tokens a row, 2,048 tokens a step; see
`benchmarks/training_side.py` for what each side does. `trl_tuned` is TRL whose user has told malloc
to keep freed memory. Every side learns from the same cleaned texts, abstracts at 512 tokens and
articles (where given) at 2,048, until it has seen `--steps` times 2,048 target tokens, and is
scored on the same held-out abstracts by the same function. Reported are

    tokens/s   target tokens a second of wall time, the first step left out
    peak GB    most memory of the process (of the GPU, where there is one) until training ends
    loss       nats a token of the held-out abstracts, after the training and before it

The sides take turns, each in a fresh process; a finished one is a line of the results file at once,
and a second call goes on where the first one ended. TRL's environment is made from the package
index where there is none.
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
from typing import Any, Literal

import click

from benchmarks.tiny_models import save_tiny_llama
from steps.cache_folder import cache_folder
from steps.config.file import load_config
from steps.config.sections import Hardware
from steps.models.devices import pick_device, pick_dtype
from steps.models.sources import resolve_base
from steps.papers.cleaning.recipe import clean_text

PROJECT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("training_side.py")
SIDES = ("ours", "trl", "trl_tuned", "trainer")
METHODS = ("lora", "qlora")
TRL = "1.16.0"
# Of our own environment, so that the sides differ in nothing else.
SHARED_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")
TOKENS_OF_A_STEP = 2048
PAIRS = {512: 5, 2048: 3}
# More than any side reads in its steps.
TRAINING_TEXTS = 200
HELD_OUT = 12
# What a user sets who knows that glibc gives memory back after each step.
KEEPS_MEMORY = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296"
    ":glibc.malloc.trim_threshold=4294967296"
)
ALLOCATOR_VARIABLES = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


@dataclass(frozen=True)
class Conditions:
    """What all lines of a results file have in common.

    Attributes:
        device: "cpu" or "cuda".
        dtype: Number format of the computation, by torch's name.
        threads: Of each process.
        steps: Steps of as many tokens as all rows hold; all sides see as many target tokens.
        tiny: A tiny random model on short rows.
    """

    device: str
    dtype: str
    threads: int
    steps: int
    tiny: bool

    def check(self, results: list[dict[str, Any]], file: Path) -> None:
        """Refuse to measure on in a file of other conditions."""
        for one in results:
            other = {name: one.get(name) for name in vars(self)}
            if other != vars(self):
                raise click.ClickException(
                    f"{file} was measured under {other}, this is {vars(self)}: give another file "
                    "as --results"
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


def cases(
    sides: tuple[str, ...], methods: tuple[str, ...], lengths: dict[int, int]
) -> Iterator[Case]:
    """All processes: round by round, so that an early end leaves some of everything."""
    for pair in range(max(lengths.values())):
        for length, pairs in lengths.items():
            for method in methods:
                for side in sides[pair % len(sides) :] + sides[: pair % len(sides)]:
                    if pair < pairs:
                        yield Case(pair, method, length, side)


def texts_of(file: Path) -> list[str]:
    """Title and text of each paper of a file in the papers layout, cleaned as for training."""
    content = json.loads(file.read_text(encoding="utf-8"))
    records = content["papers"] if isinstance(content, dict) else content
    bodies = ((one["title"], one.get("abstract") or one.get("full_text")) for one in records)
    return [clean_text(f"{title}\n\n{body}") for title, body in bodies if body]


def trl_python(folder: Path) -> Path:
    """The interpreter of an environment with TRL, made where it is missing or not complete."""
    python = folder / "bin" / "python"
    # Without the build: the index has none such as +cpu.
    ours = [f"{name}=={version(name).partition('+')[0]}" for name in SHARED_PACKAGES]
    packages = [f"trl=={TRL}", *ours]
    if not _holds(python, packages):
        click.echo(f"making an environment with TRL {TRL} in {folder}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        uv = shutil.which("uv")
        install = [uv, "pip", "install", "--python", str(python)] if uv else []
        install = install or [str(python), "-m", "pip", "install"]
        subprocess.run([*install, "--quiet", *packages], check=True)
    return python


def _holds(python: Path, packages: list[str]) -> bool:
    """Whether an environment is there and has packages in these versions."""
    code = (
        "import sys; from importlib.metadata import version\n"
        "for package in sys.argv[1:]:\n"
        "    name, wanted = package.split('==')\n"
        "    assert version(name).partition('+')[0] == wanted\n"
    )
    if not python.is_file():
        return False
    found = subprocess.run([str(python), "-c", code, *packages], capture_output=True, check=False)
    return found.returncode == 0


def measured(case: Case, job: dict[str, Any], python: Path) -> dict[str, Any]:
    """Run one side in a fresh process."""
    kept = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    threads = str(job["threads"])
    environment = {**kept, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": threads}
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
    return {**vars(case), **result}


def report(results: list[dict[str, Any]]) -> Iterator[str]:
    """The figures as lines of Markdown: medians, and ratios round by round with their range."""
    if results:
        yield _conditions(results)
    for length in sorted({one["length"] for one in results}):
        for method in METHODS:
            here = [one for one in results if (one["method"], one["length"]) == (method, length)]
            ours = {one["pair"]: one for one in here if one["side"] == "ours"}
            if not ours:
                continue
            yield f"**{method}, rows of {length} tokens** ({len(ours)} rounds)\n"
            yield (
                "| side | tokens/s | ours is faster by | peak GB | ours takes of it "
                "| held-out loss, before | targets |"
            )
            yield "|---|---|---|---|---|---|---|"
            for side in SIDES:
                mine = [one for one in here if one["side"] == side and one["pair"] in ours]
                if mine:
                    yield _row(side, mine, ours)
            yield ""


def _conditions(results: list[dict[str, Any]]) -> str:
    one = results[0]
    versions = {name: found for each in results for name, found in each["versions"].items()}
    software = ", ".join(f"{name} {found}" for name, found in versions.items())
    return f"{one['device']}, {one['dtype']}, {one['threads']} threads; {software}\n"


def _row(side: str, mine: list[dict[str, Any]], ours: dict[int, dict[str, Any]]) -> str:
    faster = [ours[one["pair"]]["tokens_per_second"] / one["tokens_per_second"] for one in mine]
    smaller = [ours[one["pair"]]["peak_bytes"] / one["peak_bytes"] for one in mine]
    cells = [
        side,
        _spread([one["tokens_per_second"] for one in mine], 0),
        _spread(faster, 2),
        _spread([one["peak_bytes"] / 1e9 for one in mine], 2),
        _spread(smaller, 2),
        f"{_spread([one['loss'] for one in mine], 4)}, {mine[0]['base_loss']:.4f}",
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
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--lengths", default="512,2048", show_default=True, help="Tokens of a row.")
@click.option("--pairs", type=int, help="Most rounds; default: 5 at 512 tokens, 3 at 2,048.")
@click.option(
    "--steps",
    default=8,
    show_default=True,
    type=click.IntRange(min=2),  # The first is not timed.
    help="Of 2,048 target tokens each.",
)
@click.option("--threads", default=2, show_default=True, help="Of each process.")
@click.option("--tiny", is_flag=True, help="A tiny random model, one round: does it run?")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--dtype", default="auto", help="auto: bfloat16 where the hardware computes in it.")
def main(
    papers: Path | None,
    articles: Path | None,
    results: Path,
    only_report: bool,
    sides: str,
    methods: str,
    lengths: str,
    pairs: int | None,
    steps: int,
    threads: int,
    tiny: bool,
    device: Literal["auto", "cpu", "cuda"],
    dtype: str,
) -> None:
    """Measure what is not measured yet, and print all."""
    if not only_report:
        if papers is None:
            raise click.UsageError("--papers is missing: a file of abstracts in the papers layout")
        place = pick_device(device)
        if dtype == "auto":
            dtype = str(pick_dtype(Hardware(device=device), place)).removeprefix("torch.")
        conditions = Conditions(place, dtype, threads, steps, tiny)
        chosen = {64: 1} if tiny else {int(one): PAIRS[int(one)] for one in lengths.split(",")}
        rounds = {length: min(most, pairs or most) for length, most in chosen.items()}
        planned = list(cases(tuple(sides.split(",")), tuple(methods.split(",")), rounds))
        measure_all(planned, papers, articles or papers, results, conditions)
    for line in report(read_results(results)):
        click.echo(line)


def measure_all(
    planned: list[Case], papers: Path, articles: Path, results: Path, conditions: Conditions
) -> None:
    """Run all cases that the results file lacks."""
    conditions.check(read_results(results), results)
    abstracts = texts_of(papers)
    held_out = abstracts[:HELD_OUT]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "model"
        if conditions.tiny:
            save_tiny_llama(base, abstracts[:50])
        else:
            base = resolve_base(load_config("configs/demo.yaml", "").training.model).folder
        needs_trl = any(case.side.startswith("trl") for case in planned)
        trl = trl_python(cache_folder() / f"trl-{TRL}") if needs_trl else Path()
        for case in planned:
            if case.is_in(read_results(results)):
                continue
            texts = texts_of(articles) if case.length > 512 else abstracts
            # The same abstract may stand in a file twice.
            own = [text for text in texts if text not in held_out][:TRAINING_TEXTS]
            rows = 2 if conditions.tiny else max(1, TOKENS_OF_A_STEP // case.length)
            job = {
                **vars(conditions),
                "base": str(base),
                "method": case.method,
                "length": case.length,
                "rows": rows,
                "rank": 16,
                "learning_rate": 2e-4,
                "targets": conditions.steps * rows * case.length,
                "most_steps": 10_000,
                "seed": 42 + case.pair,
                "texts": own,
                "held_out": held_out,
                "packages": [*SHARED_PACKAGES, *(["trl"] if case.side.startswith("trl") else [])],
            }
            python = trl if case.side.startswith("trl") else Path(sys.executable)
            line = {**measured(case, job, python), **vars(conditions)}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            click.echo(
                f"{case.pair} {case.method} {case.length} {case.side}: "
                f"{line['tokens_per_second']:.0f} tokens/s, {line['peak_bytes'] / 1e9:.2f} GB, "
                f"loss {line['base_loss']:.4f} to {line['loss']:.4f}"
            )


if __name__ == "__main__":
    main()
