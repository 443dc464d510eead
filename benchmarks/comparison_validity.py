r"""How often the promotion rule errs, and whether its intervals cover: measured, as Markdown.

    python -m benchmarks.comparison_validity
    python -m benchmarks.comparison_validity --champion a/per_paper.parquet \
        --challenger b/per_paper.parquet --papers 60

Papers are drawn with replacement from a population of paired results whose gain is moved to
exactly the minimum, the hardest case in which nothing may be promoted. The populations are
made here (or are the results given): lengths of abstracts, a spread that shrinks with length,
heavy tails. `adaptation` has skewness -0.8 and excess kurtosis 4 (for comparison: 931 genomics
abstracts coded by zstd with a genomics and with a general dictionary gave -0.9 and 2.6, and
with two genomics dictionaries 0.6 and 6.2 either way round); `losers` and `winners` are stress
cases in which a few papers move far (skewness 3.6).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import click
import numpy as np
import numpy.typing as npt

from steps.comparison.comparable import EvaluatedModel
from steps.comparison.decision import decide
from steps.comparison.evidence import CONFIDENCE
from steps.comparison.statistics import (
    RatioTable,
    bootstrap_gains,
    ratio_table,
    sign_flip_tests,
    smallest_detectable_gain,
)
from steps.config.measurement_sections import Comparison

Floats = npt.NDArray[np.float64]
Population = Literal["symmetric", "adaptation", "losers", "winners"]

LN2 = math.log(2)
BITS_PER_BYTE_BEFORE = 0.95


def synthetic_papers(kind: Population, papers: int = 20_000, seed: int = 1) -> RatioTable:
    """Paired results of two models on made-up papers, with a gain of exactly 0.

    Args:
        kind: Shape of the per-paper differences, see the module's docstring.
        papers: Size of the population.
        seed: One seed gives one population.

    Returns:
        Nats and bytes of both sides.
    """
    generator = np.random.default_rng(seed)
    size = np.round(np.exp(generator.normal(math.log(1500), 0.32, papers)))
    # Papers differ in kind (0.012 bits per byte), and a short text is a noisy measurement.
    spread = np.sqrt(0.012**2 + 0.6**2 / size)
    tails = generator.standard_t(5, papers) * math.sqrt(3 / 5)
    if kind == "symmetric":
        shape = tails
    elif kind == "adaptation":
        shape = 0.66 * tails - 0.75 * _standard_lognormal(generator, 0.5, papers)
    else:
        direction = -1 if kind == "losers" else 1
        shape = direction * _standard_lognormal(generator, 0.8, papers)
    champion = LN2 * size * (BITS_PER_BYTE_BEFORE + generator.normal(0, 0.08, papers))
    challenger = champion - LN2 * size * spread * shape
    table = RatioTable(np.column_stack([champion, size, challenger, size]), 1 / LN2)
    return with_gain(table, 0.0)


def with_gain(table: RatioTable, gain: float) -> RatioTable:
    """The same papers, with the challenger moved by a constant a byte to a given gain."""
    values = table.values.copy()
    values[:, 2] += (table.gain - gain) / table.scale * values[:, 3]
    return RatioTable(values, table.scale)


def samples_of(table: RatioTable, papers: int, times: int, seed: int) -> Iterator[RatioTable]:
    """Test sets of so many papers, drawn with replacement."""
    generator = np.random.default_rng(seed)
    for _ in range(times):
        drawn = generator.integers(len(table.values), size=papers)
        yield RatioTable(table.values[drawn], table.scale)


@dataclass(frozen=True)
class Rates:
    """Shares of the experiments.

    Attributes:
        promoted: The rule promoted.
        kept: The rule kept the champion.
        covered: The interval holds the true gain.
    """

    promoted: float
    kept: float
    covered: float


def decision_rates(
    population: RatioTable, true_gain: float, papers: int, rule: Comparison, experiments: int
) -> Rates:
    """Run the whole rule on many test sets of a population.

    Args:
        population: Papers to draw from.
        true_gain: The population is moved to this gain.
        papers: Size of each test set.
        rule: The rule; its guards should be empty.
        experiments: Number of test sets.
    """
    promoted = kept = covered = 0
    moved = with_gain(population, true_gain)
    for sample in samples_of(moved, papers, experiments, seed=papers):
        champion, challenger = models_to_compare(sample)
        decision = decide(champion, challenger, rule)
        promoted += decision.outcome == "promote"
        kept += decision.outcome == "keep"
        low, high = decision.primary.low, decision.primary.high
        covered += low is not None and high is not None and low <= true_gain <= high
    return Rates(promoted / experiments, kept / experiments, covered / experiments)


def alternative_rates(
    population: RatioTable, minimum: float, papers: int, rule: Comparison, experiments: int
) -> dict[str, float]:
    """What the procedures that were not chosen would have done on the same test sets."""
    from scipy.stats import bootstrap

    counts = dict.fromkeys(("flips only", "bootstrap only", "percentile", "BCa"), 0)
    moved = with_gain(population, minimum)
    for number, sample in enumerate(samples_of(moved, papers, experiments, seed=papers)):
        flips = sign_flip_tests(
            sample.differences(minimum)[:, None], flips=rule.permutations, seed=rule.seed
        )[0]
        boot = bootstrap_gains([sample], samples=rule.bootstrap_samples, seed=rule.seed)[0]
        counts["flips only"] += flips.greater <= rule.alpha
        counts["bootstrap only"] += boot.p_not_above(minimum) <= rule.alpha

        def ratio(nats: Floats, size: Floats, axis: int = -1) -> Floats:
            return np.asarray(nats.sum(axis=axis) / size.sum(axis=axis) / LN2)

        data = (sample.values[:, 0] - sample.values[:, 2], sample.values[:, 1])
        percentile = bootstrap(
            data,
            ratio,
            paired=True,
            vectorized=True,
            n_resamples=rule.bootstrap_samples,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(number),
        )
        bca = bootstrap(
            data,
            ratio,
            paired=True,
            vectorized=True,
            n_resamples=0,
            confidence_level=CONFIDENCE,
            method="BCa",
            bootstrap_result=percentile,
        )
        for name, result in (("percentile", percentile), ("BCa", bca)):
            interval = result.confidence_interval
            counts[name] += bool(interval.low <= minimum <= interval.high)
    return {name: count / experiments for name, count in counts.items()}


@click.command(help=(__doc__ or "").split("\n\n", maxsplit=1)[0])
@click.option("--experiments", default=2000, show_default=True, help="Test sets a row.")
@click.option(
    "--papers",
    multiple=True,
    type=int,
    default=(8, 20, 60, 150),
    show_default=True,
    help="Size of a test set; may be given several times.",
)
@click.option("--champion", type=click.Path(exists=True, path_type=Path), help="per_paper.parquet")
@click.option("--challenger", type=click.Path(exists=True, path_type=Path), help="The other one.")
def main(
    experiments: int, papers: tuple[int, ...], champion: Path | None, challenger: Path | None
) -> None:
    """Print the tables."""
    rule = Comparison(guards=())
    populations = {name: synthetic_papers(name) for name in get_args(Population)}
    if champion is not None and challenger is not None:
        populations = {"given": _table_of_files(champion, challenger)}

    error = math.sqrt(rule.alpha * (1 - rule.alpha) / experiments)
    print(
        f"True gain = minimum gain = {rule.min_gain:g} bits per byte, alpha {rule.alpha:g}, "
        f"{experiments} test sets a row (standard error of a rate of 5 %: {100 * error:.1f} %).\n"
    )
    print(
        "| population | papers | false promotions | false keeps | 95 % interval covers | "
        "sign flips alone | bootstrap alone | percentile covers | BCa covers |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, population in populations.items():
        for size in papers:
            rates = decision_rates(population, rule.min_gain, size, rule, experiments)
            others = alternative_rates(population, rule.min_gain, size, rule, experiments)
            cells = [rates.promoted, rates.kept, rates.covered, *others.values()]
            print(
                f"| {name} | {size} | " + " | ".join(f"{c:.1%}" for c in cells) + " |", flush=True
            )

    print("\nPower: the share of test sets on which the rule promotes.\n")
    print("| population | papers | smallest detectable gain | promoted | gain | promoted |")
    print("|---|---|---|---|---|---|")
    for name, population in populations.items():
        for size in papers:
            whole = len(population.values)
            detectable, surer = (
                smallest_detectable_gain(
                    population.standard_error * math.sqrt(whole / size),
                    size,
                    alpha=rule.alpha,
                    minimum_gain=rule.min_gain,
                    power=power,
                )
                for power in (0.8, 0.95)
            )
            powers = [
                decision_rates(population, gain, size, rule, experiments).promoted
                for gain in (detectable, surer)
            ]
            print(
                f"| {name} | {size} | {detectable:.4f} | {powers[0]:.1%} | "
                f"{surer:.4f} | {powers[1]:.1%} |",
                flush=True,
            )


def _standard_lognormal(generator: np.random.Generator, sigma: float, size: int) -> Floats:
    """Log-normal values moved and scaled to mean 0 and variance 1: a long right tail."""
    values = generator.lognormal(0, sigma, size)
    variance = (math.exp(sigma**2) - 1) * math.exp(sigma**2)
    return np.asarray((values - math.exp(sigma**2 / 2)) / math.sqrt(variance))


def models_to_compare(table: RatioTable) -> tuple[EvaluatedModel, EvaluatedModel]:
    """A table as two evaluated models."""
    import pandas as pd

    ids = [f"paper {i}" for i in range(len(table.values))]
    champion, challenger = (
        EvaluatedModel(
            name=name,
            version=name,
            dataset_digest="synthetic",
            split="test",
            metric_version="1",
            objective="causal",
            per_paper=pd.DataFrame(
                {"paper_id": ids, "nats": table.values[:, at], "bytes": table.values[:, at + 1]}
            ),
        )
        for name, at in (("champion", 0), ("challenger", 2))
    )
    return champion, challenger


def _table_of_files(champion: Path, challenger: Path) -> RatioTable:
    """Results of two evaluations of the same papers."""
    import pandas as pd

    theirs, ours = (pd.read_parquet(path).set_index("paper_id") for path in (champion, challenger))
    return ratio_table(theirs.loc[ours.index], ours, "bits_per_byte")


if __name__ == "__main__":
    main()
