"""Are study texts worth their tokens: plain papers against papers with exercises mixed in.

    python -m benchmarks.study_texts --papers genomics_abstracts.json --folder out
    python -m benchmarks.study_texts --papers genomics_abstracts.json --folder out --report

For each seed, SmolLM2-135M learns twice from the same training papers, with LoRA, for the same
number of steps of as many rows: once from the papers alone, once with exercises for `--share` of
the tokens, which the papers make room for. Both are scored on the same held-out papers. Reported
are gains, seed by seed and over all seeds, with intervals over papers
(`steps.comparison.statistics`), of bits per byte, of genes and variants, and of both cloze tests.
A finished training is a file of the folder, so that an interrupted benchmark goes on where it was.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.real_abstracts import MOST_WORDS, choose
from benchmarks.tiny_models import save_tiny_llama
from steps.config.file import load_config
from steps.config.sections import Training

if TYPE_CHECKING:
    import pandas as pd

    from steps.papers.text import PaperText

ARMS = ("papers", "study texts")
METRICS = (
    "bits_per_byte",
    "gene_bits_per_byte",
    "variant_bits_per_byte",
    "gene_cloze_accuracy",
    "variant_cloze_accuracy",
    # Of a few sentences, ranks move where the first place does not.
    "gene_cloze_mrr",
    "variant_cloze_mrr",
)
SAMPLES = 10_000
SETTINGS = {
    "hyperparameters.batch_size": 4,
    "hyperparameters.gradient_accumulation_steps": 2,
    "hyperparameters.learning_rate": 5e-4,
    "scientific_data.filters.min_score": "null",
    "scientific_data.split.validation_fraction": 0.0,
    "scientific_data.split.test_fraction": 0.25,
    "logging.eval_strategy": "no",
    "logging.save_strategy": "no",
    "evaluation.generation.prompts": 0,
    "qlora.method": "lora",
}
TINY = {
    "model.source": "null",
    "model.sha256": "null",
    "model.max_length": 128,
    "evaluation.cloze_items": 20,
}


@click.command()
@click.option("--papers", type=click.Path(exists=True, path_type=Path), help="Abstracts.")
@click.option("--folder", required=True, type=click.Path(path_type=Path))
@click.option("--count", default=700, show_default=True, help="Abstracts that are taken.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--share", default=0.2, show_default=True, help="Of the tokens, for exercises.")
@click.option("--kinds", default="", help="Comma-separated; default: all.")
@click.option("--steps", default=38, show_default=True, help="Of 8 rows of 512 tokens each.")
@click.option("--items", default=200, show_default=True, help="Cloze items of each kind.")
@click.option("--tiny", is_flag=True, help="A tiny random model, 4 steps: does it run?")
@click.option("--report", "only_report", is_flag=True, help="Only print what was measured.")
def main(
    papers: Path | None,
    folder: Path,
    count: int,
    seeds: int,
    share: float,
    kinds: str,
    steps: int,
    items: int,
    tiny: bool,
    only_report: bool,
) -> None:
    """Train what is not trained yet, and print all."""
    if not only_report:
        folder.mkdir(parents=True, exist_ok=True)
        overrides = {**SETTINGS, "hyperparameters.max_steps": 4 if tiny else steps}
        overrides["evaluation.cloze_items"] = items
        if tiny:
            overrides |= {**TINY, "model.name": folder / "model"}
        study: dict[str, Any] = {"study_texts.share": share}
        if kinds:
            study["study_texts.kinds"] = f"[{kinds}]"
        refuse_other_conditions(folder, {**overrides, **study, "papers": papers, "count": count})
        train, test = split_papers(papers, folder, overrides, count)
        if tiny:
            save_tiny_llama(folder / "model", [paper.text for paper in train])
        for seed in range(seeds):
            for arm in ARMS:
                file = result_file(folder, arm, seed)
                if file.is_file():
                    continue
                own = {**overrides, **(study if arm == ARMS[1] else {})}
                training = configured({**own, "hyperparameters.seed": 42 + seed})
                per_paper, tokens = trained_and_scored(training, train, test, folder / "run")
                click.echo(f"{arm}, seed {seed}: {tokens:,} tokens learned from")
                file.with_suffix(".json").write_text(json.dumps({"tokens": tokens}))
                per_paper.to_parquet(file)
    for line in report(folder):
        click.echo(line)


def refuse_other_conditions(folder: Path, conditions: dict[str, Any]) -> None:
    """Refuse to measure on in a folder of other conditions."""
    file = folder / "conditions.json"
    text = json.dumps(conditions, default=str, indent=1)
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise click.ClickException(f"{file} states other conditions: give another --folder")
    file.write_text(text, encoding="utf-8")


def configured(overrides: dict[str, Any]) -> Training:
    """The demo's configuration with other values."""
    words = " ".join(f"training.{key}={value}" for key, value in overrides.items())
    return load_config("configs/demo.yaml", words).training


