"""The difference of two models' accuracies on the same items, with an interval.

Where two models seldom disagree, resampling items says too much or nothing: many resamples hold no
disagreement at all, and two models that agree on all of 40 items would be shown to be equal. The
score interval of Tango (1998, Statistics in Medicine 17:891-908) holds its level there too.
"""

import math

import numpy as np
import numpy.typing as npt

_HALVINGS = 60


def score_interval(
    better: int, worse: int, items: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Bounds of the difference in accuracy.

    Args:
        better: Items that the challenger alone got right.
        worse: Items that the champion alone got right.
        items: All items.
        confidence: Of the two-sided interval.

    Returns:
        Lower and upper bound of the challenger's accuracy less the champion's.
    """
    from statistics import NormalDist

    quantile = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (better - worse) / items

    def bound(end: float) -> float:
        """Where the score statistic crosses the quantile, between the middle and an end."""
        inside, outside = middle, end
        for _ in range(_HALVINGS):
            between = (inside + outside) / 2
            if abs(_statistic(between, better, worse, items)) <= quantile:
                inside = between
            else:
                outside = between
        return inside

    return bound(-1.0), bound(1.0)


def _statistic(difference: float, better: int, worse: int, items: int) -> float:
    """The score statistic of "the accuracies differ by so much" (Tango 1998, equations 4 and 5)."""
    linear = -better - worse + (2 * items - better + worse) * difference
    constant = -worse * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear**2 - 8 * items * constant))
    # Share of items that the champion alone gets right, most likely under that difference.
    share = max(0.0, (root - linear) / (4 * items))
    variance = items * (2 * share + difference * (1 - difference))
    distance = better - worse - items * difference
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def disagreements(
    champion: npt.NDArray[np.float64], challenger: npt.NDArray[np.float64]
) -> tuple[int, int] | None:
    """How many items the challenger alone, and the champion alone, got right.

    Returns:
        None where an item can be half right.
    """
    if not np.isin(np.concatenate([champion, challenger]), (0.0, 1.0)).all():
        return None
    return int((challenger > champion).sum()), int((champion > challenger).sum())
