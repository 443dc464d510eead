"""Many training runs beside one another: settings that differ, ranking, pairs, main effects.

comparison = compare_many(runs, bases, training.comparison)
comparison.settings, comparison.groups[0].ranking, comparison.effects
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from steps.comparison.comparable import EvaluatedModel, check_comparable
from steps.comparison.decision import fitted
from steps.comparison.ranking import RankedModel, RankedPair, Ranking, rank
from steps.errors import UserError
from steps.metrics import PRIMARY, find_metric

if TYPE_CHECKING:
    from steps.config.measurement_sections import Comparison

# Fewer runs than this show nothing of a setting: two differ in whatever they differ in.
RUNS_FOR_EFFECTS = 3
CONFIDENCE = 0.95

# What is shown beside the primary metric.
BESIDE = (
    *("perplexity", "mlm_accuracy", "exact_match", "token_f1"),
    *("gene_cloze_accuracy", "variant_cloze_accuracy", "fact_cloze_accuracy"),
)

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A finetune run, and what is known of what it made.

    Attributes:
        run_id: Its id.
        name: What it is called on the page; no other run of the comparison is called so.
        experiment: Name of its experiment.
        status: As the store has it, such as `FINISHED`.
        started: When it began, as people read it.
        objective: `causal`, `masked` or `instruction`.
        base: Name of its base model.
        dataset: Digest of the dataset that it was trained on.
        version: URI of the version or adapter that it made, or "".
        aliases: Of that version.
        settings: What it was trained with, by dotted key.
        curves: Points of step and value, by the metric's name.
        cost: Figures such as `train/seconds`, those that it has.
        evaluation: Its results on the test split, or None.
        evaluation_run: The run that measured them, or "".
        scored_with: What the figures depend on besides dataset and definitions.
        notes: What a reader of its figures has to know.
        link: Address of the run's page, or "".
    """

    run_id: str
    name: str
    experiment: str
    status: str
    started: str
    objective: str
    base: str
    dataset: str
    version: str = ""
    aliases: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    evaluation: EvaluatedModel | None = None
    evaluation_run: str = ""
    scored_with: str = ""
    notes: tuple[str, ...] = ()
    link: str = ""

    @property
    def validation_metric(self) -> str:
        """The metric by which its checkpoints are ranked, by the store's name."""
        return f"validation/{PRIMARY[self.objective]}"

    @property
    def validation(self) -> float | None:
        """The best value of that metric, or None where nothing was validated."""
        # That before the first step is the base's.
        points = self.curves.get(self.validation_metric, ())
        values = [value for step, value in points if step > 0]
        return min(values, default=None)


@dataclass(frozen=True, eq=False)
class MeasuredBase:
    """A base model with its results on the test split."""

    model: EvaluatedModel
    scored_with: str


@dataclass(frozen=True, eq=False)
class ComparableGroup:
    """Models that were measured alike, on the same papers.

    Attributes:
        objective: Of all of them.
        metric: What they are ranked by.
        dataset_digest: Of the dataset that was scored.
        names: Runs and bases.
        bases: Which of the names are bases.
        ranking: The models, the best first, and all pairs; None for a single model.
        values: The metric by name.
    """

    objective: str
    metric: str
    dataset_digest: str
    names: tuple[str, ...]
    bases: tuple[str, ...]
    ranking: Ranking | None
    values: Mapping[str, float]

    @property
    def models(self) -> tuple[RankedModel, ...]:
        """The models, the best first."""
        if self.ranking is not None:
            return self.ranking.models
        (name,) = self.names
        return (RankedModel(1, name, self.values[name], None, None),)

    @property
    def higher_is_better(self) -> bool:
        """Which way the metric is better."""
        metric = find_metric(self.metric)
        return metric is not None and metric.higher_is_better

    def pair(self, name: str, other: str) -> RankedPair | None:
        """The pair of two models, or None where it was not tested."""
        pairs = self.ranking.pairs if self.ranking else ()
        return next((p for p in pairs if {p.better, p.worse} == {name, other}), None)


