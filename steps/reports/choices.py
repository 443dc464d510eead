"""What the page of an evaluation shows of choices among candidates: reliability, and facts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steps.evaluation.calibration import Bin, first_choices, reliability
from steps.reports.page import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLOUR = "#2a78b8"


@dataclass(frozen=True)
class FactRow:
    """Facts of one kind and stratum: how many, how many are right, and by chance."""

    kind: str
    stratum: str
    items: int
    right: int
    reciprocal_rank: float
    chance: float


def fact_rows(facts: "pd.DataFrame | None") -> list[FactRow]:
    """A line of the table for each kind of facts, seen and unseen ones apart.

    Args:
        facts: From `steps.evaluation.facts.facts_frame`, or None.
    """
    if facts is None:
        return []
    return [
        FactRow(
            str(kind).replace("_", " "),
            str(stratum),
            len(rows),
            int((rows["rank"] == 1).sum()),
            float((1 / rows["rank"]).mean()),
            float((1 / rows["candidates"].map(len)).sum()),
        )
        for (kind, stratum), rows in facts.groupby(["kind", "stratum"])
    ]


def bins_of(cloze: "pd.DataFrame | None") -> list[Bin]:
    """Bins of the gene choices by confidence; none without choices."""
    return [] if cloze is None else reliability(*first_choices(cloze))


def draw_reliability(bins: Sequence[Bin]) -> "Figure":
    """Share of right choices over confidence: on the diagonal a model is as sure as it is right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#9aa5b1", linestyle="--", label="as sure as it is right")
    axes.plot(
        [each.confidence for each in bins],
        [each.accuracy for each in bins],
        marker="o",
        color=_COLOUR,
        label="this model",
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence in the first choice")
    axes.set_ylabel("share of right choices")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def reliability_table(bins: Sequence[Bin]) -> Table:
    """What the figure shows, as a table."""
    rows = [(each.confidence, each.accuracy, each.items) for each in bins]
    return Table(("mean confidence", "share of right choices", "choices"), rows)


def reliability_caption(bins: Sequence[Bin]) -> str:
    """The figure in words, for whoever cannot see it."""
    points = "; ".join(f"{each.accuracy:.0%} right at {each.confidence:.0%}" for each in bins)
    items = sum(each.items for each in bins)
    return f"Reliability of {items} gene choices, by confidence: {points}"
