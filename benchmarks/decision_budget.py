r"""How often ten decisions on the same papers promote without gain, and what the first one loses.

    python -m benchmarks.decision_budget

Ten challengers whose gain is exactly the minimum are compared on one test set of 100 papers, one
after the other: with the split's budget, and each as if it were the first at the whole alpha. The
second table is the power of the first decision, with the budget and at the whole alpha.
"""

import math

import click
import numpy as np

from benchmarks.comparison_validity import (
    decision_rates,
    models_to_compare,
    samples_of,
    synthetic_papers,
)
from steps.comparison.budget import FIRST_SHARE
from steps.comparison.decision import decide
from steps.comparison.statistics import RatioTable, smallest_detectable_gain
from steps.config.measurement_sections import Comparison


def challengers(papers: RatioTable, number: int, seed: int) -> list[RatioTable]:
    """So many challengers on the same papers, independent of each other, at the same true gain."""
    generator = np.random.default_rng(seed)
    tables = []
    for _ in range(number):
        # Signs flipped at random about the minimum: each one's gain is the minimum in expectation.
        values = papers.values.copy()
        flips = generator.choice([-1.0, 1.0], len(values))
        values[:, 2] = values[:, 0] - flips * (values[:, 0] - values[:, 2])
        tables.append(RatioTable(values, papers.scale))
    return tables


@click.command(help=(__doc__ or "").split("\n\n", maxsplit=1)[0])
@click.option("--sequences", default=2000, show_default=True)
@click.option("--calls", default=10, show_default=True)
@click.option("--papers", default=100, show_default=True)
def main(sequences: int, calls: int, papers: int) -> None:
    """Print the tables as Markdown."""
    rule = Comparison(guards=(), min_gain=0.0, bootstrap_samples=1000, permutations=20000)
    population = synthetic_papers("symmetric")
    with_budget = without = 0
    for number, sample in enumerate(samples_of(population, papers, sequences, seed=papers)):
        outcomes = []
        for before, table in enumerate(challengers(sample, calls, number)):
            decision = decide(*models_to_compare(table), rule, decisions_taken_before=before)
            whole = max(decision.p_sign_flip, decision.p_bootstrap) <= rule.alpha
            outcomes.append((decision.outcome == "promote", whole))
        with_budget += any(promoted for promoted, _ in outcomes)
        without += any(whole for _, whole in outcomes)
    print(f"{sequences} sequences of {calls} decisions on {papers} papers, gain = minimum:\n")
    print("| | promoted at least once |\n|---|---|")
    print(f"| each at alpha {rule.alpha:g} | {without / sequences:.1%} |")
    print(f"| budget of alpha {rule.alpha:g} | {with_budget / sequences:.1%} |", flush=True)

    gain = smallest_detectable_gain(
        population.standard_error * math.sqrt(len(population.values) / papers),
        papers,
        alpha=rule.alpha,
        minimum_gain=rule.min_gain,
    )
    budgeted = decision_rates(population, gain, papers, rule, sequences).promoted
    # The first decision's share of this alpha is the whole of the other.
    wider = rule.model_copy(update={"alpha": rule.alpha / FIRST_SHARE})
    undivided = decision_rates(population, gain, papers, wider, sequences).promoted
    print("\n| first decision | power |\n|---|---|")
    print(f"| at alpha {rule.alpha:g} | {undivided:.1%} |")
    print(f"| with its share of the budget | {budgeted:.1%} |")


if __name__ == "__main__":
    main()