@dataclass(frozen=True)
class LevelEffect:
    """The mean of a metric over the runs with one value of a setting.

    Attributes:
        setting: Dotted key.
        value: Its value, as text.
        metric: What was averaged.
        runs: Over how many runs.
        mean: Their mean.
        low: Lower bound of its 95 % interval by Student's t over runs; None for a single run.
        high: Upper bound.
    """

    setting: str
    value: str
    metric: str
    runs: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class RunComparison:
    """All that is said of many runs.

    Attributes:
        runs: The best first; those without results on the test split after the others.
        settings: Keys in which the runs differ, each with the value of each run in that order.
        groups: Models that can be compared, the largest group first.
        not_compared: Names, and why their figures are not held against the first group's.
        bases: Their bases, where those were measured on the same papers.
        figures: By the metric's name, of the runs whose figures of it mean the same.
        effects: Mean figures by the value of a setting.
        bound: Settings that change only together, so that nothing tells their effects apart.
    """

    runs: tuple[ComparedRun, ...]
    settings: Mapping[str, tuple[str, ...]]
    groups: tuple[ComparableGroup, ...]
    not_compared: tuple[tuple[str, str], ...]
    bases: tuple[MeasuredBase, ...]
    figures: Mapping[str, Mapping[str, float]]
    effects: tuple[LevelEffect, ...]
    bound: tuple[tuple[str, ...], ...]

    def group_of(self, name: str) -> ComparableGroup | None:
        """The group that a run is ranked in, or None."""
        return next((group for group in self.groups if name in group.names), None)

    def base_of(self, run: ComparedRun) -> str:
        """The name under which a run's base is ranked beside it, or ""."""
        group = self.group_of(run.name)
        return base_name(run.base) if group and base_name(run.base) in group.bases else ""


def headline_names(objective: str) -> tuple[str, ...]:
    """The figures of an evaluation that are shown first, without the split in front.

    Intervals and counts stay with the evaluation.
    """
    primary = PRIMARY[objective]
    return (primary, f"gene_{primary}", f"general_{primary}", *BESIDE)


def base_name(base: str) -> str:
    """What a base is called among runs."""
    return f"base {base}"


def compare_many(
    runs: Sequence[ComparedRun], bases: Sequence[MeasuredBase], rule: "Comparison"
) -> RunComparison:
    """Rank what can be ranked, test all pairs of it, and say why the rest cannot.

    Args:
        runs: One or more.
        bases: Bases that were measured on the same papers.
        rule: Section `comparison` of the configuration; guards play no part here.
    """
    groups, not_compared = _groups(runs, bases, rule)
    ordered = _best_first(runs, groups)
    settings = differing_settings(ordered)
    figures = _figures(ordered, groups)
    return RunComparison(
        ordered,
        settings,
        groups,
        not_compared,
        tuple(bases),
        figures,
        tuple(_effects(ordered, settings, figures)),
        _bound(settings),
    )


