"""What it costs that a model bears no packing: one model, its rows laid out in three ways.

    python benchmarks/layouts.py --papers genomics_abstracts.json --pairs 5

LoRA on the demo's base (SmolLM2-135M), which packs, so that the three layouts do the same work:
the same papers, the same target tokens in an optimiser step. The layouts take turns; reported are
target tokens per second by their median, the ratios to packed rows of the same round, and the
padding that `steps.training.packing.padding_share` foretells.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
import torch

from steps.config.file import load_config
from steps.config.sections import Training
from steps.models import layout as layouts
from steps.models.adapters import add_adapter
from steps.models.layout import LayoutKind, RowLayout
from steps.models.loading import load_model
from steps.models.sources import Base, resolve_base
from steps.models.tokenizer import load_tokenizer
from steps.papers.text import PaperText, Span
from steps.training.packing import padding_share
from steps.training.rows import training_rows

KINDS: tuple[LayoutKind, ...] = ("packed", "padded", "single")


def papers_of(file: Path, count: int) -> list[PaperText]:
    """The first papers of a file in the papers layout."""
    content = json.loads(file.read_text(encoding="utf-8"))
    records = content["papers"] if isinstance(content, dict) else content
    texts = [f"{record['title']}\n\n{record['abstract']}" for record in records[:count]]
    return [
        PaperText(str(i), text, (Span(0, len(text), "abstract"),)) for i, text in enumerate(texts)
    ]


def seconds_of(
    kind: LayoutKind, training: Training, base: Base, texts: list[PaperText]
) -> tuple[float, int, float]:
    """Seconds of forward and backward passes over all rows, their targets, and the mean loss."""
    torch.manual_seed(0)
    model = load_model(base, training.qlora.quantization, 16, torch.bfloat16, "cpu")
    model = add_adapter(model, training.qlora, "causal")
    forced = RowLayout(kind)
    inner = model.get_base_model()
    vars(inner)[layouts._FOUND] = {training.model.max_length: forced}
    made = training_rows(training, inner, load_tokenizer(base.folder), texts)
    at_once = made.rows_at_once
    order = torch.randperm(len(made.rows), generator=torch.Generator().manual_seed(0)).tolist()
    batches = [
        made.collate([made.rows[i] for i in order[start : start + at_once]])
        for start in range(0, len(order), at_once)
    ]
    targets = int(made.rows.targets)  # type: ignore[union-attr]
    model.train()

    def one_pass(batch: dict[str, Any]) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch, num_items_in_batch=targets).loss
        loss.backward()
        return float(loss)

    one_pass(batches[0])
    started = time.perf_counter()
    loss = sum(one_pass(batch) for batch in batches)
    return time.perf_counter() - started, targets, loss


@click.command()
@click.option("--papers", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--count", default=48, help="Papers of a round.")
@click.option("--rows", default=4, help="Rows of one forward pass.")
@click.option("--pairs", default=5, help="Rounds.")
def main(papers: Path, count: int, rows: int, pairs: int) -> None:
    """Measure and print."""
    loaded = load_config("configs/demo.yaml", f"training.hyperparameters.batch_size={rows}")
    training, texts = loaded.training, papers_of(papers, count)
    base = resolve_base(training.model)
    tokenizer = load_tokenizer(base.folder)
    lengths = [len(tokenizer(paper.text).input_ids) + 2 for paper in texts]
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(pairs):
        for kind in KINDS[number % 3 :] + KINDS[: number % 3]:
            seconds, targets, loss = seconds_of(kind, training, base, texts)
            rates[kind].append(targets / seconds)
            click.echo(f"{number} {kind:7} {targets / seconds:7.1f} targets/s, loss {loss:.4f}")
    click.echo(f"padding foretold for {rows} rows: {padding_share(lengths, rows):.1%}")
    for kind in KINDS[1:]:
        ratios = [one / packed for one, packed in zip(rates[kind], rates["packed"], strict=True)]
        click.echo(
            f"{kind}: median {statistics.median(rates[kind]):.1f}/s against "
            f"{statistics.median(rates['packed']):.1f}/s packed, ratio "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
