"""The page of an evaluation: figures with intervals, papers, texts, surprise token by token.

    write_evaluation_report(path, model_name=..., results=..., ...)

One self-contained HTML file; it loads nothing from elsewhere and holds no script. Its figures
stand beside it as PNG files too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.config.measurement_sections import TASK
from steps.evaluation.likelihood import TokenScore
from steps.evaluation.measure import MEASURED_SHARE, Results, TokenExample
from steps.metrics import LIKELIHOODS, PAPERS_FOR_RELIABLE_INTERVALS, likelihood_of
from steps.reports.choices import (
    bins_of,
    draw_reliability,
    fact_rows,
    reliability_caption,
    reliability_table,
)
from steps.reports.page import Table, inline_svg, template

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


_GENERATIONS_SHOWN = 12
_PAPERS_SHOWN = 5
_TOKENS_SHOWN = 400

# Characters in a line of the picture of a text, and inches that one of them takes.
_LINE, _CHARACTER_WIDTH, _LINE_HEIGHT = 96, 0.0763, 0.2

# Ten bits are a choice between a thousand equally likely tokens: as red as it gets.
_BITS_OF_FULL_COLOUR = 10.0
_BITS_OF_FULL_DIFFERENCE = 4.0
# What the first sentence states: of those that were measured, the first.
_HEADLINES = ("answer_bits_per_byte", "bits_per_byte", "pseudo_bits_per_byte", "mlm_loss")
_BASE_COLOUR, _MODEL_COLOUR = "#9aa5b1", "#2a78b8"


@dataclass(frozen=True)
class MetricRow:
    """A line of the table of metrics; None where there is no value."""

    name: str
    value: float
    low: float | None
    high: float | None
    base: float | None
    papers: int | None


@dataclass(frozen=True)
class TaskRow:
    """A metric of a task; None where there is no value."""

    name: str
    metric: MetricRow
    clean: float | None
    items: int
    contaminated: int
    too_short: int
    cut: int


@dataclass(frozen=True)
class PaperRow:
    """A paper in bits per byte under both models."""

    paper_id: str
    base: float
    value: float


@dataclass(frozen=True)
class _ShownToken:
    text: str
    bits: float
    opacity: float
    in_gene: bool


def write_evaluation_report(
    path: Path,
    *,
    model_name: str,
    results: Results,
    base_metrics: Mapping[str, float] | None,
    base_per_paper: "pd.DataFrame | None",
    token_examples: Sequence[TokenExample] | None,
    base_generations: "pd.DataFrame | None" = None,
    header: Sequence[tuple[str, str]] = (),
) -> list[Path]:
    """Write the page, and its figures beside it.

    Args:
        path: The HTML file to write; its folder is there.
        model_name: What the reader knows the model by.
        results: What was measured.
        base_metrics: The metrics of the base model, or None.
        base_per_paper: Its rows of papers, or None.
        token_examples: Texts to show token by token, or None.
        base_generations: What the base wrote after the same prompts, or None.
        header: What the page is about: run, date, dataset.

    Returns:
        The figures as PNG files.
    """
    base_metrics = base_metrics or {}
    metrics, generations = results.metrics, results.generations
    drawn = _figures(metrics, base_metrics)
    bins = bins_of(results.cloze)
    calibration = draw_reliability(bins) if bins else None
    page = template("evaluation.html.j2").render(
        title=f"Evaluation of {model_name}",
        facts=header,
        lead=headline(metrics, base_metrics),
        papers=int(metrics["papers"]),
        trained_papers=int(metrics.get("trained_papers", 0)),
        retracted=results.retracted,
        cuts={"this model": cut_phases(metrics), "the base": cut_phases(base_metrics)},
        reliable=bool(metrics["intervals_reliable"]),
        papers_needed=PAPERS_FOR_RELIABLE_INTERVALS,
        figures=[
            inline_svg(
                figure,
                f"{_in_words(kind).capitalize()} of parts of the text, 95 % intervals",
                parts_table(kind, metrics, base_metrics),
            )
            for kind, figure in drawn.items()
        ],
        reliability=calibration
        and inline_svg(calibration, reliability_caption(bins), reliability_table(bins)),
        cloze_facts=fact_rows(results.facts),
        metrics=metric_rows(metrics, base_metrics),
        tasks=task_rows(metrics, base_metrics),
        with_base=bool(base_metrics),
        moved=_papers_that_moved(results.per_paper, base_per_paper),
        generations=shown_generations(generations, base_generations),
        methods=methods(metrics, base_metrics),
        generations_in_all=len(generations),
        examples=[_shown_example(example) for example in token_examples or ()],
        full_colour=_BITS_OF_FULL_COLOUR,
    )
    path.write_text(page, encoding="utf-8")
    pictures = {f"{kind}_by_part": figure for kind, figure in drawn.items()}
    for number, example in enumerate(token_examples or (), start=1):
        pictures[f"surprise_{number}"] = draw_surprise(example)
    if calibration is not None:
        pictures["reliability"] = calibration
    files = []
    for name, figure in pictures.items():
        files.append(path.with_name(f"{name}.png"))
        figure.savefig(files[-1], dpi=110, metadata={"Software": None})
    return files


def shown_generations(
    generations: "pd.DataFrame", of_base: "pd.DataFrame | None"
) -> list[dict[str, Any]]:
    """The first generations, with what the base wrote after the same prompt where it is known."""
    written = {}
    if of_base is not None and len(of_base):
        keys = zip(of_base["paper_id"], of_base["prompt"], strict=True)
        written = dict(zip(keys, of_base["generation"], strict=True))
    rows = generations.head(_GENERATIONS_SHOWN).to_dict("records")
    for row in rows:
        if (row["paper_id"], row["prompt"]) in written:
            row["base_generation"] = written[row["paper_id"], row["prompt"]]
    return [{str(name): value for name, value in row.items()} for row in rows]


def methods(metrics: Mapping[str, float], base_metrics: Mapping[str, float]) -> str:
    """A paragraph for the methods of a paper, with the main figure; "" without a likelihood."""
    name = next((name for name in _HEADLINES if name in metrics), None)
    if name is None:
        return ""
    unit = {
        "bits_per_byte": "the negative log2-likelihood of a paper's text, divided by its bytes in "
        "UTF-8, which compares across tokenizers",
        "pseudo_bits_per_byte": "the negative pseudo-log2-likelihood (Salazar et al. 2020) of a "
        "paper's text, divided by its bytes in UTF-8",
        "mlm_loss": "the mean negative log-likelihood, in nats, of masked tokens under one fixed "
        "mask, which compares models of one tokenizer alone",
        "answer_bits_per_byte": "the negative log2-likelihood of the right answers, divided by "
        "their bytes in UTF-8",
    }[name]
    figures = f"{metrics[name]:.4f}"
    if f"{name}_ci_low" in metrics:
        low, high = metrics[f"{name}_ci_low"], metrics[f"{name}_ci_high"]
        figures += f" (95% interval {low:.4f} to {high:.4f})"
    if name in base_metrics:
        figures += f", against {base_metrics[name]:.4f} of the base model"
    return (
        f"Models were scored on {int(metrics['papers'])} papers that were held out whole, together "
        f"with their near-duplicates. {_in_words(name).capitalize()} is {unit}: {figures}. "
        "Intervals resample papers (percentile bootstrap; Efron and Tibshirani 1993, chapter 13), "
        "as papers, not tokens, are what was sampled."
    )


def parts_table(
    kind: str, metrics: Mapping[str, float], base_metrics: Mapping[str, float]
) -> Table:
    """What the figure of the parts of the text shows."""
    rows = [
        (row.name, row.value, row.low, row.high, row.base)
        for row in metric_rows(metrics, base_metrics)
        if likelihood_of(row.name.replace(" ", "_")) == kind and not row.name.startswith("general ")
    ]
    return Table(("part", "this model", "from", "to", "base"), rows)


def cut_phases(metrics: Mapping[str, float]) -> list[str]:
    """What of an evaluation a budget has cut, such as "gene cloze to 40%"."""
    return [
        f"{_in_words(name.removesuffix(MEASURED_SHARE))} to {share:.0%}"
        for name, share in metrics.items()
        if name.endswith(MEASURED_SHARE)
    ]


def draw_surprise(example: TokenExample) -> "Figure":
    """A text as both models read it: its gene tokens coloured by surprise, all else plain.

    Args:
        example: The text; without base tokens there is one panel instead of two.
    """
    from matplotlib.figure import Figure

    sides = {"this model": example.tokens}
    if example.base_tokens is not None:
        sides = {"base": example.base_tokens, **sides}
    lines = {side: _in_lines(tokens[:_TOKENS_SHOWN]) for side, tokens in sides.items()}
    heights = [2 + max((row for row, _, _ in placed), default=0) for placed in lines.values()]
    figure = Figure(
        figsize=(_LINE * _CHARACTER_WIDTH, (sum(heights) + 1) * _LINE_HEIGHT), layout="constrained"
    )
    panels = figure.subplots(len(sides), 1, squeeze=False, height_ratios=heights)[:, 0]
    figure.suptitle(
        f"Paper {example.paper_id}: the redder a gene token, the less it was expected (full red "
        f"from {_BITS_OF_FULL_COLOUR:g} bits)",
        fontsize=9,
        parse_math=False,
    )
    for axes, (side, placed), height in zip(panels, lines.items(), heights, strict=True):
        axes.set_xlim(0, _LINE)
        axes.set_ylim(height - 1, 0)
        axes.set_axis_off()
        bits = [nats / log(2) for tokens in [sides[side]] for nats in _gene_nats(tokens)]
        mean = f", gene tokens {sum(bits) / len(bits):.1f} bits on average" if bits else ""
        axes.set_title(side + mean, fontsize=9, loc="left")
        for row, column, token in placed:
            if token.in_gene:
                opacity = min(1.0, max(0.0, token.nats / log(2) / _BITS_OF_FULL_COLOUR))
                axes.barh(
                    row + 0.5,
                    len(token.text),
                    left=column,
                    height=0.9,
                    color=(0.86, 0.2, 0.18, opacity),
                    edgecolor=_MODEL_COLOUR,
                    linewidth=0.8,
                )
            axes.text(
                column,
                row + 0.5,
                token.text,
                family="monospace",
                fontsize=9,
                va="center_baseline",
                parse_math=False,
            )
    return figure


def _gene_nats(tokens: Sequence[TokenScore]) -> list[float]:
    return [token.nats for token in tokens[:_TOKENS_SHOWN] if token.in_gene]


def _in_lines(tokens: Sequence[TokenScore]) -> list[tuple[int, int, TokenScore]]:
    """Row and column of each token in lines of `_LINE` characters."""
    placed, row, column = [], 0, 0
    for token in tokens:
        if column + len(token.text) > _LINE or (column and "\n" in token.text):
            row, column = row + 1, 0
        shown = " ".join(token.text.splitlines()).strip() if column == 0 else token.text
        placed.append((row, column, replace(token, text=shown)))
        column += len(shown)
    return placed


def headline(metrics: Mapping[str, float], base_metrics: Mapping[str, float]) -> str:
    """The result in one sentence, or "" for metrics without a likelihood."""
    name = next(
        (name for name in _HEADLINES if name in metrics),
        None,
    )
    if name is None:
        return ""
    sentence = f"{metrics[name]:.4f} {_in_words(name)}"
    if f"{name}_ci_low" in metrics:
        low, high = metrics[f"{name}_ci_low"], metrics[f"{name}_ci_high"]
        sentence += f" (95 % interval {low:.4f} to {high:.4f})"
    if name in base_metrics:
        change = 1 - metrics[name] / base_metrics[name]
        sentence += (
            f"; the base model needs {base_metrics[name]:.4f}, so this one needs "
            f"{abs(change):.1%} {'less' if change >= 0 else 'more'}"
        )
    return sentence + "."


def metric_rows(metrics: Mapping[str, float], base_metrics: Mapping[str, float]) -> list[MetricRow]:
    """The metrics in their order, each with its interval on the same line."""
    return [
        MetricRow(
            _in_words(name),
            value,
            metrics.get(f"{name}_ci_low"),
            metrics.get(f"{name}_ci_high"),
            base_metrics.get(name),
            int(metrics[f"{name}_papers"]) if f"{name}_papers" in metrics else None,
        )
        for name, value in metrics.items()
        if not name.endswith(("_ci_low", "_ci_high"))
        and not name.startswith(TASK)
        and name != "intervals_reliable"
        and name.removesuffix("_papers") not in metrics.keys() - {name}
    ]


def task_rows(metrics: Mapping[str, float], base_metrics: Mapping[str, float]) -> list[TaskRow]:
    """The metrics of the harness' tasks, with and without the items of training papers."""
    rows = []
    counts = ("items", "contaminated", "too_short", "cut")
    for name, value in metrics.items():
        if not name.startswith(TASK) or name.endswith(("_ci_low", "_ci_high", "_clean")):
            continue
        task, _, metric = name.removeprefix(TASK).rpartition("/")
        if metric in counts:
            continue
        low, high = metrics.get(f"{name}_ci_low"), metrics.get(f"{name}_ci_high")
        shown = MetricRow(_in_words(metric), value, low, high, base_metrics.get(name), None)
        of_task = (int(metrics.get(f"{TASK}{task}/{count}", 0)) for count in counts)
        rows.append(TaskRow(task, shown, metrics.get(f"{name}_clean"), *of_task))
    return rows


