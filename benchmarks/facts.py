"""Which facts a training has taught: gains over a base and a control, and a check of the verdict.

    python -m benchmarks.real_abstracts --genomics g.json --general c.json --folder out --only-facts
    python -m benchmarks.facts --folder out

Reads the items that each model was asked, with the scores of all candidates. The check takes other
candidates for the right ones, the same for both models: then neither knows anything, and a
gain at the 5% level may appear in 5% of the permutations, give or take chance (16 of 200 are
the upper bound of a test at 3%).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steps.comparison.statistics import (
    bootstrap_gains,
    has_metric,
    ratio_table,
    sign_flip_tests,
)
from steps.evaluation.facts import TASK, facts_per_paper, random_truths, with_truths
from steps.evaluation.summary import facts_gained

if TYPE_CHECKING:
    import pandas as pd

METRICS = tuple(
    f"{task}_{what}"
    for what in ("accuracy", "mrr")
    for task in (TASK, f"{TASK}_seen", f"{TASK}_unseen")
)
LEVEL = 0.05
PERMUTATIONS, MOST_GAINS = 200, 16
SAMPLES, FLIPS = 2_000, 5_000


@dataclass(frozen=True)
class Gain:
    """One metric of two models.

    Attributes:
        champion: Its value under the one.
        challenger: Its value under the other.
        gain: Difference, positive where the challenger is better.
        interval: Bounds of its 95% interval, or None with too few papers.
        p: One-sided p-value of "no gain": the larger of sign flips and bootstrap.
    """

    champion: float
    challenger: float
    gain: float
    interval: tuple[float, float] | None
    p: float


def gain_of(champion: "pd.DataFrame", challenger: "pd.DataFrame", metric: str) -> Gain:
    """Compare two models that were asked the same.

    Args:
        champion: From `facts_per_paper`.
        challenger: The same of another model.
        metric: One of the fact cloze.
    """
    table = ratio_table(champion, challenger, metric)
    boot = bootstrap_gains([table], samples=SAMPLES, seed=0)[0]
    flips = sign_flip_tests(table.differences()[:, None], flips=FLIPS, seed=0)[0]
    p = max(flips.greater, boot.p_not_above(0.0))
    return Gain(*table.ratios, table.gain, boot.interval(0.95), p)


def gains_of_permuted_truths(
    champion: "pd.DataFrame",
    challenger: "pd.DataFrame",
    *,
    permutations: int = PERMUTATIONS,
    metric: str = f"{TASK}_accuracy",
) -> int:
    """In how many permutations of the truths a gain appears at the 5% level.

    Args:
        champion: Items from `facts_frame`.
        challenger: The same items under another model.
        permutations: How often truths are drawn.
        metric: What is compared.
    """
    found = 0
    for seed in range(permutations):
        truths = random_truths(champion, seed)
        ours, theirs = (
            facts_per_paper(with_truths(side, truths)) for side in (challenger, champion)
        )
        found += gain_of(theirs, ours, metric).p < LEVEL
    return found


def report(
    models: "dict[str, pd.DataFrame]", tokens: dict[str, int], permutations: int = PERMUTATIONS
) -> Iterator[str]:
    """The figures as lines of Markdown.

    Args:
        models: Items by the name of the model; base, lora and control are compared.
        tokens: Training tokens of those that were trained.
        permutations: Of the truths, for the check.
    """
    per_paper = {name: facts_per_paper(frame) for name, frame in models.items()}
    yield "| comparison | metric | champion | challenger | gain (95% interval) | p |"
    yield "|---|---|---|---|---|---|"
    for champion, challenger in (("base", "lora"), ("base", "control"), ("control", "lora")):
        for metric in METRICS:
            if has_metric(per_paper[champion], metric):
                gain = gain_of(per_paper[champion], per_paper[challenger], metric)
                yield _row(f"{challenger} against {champion}", metric, gain)
    for name, count in tokens.items():
        yield f"{name}: {_gained(per_paper[name], per_paper['base'], count)}"
    beats = gain_of(per_paper["control"], per_paper["lora"], f"{TASK}_accuracy")
    verdict = "yes" if beats.p < LEVEL else "no"
    yield f"does the genomics adapter beat the control on facts: {verdict}"
    for champion in ("base", "control"):
        found = gains_of_permuted_truths(
            models[champion], models["lora"], permutations=permutations
        )
        yield (
            f"truths permuted: {found} of {permutations} show a gain of lora over the {champion} "
            f"(at most {MOST_GAINS})"
        )
    yield from _by_kind(models)


def _row(label: str, metric: str, gain: Gain) -> str:
    bounds = "too few papers"
    if gain.interval is not None:
        bounds = f"{gain.interval[0]:+.3f} to {gain.interval[1]:+.3f}"
    return (
        f"| {label} | {metric} | {gain.champion:.3f} | {gain.challenger:.3f} "
        f"| {gain.gain:+.3f} ({bounds}) | {gain.p:.4f} |"
    )


def _gained(frame: "pd.DataFrame", base: "pd.DataFrame", tokens: int) -> str:
    gained = facts_gained(frame, base, tokens)
    value, low, high = gained.values()
    return (
        f"{value:+.1f} facts gained per million training tokens ({low:+.1f} to {high:+.1f}), "
        f"of {tokens:,} tokens"
    )


def _by_kind(models: "dict[str, pd.DataFrame]") -> Iterator[str]:
    """How many facts of each kind every model has right."""
    yield "| kind | stratum | asked | " + " | ".join(models) + " |"
    yield "|---|---|---|" + "---|" * len(models)
    groups = ["kind", "stratum"]
    first = next(iter(models.values()))
    for key, rows in first.groupby(groups):
        right = [f"{(frame.loc[rows.index, 'rank'] == 1).mean():.2f}" for frame in models.values()]
        yield f"| {' | '.join(map(str, key))} | {len(rows)} | {' | '.join(right)} |"


def facts_file(folder: Path, model: str) -> Path:
    """Where the items of a model stand."""
    return folder / f"facts-{model}.parquet"


def read_facts(folder: Path, models: Sequence[str]) -> "dict[str, pd.DataFrame]":
    """The items that models were asked, by model."""
    import pandas as pd

    return {name: pd.read_parquet(facts_file(folder, name)) for name in models}


@click.command()
@click.option("--folder", required=True, type=click.Path(exists=True, path_type=Path))
def main(folder: Path) -> None:
    """Print what real_abstracts.py has asked in a folder."""
    tokens = json.loads((folder / "facts-tokens.json").read_text(encoding="utf-8"))
    for line in report(read_facts(folder, ("base", "lora", "control")), tokens):
        click.echo(line)


if __name__ == "__main__":
    main()
