"""Guards: what must not get worse, whatever the gain."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from steps.comparison.comparable import (
    GENERAL,
    EvaluatedModel,
    check_finite,
    groups_of,
    in_order_of,
    interval_bounds,
)
from steps.comparison.statistics import (
    RatioTable,
    bootstrap_gains,
    grouped,
    has_metric,
    papers_needed,
    ratio_metric,
    ratio_table,
)
from steps.comparison.task_gains import item_bounds, task_table
from steps.config.measurement_sections import TASK
from steps.errors import UserError

if TYPE_CHECKING:
    from steps.config.measurement_sections import Comparison, Guard


GuardOutcome = Literal["holds", "fails", "unproven", "no data", "not checked"]


@dataclass(frozen=True)
class GuardResult:
    """A guard, and what the figures say about it.

    Attributes:
        metric: Its name.
        margin: By how much the challenger may be worse.
        outcome: `holds` and `fails` are shown; `unproven`: the bounds lie on both sides of the
            margin; `no data`; `not checked`: no data, and the guard is optional.
        against: The champion, or the reference metric that stands in for it.
        reference: The value that the challenger is held against.
        challenger: The challenger's value.
        worse_by: How much worse the challenger is; negative: it is better.
        low: Lower one-sided bound of that at level alpha; None for a mere point estimate.
        high: Upper one-sided bound.
        papers: Texts behind the bounds; 0 for a mere point estimate.
        papers_needed: About how many texts would show that the guard holds, if it does.
        reason: All this in words.
    """

    metric: str
    margin: float
    outcome: GuardOutcome
    against: str
    reference: float | None = None
    challenger: float | None = None
    worse_by: float | None = None
    low: float | None = None
    high: float | None = None
    papers: int = 0
    papers_needed: int | None = None
    reason: str = ""


def check_guard(
    guard: "Guard", champion: EvaluatedModel, challenger: EvaluatedModel, rule: "Comparison"
) -> GuardResult:
    """Hold the challenger against a guard: by bounds over papers, else by the two figures."""
    against = guard.reference or champion.name
    table = _guard_table(guard, champion, challenger, rule)
    if table is not None and table.carrying >= 2:
        return _check_by_bounds(guard, table, against, rule)

    other = challenger if guard.reference else champion
    reference = other.metrics.get(guard.reference or guard.metric)
    value = challenger.metrics.get(guard.metric)
    if reference is None or value is None:
        missing = challenger.name if value is None else other.name
        return GuardResult(
            guard.metric,
            guard.margin,
            "not checked" if guard.optional else "no data",
            against,
            reason=f"guard {guard.metric} has no figure for {missing}, so evaluate it with one "
            "or set the guard's optional to true",
        )
    for model, figure in ((other, reference), (challenger, value)):
        if not math.isfinite(figure):
            raise UserError(
                f"{model.name}: {guard.metric} is {figure}, expected a finite number; "
                "evaluate it again"
            )
    worse_by = value - reference if guard.direction == "lower_is_better" else reference - value
    outcome: GuardOutcome = "holds" if worse_by <= guard.margin else "fails"
    return GuardResult(
        guard.metric,
        guard.margin,
        outcome,
        against,
        reference,
        value,
        worse_by,
        reason=f"guard {guard.metric} {outcome}: {value:.4f} against {reference:.4f} of {against}, "
        f"worse by {worse_by:.4f} where {guard.margin:g} is allowed (a point estimate, as there "
        "are no counts for bounds)",
    )


def _guard_table(
    guard: "Guard", champion: EvaluatedModel, challenger: EvaluatedModel, rule: "Comparison"
) -> RatioTable | None:
    """The guard's figures paper by paper, or None where the frames do not hold them.

    Those of a task item by item.
    """
    if guard.metric.startswith(TASK):
        if guard.reference is not None or guard.direction != "higher_is_better":
            return None
        return task_table(champion, challenger, guard.metric)
    metric = guard.metric.removeprefix(GENERAL)
    columns = ratio_metric(metric)
    if columns is None:
        return None
    if columns.higher_is_better != (guard.direction == "higher_is_better"):
        expected = "higher_is_better" if columns.higher_is_better else "lower_is_better"
        raise UserError(
            f"comparison.guards: direction of {guard.metric} is {guard.direction}, "
            f"expected {expected}; change it"
        )
    general = guard.metric.startswith(GENERAL)
    rows = challenger.general if general else challenger.per_paper
    champion_rows = champion.general if general else champion.per_paper
    if rows is None or champion_rows is None or not has_metric(rows, metric):
        return None
    check_finite(challenger.name, rows, metric)
    if guard.reference is not None:
        if not has_metric(rows, guard.reference):
            return None
        check_finite(challenger.name, rows, guard.reference)
        table = ratio_table(rows, rows, metric, against=guard.reference)
        return grouped(table, None if general else groups_of(rows, rule))
    if not has_metric(champion_rows, metric):
        return None
    check_finite(champion.name, champion_rows, metric)
    table = ratio_table(in_order_of(champion_rows, rows), rows, metric)
    return grouped(table, None if general else groups_of(rows, rule))


def _check_by_bounds(
    guard: "Guard", table: RatioTable, against: str, rule: "Comparison"
) -> GuardResult:
    """A non-inferiority test: the whole one-sided interval has to lie within the margin."""
    boot = bootstrap_gains([table], samples=rule.bootstrap_samples, seed=rule.seed)[0]
    reference, value = table.ratios
    worse_by = -boot.gain
    # Both bounds of a two-sided interval of 1 - 2 alpha are one-sided bounds at alpha.
    of_task = guard.metric.startswith(TASK)
    confidence = 1 - 2 * rule.alpha
    low_gain, high_gain = (
        item_bounds(table, boot, confidence) if of_task else interval_bounds(boot, confidence)
    )
    low = None if high_gain is None else -high_gain
    high = None if low_gain is None else -low_gain
    needed = None
    outcome: GuardOutcome
    if high is not None and high <= guard.margin:
        outcome = "holds"
    elif low is not None and low > guard.margin:
        outcome = "fails"
    else:
        outcome = "unproven"
        needed = papers_needed(
            guard.margin - worse_by,
            table.standard_error,
            len(table.values),
            alpha=rule.alpha,
            minimum_gain=0.0,
        )
    units = "items" if of_task else "texts"
    bounds = f"too few {units} for bounds" if high is None else f"between {low:.4f} and {high:.4f}"
    takes = "" if needed is None else f"; about {needed} {units} would show it"
    verdict = "cannot be told" if outcome == "unproven" else outcome
    return GuardResult(
        guard.metric,
        guard.margin,
        outcome,
        against,
        reference,
        value,
        worse_by,
        low,
        high,
        table.carrying,
        needed,
        reason=f"guard {guard.metric} {verdict}: {value:.4f} against {reference:.4f} of {against}, "
        f"worse by {worse_by:.4f} ({bounds}, {table.carrying} {units}) where {guard.margin:g} is "
        f"allowed{takes}",
    )
