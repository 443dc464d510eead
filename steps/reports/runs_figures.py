"""Figures of many runs: their curves, and how settings and figures go together."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steps.comparison.many_runs import ComparedRun, LevelEffect, Points, RunComparison, as_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that the colour-blind tell apart (Okabe & Ito 2008), without the yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7f3c8d")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), "-")
OTHERS = "#bbbbbb"
# Points of a curve that a figure of this size can show.
MOST_POINTS = 300
# From here on a linear axis flattens the end of a curve.
LOG_RATIO = 4.0
# Small enough that a telephone shows its letters, and a page two side by side.
WIDTH = 4.9
# Each of these changes how many tokens a step takes.
TOKENS_OF_A_STEP = (
    *("hyperparameters.batch_size", "hyperparameters.gradient_accumulation_steps"),
    *("model.max_length", "processes"),
)


def counts_tokens(comparison: RunComparison) -> bool:
    """Whether a step of one run is another amount of training than a step of another."""
    return any(key in comparison.settings for key in TOKENS_OF_A_STEP) and all(
        "train/tokens_seen" in run.curves for run in comparison.runs
    )


def draw_curves(comparison: RunComparison, metric: str) -> "Figure":
    """One curve a run; where there are many, the best are coloured and the others grey."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    by_tokens = counts_tokens(comparison)
    runs = [run for run in comparison.runs if run.curves.get(metric)]
    coloured = len(COLOURS)
    values: list[float] = []
    for number, run in reversed(list(enumerate(runs))):
        points = run.curves[metric]
        x = np.array([step for step, _ in points], dtype=np.float64)
        if by_tokens:
            x = _tokens_at(x, run.curves["train/tokens_seen"]) / 1e6
        x, y = thinned(x, np.array([value for _, value in points]))
        values += y.tolist()
        first = number < coloured
        axes.plot(
            x,
            y,
            color=COLOURS[number] if first else OTHERS,
            linestyle=DASHES[number] if first else "-",
            linewidth=1.6 if first else 0.8,
            marker="o" if len(y) < 2 or ("validation" in metric and len(y) <= 40) else "",
            markersize=3,
            label=run.name if first else None,
            zorder=3 if first else 1,
        )
    if values and min(values) > 0 and max(values) / min(values) > LOG_RATIO:
        axes.set_yscale("log")
    axes.set_xlabel("tokens seen (millions)" if by_tokens else "optimiser step")
    axes.set_ylabel(in_words(metric))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    for text in legend.get_texts():
        # A run may be called `$x`, which is no formula.
        text.set_parse_math(False)
    return figure


def thinned(x: Any, y: Any) -> tuple[Any, Any]:
    """The means of neighbouring points, so that no more are left than a figure can show."""
    if len(x) <= MOST_POINTS:
        return x, y
    edges = np.linspace(0, len(x), MOST_POINTS + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(x)))
    return np.add.reduceat(x, edges) / counts, np.add.reduceat(y, edges) / counts


def _tokens_at(steps: Any, tokens: Points) -> Any:
    known, seen = zip(*[(0, 0.0), *tokens], strict=True)
    return np.interp(steps, known, seen)


