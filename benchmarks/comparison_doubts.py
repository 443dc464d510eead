r"""How often skewed, few and grouped papers promote without gain, by face value and by the rule.

    python -m benchmarks.comparison_doubts

True gain = minimum gain, first decision. `face value` is p <= alpha, as decided before there was a
budget and any doubt; `rule` is `decide`. Populations: those of comparison_validity, and papers of
which 5% lose eight deviations, or 10% lose six. The second table draws groups of four papers
whose differences share 30% of their variance; the third is power on symmetric papers.
"""

import math

import click
import numpy as np

from benchmarks.comparison_validity import (
    LN2,
    models_to_compare,
    samples_of,
    synthetic_papers,
    with_gain,
)
from steps.comparison.decision import decide
from steps.comparison.statistics import RatioTable, smallest_detectable_gain
from steps.config.measurement_sections import Comparison


def heavy_losers(share: float, deviations: float, papers: int = 20_000) -> RatioTable:
    """Papers of which a share loses so many standard deviations; gain 0."""
    generator = np.random.default_rng(1)
    size = np.round(np.exp(generator.normal(math.log(1500), 0.32, papers)))
    spread = np.sqrt(0.012**2 + 0.6**2 / size)
    shape = generator.normal(0, 1, papers) - deviations * (generator.random(papers) < share)
    champion = LN2 * size * (0.95 + generator.normal(0, 0.08, papers))
    challenger = champion - LN2 * size * spread * shape
    table = RatioTable(np.column_stack([champion, size, challenger, size]), 1 / LN2)
    return with_gain(table, 0.0)


def grouped_papers(groups: int, gain: float, seed: int) -> RatioTable:
    """Groups of four papers of one length, whose differences have an ICC of 0.3."""
    generator = np.random.default_rng(seed)
    shared = np.repeat(generator.normal(0, math.sqrt(0.3), groups), 4)
    moved = 0.02 * (shared + generator.normal(0, math.sqrt(0.7), 4 * groups)) + gain
    size = np.full(4 * groups, 1500.0)
    champion = LN2 * size * 0.95
    table = np.column_stack([champion, size, champion - LN2 * size * moved, size])
    return RatioTable(table, 1 / LN2)


def rates(tables: list[RatioTable], rule: Comparison, group_size: int = 0) -> tuple[float, float]:
    """Shares promoted at face value, and by the rule."""
    face = promoted = 0
    for table in tables:
        sides = models_to_compare(table)
        plain = decide(*sides, rule.model_copy(update={"cluster_by": None}))
        face += plain.primary.p_value <= rule.alpha
        if group_size:
            for side in sides:
                side.per_paper["group"] = [
                    f"g{i // group_size}" for i in range(len(side.per_paper))
                ]
            plain = decide(*sides, rule)
        promoted += plain.outcome == "promote"
    return face / len(tables), promoted / len(tables)


@click.command(help=(__doc__ or "").split("\n\n", maxsplit=1)[0])
@click.option("--experiments", default=1000, show_default=True, help="Test sets a cell.")
def main(experiments: int) -> None:
    """Print the tables as Markdown."""
    rule = Comparison(guards=(), bootstrap_samples=1000, permutations=5000)
    populations = {
        "symmetric": synthetic_papers("symmetric"),
        "losers (skewness -3.6)": synthetic_papers("losers"),
        "5% lose 8 sd": heavy_losers(0.05, 8),
        "10% lose 6 sd": heavy_losers(0.1, 6),
    }
    sizes = (8, 20, 40, 60, 100)
    print("| population | " + " | ".join(f"{n} papers" for n in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for name, population in populations.items():
        cells = []
        for size in sizes:
            moved = with_gain(population, rule.min_gain)
            face, ruled = rates(list(samples_of(moved, size, experiments, seed=size)), rule)
            cells.append(f"{face:.1%} → {ruled:.1%}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)

    by_group = rule.model_copy(update={"cluster_by": "group"})
    print("\n| groups of four | face value, by papers | rule, by groups |\n|---|---|---|")
    for groups in (15, 30, 60, 100):
        tables = [grouped_papers(groups, rule.min_gain, seed) for seed in range(experiments)]
        face, ruled = rates(tables, by_group, group_size=4)
        print(f"| {groups} | {face:.1%} | {ruled:.1%} |", flush=True)

    print("\n| papers, symmetric | power at face value | by the rule |\n|---|---|---|")
    population = populations["symmetric"]
    for size in (60, 100, 200):
        gain = smallest_detectable_gain(
            population.standard_error * math.sqrt(len(population.values) / size),
            size,
            alpha=rule.alpha,
            minimum_gain=rule.min_gain,
        )
        moved = with_gain(population, gain)
        face, ruled = rates(list(samples_of(moved, size, experiments, seed=size)), rule)
        print(f"| {size} | {face:.1%} | {ruled:.1%} |", flush=True)


if __name__ == "__main__":
    main()
