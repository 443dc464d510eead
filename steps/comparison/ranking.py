"""The ranking of more than two models."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from steps.comparison.comparable import (
    EvaluatedModel,
    check_comparable,
    in_order_of,
    interval_bounds,
)
from steps.comparison.decision import fitted
from steps.comparison.evidence import CONFIDENCE
from steps.comparison.statistics import (
    RatioTable,
    bootstrap_gains,
    holm,
    ratio_table,
    sign_flip_tests,
)
from steps.errors import UserError

if TYPE_CHECKING:
    from steps.config.measurement_sections import Comparison


# Tables that are resampled together, 40 MB of sums at 2000 resamples.
TABLES_AT_A_TIME = 64


@dataclass(frozen=True)
class RankedModel:
    """A model in a ranking.

    Attributes:
        rank: 1 is the best.
        name: Name of the model.
        value: The metric.
        low: Lower bound of its 95 % interval over papers; None where papers are too few.
        high: Upper bound.
    """

    rank: int
    name: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class RankedPair:
    """Two models of a ranking, the better one first.

    Attributes:
        better: Name of the one with the better value.
        worse: Name of the other.
        gain: Difference, in units of the metric, at least 0.
        low: Lower bound of its 95 % interval over papers; None where papers are too few.
        high: Upper bound.
        p_value: Two-sided, by sign flips.
        adjusted_p_value: After Holm's correction over all pairs.
    """

    better: str
    worse: str
    gain: float
    low: float | None
    high: float | None
    p_value: float
    adjusted_p_value: float


@dataclass(frozen=True)
class Ranking:
    """Several models, the best first, and all pairs of them."""

    metric: str
    papers: int
    models: tuple[RankedModel, ...]
    pairs: tuple[RankedPair, ...]


def rank(models: Sequence[EvaluatedModel], rule: "Comparison") -> Ranking:
    """Order several models by the primary metric, and test all pairs.

    Args:
        models: Two or more evaluated models.
        rule: Section `comparison` of the configuration; its guards play no part here.

    Returns:
        The ranking; two neighbours whose adjusted p-value exceeds alpha are not shown to
        differ.

    Raises:
        UserError: If there are fewer than two models, or two of them cannot be compared.
    """
    if len(models) < 2:
        raise UserError(f"a ranking needs at least 2 models, not {len(models)}; name another one")
    rule = fitted(rule, models[0].objective)
    for a, b in combinations(models, 2):
        check_comparable(a, b, rule.metric)
    first = models[0].per_paper
    frames = [in_order_of(model.per_paper, first) for model in models]

    # A model held against nothing has its own value as the difference.
    own = [ratio_table(frame, frame, rule.metric) for frame in frames]
    alone = [RatioTable(table.values * [1.0, 1.0, 0.0, 1.0], abs(table.scale)) for table in own]
    best_first = sorted(
        range(len(models)),
        key=lambda i: -alone[i].gain if own[i].higher_is_better else alone[i].gain,
    )
    pairs = list(combinations(best_first, 2))
    tables = [ratio_table(frames[worse], frames[better], rule.metric) for better, worse in pairs]
    shown = [*(alone[i] for i in best_first), *tables]
    # By and by, for 40 models have 780 pairs; one seed gives all of them the same resamples.
    boots = [
        boot
        for start in range(0, len(shown), TABLES_AT_A_TIME)
        for boot in bootstrap_gains(
            shown[start : start + TABLES_AT_A_TIME],
            samples=rule.bootstrap_samples,
            seed=rule.seed,
        )
    ]
    tests = sign_flip_tests(
        np.column_stack([table.differences() for table in tables]),
        flips=rule.permutations,
        seed=rule.seed,
    )
    adjusted = holm([test.two_sided for test in tests])
    return Ranking(
        metric=rule.metric,
        papers=len(first),
        models=tuple(
            RankedModel(place, models[i].name, boot.gain, *interval_bounds(boot, CONFIDENCE))
            for place, (i, boot) in enumerate(zip(best_first, boots, strict=False), start=1)
        ),
        pairs=tuple(
            RankedPair(
                models[better].name,
                models[worse].name,
                boot.gain,
                *interval_bounds(boot, CONFIDENCE),
                test.two_sided,
                p,
            )
            for (better, worse), boot, test, p in zip(
                pairs, boots[len(models) :], tests, adjusted, strict=True
            )
        ),
    )