def split_papers(
    papers: Path | None, folder: Path, overrides: dict[str, Any], count: int
) -> "tuple[list[PaperText], list[PaperText]]":
    """Training and test papers, prepared and split as preprocess does it."""
    from steps.papers.pipeline import prepare_dataset
    from steps.papers.stored_papers import read_papers

    settings = configured(overrides).scientific_data
    source = Path(settings.data_file or "")
    if papers is not None:
        source = folder / "papers.json"
        source.write_text(json.dumps(choose(papers, MOST_WORDS)[:count]), encoding="utf-8")
    prepare_dataset([source], settings, folder)
    train, test = (
        read_papers(folder / "dataset", split, settings.sections) for split in ("train", "test")
    )
    return train, test


def trained_and_scored(
    training: Training, train: "list[PaperText]", test: "list[PaperText]", folder: Path
) -> "tuple[pd.DataFrame, int]":
    """Scores of the test papers after a training, and the target tokens that it took."""
    from benchmarks.trainable import load_trainable
    from steps.evaluation.measure import measure
    from steps.models.adapted import AdaptedModel, describe
    from steps.models.devices import Placement, dtype_name
    from steps.training.context import TrainingContext
    from steps.training.trainer import ModelTrainer

    made = load_trainable(training)
    context = TrainingContext(placement=Placement(made.device, dtype_name(made.dtype)))
    trainer = ModelTrainer(training, made.model, made.tokenizer, train, [], folder, context=context)
    trainer.train()
    made.model.eval()
    objective, description = made.base.objective, describe(training, made.base, made.dtype)
    adapted = AdaptedModel(
        made.model, made.tokenizer, objective, made.dtype, made.device, description
    )
    results = measure(training, adapted, test, train, general_texts=[])
    return results.per_paper, trainer.progress.tokens_seen


def result_file(folder: Path, arm: str, seed: int) -> Path:
    """Where the scores of one training stand."""
    return folder / f"{arm.replace(' ', '-')}-{seed}.parquet"


def report(folder: Path) -> Iterator[str]:
    """The gains of study texts as lines of Markdown."""
    import pandas as pd

    pairs: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    while all(result_file(folder, arm, len(pairs)).is_file() for arm in ARMS):
        files = [result_file(folder, arm, len(pairs)) for arm in ARMS]
        pairs.append((pd.read_parquet(files[0]), pd.read_parquet(files[1])))
        tokens = [json.loads(file.with_suffix(".json").read_text())["tokens"] for file in files]
        yield f"seed {len(pairs) - 1}: tokens {tokens[0]:,} and {tokens[1]:,}"
    if not pairs:
        yield "nothing is measured yet"
        return
    yield f"\n{len(pairs[0][0])} held-out papers; a gain above 0 is one of study texts\n"
    yield "| metric | papers | study texts | gain (95% interval) | gain of each seed |"
    yield "|---|---|---|---|---|"
    for metric in METRICS:
        row = _row(metric, pairs)
        if row:
            yield row


def _row(metric: str, pairs: "Sequence[tuple[pd.DataFrame, pd.DataFrame]]") -> str:
    """One metric: pooled over seeds with its interval, and seed by seed; "" if not measured."""
    from steps.comparison.statistics import (
        RatioTable,
        bootstrap_gains,
        has_metric,
        ratio_table,
    )

    if not all(has_metric(frame, metric) for pair in pairs for frame in pair):
        return ""
    tables = [ratio_table(plain, study, metric) for plain, study in pairs]
    # A paper is what was sampled, so that its sums over the seeds stand in one row.
    sums = np.sum([table.values for table in tables], axis=0)
    pooled = RatioTable(sums, tables[0].scale, tables[0].higher_is_better)
    gain = bootstrap_gains([pooled], samples=SAMPLES, seed=0)[0]
    interval = gain.interval(0.95)
    bounds = "too few papers" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"
    of_papers, of_both = pooled.ratios
    alone = ", ".join(f"{table.gain:+.4f}" for table in tables)
    return f"| {metric} | {of_papers:.4f} | {of_both:.4f} | {gain.gain:+.4f} ({bounds}) | {alone} |"


if __name__ == "__main__":
    main()
