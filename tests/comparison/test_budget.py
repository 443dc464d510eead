"""What decisions on the same papers may spend together."""

import pytest

from steps.comparison.budget import budget_for, budget_words, level_of
from steps.comparison.decision import decide
from steps.config.measurement_sections import Comparison
from tests.support.synthetic_results import make_sides

RULE = Comparison(bootstrap_samples=1000, permutations=20000, guards=())


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_all_decisions_together_spend_no_more_than_alpha(alpha: float) -> None:
    levels = [level_of(alpha, before) for before in range(10_000)]
    assert sum(levels) <= alpha
    assert sum(levels) == pytest.approx(alpha, rel=1e-3)
    assert levels == sorted(levels, reverse=True)
    assert levels[0] == pytest.approx(0.8 * alpha)


def test_a_budget_says_what_is_spent_and_what_fresh_papers_would_allow() -> None:
    budget = budget_for(0.05, 2)
    assert budget.spent_before == pytest.approx(0.04 + 0.005)
    assert budget.level == pytest.approx(0.05 * 0.2 / 6)
    words = budget_words(budget)
    for part in ("2 decisions", "0.045 of alpha 0.05", "0.0017", "would allow 0.04"):
        assert part in words
    assert budget_words(budget_for(0.05, 0)) == ""


def test_the_same_gain_takes_more_evidence_the_later_it_is_asked() -> None:
    sides = make_sides(papers=80, gain=0.0075, spread=0.012)
    first = decide(*sides, RULE)
    assert first.outcome == "promote"
    assert first.primary.p_value > 0.002
    tenth = decide(*sides, RULE, decisions_taken_before=9)
    assert tenth.outcome == "inconclusive"
    assert tenth.alpha == pytest.approx(0.05 * 0.2 / 90)
    assert any("9 decisions" in note for note in tenth.notes)
