"""Error rates of the rule, measured on made-up populations (minutes; see the benchmark)."""

import math

import pytest

from benchmarks.comparison_validity import Population, decision_rates, synthetic_papers
from steps.comparison.statistics import smallest_detectable_gain
from steps.config.measurement_sections import Comparison

EXPERIMENTS = 2000
# Fewer resamples than the rule's default: p-values count the observed one, so the level
# does not depend on their number, and 2,000 decisions take seconds.
RULE = Comparison(guards=(), bootstrap_samples=1000, permutations=2000)


def monte_carlo_error(rate: float) -> float:
    """Three standard errors of a rate over the experiments."""
    return 3 * math.sqrt(rate * (1 - rate) / EXPERIMENTS)


@pytest.mark.slow
@pytest.mark.parametrize("papers", [60, 150])
@pytest.mark.parametrize("kind", ["symmetric", "adaptation", "winners"])
def test_false_promotions_stay_within_alpha_and_intervals_cover(
    kind: Population, papers: int
) -> None:
    """The true gain is exactly the minimum, the hardest case of nothing to promote."""
    rates = decision_rates(synthetic_papers(kind), RULE.min_gain, papers, RULE, EXPERIMENTS)
    assert rates.promoted <= RULE.alpha + monte_carlo_error(RULE.alpha)
    assert 0.93 - monte_carlo_error(0.93) <= rates.covered <= 0.97


@pytest.mark.slow
def test_a_few_papers_that_get_much_worse_raise_false_promotions_only_a_little() -> None:
    """Skewness -3.6: no test holds its level exactly here, and sign flips alone double it."""
    population = synthetic_papers("losers")
    rates = decision_rates(population, RULE.min_gain, 60, RULE, EXPERIMENTS)
    assert rates.promoted <= 0.08 + monte_carlo_error(0.08)


@pytest.mark.slow
def test_a_gain_of_one_hundredth_is_promoted_from_120_papers() -> None:
    """Power of at least 0.9 at 0.010 bits per byte, with abstracts of usual spread."""
    rates = decision_rates(synthetic_papers("adaptation"), 0.010, 120, RULE, 500)
    assert rates.promoted >= 0.9


@pytest.mark.slow
def test_the_smallest_detectable_gain_is_detected_as_often_as_promised() -> None:
    """Power 0.8, less what the safeguard against skewed differences costs."""
    population = synthetic_papers("symmetric")
    gain = smallest_detectable_gain(
        population.standard_error * math.sqrt(len(population.values) / 120),
        120,
        alpha=RULE.alpha,
        minimum_gain=RULE.min_gain,
    )
    rates = decision_rates(population, gain, 120, RULE, 500)
    assert 0.72 <= rates.promoted <= 0.86
