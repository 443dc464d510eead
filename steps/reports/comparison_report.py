"""The page that explains a promotion decision, in words first, then in figures.

figures = write_comparison_report(Path("report.html"), decision, champion, challenger, texts)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steps.comparison.decision import Decision
from steps.comparison.evidence import MetricGain
from steps.comparison.statistics import columns_of
from steps.metrics import likelihood_of
from steps.reports.page import Table, inline_svg, template

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

WORST_PAPERS = 10

# Colours that the colour-blind tell apart (Okabe & Ito 2008).
BETTER, WORSE, NEUTRAL = "#009e73", "#d55e00", "#595959"


@dataclass(frozen=True)
class PaperGain:
    """One paper on both sides.

    Attributes:
        paper_id: Identifier of the paper.
        champion: The primary metric of the champion on this paper alone.
        challenger: The same of the challenger.
        gain: Positive means that the challenger is better.
        size: The denominator: bytes, or targets of a masked model.
        text: The paper's text, or None.
    """

    paper_id: str
    champion: float
    challenger: float
    gain: float
    size: float
    text: str | None


def write_comparison_report(
    path: Path,
    decision: Decision,
    per_paper_a: "pd.DataFrame",
    per_paper_b: "pd.DataFrame",
    texts: Mapping[str, str] | None = None,
    facts: Sequence[tuple[str, str]] = (),
) -> tuple[Path, ...]:
    """Write a self-contained HTML page, and its figures as PNG beside it.

    Args:
        path: Where the page goes; its folder has to exist.
        decision: What was decided.
        per_paper_a: The champion's results, one row a paper.
        per_paper_b: The challenger's results on the same papers.
        texts: Texts by paper_id, for the papers that got worse most.
        facts: What the page is about: run, date, dataset.

    Returns:
        The PNG files, for `report.html`: `report-gains.png` and `report-papers.png`.
    """
    papers = paper_gains(decision.primary.metric, per_paper_a, per_paper_b, texts or {})
    worst = [paper for paper in papers[:WORST_PAPERS] if paper.gain < 0]
    figures = {"gains": draw_gains(decision), "papers": draw_papers(decision, papers)}

    primary = _in_words(decision.primary.metric)
    page = template("comparison.html.j2").render(
        decision=decision,
        facts=facts,
        lead="",
        primary_name=primary,
        worst=worst,
        number=lambda value: "none" if value is None else f"{value:.4f}",
        gains_figure=inline_svg(
            figures["gains"],
            f"Gain in {primary}, of the whole and of parts, with intervals",
            gains_table(decision),
        ),
        papers_figure=inline_svg(
            figures["papers"], f"Gain in {primary} of each paper", papers_table(papers, primary)
        ),
    )
    path.write_text(page, encoding="utf-8")
    pictures = []
    for name, figure in figures.items():
        picture = path.with_name(f"{path.stem}-{name}.png")
        figure.savefig(picture, dpi=150, metadata={"Software": None})
        pictures.append(picture)
    return tuple(pictures)


def paper_gains(
    metric: str,
    per_paper_a: "pd.DataFrame",
    per_paper_b: "pd.DataFrame",
    texts: Mapping[str, str],
) -> list[PaperGain]:
    """The gain of each paper alone, the one that got worse most first.

    Args:
        metric: The primary metric.
        per_paper_a: The champion's results, one row a paper.
        per_paper_b: The challenger's results on the same papers, in any order.
        texts: Texts by paper_id.
    """
    columns = columns_of(metric)
    champion = per_paper_a.set_index("paper_id")
    challenger = per_paper_b.set_index("paper_id").loc[champion.index]
    size = champion[columns.denominator].to_numpy(dtype=np.float64)
    scored = size > 0
    before, after = (
        columns.scale * frame[columns.numerator].to_numpy(dtype=np.float64)[scored] / size[scored]
        for frame in (champion, challenger)
    )
    gains = after - before if columns.higher_is_better else before - after
    rows = zip(champion.index[scored], before, after, gains, size[scored], strict=True)
    papers = [
        PaperGain(str(i), float(a), float(b), float(gain), float(s), texts.get(str(i)))
        for i, a, b, gain, s in rows
    ]
    return sorted(papers, key=lambda paper: (paper.gain, paper.paper_id))


def papers_table(papers: Sequence[PaperGain], metric: str) -> Table:
    """The gain of each paper as a table."""
    rows = [(paper.paper_id, paper.champion, paper.challenger, paper.gain) for paper in papers]
    return Table(("paper", f"champion, {metric}", "challenger", "gain"), rows)


def shown_gains(decision: Decision) -> list[MetricGain]:
    """The primary metric and those in its unit: accuracies have no place beside them."""
    kind = likelihood_of(decision.primary.metric)
    alike = (gain for gain in decision.secondary if likelihood_of(gain.metric) == kind)
    return [decision.primary, *alike]


def gains_table(decision: Decision) -> Table:
    """What the forest plot shows, as a table."""
    rows = [
        (_part(one.metric), one.papers, one.champion, one.challenger, one.gain, one.low, one.high)
        for one in shown_gains(decision)
    ]
    columns = ("part", "papers", "champion", "challenger", "gain", "from", "to")
    return Table(columns, rows, names_rows=True)


def draw_gains(decision: Decision) -> "Figure":
    """Forest plot of the primary metric and of its parts, strata and sections."""
    from matplotlib.figure import Figure

    rows = shown_gains(decision)
    figure = Figure(figsize=(8, 1.4 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        colour = _colour(row)
        low = row.gain if row.low is None else row.low
        high = row.gain if row.high is None else row.high
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot(row.gain, place, "s" if place == 0 else "o", color=colour, markersize=7)
    axes.axvline(0, color=NEUTRAL, linewidth=1)
    axes.axvline(decision.min_gain, color=NEUTRAL, linewidth=1, linestyle="--")
    labels = [f"{_part(row.metric)} ({row.papers} papers)" for row in rows]
    axes.set_yticks(range(len(rows)), labels, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(
        f"gain in {_in_words(likelihood_of(decision.primary.metric) or decision.primary.metric)}"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def draw_papers(decision: Decision, papers: list[PaperGain]) -> "Figure":
    """Gain of each paper, from the worst to the best."""
    from matplotlib.figure import Figure

    gains = np.array([paper.gain for paper in papers])
    sizes = np.array([paper.size for paper in papers])
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(
        np.arange(1, len(papers) + 1),
        gains,
        s=np.clip(20 * sizes / np.median(sizes), 4, 200),
        c=[BETTER if gain > 0 else WORSE for gain in gains],
        alpha=0.6,
        linewidths=0,
    )
    axes.axhline(0, color=NEUTRAL, linewidth=1)
    axes.axhline(
        decision.primary.gain,
        color="black",
        linewidth=1,
        linestyle="--",
        label="overall gain",
    )
    axes.set_xlabel("papers, from the one that got worse most")
    axes.set_ylabel(f"gain in {_in_words(decision.primary.metric)}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _colour(row: MetricGain) -> str:
    """Better or worse only where the interval leaves 0 out."""
    if row.low is None or row.high is None or row.low <= 0 <= row.high:
        return NEUTRAL
    return BETTER if row.gain > 0 else WORSE


def _part(metric: str) -> str:
    """The stratum or section of a metric: "gene" of gene_bits_per_byte."""
    kind = likelihood_of(metric)
    return "overall" if metric == kind else _in_words(metric.removesuffix(f"_{kind}"))


def _in_words(metric: str) -> str:
    return metric.replace("_", " ")
