"""The page that shows many training runs beside one another.

html = runs_page("Comparison of runs", comparison, training.comparison)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steps.comparison.comparable import GENERAL, EvaluatedModel
from steps.comparison.many_runs import (
    RUNS_FOR_EFFECTS,
    ComparableGroup,
    LevelEffect,
    RunComparison,
    headline_names,
)
from steps.comparison.ranking import RankedPair
from steps.metrics import PAPERS_FOR_RELIABLE_INTERVALS, find_metric
from steps.reports.page import Link, PageSection, Table, inline_svg, render_page
from steps.reports.runs_figures import (
    counts_tokens,
    curves_drawn,
    draw_curves,
    draw_effects,
    draw_parallel,
    in_words,
)
from steps.reports.runs_table import better_by, figure, place_of

if TYPE_CHECKING:
    from steps.config.measurement_sections import Comparison

# Beyond so many models the pairs that most readers look for stand in a table of their own.
MODELS_IN_ONE_TABLE = 6
# Axes of parallel coordinates, and panels of effects, that one figure can hold.
MOST_AXES = 7
# Columns of validation figures.
MOST_STEPS = 12


def runs_page(
    title: str,
    comparison: RunComparison,
    rule: "Comparison",
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """The page as HTML.

    Args:
        title: Its heading.
        comparison: What it shows.
        rule: Section `comparison` of the configuration: the level of the tests.
        facts: What the page is about, by name: run, date, dataset.
    """
    sections = [
        _ranking(comparison),
        _settings(comparison),
        _curves(comparison),
        _tested(comparison),
        *(_pairs(comparison, group, rule) for group in comparison.groups if group.ranking),
        _not_compared(comparison),
        _effects(comparison),
        _cost(comparison),
        _runs(comparison),
    ]
    shown = [one for one in sections if one is not None]
    return render_page(title, _lead(comparison), facts, shown)


def _lead(comparison: RunComparison) -> str:
    count = len(comparison.runs)
    said = f"{count} finetune {'run' if count == 1 else 'runs'}. {better_by(comparison)}"
    first = comparison.runs[0]
    model = place_of(comparison, first)
    if model is None:
        return f"{said} None of them was evaluated on a test split: `evaluate` does that."
    group = comparison.group_of(first.name)
    assert group is not None
    said += f" First: {first.name} with {group.metric.replace('_', ' ')} {figure(model)}"
    base = comparison.base_of(first)
    return f"{said}, {_beside_base(group, first.name, base)}." if base else f"{said}."


def _beside_base(group: ComparableGroup, name: str, base: str) -> str:
    pair = group.pair(name, base)
    if pair is None:
        return "its base was not measured"
    way = "better than its base" if pair.better == name else "worse than its base"
    return f"{pair.gain:.4f} {way}"


def _gain_over_base(comparison: RunComparison, name: str, base: str) -> str | None:
    group = comparison.group_of(name)
    pair = group.pair(name, base) if group and base else None
    if pair is None:
        return None
    sign = 1 if pair.better == name else -1
    shown = f"{sign * pair.gain:+.4f}"
    if pair.low is None or pair.high is None:
        return shown
    low, high = sorted((sign * pair.low, sign * pair.high))
    return f"{shown} ({low:+.4f} to {high:+.4f})"


def _ranking(comparison: RunComparison) -> PageSection:
    rows: list[Sequence[Any]] = []
    for run in comparison.runs:
        model = place_of(comparison, run)
        aliases = " ".join(f"@{alias}" for alias in run.aliases)
        rows.append(
            (
                Link(run.name, run.link),
                model.rank if model else None,
                figure(model) if model else "not evaluated",
                _gain_over_base(comparison, run.name, comparison.base_of(run)),
                run.validation,
                f"{run.version.removeprefix('models:/')} {aliases}".strip() or None,
                "; ".join(run.notes) or None,
            )
        )
    for group in comparison.groups:
        rows += [
            (model.name, model.rank, figure(model), None, None, None, "before any training")
            for model in group.models
            if model.name in group.bases
        ]
    columns = ("run", "place", "test (95%)", "gain over base (95%)", "best validation", "version")
    paragraphs = [better_by(comparison)]
    if len(comparison.groups) > 1:
        paragraphs.append(
            "Places count within what can be compared: see below which runs cannot, and why."
        )
    few = [g.ranking.papers for g in comparison.groups if g.ranking]
    if few and min(few) < PAPERS_FOR_RELIABLE_INTERVALS:
        paragraphs.append(
            f"Measured on {min(few)} papers: below {PAPERS_FOR_RELIABLE_INTERVALS} the intervals "
            "are rough."
        )
    if few:
        paragraphs.append(
            "Intervals here are made like those of the pairs below (bootstrap-t over papers), and "
            "so are a little wider than those of an evaluation's own page (percentiles)."
        )
    if len(comparison.runs) > 2:
        paragraphs.append(
            "The first of many is first partly by luck: its own figure flatters it. The pairs "
            "below are corrected for their number; papers that no choice has seen settle it."
        )
    return PageSection(
        "Ranking",
        paragraphs,
        tables=[Table((*columns, "notes"), rows, "Runs, the best first", names_rows=True)],
    )


def _settings(comparison: RunComparison) -> PageSection:
    if not comparison.settings:
        said = "A single run: nothing to differ from." if len(comparison.runs) == 1 else ""
        return PageSection("Settings that differ", [said or "The runs do not differ in any."])
    rows = [
        (run.name, *(values[number] or None for values in comparison.settings.values()))
        for number, run in enumerate(comparison.runs)
    ]
    caption = "Each run's value; what is the same in all runs is left out"
    table = Table(("run", *comparison.settings), rows, caption, names_rows=True)
    return PageSection("Settings that differ", tables=[table])


def _curves(comparison: RunComparison) -> PageSection | None:
    metrics = curves_drawn(comparison.runs)
    if not metrics:
        return None
    axis = "tokens seen" if counts_tokens(comparison) else "optimiser steps"
    figures = [
        inline_svg(
            draw_curves(comparison, metric),
            f"{in_words(metric).capitalize()} of each run by {axis}, lower is better; "
            "the table below has the figures",
        )
        for metric in metrics
    ]
    return PageSection("Curves", figures=figures, tables=_curve_tables(comparison, metrics))


def _curve_tables(comparison: RunComparison, metrics: Sequence[str]) -> list[Table]:
    tables = []
    for metric in metrics:
        shown = [(run.name, dict(run.curves.get(metric, ()))) for run in comparison.runs]
        steps = sorted({step for _, points in shown for step in points})
        if len(steps) > MOST_STEPS:
            last = len(steps) - 1
            steps = [steps[round(i * last / (MOST_STEPS - 1))] for i in range(MOST_STEPS)]
        rows = [
            (name, *(points.get(step) for step in steps), min(points.values(), default=None))
            for name, points in shown
        ]
        columns = ("run", *(f"step {step}" for step in steps), "lowest")
        caption = f"Figures: {in_words(metric)}"
        tables.append(Table(columns, rows, caption, names_rows=True, folded=True))
    return tables


def _tested(comparison: RunComparison) -> PageSection | None:
    models = [run.evaluation for run in comparison.runs if run.evaluation is not None]
    models += [base.model for base in comparison.bases]
    if not models:
        return None
    names = list(dict.fromkeys(n for m in models for n in headline_names(m.objective)))
    names = [name for name in names if any(name in model.metrics for model in models)]
    rows = [
        (model.name, *(_with_interval(model, name) for name in names), _short(model.dataset_digest))
        for model in models
    ]
    columns = ("model", *(_headed(name) for name in names), "dataset")
    table = Table(columns, rows, "Figures on the test papers, with 95% intervals", names_rows=True)
    return PageSection("Test metrics beside the base", tables=[table])


def _headed(name: str) -> str:
    metric = find_metric(name.removeprefix(GENERAL))
    way = "higher" if metric is not None and metric.higher_is_better else "lower"
    return f"{name.replace('_', ' ')} ({way})"


def _with_interval(model: EvaluatedModel, name: str) -> str | None:
    if name not in model.metrics:
        return None
    low, high = (model.metrics.get(f"{name}_ci_{end}") for end in ("low", "high"))
    value = f"{model.metrics[name]:.4g}"
    return value if low is None or high is None else f"{value} ({low:.4g} to {high:.4g})"


def _pairs(
    comparison: RunComparison, group: ComparableGroup, rule: "Comparison"
) -> PageSection | None:
    if group.ranking is None:
        return None
    ranking = group.ranking
    first = ranking.models[0].name
    every = _pair_table(ranking.pairs, rule.alpha, f"All {len(ranking.pairs)} pairs")
    tables = [every]
    if len(ranking.models) > MODELS_IN_ONE_TABLE:
        told = [pair for pair in ranking.pairs if first in (pair.better, pair.worse)]
        caption = f"{first}, which is first, against each of the others"
        tables = [
            _pair_table(told, rule.alpha, caption),
            Table(every.columns, every.rows, every.caption, names_rows=True, folded=True),
        ]
    metric = group.metric.replace("_", " ")
    text = (
        f"Paired over the same {ranking.papers} test papers of dataset "
        f"{_short(group.dataset_digest)}, by {metric}. p-values are two-sided, by sign flips, and "
        f"corrected by Holm's method over all {len(ranking.pairs)} pairs; a pair differs where "
        f"the corrected one is below {rule.alpha:g}. This informs; ab_compare decides."
    )
    return PageSection(f"All pairs: {metric}", [text], tables=tables)


def _pair_table(pairs: Sequence[RankedPair], alpha: float, caption: str) -> Table:
    rows = [
        (
            pair.better,
            pair.worse,
            pair.gain,
            None if pair.low is None else f"{pair.low:+.4f} to {pair.high:+.4f}",
            pair.p_value,
            pair.adjusted_p_value,
            "yes" if pair.adjusted_p_value < alpha else "not shown",
        )
        for pair in pairs
    ]
    columns = ("better", "worse", "gain", "95%", "p", "p, Holm", "differ")
    return Table(columns, rows, caption, names_rows=True)


def _not_compared(comparison: RunComparison) -> PageSection | None:
    if not comparison.not_compared:
        return None
    rows = list(comparison.not_compared)
    table = Table(("run", "why"), rows, "Not held against the others", names_rows=True)
    return PageSection("What cannot be compared, and why", tables=[table])


def _effects(comparison: RunComparison) -> PageSection:
    title = "Which setting went with which figure"
    if not comparison.effects:
        return PageSection(
            title,
            [
                f"Left out: it takes {RUNS_FOR_EFFECTS} runs that were measured alike and differ "
                "in a setting."
            ],
        )
    paragraphs = [
        "This describes the runs at hand; it does not show what caused what. Settings that "
        "were not varied evenly share their effects, and a value that a single run had carries "
        "that run's luck. Intervals are by Student's t over runs, and wide for few.",
    ]
    paragraphs += [f"Changed only together: {', '.join(keys)}." for keys in comparison.bound]
    metric = next(
        (e.metric for e in comparison.effects if e.metric.startswith(("test/", "validation/"))),
        comparison.effects[0].metric,
    )
    shown = [effect for effect in comparison.effects if effect.metric == metric]
    settings = list(dict.fromkeys(effect.setting for effect in shown))[:MOST_AXES]
    shown = [effect for effect in shown if effect.setting in settings]
    values = comparison.figures[metric]
    by_name = {
        key: dict(zip((run.name for run in comparison.runs), comparison.settings[key], strict=True))
        for key in settings
    }
    figures = [
        inline_svg(
            draw_parallel(by_name, values, metric),
            f"Parallel coordinates: a line a run, through its settings to its {in_words(metric)}; "
            "the darker the line, the lower the figure",
        ),
        inline_svg(
            draw_effects(shown, metric),
            f"Mean {in_words(metric)} by the value of each setting, with 95% intervals over runs; "
            "a diamond is a single run, the number of runs stands in brackets; intervals that "
            "leave the figure are cut, the table has them whole",
        ),
    ]
    return PageSection(title, paragraphs, figures, [_effect_table(comparison.effects)])


def _effect_table(effects: Sequence[LevelEffect]) -> Table:
    metrics = list(dict.fromkeys(effect.metric for effect in effects))
    cells = {(e.setting, e.value, e.metric): e for e in effects}
    levels = list(dict.fromkeys((e.setting, e.value) for e in effects))
    rows = [
        (setting, value or None, *(_mean(cells.get((setting, value, m))) for m in metrics))
        for setting, value in levels
    ]
    columns = ("setting", "value", *(in_words(metric) for metric in metrics))
    caption = "Means over the runs with a value of a setting: mean (95%), number of runs"
    return Table(columns, rows, caption, names_rows=True)


def _mean(effect: LevelEffect | None) -> str | None:
    if effect is None:
        return None
    if effect.low is None or effect.high is None:
        return f"{effect.mean:.4g}, {effect.runs}"
    return f"{effect.mean:.4g} ({effect.low:.4g} to {effect.high:.4g}), {effect.runs}"


def _cost(comparison: RunComparison) -> PageSection | None:
    shown = {
        "train/tokens_seen": "tokens",
        "train/seconds": "seconds",
        "train/mean_tokens_per_second": "tokens a second",
        "train/memory_gb": "peak memory (GB)",
        "train/trainable_parameters": "trained weights",
    }
    whole = ("train/tokens_seen", "train/trainable_parameters")
    rows = [
        (
            run.name,
            *(
                int(run.cost[name]) if name in whole and name in run.cost else run.cost.get(name)
                for name in shown
            ),
        )
        for run in comparison.runs
    ]
    if not any(run.cost for run in comparison.runs):
        return None
    table = Table(("run", *shown.values()), rows, "What the training took", names_rows=True)
    return PageSection("Cost", tables=[table])


def _runs(comparison: RunComparison) -> PageSection:
    rows = [
        (
            run.name,
            Link(run.run_id, run.link),
            run.experiment,
            run.status,
            run.started,
            f"{run.base} ({run.objective})",
            _short(run.dataset),
            run.version or None,
            run.evaluation_run or None,
        )
        for run in comparison.runs
    ]
    columns = ("run", "id", "experiment", "status", "started", "base", "dataset", "version")
    table = Table((*columns, "evaluation"), rows, "Where they are in the store", names_rows=True)
    return PageSection("Runs", tables=[table])


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:12]
