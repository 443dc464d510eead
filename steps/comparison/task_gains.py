"""Two models on the same items of the harness' tasks: gains with intervals, item by item.

The items are what was sampled here, where papers are elsewhere. An item that stands in the training
papers of either model is left out of the figures that end in `_clean`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steps.comparison.comparable import EvaluatedModel, interval_bounds
from steps.comparison.evidence import CONFIDENCE
from steps.comparison.paired_proportions import disagreements, score_interval
from steps.comparison.statistics import (
    BootstrapGain,
    RatioTable,
    bootstrap_gains,
    holm,
    sign_flip_tests,
)
from steps.config.measurement_sections import TASK
from steps.errors import UserError
from steps.metrics import CLEAN, ITEM_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

    from steps.config.measurement_sections import Comparison


@dataclass(frozen=True)
class TaskGain:
    """A metric of a task for both models.

    Attributes:
        metric: Such as `task/pubmedqa/acc`.
        champion: The metric of the champion, over the items of both.
        challenger: The metric of the challenger.
        gain: Positive means that the challenger is better.
        low: Lower bound of the interval of the gain over items; None where they are too few.
        high: Upper bound.
        p_value: Of "no difference", by sign flips.
        adjusted_p_value: After Holm's correction over all metrics of tasks.
        items: How many items it is over.
    """

    metric: str
    champion: float
    challenger: float
    gain: float
    low: float | None
    high: float | None
    p_value: float
    adjusted_p_value: float
    items: int


def task_gains(
    champion: EvaluatedModel, challenger: EvaluatedModel, rule: "Comparison"
) -> tuple[TaskGain, ...]:
    """The gains of all metrics of tasks that both models were asked.

    Raises:
        UserError: They were asked other items under one name.
    """
    found = []
    for metric, table in _tables(champion, challenger):
        boot = bootstrap_gains([table], samples=rule.bootstrap_samples, seed=rule.seed)[0]
        differences = table.differences()[:, None]
        test = sign_flip_tests(differences, flips=rule.permutations, seed=rule.seed)[0]
        found.append((metric, table, boot, test.two_sided))
    adjusted = holm([p_value for *_, p_value in found])
    return tuple(
        TaskGain(
            metric,
            *table.ratios,
            boot.gain,
            *item_bounds(table, boot, CONFIDENCE),
            p_value,
            after_holm,
            len(table.values),
        )
        for (metric, table, boot, p_value), after_holm in zip(found, adjusted, strict=True)
    )


def item_bounds(
    table: RatioTable, boot: BootstrapGain, confidence: float
) -> tuple[float | None, float | None]:
    """The bounds of a gain over items; two Nones where they cannot be told.

    Args:
        table: Both models item by item.
        boot: The bootstrap of its gain, for scores between right and wrong.
        confidence: Of the two-sided interval.
    """
    counts = disagreements(table.values[:, 0], table.values[:, 2])
    if counts is not None:
        return score_interval(*counts, len(table.values), confidence)
    return interval_bounds(boot, confidence) if boot.standard_error else (None, None)


def task_table(
    champion: EvaluatedModel, challenger: EvaluatedModel, metric: str
) -> RatioTable | None:
    """A metric of a task item by item; None where the two have not both got it.

    Raises:
        UserError: They were asked other items under one name.
    """
    return next((table for name, table in _tables(champion, challenger, metric)), None)


def _tables(
    champion: EvaluatedModel, challenger: EvaluatedModel, only: str = ""
) -> Iterator[tuple[str, RatioTable]]:
    """For each metric of a task, whole and clean, what both models got for each item."""
    if champion.tasks is None or challenger.tasks is None:
        return
    for task in challenger.tasks["task"].drop_duplicates():
        front = f"{TASK}{task}/"
        if task not in set(champion.tasks["task"]) or not only.startswith(front if only else ""):
            continue
        both = _paired(champion, challenger, task)
        clean = ~(both["contaminated_champion"] | both["contaminated"]).to_numpy(dtype=bool)
        for column in challenger.tasks.columns:
            if column in ITEM_COLUMNS or f"{column}_champion" not in both:
                continue
            values = both[[f"{column}_champion", column]].to_numpy(dtype=np.float64)
            if np.isnan(values).any():
                # Another task has it, and this one does not.
                continue
            for name, kept in (
                (f"{front}{column}", np.ones(len(both), dtype=bool)),
                (f"{front}{column}{CLEAN}", clean),
            ):
                if kept.sum() >= 2 and only in ("", name):
                    yield name, _table(values[kept])


def _table(values: "np.typing.NDArray[np.float64]") -> RatioTable:
    ones = np.ones(len(values))
    columns = np.column_stack([values[:, 0], ones, values[:, 1], ones])
    return RatioTable(columns, higher_is_better=True)


def _paired(champion: EvaluatedModel, challenger: EvaluatedModel, task: str) -> "pd.DataFrame":
    """The items of a task with the figures of both models.

    Raises:
        UserError: They are not the same items.
    """
    assert champion.tasks is not None
    assert challenger.tasks is not None
    held, own = (
        frame[frame["task"] == task].drop(columns="task")
        for frame in (champion.tasks, challenger.tasks)
    )
    keys = ["item_id", "item_hash"]
    both = own.merge(held, on=keys, suffixes=("", "_champion"), validate="one_to_one")
    if not len(both) == len(own) == len(held):
        raise UserError(
            f"{champion.name} and {challenger.name} were asked other items of task {task!r} "
            f"({len(held)} and {len(own)}, {len(both)} in common): evaluate both with the same data"
        )
    return both
