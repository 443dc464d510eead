"""The share of a split's alpha that each decision on it may spend.

Ten decisions on one split, each at level alpha, promote by luck up to ten times as often as one.
So alpha is a budget (alpha spending, Lan & DeMets 1983): the first decision gets 80% of it, so
that a split that is used once loses little power, and decision k the share 20% / (k (k - 1)) of
it. All shares together are alpha, however many decisions follow.
"""

from dataclasses import dataclass

FIRST_SHARE = 0.8


@dataclass(frozen=True)
class Budget:
    """What decisions on the papers of a split have spent, and what is left.

    Attributes:
        alpha: The budget: the chance that any decision on these papers promotes without gain.
        decisions_before: Decisions on these papers, or on others that share some with them.
        spent_before: What those were given of alpha, as if each was the only one of its call.
        level: What this decision may spend: the level of its test.
        fresh_level: What it could spend on papers that no decision has seen.
    """

    alpha: float
    decisions_before: int
    spent_before: float
    level: float
    fresh_level: float


def level_of(alpha: float, decisions_before: int) -> float:
    """The level of the next decision after so many on the same papers."""
    number = decisions_before + 1
    share = FIRST_SHARE if number == 1 else (1 - FIRST_SHARE) / (number * (number - 1))
    return alpha * share


def budget_for(alpha: float, decisions_before: int) -> Budget:
    """The budget of the next decision after so many on the same papers."""
    return Budget(
        alpha=alpha,
        decisions_before=decisions_before,
        spent_before=sum(level_of(alpha, k) for k in range(decisions_before)),
        level=level_of(alpha, decisions_before),
        fresh_level=level_of(alpha, 0),
    )


def budget_words(budget: Budget) -> str:
    """One sentence for report and terminal; "" for the first decision on these papers."""
    if not budget.decisions_before:
        return ""
    times = "1 decision" if budget.decisions_before == 1 else f"{budget.decisions_before} decisions"
    return (
        f"These papers have served {times} before, which spent {budget.spent_before:.3g} of alpha "
        f"{budget.alpha:g}: this one is tested at {budget.level:.2g}; papers that no decision has "
        f"seen would allow {budget.fresh_level:.2g}."
    )
