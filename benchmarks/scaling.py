"""What grows with what: seconds and bytes against papers, tokens, length, rank, checkpoints, runs.

    python -m benchmarks.scaling --papers genomics_abstracts.json
    python -m benchmarks.scaling --papers genomics_abstracts.json --axis tokens --axis length

Every size is measured in a process of its own, each twice as large as the one before, by processor
time (others may be at work on the machine) and by the bytes that the row names. A line through the
figures gives what one more costs and how well a line fits; the exponent is that of the last
doubling, 1 where twice as much costs twice as much.
"""

import json
import math
import resource
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.preprocess import run_ours, run_side, write_corpus
from benchmarks.prune import fill, timed_plan, tracking_server
from benchmarks.tiny_models import save_tiny_llama

REPEATS = 3
RUNS_WITH_CHECKPOINTS = 10


@dataclass(frozen=True)
class Axis:
    """What is varied.

    Attributes:
        sizes: The smallest size; each later one is twice as large.
        unit: What a size counts.
        bytes_of: What the bytes are.
        measure: Gives seconds and bytes, of the seed texts and a size.
    """

    sizes: tuple[int, ...]
    unit: str
    bytes_of: str
    measure: Callable[[list[dict[str, Any]], int], tuple[float, int]]


def least_seconds(work: Callable[[], object]) -> float:
    """The least processor time of some repeats."""
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def of_papers(seeds: list[dict[str, Any]], size: int) -> tuple[float, int]:
    """Preprocess so many papers, with one worker."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        write_corpus(corpus, seeds, size)
        figures = run_ours(corpus, 1)
    return figures["own_cpu_seconds"] + figures["worker_cpu_seconds"], figures["peak_bytes"]


def of_tokens(seeds: list[dict[str, Any]], size: int) -> tuple[float, int]:
    """Make packed rows of about so many tokens."""
    from steps.papers.text import PaperText, Span
    from steps.training.packing import PaperRows, causal_windows

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = _tiny(folder, seeds, 512)[1]
        texts: list[str] = []
        tokens = 0
        while tokens < size:
            text = f"{seeds[len(texts) % len(seeds)]['abstract']} {len(texts)}"
            texts.append(text)
            tokens += len(tokenizer(text, verbose=False).input_ids) + 2
    papers = [
        PaperText(str(number), text, (Span(0, len(text), "abstract"),))
        for number, text in enumerate(texts)
    ]

    def rows() -> PaperRows:
        return PaperRows(causal_windows(papers, tokenizer, 512, 64), 512, packed=True)

    seconds = least_seconds(rows)
    tracemalloc.start()
    kept = rows()
    held, _ = tracemalloc.get_traced_memory()
    assert kept.tokens >= size
    return seconds, held


def of_length(seeds: list[dict[str, Any]], size: int) -> tuple[float, int]:
    """Train one step on one document of so many tokens."""
    return _training_step(seeds, size, rank=8)


def of_rank(seeds: list[dict[str, Any]], size: int) -> tuple[float, int]:
    """Train one step with an adapter of this rank."""
    return _training_step(seeds, 512, rank=size)


def _training_step(seeds: list[dict[str, Any]], length: int, rank: int) -> tuple[float, int]:
    import torch

    from steps.allocator import keep_freed_memory
    from steps.config.sections import Qlora
    from steps.models.adapters import add_adapter
    from steps.models.fused import use_fused_adapters
    from steps.models.layout import packed_batch
    from steps.models.losses import use_chunked_loss

    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model, _ = _tiny(folder, seeds, length, hidden_size=256, intermediate_size=512)
    use_chunked_loss(model)
    adapted = add_adapter(model, Qlora(method="lora", r=rank, lora_dropout=0.0), "causal")
    use_fused_adapters(adapted)
    before = peak_bytes()
    batch = packed_batch([list(range(3, 103)) * (length // 100 + 1)], 0)
    batch = {"input_ids": batch["input_ids"][:, :length]}

    def step() -> None:
        adapted(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()

    return least_seconds(step), max(peak_bytes() - before, 1)


def of_checkpoints(seeds: list[dict[str, Any]], size: int) -> tuple[float, int]:
    """Plan what to prune of so many checkpoints, on a tracking server; seconds of the wall."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with tracking_server(folder) as uri:
            fill(uri, folder / "artifacts", RUNS_WITH_CHECKPOINTS, size // RUNS_WITH_CHECKPOINTS)
            measured = [timed_plan(uri, folder) for _ in range(REPEATS)]
        stored = sum(file.stat().st_size for file in folder.rglob("*.db*"))
    assert all(len(plan["checkpoints"]) == size for _, plan in measured)
    return min(seconds for seconds, _ in measured), stored


def of_runs(seeds: list[dict[str, Any]], size: int) -> tuple[float, int]:
    """Look an earlier result up among so many runs."""
    import mlflow

    from steps.config.file import load_config
    from steps.tracking.cache import cache_tags, find_reusable, key_parts

    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "mlflow.db"
        client = mlflow.MlflowClient(f"sqlite:///{database}")
        experiment = client.create_experiment("scaled", artifact_location=folder)
        training = load_config("configs/demo.yaml", "").training
        for number in range(size):
            tags = cache_tags(key_parts("preprocess", training, {"papers": str(number)}))
            run = client.create_run(experiment, tags={"forge.step": "preprocess", **tags})
            client.set_terminated(run.info.run_id)
        unknown = key_parts("preprocess", training, {"papers": "none of these"})

        def look_up() -> None:
            found, reason = find_reusable(client, experiment, "preprocess", unknown)
            assert found is None
            assert reason.startswith("changed"), reason

        return least_seconds(look_up), database.stat().st_size


def _tiny(folder: str, seeds: list[dict[str, Any]], positions: int, **sizes: int) -> Any:
    """A small model, and its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    texts = [one["abstract"] for one in seeds[:50]]
    saved = save_tiny_llama(Path(folder), texts, positions=max(positions, 512))
    config = AutoConfig.from_pretrained(saved, **sizes)
    return AutoModelForCausalLM.from_config(config), AutoTokenizer.from_pretrained(saved)


AXES = {
    "papers": Axis((500, 1000, 2000, 4000), "papers", "peak of the process", of_papers),
    "tokens": Axis((50_000, 100_000, 200_000, 400_000), "tokens", "rows", of_tokens),
    "length": Axis((512, 1024, 2048, 4096), "tokens of a document", "of the step", of_length),
    "rank": Axis((8, 16, 32, 64), "rank", "of the step", of_rank),
    "checkpoints": Axis((50, 100, 200, 400), "checkpoints", "the database", of_checkpoints),
    "runs": Axis((100, 200, 400, 800), "runs", "the database", of_runs),
}


def line_through(sizes: list[int], values: list[float]) -> tuple[float, float]:
    """The slope of the line of least squares, and the share of the variance that it explains."""
    slope, intercept = statistics.linear_regression(sizes, values)
    mean = statistics.fmean(values)
    off = sum((y - slope * x - intercept) ** 2 for x, y in zip(sizes, values, strict=True))
    spread = sum((y - mean) ** 2 for y in values)
    return slope, 1.0 - off / spread if spread else 1.0


def last_exponent(sizes: list[int], values: list[float]) -> float:
    """By which power the last step grew: 1 is linear, 2 quadratic."""
    grown, larger = values[-1] / values[-2], sizes[-1] / sizes[-2]
    return math.log(max(grown, 1e-9)) / math.log(larger)


def row(axis: Axis, sizes: list[int], measured: list[tuple[float, int]]) -> str:
    """One line of the table."""
    cells = [axis.unit, " / ".join(f"{size:,}" for size in sizes)]
    for values, digits, factor in (
        ([seconds for seconds, _ in measured], 3, 1.0),
        ([size / 1e6 for _, size in measured], 2, 1e6),
    ):
        slope, fit = line_through(sizes, values)
        each = f"{slope * 1e6:.3g} µs" if factor == 1.0 else f"{slope * factor:.3g} bytes"
        shown = " / ".join(f"{value:.{digits}f}" for value in values)
        cells += [shown, each, f"{fit:.3f}", f"{last_exponent(sizes, values):.2f}"]
    cells.insert(6, axis.bytes_of)
    return f"| {' | '.join(cells)} |"


@click.command()
@click.option("--papers", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--axis", "names", multiple=True, type=click.Choice(list(AXES)), help="Default: all.")
@click.option(
    "--sizes", "count", default=4, show_default=True, help="How many of each, at least 2."
)
@click.option("--run-one", hidden=True, nargs=2, type=(str, int), default=None)
def main(papers: Path, names: tuple[str, ...], count: int, run_one: tuple[str, int] | None) -> None:
    """Measure and print a table."""
    content = json.loads(papers.read_text(encoding="utf-8"))
    seeds = content["papers"] if isinstance(content, dict) else content
    if run_one is not None:
        name, size = run_one
        seconds, held = AXES[name].measure(seeds, size)
        click.echo(json.dumps({"seconds": seconds, "bytes": held}))
        return
    click.echo(
        "| of | sizes | seconds | each | R² | exponent | MB of | MB | each | R² | exponent |"
    )
    click.echo("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in names or AXES:
        sizes = list(AXES[name].sizes[:count])
        command = [sys.executable, "-m", "benchmarks.scaling", "--papers", str(papers)]
        found = [run_side([*command, "--run-one", name, str(size)]) for size in sizes]
        measured = [(one["seconds"], one["bytes"]) for one in found]
        click.echo(row(AXES[name], sizes, measured))


if __name__ == "__main__":
    main()