def differing_settings(runs: Sequence[ComparedRun]) -> dict[str, tuple[str, ...]]:
    """The settings in which runs differ, each with every run's value; "" where a run has none."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: tuple(run.settings.get(key, "") for run in runs) for key in keys}
    return {key: column for key, column in values.items() if len(set(column)) > 1}


def as_number(value: str) -> float | None:
    """A setting as a finite number, or None."""
    try:
        content = json.loads(value)
    except ValueError:
        return None
    if isinstance(content, bool) or not isinstance(content, int | float):
        return None
    return float(content) if math.isfinite(content) else None


def _groups(
    runs: Sequence[ComparedRun], bases: Sequence[MeasuredBase], rule: "Comparison"
) -> tuple[tuple[ComparableGroup, ...], tuple[tuple[str, str], ...]]:
    groups: list[list[tuple[EvaluatedModel, str]]] = []
    not_compared: list[tuple[str, str]] = []
    refusals: dict[str, str] = {}
    measured = [(run.evaluation, run.scored_with) for run in runs if run.evaluation is not None]
    for model, scored_with in measured:
        if model.trained:
            not_compared.append((model.name, model.trained))
            continue
        for group in groups:
            refused = _refusal(*group[0], model, scored_with, rule)
            if not refused:
                group.append((model, scored_with))
                break
            refusals.setdefault(model.name, refused)
        else:
            groups.append([(model, scored_with)])
    groups.sort(key=len, reverse=True)
    base_names = {base.model.name for base in bases}
    for base in bases:
        for group in groups:
            if not _refusal(*group[0], base.model, base.scored_with, rule):
                group.append((base.model, base.scored_with))
                break
    for group in groups[1:]:
        for model, scored_with in group:
            if model.name not in base_names:
                why = _refusal(*groups[0][0], model, scored_with, rule)
                not_compared.append((model.name, why or refusals.get(model.name, "")))
    made = tuple(_made([model for model, _ in group], base_names, rule) for group in groups)
    without = [
        (run.name, "it has no results on a test split") for run in runs if not run.evaluation
    ]
    return made, (*not_compared, *without)


def _refusal(
    a: EvaluatedModel, with_a: str, b: EvaluatedModel, with_b: str, rule: "Comparison"
) -> str:
    """Why two models cannot be compared, or ""."""
    if a.objective != b.objective:
        return (
            f"{b.name} is a {b.objective} model and {a.name} a {a.objective} one: their metrics "
            "do not mean the same"
        )
    try:
        check_comparable(a, b, fitted(rule, a.objective).metric)
    except UserError as error:
        return str(error)
    if with_a != with_b:
        return (
            f"{a.name} and {b.name} were scored with another evaluation.context, stride or seed; "
            "evaluate both with one configuration"
        )
    return ""


def _made(
    models: Sequence[EvaluatedModel], base_names: set[str], rule: "Comparison"
) -> ComparableGroup:
    first = models[0]
    metric = fitted(rule, first.objective).metric
    ranking = rank(models, rule) if len(models) > 1 else None
    values = {model.name: _value(model, metric) for model in models}
    return ComparableGroup(
        first.objective,
        metric,
        first.dataset_digest,
        tuple(values),
        tuple(name for name in values if name in base_names),
        ranking,
        values,
    )


def _value(model: EvaluatedModel, name: str) -> float:
    metric = find_metric(name)
    if metric is None or not set(metric.columns) <= set(model.per_paper.columns):
        return model.metrics.get(name, math.nan)
    return float(metric.value({c: model.per_paper[c].sum() for c in metric.columns}))


def _best_first(
    runs: Sequence[ComparedRun], groups: Sequence[ComparableGroup]
) -> tuple[ComparedRun, ...]:
    places = {
        model.name: (number, model.rank)
        for number, group in enumerate(groups)
        for model in group.models
    }
    last = (len(groups), 0)

    def key(run: ComparedRun) -> tuple[tuple[int, int], str, float]:
        unknown = math.inf if run.validation is None else run.validation
        return places.get(run.name, last), run.objective, unknown

    return tuple(sorted(runs, key=key))


def _figures(
    runs: Sequence[ComparedRun], groups: Sequence[ComparableGroup]
) -> dict[str, dict[str, float]]:
    """What effects are shown on: of the largest group, and of most runs of one dataset."""
    figures: dict[str, dict[str, float]] = {}
    if groups:
        group = groups[0]
        figures[f"test/{group.metric}"] = {
            name: value for name, value in group.values.items() if name not in group.bases
        }
    ((objective, dataset), _), *_ = Counter((r.objective, r.dataset) for r in runs).most_common(1)
    figures[f"validation/{PRIMARY[objective]}"] = {
        run.name: run.validation
        for run in runs
        if (run.objective, run.dataset) == (objective, dataset) and run.validation is not None
    }
    for name in ("train/seconds", "train/memory_gb"):
        figures[name] = {run.name: run.cost[name] for run in runs if name in run.cost}
    return figures


def _effects(
    runs: Sequence[ComparedRun],
    settings: Mapping[str, Sequence[str]],
    figures: Mapping[str, Mapping[str, float]],
) -> list[LevelEffect]:
    """Mean figures by the value of a setting."""
    found: list[LevelEffect] = []
    for setting, values in settings.items():
        by_name = {run.name: value for run, value in zip(runs, values, strict=True)}
        for metric, of_runs in figures.items():
            by_level: dict[str, list[float]] = {}
            for name, value in of_runs.items():
                by_level.setdefault(by_name[name], []).append(value)
            if len(of_runs) >= RUNS_FOR_EFFECTS and len(by_level) > 1:
                found += [
                    _level(setting, level, metric, by_level[level])
                    for level in sorted(by_level, key=_level_order)
                ]
    return found


def _level_order(value: str) -> tuple[bool, float, str]:
    number = as_number(value)
    return number is None, number or 0.0, value


def _level(setting: str, value: str, metric: str, figures: Sequence[float]) -> LevelEffect:
    from scipy.stats import t

    count, mean = len(figures), float(np.mean(figures))
    if count < 2:
        return LevelEffect(setting, value, metric, count, mean, None, None)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(figures, ddof=1)) / count**0.5
    return LevelEffect(setting, value, metric, count, mean, mean - reach, mean + reach)


def _bound(settings: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Settings that divide the runs in the same way."""
    by_division: dict[tuple[int, ...], list[str]] = {}
    for key, values in settings.items():
        order = list(dict.fromkeys(values))
        by_division.setdefault(tuple(order.index(v) for v in values), []).append(key)
    return tuple(tuple(keys) for keys in by_division.values() if len(keys) > 1)