def draw_parallel(
    settings: Mapping[str, Mapping[str, str]], figures: Mapping[str, float], metric: str
) -> "Figure":
    """Parallel coordinates: a line a run through its settings to its figure.

    Args:
        settings: For each setting the value of each run, by the run's name.
        figures: The figure by the run's name.
        metric: What that is.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(WIDTH, 1.1 + 1.3 * len(settings)), 3.8), layout="constrained")
    axes = figure.subplots()
    low, high = min(figures.values()), max(figures.values())
    shade = {name: (value - low) / ((high - low) or 1) for name, value in figures.items()}
    heights = [
        *(_heights([values[name] for name in figures]) for values in settings.values()),
        [shade[name] for name in figures],
    ]
    for run, name in enumerate(figures):
        colour = matplotlib.colormaps["viridis"](0.9 * shade[name])
        axes.plot([column[run] for column in heights], color=colour, linewidth=1.4, marker="o")
    for place, (values, column) in enumerate(zip(settings.values(), heights, strict=False)):
        axes.axvline(place, color="#999999", linewidth=0.8, zorder=0)
        for text, height in {values[n]: h for n, h in zip(figures, column, strict=True)}.items():
            _note(axes, place, height, text or "–")
    axes.axvline(len(settings), color="#999999", linewidth=0.8, zorder=0)
    for value, height in ((low, 0.0), (high, 1.0)):
        _note(axes, len(settings), height, f"{value:.4g}")
    names = [key.replace(".", ".\n", 1) for key in settings]
    axes.set_xticks(range(len(names) + 1), [*names, in_words(metric).replace(" ", "\n", 1)])
    axes.tick_params(axis="x", labelsize=8, length=0)
    axes.set_xlim(-0.15, len(names) + 0.35)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return figure


def _note(axes: Any, place: int, height: float, text: str) -> None:
    shown = text if len(text) <= 16 else f"…{text[-15:]}"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    axes.annotate(
        shown, (place, height), (4, 2), textcoords="offset points", fontsize=8, bbox=box,
        parse_math=False,
    )  # fmt: skip


def _heights(values: Sequence[str]) -> list[float]:
    """Places from 0 to 1 on an axis: numbers by size, by their logarithm where they span much."""
    numbers = [as_number(value) for value in values]
    sizes = [number for number in numbers if number is not None]
    if len(sizes) < len(values):
        order = sorted(set(values))
        return [order.index(value) / max(1, len(order) - 1) for value in values]
    if min(sizes) > 0 and max(sizes) / min(sizes) > LOG_RATIO:
        sizes = [float(np.log(size)) for size in sizes]
    span = (max(sizes) - min(sizes)) or 1.0
    return [(size - min(sizes)) / span for size in sizes]


def draw_effects(effects: Sequence[LevelEffect], metric: str) -> "Figure":
    """Mean of a metric by the value of each setting, with its interval over runs."""
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(effect.setting for effect in effects))
    rows = (len(settings) + 1) // 2
    figure = Figure(figsize=(WIDTH, 0.5 + 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, sharey=True, squeeze=False).ravel()
    for axes, setting in zip(panels, settings, strict=False):
        levels = [effect for effect in effects if effect.setting == setting]
        for place, level in enumerate(levels):
            if level.low is not None and level.high is not None:
                axes.plot([place, place], [level.low, level.high], color=COLOURS[0], linewidth=1.5)
            axes.plot(place, level.mean, "o" if level.low is not None else "D", color=COLOURS[0])
        axes.set_xticks(
            range(len(levels)),
            [f"{(e.value or '–')[-14:]}\n({e.runs})" for e in levels],
            fontsize=8,
            parse_math=False,
        )
        axes.set_xlim(-0.5, len(levels) - 0.5)
        axes.set_title(setting, loc="left", fontsize=9, parse_math=False)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    means = [effect.mean for effect in effects]
    span = (max(means) - min(means)) or abs(means[0]) or 1.0
    # Two runs give an interval that would flatten all else.
    panels[0].set_ylim(min(means) - span, max(means) + span)
    for axes in panels[len(settings) :]:
        axes.set_visible(False)
    figure.supylabel(in_words(metric), fontsize=9)
    return figure


def in_words(metric: str) -> str:
    """A metric as people read it."""
    split, _, name = metric.partition("/")
    names = {"train": "training", "validation": "validation", "test": "test"}
    return f"{names.get(split, split)} {name}".replace("_", " ").strip()


def curves_drawn(runs: Sequence[ComparedRun]) -> list[str]:
    """The metrics of which there are curves, training first."""
    return list(
        dict.fromkeys(
            name
            for metric in ("train/loss", None)
            for run in runs
            for name in [metric or run.validation_metric]
            if run.curves.get(name)
        )
    )