def _figures(
    metrics: Mapping[str, float], base_metrics: Mapping[str, float]
) -> "dict[str, Figure]":
    """One figure for each kind of likelihood that has parts: whole text, strata, sections."""
    figures = {}
    for kind in LIKELIHOODS:
        parts = [
            name
            for name in metrics
            if likelihood_of(name) == kind and not name.startswith("general_")
        ]
        if kind in metrics and len(parts) > 1:
            figures[kind] = _draw(parts, kind, metrics, base_metrics)
    return figures


def _draw(
    parts: Sequence[str],
    kind: str,
    metrics: Mapping[str, float],
    base_metrics: Mapping[str, float],
) -> "Figure":
    """Points with intervals, one line a part, the base above the model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.8 + 0.45 * len(parts)), layout="constrained")
    axes = figure.subplots()
    sides = [("this model", metrics, _MODEL_COLOUR, 0.12)]
    if base_metrics:
        sides.insert(0, ("base", base_metrics, _BASE_COLOUR, -0.12))
    for label, values, colour, shift in sides:
        there = [(place, name) for place, name in enumerate(parts) if name in values]
        centres = [values[name] for _, name in there]
        low = [c - values.get(f"{n}_ci_low", c) for c, (_, n) in zip(centres, there, strict=True)]
        high = [values.get(f"{n}_ci_high", c) - c for c, (_, n) in zip(centres, there, strict=True)]
        axes.errorbar(
            centres,
            [place + shift for place, _ in there],
            xerr=[[max(0.0, x) for x in low], [max(0.0, x) for x in high]],
            fmt="o",
            color=colour,
            capsize=3,
            label=label,
        )
    labels = [_in_words(name.removesuffix(kind).rstrip("_")) or "whole text" for name in parts]
    axes.set_yticks(range(len(parts)), labels, parse_math=False)
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.set_xlabel(_in_words(kind))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if base_metrics:
        axes.legend(frameon=False)
    return figure


def _papers_that_moved(
    per_paper: "pd.DataFrame", base_per_paper: "pd.DataFrame | None"
) -> dict[str, list[PaperRow]]:
    """The papers that gained most and those that gained least, in bits per byte."""
    answers = "answer_nats" in per_paper
    nats, size = ("answer_nats", "answer_bytes") if answers else ("nats", "bytes")
    if base_per_paper is None or nats not in per_paper or nats not in base_per_paper:
        return {}
    both = per_paper.merge(base_per_paper, on="paper_id", suffixes=("", "_base"))
    both = both[both[size] > 0]
    both["bits"] = both[nats] / (log(2) * both[size])
    both["bits_base"] = both[f"{nats}_base"] / (log(2) * both[f"{size}_base"])
    order = (both["bits"] - both["bits_base"]).sort_values().index
    rows = [
        PaperRow(str(paper_id), float(base), float(value))
        for paper_id, base, value in zip(
            both.loc[order, "paper_id"],
            both.loc[order, "bits_base"],
            both.loc[order, "bits"],
            strict=True,
        )
    ]
    shown = min(_PAPERS_SHOWN, len(rows) // 2)
    if not shown:
        return {}
    return {"gained most": rows[:shown], "gained least": rows[: -shown - 1 : -1]}


def token_differences(example: TokenExample) -> list[_ShownToken]:
    """By how many bits the model expects each token more than its base; [] without a base."""
    if example.base_tokens is None:
        return []
    shown = []
    pairs = zip(example.base_tokens, example.tokens, strict=True)
    for base, token in list(pairs)[:_TOKENS_SHOWN]:
        gained = (base.nats - token.nats) / log(2)
        opacity = min(1.0, abs(gained) / _BITS_OF_FULL_DIFFERENCE)
        shown.append(_ShownToken(token.text, gained, opacity, token.in_gene))
    return shown


def _shown_example(example: TokenExample) -> dict[str, Any]:
    sides = {"this model": example.tokens}
    if example.base_tokens is not None:
        sides = {"base": example.base_tokens, **sides}
    return {
        "paper_id": example.paper_id,
        "sides": {side: _shown_tokens(tokens) for side, tokens in sides.items()},
        "difference": token_differences(example),
        "cut": len(example.tokens) > _TOKENS_SHOWN,
    }


def _shown_tokens(tokens: Sequence[TokenScore]) -> list[_ShownToken]:
    shown = []
    for token in tokens[:_TOKENS_SHOWN]:
        bits = token.nats / log(2)
        opacity = min(1.0, max(0.0, bits / _BITS_OF_FULL_COLOUR))
        shown.append(_ShownToken(token.text, bits, opacity, token.in_gene))
    return shown


def _in_words(name: str) -> str:
    return name.replace("_", " ")
