"""The promotion rule: is the challenger better than the champion, and can this split tell?

    decision = decide(champion, challenger, rule)
    decision.outcome, decision.reason

One primary metric decides, one-sided: the gain has to exceed a minimum. Guards are
non-inferiority bounds: the challenger may be worse by no more than a margin. All must pass, an
intersection-union test (Berger 1982), which needs no correction for their number. Secondary
metrics (strata, sections, cloze) get Holm's correction; they inform and do not decide.

There are three outcomes, because "not shown" is not "shown not to be":

- `promote`: the gain exceeds the minimum, and every guard holds.
- `keep`: the gain is shown to be below the minimum, or a guard is shown to fail, or the two
  sides are equal on every paper.
- `inconclusive`: this test set cannot tell; the reason says what it would take.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from steps.comparison.statistics import (
    LIKELIHOODS,
    POWER,
    BootstrapGain,
    RatioTable,
    bootstrap_gains,
    columns_of,
    has_metric,
    holm,
    likelihood_of,
    metrics_beside,
    papers_needed,
    ratio_columns,
    ratio_table,
    sign_flip_tests,
    smallest_attainable_p,
    smallest_detectable_gain,
)
from steps.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from steps.config import Comparison, Guard

Outcome = Literal["promote", "keep", "inconclusive"]
GuardOutcome = Literal["holds", "fails", "unproven", "no data", "not checked"]

CONFIDENCE = 0.95

# Beyond this skewness of the per-paper differences the level is no longer held: at -3.6, 60
# papers promote without gain in 7 % of the cases (benchmarks/comparison_validity.py).
SKEWED = 1.5

# In front of a metric's name: it is read from the frame of general texts.
GENERAL = "general_"


@dataclass(frozen=True, eq=False)
class SideInfo:
    """One side of a comparison: what was measured, and on what.

    Attributes:
        name: What the user calls it, such as `models:/genomics/3`.
        version: What it resolved to; the same version cannot stand on both sides.
        dataset_digest: Digest of the dataset that was scored.
        split: Split that was scored.
        metric_version: Version of the evaluation code's definitions.
        objective: `causal` or `masked`.
        per_paper: One row a paper: paper_id, nats, bytes, ... as the evaluation wrote it.
        general: The same of texts outside the domain, or None where none were scored.
        metrics: Figures that are no ratio over papers, such as `memorised_share`.
    """

    name: str
    version: str
    dataset_digest: str
    split: str
    metric_version: str
    objective: str
    per_paper: "pd.DataFrame"
    general: "pd.DataFrame | None" = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricGain:
    """One metric on both sides.

    Attributes:
        metric: Its name.
        champion: The metric of the champion.
        challenger: The metric of the challenger.
        gain: Positive means that the challenger is better, in units of the metric.
        low: Lower bound of the interval of the gain; None where papers are too few.
        high: Upper bound of the interval of the gain.
        p_value: Primary: of "no more than the minimum gain". Secondary: of "no difference".
        adjusted_p_value: After Holm's correction; None for the primary metric.
        papers: Papers that carry the metric.
    """

    metric: str
    champion: float
    challenger: float
    gain: float
    low: float | None
    high: float | None
    p_value: float
    adjusted_p_value: float | None
    papers: int


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


@dataclass(frozen=True)
class Decision:
    """What was decided and why; `dataclasses.asdict` of it is valid JSON.

    Attributes:
        outcome: `promote`, `keep` or `inconclusive`.
        reason: One sentence with the figures.
        champion: Name of the champion.
        challenger: Name of the challenger.
        dataset_digest: Digest of the dataset behind it.
        split: Split behind it.
        metric_version: Version of the definitions behind it.
        objective: `causal` or `masked`.
        alpha: Level of the one-sided tests.
        min_gain: What the gain has to exceed, in units of the primary metric.
        confidence: Of the intervals.
        primary: The metric that decides; its p-value is the larger of the next two.
        p_sign_flip: By sign flips, of "the gain is no more than the minimum".
        p_bootstrap: By the studentised bootstrap, of the same.
        p_below: The larger of both for "the gain is no less than the minimum".
        relative_gain: Gain as a share of the champion's metric.
        standardised_gain: Gain over the standard deviation between papers (Cohen's d_z).
        papers_better: Share of the papers on which the challenger is better.
        papers: Papers compared.
        effective_papers: What they are worth, given that long papers weigh more.
        smallest_attainable_p: Given the number of papers.
        smallest_detectable_gain: The true gain that this split shows with power 0.8.
        papers_needed: To show the observed gain with power 0.8; None if it is too small.
        guards: One result a guard.
        secondary: Gains that inform.
        decisions_taken_before: Earlier decisions on this same split.
        notes: What a reader should keep in mind.
    """

    outcome: Outcome
    reason: str
    champion: str
    challenger: str
    dataset_digest: str
    split: str
    metric_version: str
    objective: str
    alpha: float
    min_gain: float
    confidence: float
    primary: MetricGain
    p_sign_flip: float
    p_bootstrap: float
    p_below: float
    relative_gain: float
    standardised_gain: float | None
    papers_better: float
    papers: int
    effective_papers: float
    smallest_attainable_p: float
    smallest_detectable_gain: float
    papers_needed: int | None
    guards: tuple[GuardResult, ...]
    secondary: tuple[MetricGain, ...]
    decisions_taken_before: int
    notes: tuple[str, ...]


def decide(
    champion: SideInfo,
    challenger: SideInfo,
    rule: "Comparison",
    *,
    decisions_taken_before: int = 0,
) -> Decision:
    """Apply the rule to two evaluated models.

    Args:
        champion: The side that has to be beaten.
        challenger: The side that wants its place.
        rule: Section `comparison` of the configuration.
        decisions_taken_before: How many decisions this test split has already served.

    Returns:
        The decision with all figures behind it.

    Raises:
        UserError: If the sides cannot be compared, or the rule names an unknown metric.
    """
    rule = fitted(rule, challenger.objective)
    check_comparable(champion, challenger, rule.metric)
    ours = challenger.per_paper
    theirs = _in_order_of(champion.per_paper, ours)

    primary = ratio_table(theirs, ours, rule.metric)
    secondary = [
        name
        for name in metrics_beside(ours, rule.metric)
        if has_metric(theirs, name) and _same_denominators(theirs, ours, name)
    ]
    tables = [primary, *(ratio_table(theirs, ours, name) for name in secondary)]
    boots = bootstrap_gains(tables, samples=rule.bootstrap_samples, seed=rule.seed)
    differences = np.column_stack(
        [primary.differences(rule.min_gain), *(t.differences() for t in tables[1:])]
    )
    flips = sign_flip_tests(differences, flips=rule.permutations, seed=rule.seed)

    # The larger p-value counts: sign flips hold the level for few papers and heavy tails,
    # the studentised bootstrap where a few papers get much worse.
    p_bootstrap = boots[0].p_not_above(rule.min_gain)
    p_above = max(flips[0].greater, p_bootstrap)
    p_below = max(flips[0].less, boots[0].p_not_below(rule.min_gain))
    adjusted = holm([test.two_sided for test in flips[1:]])

    papers = primary.carrying
    gain = _metric_gain(rule.metric, primary, boots[0], p_above, None)
    guards = tuple(_check_guard(guard, champion, challenger, rule) for guard in rule.guards)
    needed = papers_needed(
        gain.gain, primary.standard_error, papers, alpha=rule.alpha, minimum_gain=rule.min_gain
    )
    detectable = smallest_detectable_gain(
        primary.standard_error, papers, alpha=rule.alpha, minimum_gain=rule.min_gain
    )
    outcome, why = _verdict(
        primary, gain, p_below, guards, rule, needed=needed, detectable=detectable
    )
    opening = {
        "promote": f"{challenger.name} takes the place of {champion.name}",
        "keep": f"{champion.name} stays, {challenger.name} does not replace it",
        "inconclusive": f"{champion.name} stays for now, as this is inconclusive",
    }[outcome]
    return Decision(
        outcome=outcome,
        reason=f"{opening}: {why}.",
        champion=champion.name,
        challenger=challenger.name,
        dataset_digest=challenger.dataset_digest,
        split=challenger.split,
        metric_version=challenger.metric_version,
        objective=challenger.objective,
        alpha=rule.alpha,
        min_gain=rule.min_gain,
        confidence=CONFIDENCE,
        primary=gain,
        p_sign_flip=flips[0].greater,
        p_bootstrap=p_bootstrap,
        p_below=p_below,
        relative_gain=gain.gain / gain.champion if gain.champion else 0.0,
        standardised_gain=primary.standardised_gain,
        papers_better=float((primary.differences() > 0).mean()),
        papers=papers,
        effective_papers=primary.effective_papers,
        smallest_attainable_p=smallest_attainable_p(papers, rule.permutations),
        smallest_detectable_gain=detectable,
        papers_needed=needed,
        guards=guards,
        secondary=tuple(
            _metric_gain(name, table, boot, test.two_sided, p)
            for name, table, boot, test, p in zip(
                secondary, tables[1:], boots[1:], flips[1:], adjusted, strict=True
            )
        ),
        decisions_taken_before=decisions_taken_before,
        notes=_notes(primary, guards, decisions_taken_before, rule),
    )


def fitted(rule: "Comparison", objective: str) -> "Comparison":
    """The rule with its metric named, where the configuration leaves that to the objective.

    Args:
        rule: Section `comparison`; a metric `auto`, and a guard `general`, are filled in.
        objective: `causal` (bits per byte) or `masked` (loss under the fixed mask).
    """
    likelihood = "bits_per_byte" if objective == "causal" else "mlm_loss"
    return rule.model_copy(
        update={
            "metric": likelihood if rule.metric == "auto" else rule.metric,
            "guards": tuple(
                guard.model_copy(update={"metric": GENERAL + likelihood})
                if guard.metric == "general"
                else guard
                for guard in rule.guards
            ),
        }
    )


def check_comparable(a: SideInfo, b: SideInfo, metric: str = "bits_per_byte") -> None:
    """Refuse two sides whose figures do not mean the same.

    Args:
        a: One side.
        b: The other side.
        metric: The metric that they are to be compared by.

    Raises:
        UserError: Naming the first difference found.
    """
    sides = f"{a.name} and {b.name} cannot be compared"
    if a.version == b.version:
        raise UserError(
            f"{sides}: both are version {a.version}; expected two versions, so name another one"
        )
    for what, ours, theirs, fix in (
        ("dataset digest", a.dataset_digest, b.dataset_digest, "evaluate both on one dataset"),
        ("split", a.split, b.split, "evaluate both on one split"),
        ("metric version", a.metric_version, b.metric_version, "evaluate the older one again"),
        ("objective", a.objective, b.objective, "compare causal with causal, masked with masked"),
    ):
        if ours != theirs:
            raise UserError(f"{sides}: {what} {ours} against {theirs}; {fix}")

    kind = likelihood_of(metric)
    if kind is None:
        raise UserError(
            f"comparison.metric is {metric!r}: expected one of {', '.join(LIKELIHOODS)}, "
            "or one of a stratum such as gene_bits_per_byte; change comparison.metric"
        )
    if (kind == "bits_per_byte") != (a.objective == "causal"):
        fitting = "bits_per_byte" if a.objective == "causal" else "pseudo_bits_per_byte or mlm_loss"
        raise UserError(
            f"{sides} by {metric}: they are {a.objective} models, which have none; "
            f"set comparison.metric to {fitting}"
        )

    _check_same_papers(a.name, a.per_paper, b.name, b.per_paper, "papers")
    if len(a.per_paper) == 1:
        raise UserError(
            f"{sides}: split {a.split} holds a single paper ({a.per_paper['paper_id'].iloc[0]}); "
            "expected several, as papers are what is resampled; use a larger split"
        )
    _check_figures(a.name, a.per_paper, metric)
    _check_figures(b.name, b.per_paper, metric)
    _check_same_text(a, a.per_paper, b, b.per_paper, metric)
    if a.general is not None and b.general is not None:
        _check_same_papers(a.name, a.general, b.name, b.general, "general texts")
        if has_metric(a.general, kind) and has_metric(b.general, kind):
            _check_figures(a.name, a.general, kind)
            _check_figures(b.name, b.general, kind)
            _check_same_text(a, a.general, b, b.general, kind)


@dataclass(frozen=True)
class RankedSide:
    """A model in a ranking.

    Attributes:
        rank: 1 is the best.
        name: Name of the side.
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
    sides: tuple[RankedSide, ...]
    pairs: tuple[RankedPair, ...]


def rank(sides: Sequence[SideInfo], rule: "Comparison") -> Ranking:
    """Order several models by the primary metric, and test all pairs.

    Args:
        sides: Two or more evaluated models.
        rule: Section `comparison` of the configuration; its guards play no part here.

    Returns:
        The ranking; two neighbours whose adjusted p-value exceeds alpha are not shown to
        differ.

    Raises:
        UserError: If there are fewer than two sides, or two of them cannot be compared.
    """
    if len(sides) < 2:
        raise UserError(f"a ranking needs at least 2 models, not {len(sides)}; name another one")
    rule = fitted(rule, sides[0].objective)
    for a, b in combinations(sides, 2):
        check_comparable(a, b, rule.metric)
    first = sides[0].per_paper
    frames = [_in_order_of(side.per_paper, first) for side in sides]

    # A side held against nothing has its own value as the difference.
    own = [ratio_table(frame, frame, rule.metric) for frame in frames]
    alone = [RatioTable(table.values * [1.0, 1.0, 0.0, 1.0], abs(table.scale)) for table in own]
    best_first = sorted(
        range(len(sides)),
        key=lambda i: -alone[i].gain if own[i].higher_is_better else alone[i].gain,
    )
    pairs = list(combinations(best_first, 2))
    tables = [ratio_table(frames[worse], frames[better], rule.metric) for better, worse in pairs]
    boots = bootstrap_gains(
        [*(alone[i] for i in best_first), *tables], samples=rule.bootstrap_samples, seed=rule.seed
    )
    tests = sign_flip_tests(
        np.column_stack([table.differences() for table in tables]),
        flips=rule.permutations,
        seed=rule.seed,
    )
    adjusted = holm([test.two_sided for test in tests])
    return Ranking(
        metric=rule.metric,
        papers=len(first),
        sides=tuple(
            RankedSide(place, sides[i].name, boot.gain, *_bounds(boot, CONFIDENCE))
            for place, (i, boot) in enumerate(zip(best_first, boots, strict=False), start=1)
        ),
        pairs=tuple(
            RankedPair(
                sides[better].name,
                sides[worse].name,
                boot.gain,
                *_bounds(boot, CONFIDENCE),
                test.two_sided,
                p,
            )
            for (better, worse), boot, test, p in zip(
                pairs, boots[len(sides) :], tests, adjusted, strict=True
            )
        ),
    )


def _verdict(
    primary: RatioTable,
    gain: MetricGain,
    p_below: float,
    guards: Sequence[GuardResult],
    rule: "Comparison",
    *,
    needed: int | None,
    detectable: float,
) -> tuple[Outcome, str]:
    """The outcome and why; the order of the questions is the order of their weight."""
    papers = primary.carrying
    unit = _in_words(rule.metric)
    figures = f"{gain.gain:+.4f} {unit} over {papers} papers{_interval_words(gain)}"
    required = f"the {rule.min_gain:g} required"

    if (primary.differences() == 0).all():
        return "keep", f"both sides have the same {unit} on each of the {papers} papers"
    failing = [guard.reason for guard in guards if guard.outcome == "fails"]
    if failing:
        return "keep", "; ".join(failing)
    too_few = _too_few(primary, rule)
    if too_few:
        return "inconclusive", f"{too_few} (the gain is {figures})"
    if p_below <= rule.alpha:
        words = f"the gain is {figures}, shown to be less than {required}"
        return "keep", f"{words} ({_p_words(p_below)})"
    if gain.p_value > rule.alpha:
        takes = (
            f"a gain of this size takes about {needed} papers"
            if needed is not None and needed > papers
            else f"these papers show a true gain of {detectable:.4f} or more with power {POWER:g}"
        )
        return "inconclusive", (
            f"the gain is {figures}, and whether it exceeds {required} cannot be told "
            f"({_p_words(gain.p_value)}, alpha {rule.alpha:g}); {takes}"
        )
    exceeds = f"the gain is {figures}, more than {required} ({_p_words(gain.p_value)})"
    open_guards = [g.reason for g in guards if g.outcome in ("unproven", "no data")]
    if open_guards:
        return "inconclusive", f"{exceeds}, but {'; '.join(open_guards)}"
    holding = sum(guard.outcome == "holds" for guard in guards)
    if holding == len(guards):
        return "promote", f"{exceeds}, and the guards hold ({holding} of {holding})"
    return "promote", (
        f"{exceeds}, and the guards hold ({holding} of {len(guards)}, the others are optional "
        "and without data)"
    )


def _check_guard(
    guard: "Guard", champion: SideInfo, challenger: SideInfo, rule: "Comparison"
) -> GuardResult:
    """Hold the challenger against a guard: by bounds over papers, else by the two figures."""
    against = guard.reference or champion.name
    table = _guard_table(guard, champion, challenger)
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
    for side, figure in ((other, reference), (challenger, value)):
        if not math.isfinite(figure):
            raise UserError(
                f"{side.name}: {guard.metric} is {figure}, expected a finite number; "
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


def _guard_table(guard: "Guard", champion: SideInfo, challenger: SideInfo) -> RatioTable | None:
    """The guard's figures paper by paper, or None where the frames do not hold them."""
    metric = guard.metric.removeprefix(GENERAL)
    columns = ratio_columns(metric)
    if columns is None:
        return None
    if columns.higher_is_better != (guard.direction == "higher_is_better"):
        expected = "higher_is_better" if columns.higher_is_better else "lower_is_better"
        raise UserError(
            f"comparison.guards: direction of {guard.metric} is {guard.direction}, "
            f"expected {expected}; change it"
        )
    general = guard.metric.startswith(GENERAL)
    ours = challenger.general if general else challenger.per_paper
    theirs = champion.general if general else champion.per_paper
    if ours is None or theirs is None or not has_metric(ours, metric):
        return None
    _check_finite(challenger.name, ours, metric)
    if guard.reference is not None:
        if not has_metric(ours, guard.reference):
            return None
        _check_finite(challenger.name, ours, guard.reference)
        return ratio_table(ours, ours, metric, against=guard.reference)
    if not has_metric(theirs, metric):
        return None
    _check_finite(champion.name, theirs, metric)
    return ratio_table(_in_order_of(theirs, ours), ours, metric)


def _check_by_bounds(
    guard: "Guard", table: RatioTable, against: str, rule: "Comparison"
) -> GuardResult:
    """A non-inferiority test: the whole one-sided interval has to lie within the margin."""
    boot = bootstrap_gains([table], samples=rule.bootstrap_samples, seed=rule.seed)[0]
    reference, value = table.ratios
    worse_by = -boot.gain
    # Both bounds of a two-sided interval of 1 - 2 alpha are one-sided bounds at alpha.
    low_gain, high_gain = _bounds(boot, 1 - 2 * rule.alpha)
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
    bounds = "too few texts for bounds" if high is None else f"between {low:.4f} and {high:.4f}"
    takes = "" if needed is None else f"; about {needed} texts would show it"
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
        f"worse by {worse_by:.4f} ({bounds}, {table.carrying} texts) where {guard.margin:g} is "
        f"allowed{takes}",
    )


def _check_same_papers(
    name_a: str, a: "pd.DataFrame", name_b: str, b: "pd.DataFrame", what: str
) -> None:
    """Refuse frames that do not hold the same papers, each once."""
    for name, frame in ((name_a, a), (name_b, b)):
        if not len(frame):
            raise UserError(f"{name}: there are no {what}; expected at least 2, evaluate it again")
        if frame["paper_id"].duplicated().any():
            twice = frame.loc[frame["paper_id"].duplicated(), "paper_id"].iloc[0]
            raise UserError(
                f"{name}: {what} hold {twice} twice, expected one row each; evaluate it again"
            )
    ids_a, ids_b = set(a["paper_id"]), set(b["paper_id"])
    fix = "evaluate both on one dataset and split"
    if not ids_a & ids_b:
        raise UserError(
            f"{name_a} and {name_b} have none of their {what} in common "
            f"({len(ids_a)} and {len(ids_b)}); {fix}"
        )
    if ids_a != ids_b:
        first = min(ids_a ^ ids_b)
        raise UserError(
            f"{name_a} and {name_b} were scored on different {what}: {len(ids_a - ids_b)} only in "
            f"the former, {len(ids_b - ids_a)} only in the latter (first: {first}); {fix}"
        )


def _check_figures(name: str, frame: "pd.DataFrame", metric: str) -> None:
    """Refuse a frame without the metric, or with a figure that is no number."""
    columns = columns_of(metric)
    for column in (columns.numerator, columns.denominator):
        if column not in frame.columns:
            raise UserError(
                f"{name}: per-paper results have no column {column}, which {metric} needs; "
                "evaluate it again, or change comparison.metric"
            )
    for used in (metric, *metrics_beside(frame, metric)):
        _check_finite(name, frame, used)
    if float(frame[columns.denominator].sum()) <= 0:
        raise UserError(
            f"{name}: {columns.denominator} is 0 in all papers, so there is no {metric}; "
            "use another split or change comparison.metric"
        )


def _check_finite(name: str, frame: "pd.DataFrame", metric: str) -> None:
    """Refuse a frame in which a figure of a metric is no number."""
    columns = columns_of(metric)
    for column in (columns.numerator, columns.denominator):
        wrong = ~np.isfinite(frame[column].to_numpy(dtype=np.float64))
        if wrong.any():
            row = frame.loc[wrong].iloc[0]
            raise UserError(
                f"{name}: {column} of paper {row['paper_id']} is {row[column]}, "
                "expected a finite number; evaluate it again"
            )


def _check_same_text(
    a: SideInfo, frame_a: "pd.DataFrame", b: SideInfo, frame_b: "pd.DataFrame", metric: str
) -> None:
    """Refuse frames whose denominators differ: the sides were not scored on the same text."""
    columns = columns_of(metric)
    aligned = _in_order_of(frame_a, frame_b)
    if _same_denominators(aligned, frame_b, metric):
        return
    ours = aligned[columns.denominator].to_numpy()
    theirs = frame_b[columns.denominator].to_numpy()
    at = int(np.flatnonzero(ours != theirs)[0])
    fix = (
        "their tokenizers or masks differ, so set comparison.metric to pseudo_bits_per_byte"
        if metric.endswith(("mlm_loss", "mlm_accuracy"))
        else "evaluate both on one dataset"
    )
    raise UserError(
        f"{a.name} and {b.name} cannot be compared: {columns.denominator} of "
        f"{frame_b['paper_id'].iloc[at]} is {ours[at]} against {theirs[at]}; {fix}"
    )


def _same_denominators(a: "pd.DataFrame", b: "pd.DataFrame", metric: str) -> bool:
    """Whether both sides divide by the same, paper by paper."""
    columns = columns_of(metric)
    return bool(
        np.allclose(
            a[columns.denominator].to_numpy(dtype=np.float64),
            b[columns.denominator].to_numpy(dtype=np.float64),
            rtol=1e-9,
            atol=0,
        )
    )


def _in_order_of(frame: "pd.DataFrame", other: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of a frame in the order of another one's papers."""
    return frame.set_index("paper_id").loc[other["paper_id"]].reset_index()


def _metric_gain(
    metric: str, table: RatioTable, boot: BootstrapGain, p_value: float, adjusted: float | None
) -> MetricGain:
    champion, challenger = table.ratios
    low, high = _bounds(boot, CONFIDENCE)
    return MetricGain(
        metric, champion, challenger, boot.gain, low, high, p_value, adjusted, table.carrying
    )


def _bounds(boot: BootstrapGain, confidence: float) -> tuple[float | None, float | None]:
    return boot.interval(confidence) or (None, None)


def _too_few(primary: RatioTable, rule: "Comparison") -> str:
    """Why the papers are too few, whatever they show; "" where they are enough."""
    papers = primary.carrying
    attainable = smallest_attainable_p(papers, rule.permutations)
    if attainable > rule.alpha:
        return (
            f"{papers} papers are too few, as the smallest p-value that they can give is "
            f"{attainable:.4g}, above alpha {rule.alpha:g}, and it takes at least "
            f"{math.ceil(math.log2(1 / rule.alpha))}"
        )
    worth = round(primary.effective_papers)
    if worth < rule.min_papers:
        lengths = f" of unequal length, worth {worth} equal ones," if worth < papers else ""
        return (
            f"{papers} papers{lengths} are fewer than the {rule.min_papers} of "
            "comparison.min_papers"
        )
    return ""


def _notes(
    primary: RatioTable,
    guards: Sequence[GuardResult],
    decisions_taken_before: int,
    rule: "Comparison",
) -> tuple[str, ...]:
    """What a reader should keep in mind about a decision."""
    notes = []
    if decisions_taken_before:
        notes.append(
            f"This split has already served {decisions_taken_before} decisions: with each the "
            f"chance grows that one of them promotes by luck (alpha is {rule.alpha:g} for one)."
        )
    if primary.effective_papers < primary.carrying / 2:
        notes.append(
            f"The papers differ so much in length that {primary.carrying} of them are worth "
            f"{primary.effective_papers:.0f}; more papers help more than longer ones."
        )
    if primary.skewness < -SKEWED:
        notes.append(
            f"A few papers get much worse (skewness {primary.skewness:.1f}): p-values come out "
            "too small here, so look at those papers."
        )
    points = [g.metric for g in guards if g.outcome in ("holds", "fails") and g.high is None]
    if points:
        notes.append(f"Judged by point estimates, without bounds: {', '.join(points)}.")
    unchecked = [g.metric for g in guards if g.outcome == "not checked"]
    if unchecked:
        notes.append(f"Optional guards without data: {', '.join(unchecked)}.")
    return tuple(notes)


def _in_words(metric: str) -> str:
    return metric.replace("_", " ")


def _interval_words(gain: MetricGain) -> str:
    if gain.low is None or gain.high is None:
        return " (too few for an interval)"
    return f" ({CONFIDENCE:.0%} interval {gain.low:+.4f} to {gain.high:+.4f})"


def _p_words(p_value: float) -> str:
    return f"p = {p_value:.4f}" if p_value >= 0.0001 else "p < 0.0001"
