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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from steps.comparison.comparable import (
    GENERAL,
    EvaluatedModel,
    check_comparable,
    in_order_of,
    interval_bounds,
    same_denominators,
)
from steps.comparison.guards import GuardResult, check_guard
from steps.comparison.statistics import (
    POWER,
    BootstrapGain,
    RatioTable,
    bootstrap_gains,
    has_metric,
    holm,
    metrics_beside,
    papers_needed,
    ratio_table,
    sign_flip_tests,
    smallest_attainable_p,
    smallest_detectable_gain,
)

if TYPE_CHECKING:
    import pandas as pd

    from steps.config.sections import Comparison


Outcome = Literal["promote", "keep", "inconclusive"]
CONFIDENCE = 0.95

# Beyond this skewness of the per-paper differences the level is no longer held: at -3.6, 60
# papers promote without gain in 7 % of the cases (benchmarks/comparison_validity.py).
SKEWED = 1.5


@dataclass(frozen=True)
class MetricGain:
    """One metric of both models.

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
    champion: EvaluatedModel,
    challenger: EvaluatedModel,
    rule: "Comparison",
    *,
    decisions_taken_before: int = 0,
) -> Decision:
    """Apply the rule to two evaluated models.

    Args:
        champion: The model that has to be beaten.
        challenger: The model that wants its place.
        rule: Section `comparison` of the configuration.
        decisions_taken_before: How many decisions this test split has already served.

    Returns:
        The decision with all figures behind it.

    Raises:
        UserError: If the models cannot be compared, or the rule names an unknown metric.
    """
    rule = fitted(rule, challenger.objective)
    check_comparable(champion, challenger, rule.metric)
    per_paper = challenger.per_paper
    evidence = _weigh(in_order_of(champion.per_paper, per_paper), per_paper, rule)
    primary, gain, papers = evidence.primary, evidence.gain, evidence.primary.carrying
    guards = tuple(check_guard(guard, champion, challenger, rule) for guard in rule.guards)
    needed = papers_needed(
        gain.gain, primary.standard_error, papers, alpha=rule.alpha, minimum_gain=rule.min_gain
    )
    detectable = smallest_detectable_gain(
        primary.standard_error, papers, alpha=rule.alpha, minimum_gain=rule.min_gain
    )
    outcome, why = _verdict(
        primary, gain, evidence.p_below, guards, rule, needed=needed, detectable=detectable
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
        p_sign_flip=evidence.p_sign_flip,
        p_bootstrap=evidence.p_bootstrap,
        p_below=evidence.p_below,
        relative_gain=gain.gain / gain.champion if gain.champion else 0.0,
        standardised_gain=primary.standardised_gain,
        papers_better=float((primary.differences() > 0).mean()),
        papers=papers,
        effective_papers=primary.effective_papers,
        smallest_attainable_p=smallest_attainable_p(papers, rule.permutations),
        smallest_detectable_gain=detectable,
        papers_needed=needed,
        guards=guards,
        secondary=evidence.secondary,
        decisions_taken_before=decisions_taken_before,
        notes=_notes(primary, guards, decisions_taken_before, rule),
    )


@dataclass(frozen=True)
class _Evidence:
    """What the papers say, before any rule is applied.

    Attributes:
        primary: The deciding metric, paper by paper.
        gain: Its gain, with interval and p-value.
        p_sign_flip: That the gain is no more than the minimum, by sign flips.
        p_bootstrap: The same by the bootstrap.
        p_below: That the gain is no less than the minimum.
        secondary: Gains of parts and cloze tests, with p-values adjusted by Holm.
    """

    primary: RatioTable
    gain: MetricGain
    p_sign_flip: float
    p_bootstrap: float
    p_below: float
    secondary: tuple[MetricGain, ...]


def _weigh(champion: "pd.DataFrame", challenger: "pd.DataFrame", rule: "Comparison") -> _Evidence:
    """Measure the gains between two frames of the same papers in the same order."""
    primary = ratio_table(champion, challenger, rule.metric)
    names = [
        name
        for name in metrics_beside(challenger, rule.metric)
        if has_metric(champion, name) and same_denominators(champion, challenger, name)
    ]
    tables = [primary, *(ratio_table(champion, challenger, name) for name in names)]
    boots = bootstrap_gains(tables, samples=rule.bootstrap_samples, seed=rule.seed)
    differences = np.column_stack(
        [primary.differences(rule.min_gain), *(t.differences() for t in tables[1:])]
    )
    flips = sign_flip_tests(differences, flips=rule.permutations, seed=rule.seed)
    # The larger p-value counts: sign flips hold the level for few papers and heavy tails,
    # the studentised bootstrap where a few papers get much worse.
    p_bootstrap = boots[0].p_not_above(rule.min_gain)
    p_above = max(flips[0].greater, p_bootstrap)
    adjusted = holm([test.two_sided for test in flips[1:]])
    return _Evidence(
        primary=primary,
        gain=_metric_gain(rule.metric, primary, boots[0], p_above, None),
        p_sign_flip=flips[0].greater,
        p_bootstrap=p_bootstrap,
        p_below=max(flips[0].less, boots[0].p_not_below(rule.min_gain)),
        secondary=tuple(
            _metric_gain(name, table, boot, test.two_sided, p)
            for name, table, boot, test, p in zip(
                names, tables[1:], boots[1:], flips[1:], adjusted, strict=True
            )
        ),
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


def _metric_gain(
    metric: str, table: RatioTable, boot: BootstrapGain, p_value: float, adjusted: float | None
) -> MetricGain:
    champion, challenger = table.ratios
    low, high = interval_bounds(boot, CONFIDENCE)
    return MetricGain(
        metric, champion, challenger, boot.gain, low, high, p_value, adjusted, table.carrying
    )


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
