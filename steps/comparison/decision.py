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

The level of the test is the decision's share of the split's budget (`steps.comparison.budget`).
Where a few papers get much worse the p-values come out too small, so a quarter of it is asked
there; and below 60 papers, of which a few such may be missing, the gain has to survive one more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from steps.comparison.budget import Budget, budget_for, budget_words
from steps.comparison.comparable import (
    GENERAL,
    EvaluatedModel,
    check_comparable,
    in_order_of,
    without_different_cuts,
)
from steps.comparison.evidence import CONFIDENCE, Evidence, MetricGain, weigh
from steps.comparison.guards import GuardResult, check_guard
from steps.comparison.statistics import (
    POWER,
    RatioTable,
    papers_needed,
    smallest_attainable_p,
    smallest_detectable_gain,
)
from steps.comparison.task_gains import TaskGain, task_gains
from steps.metrics import PAPERS_FOR_RELIABLE_INTERVALS, PRIMARY, find_metric

if TYPE_CHECKING:
    from steps.config.measurement_sections import Comparison


Outcome = Literal["promote", "keep", "inconclusive"]

# Beyond this skewness of the per-paper differences the level is not held at its face value: a
# quarter of it is asked (benchmarks/comparison_validity.py).
SKEWED = 1.5
LEVEL_WHERE_SKEWED = 0.25


@dataclass(frozen=True)
class Decision:
    """What was decided and why; `dataclasses.asdict` of it is valid JSON.

    Attributes:
        outcome: `promote`, `keep` or `inconclusive`.
        reason: The whole answer in words: what becomes of the champion, and why.
        why: The figures behind it, without what becomes of anything.
        champion: Name of the champion.
        challenger: Name of the challenger.
        dataset_digest: Digest of the dataset behind it.
        split: Split behind it.
        metric_version: Version of the definitions behind it.
        objective: `causal` or `masked`.
        alpha: Level of this decision's one-sided test.
        budget: What decisions on these papers may spend together, and have spent.
        min_gain: What the gain has to exceed, in units of the primary metric.
        confidence: Of the intervals.
        primary: The metric that decides; its p-value is the larger of the next two.
        p_sign_flip: By sign flips, of "the gain is no more than the minimum".
        p_bootstrap: By the studentised bootstrap, of the same.
        p_below: The larger of both for "the gain is no less than the minimum".
        p_with_one_worse: As the primary's, with one more paper that gets much worse; None from 60
            papers on, where it is not asked.
        relative_gain: Gain as a share of the champion's metric.
        standardised_gain: Gain over the standard deviation between papers (Cohen's d_z).
        papers_better: Share of the papers on which the challenger is better.
        papers: Papers compared.
        groups: How many groups they form, by `comparison.cluster_by`; None: no groups.
        effective_papers: What they are worth, given that long papers weigh more.
        smallest_attainable_p: Given the number of papers.
        smallest_detectable_gain: The true gain that this split shows with power 0.8.
        papers_needed: To show the observed gain with power 0.8; None if it is too small.
        guards: One result a guard.
        secondary: Gains that inform.
        decisions_taken_before: Earlier decisions on these papers.
        notes: What a reader should keep in mind.
        tasks: Gains on the harness' tasks, which inform.
    """

    outcome: Outcome
    reason: str
    why: str
    champion: str
    challenger: str
    dataset_digest: str
    split: str
    metric_version: str
    objective: str
    alpha: float
    budget: Budget
    min_gain: float
    confidence: float
    primary: MetricGain
    p_sign_flip: float
    p_bootstrap: float
    p_below: float
    p_with_one_worse: float | None
    relative_gain: float
    standardised_gain: float | None
    papers_better: float
    papers: int
    groups: int | None
    effective_papers: float
    smallest_attainable_p: float
    smallest_detectable_gain: float
    papers_needed: int | None
    guards: tuple[GuardResult, ...]
    secondary: tuple[MetricGain, ...]
    decisions_taken_before: int
    notes: tuple[str, ...]
    tasks: tuple[TaskGain, ...] = ()


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
        decisions_taken_before: How many decisions these papers have already served.

    Returns:
        The decision with all figures behind it.

    Raises:
        UserError: If the models cannot be compared, or the rule names an unknown metric.
    """
    rule = fitted(rule, challenger.objective)
    check_comparable(champion, challenger, rule.metric)
    champion, challenger, cut = without_different_cuts(champion, challenger)
    per_paper = challenger.per_paper
    budget = budget_for(rule.alpha, decisions_taken_before)
    evidence = weigh(in_order_of(champion.per_paper, per_paper), per_paper, rule)
    primary, gain, units = evidence.primary, evidence.gain, evidence.primary.carrying
    guards = tuple(check_guard(guard, champion, challenger, rule) for guard in rule.guards)
    at = {"alpha": budget.level, "minimum_gain": rule.min_gain}
    needed = papers_needed(gain.gain, primary.standard_error, units, **at)
    detectable = smallest_detectable_gain(primary.standard_error, units, **at)
    # A champion that knows the papers is only harder to beat.
    reasons = (challenger.trained, champion.unverified, challenger.unverified)
    no_evidence = "; ".join(filter(None, reasons))
    outcome, why = _verdict(
        evidence, guards, rule, budget, no_evidence, needed=needed, detectable=detectable
    )
    opening = {
        "promote": f"{challenger.name} takes the place of {champion.name}",
        # True whatever becomes of other challengers of the same call.
        "keep": f"{challenger.name} does not take the place of {champion.name}",
        "inconclusive": f"{challenger.name} is not shown to be better than {champion.name}",
    }[outcome]
    return Decision(
        outcome=outcome,
        reason=_sentence(opening, why, units),
        why=why,
        champion=champion.name,
        challenger=challenger.name,
        dataset_digest=challenger.dataset_digest,
        split=challenger.split,
        metric_version=challenger.metric_version,
        objective=challenger.objective,
        alpha=budget.level,
        budget=budget,
        min_gain=rule.min_gain,
        confidence=CONFIDENCE,
        primary=gain,
        p_sign_flip=evidence.p_sign_flip,
        p_bootstrap=evidence.p_bootstrap,
        p_below=evidence.p_below,
        p_with_one_worse=evidence.p_with_one_worse,
        relative_gain=gain.gain / gain.champion if gain.champion else 0.0,
        standardised_gain=primary.standardised_gain,
        papers_better=evidence.papers_better,
        papers=evidence.papers,
        groups=None if rule.cluster_by is None else units,
        effective_papers=primary.effective_papers,
        smallest_attainable_p=smallest_attainable_p(units, rule.permutations),
        smallest_detectable_gain=detectable,
        papers_needed=needed,
        guards=guards,
        secondary=evidence.secondary,
        decisions_taken_before=decisions_taken_before,
        notes=(*cut, *_notes(primary, guards, budget)),
        tasks=task_gains(champion, challenger, rule),
    )


def beaten(decision: Decision, better: Decision) -> Decision:
    """The decision on a challenger that is better, where another one is better still."""
    opening = (
        f"{decision.challenger} is better than {decision.champion} too, but {better.challenger} "
        "gains more and is preferred"
    )
    return replace(decision, outcome="keep", reason=_retold(decision, opening))


def not_moved(decision: Decision, cause: str) -> Decision:
    """The decision on the best challenger, where its alias is not moved for another cause."""
    opening = f"{decision.challenger} is better than {decision.champion}, but {cause}"
    return replace(decision, reason=_retold(decision, opening))


def _retold(decision: Decision, opening: str) -> str:
    return _sentence(opening, decision.why, decision.groups or decision.papers)


def _sentence(opening: str, why: str, units: int) -> str:
    """The answer in words, which says where the papers are few."""
    few = (
        f" Few papers: below {PAPERS_FOR_RELIABLE_INTERVALS} the interval is rough."
        if units < PAPERS_FOR_RELIABLE_INTERVALS
        else ""
    )
    return f"{opening}: {why}.{few}"


def fitted(rule: "Comparison", objective: str) -> "Comparison":
    """The rule with its metric named, where the configuration leaves that to the objective.

    Args:
        rule: Section `comparison`; a metric `auto`, and a guard `general`, are filled in.
        objective: `causal` (bits per byte), `masked` (loss under the fixed mask) or `instruction`
            (bits per byte of answers; its general texts are read as a causal model's).
    """
    likelihood = PRIMARY[objective]
    general = "bits_per_byte" if objective == "instruction" else likelihood
    guards = []
    for guard in rule.guards:
        if guard.metric == "general":
            guard = guard.model_copy(update={"metric": GENERAL + general})
        metric = find_metric(guard.metric)
        if objective == "instruction" and metric is not None and metric.needs == "generation":
            # Whoever answers is not asked to go on from titles.
            guard = guard.model_copy(update={"optional": True})
        guards.append(guard)
    return rule.model_copy(
        update={
            "metric": likelihood if rule.metric == "auto" else rule.metric,
            "guards": tuple(guards),
        }
    )


def _verdict(
    evidence: Evidence,
    guards: Sequence[GuardResult],
    rule: "Comparison",
    budget: Budget,
    no_evidence: str,
    *,
    needed: int | None,
    detectable: float,
) -> tuple[Outcome, str]:
    """The outcome and why; the order of the questions is the order of their weight."""
    primary, gain = evidence.primary, evidence.gain
    unit = _in_words(rule.metric)
    over = f"{evidence.papers} papers"
    if rule.cluster_by is not None:
        over += f" in {primary.carrying} groups by {rule.cluster_by}"
    figures = f"{gain.gain:+.4f} {unit} over {over}{_interval_words(gain)}"
    required = f"the {rule.min_gain:g} required"

    if (primary.differences() == 0).all():
        return "keep", f"both sides have the same {unit} on each of the {evidence.papers} papers"
    failing = [guard.reason for guard in guards if guard.outcome == "fails"]
    if failing:
        return "keep", "; ".join(failing)
    if no_evidence:
        return "inconclusive", f"{no_evidence} (the gain is {figures})"
    too_few = _too_few(primary, rule, budget.level)
    if too_few:
        return "inconclusive", f"{too_few} (the gain is {figures})"
    if evidence.p_below <= rule.alpha:
        words = f"the gain is {figures}, shown to be less than {required}"
        return "keep", f"{words} ({_p_words(evidence.p_below)})"
    if gain.p_value > budget.level:
        takes = (
            f"a gain of this size takes about {needed} papers"
            if needed is not None and needed > primary.carrying
            else f"these papers show a true gain of {detectable:.4f} or more with power {POWER:g}"
        )
        return "inconclusive", (
            f"the gain is {figures}, and whether it exceeds {required} cannot be told "
            f"({_p_words(gain.p_value)}, alpha {budget.level:.2g}); {takes}"
        )
    exceeds = f"the gain is {figures}, more than {required} ({_p_words(gain.p_value)})"
    doubts = _doubts(evidence, budget.level)
    open_guards = [g.reason for g in guards if g.outcome in ("unproven", "no data")]
    if doubts or open_guards:
        return "inconclusive", f"{exceeds}, but {'; '.join([*doubts, *open_guards])}"
    return "promote", f"{exceeds}, {_guards_hold(guards)}"


def _doubts(evidence: Evidence, level: float) -> list[str]:
    """Why a small p-value may be too small here: skewed papers, or few of them."""
    doubts = []
    p_value, skewness = evidence.gain.p_value, evidence.primary.skewness
    if skewness < -SKEWED:
        level *= LEVEL_WHERE_SKEWED
        if p_value > level:
            doubts.append(
                f"a few papers get much worse (skewness {skewness:.1f}), where p-values come out "
                f"too small, so that {level:.2g} is asked"
            )
    worse = evidence.p_with_one_worse
    if worse is not None and worse > level:
        doubts.append(
            f"{evidence.primary.carrying} are few: one more paper that gets much worse, by three "
            f"standard deviations, would undo it ({_p_words(worse)}); from "
            f"{PAPERS_FOR_RELIABLE_INTERVALS} papers on this is not asked"
        )
    return doubts


def _guards_hold(guards: Sequence[GuardResult]) -> str:
    holding = sum(guard.outcome == "holds" for guard in guards)
    if not guards:
        return "and no guard was asked"
    if holding == len(guards):
        return f"and the guards hold ({holding} of {holding})"
    return (
        f"and the guards hold ({holding} of {len(guards)}, the others are optional and without "
        "data)"
    )


def _too_few(primary: RatioTable, rule: "Comparison", level: float) -> str:
    """Why the papers are too few, whatever they show; "" where they are enough."""
    papers = primary.carrying
    attainable = smallest_attainable_p(papers, rule.permutations)
    if attainable > level:
        return (
            f"{papers} papers are too few, as the smallest p-value that they can give is "
            f"{attainable:.4g}, above alpha {level:.2g}, and it takes at least "
            f"{math.ceil(math.log2(1 / level))}"
        )
    worth = round(primary.effective_papers)
    if worth < rule.min_papers:
        lengths = f" of unequal length, worth {worth} equal ones," if worth < papers else ""
        return (
            f"{papers} papers{lengths} are fewer than the {rule.min_papers} of "
            "comparison.min_papers"
        )
    return ""


def _notes(primary: RatioTable, guards: Sequence[GuardResult], budget: Budget) -> tuple[str, ...]:
    """What a reader should keep in mind about a decision."""
    notes = [budget_words(budget)] if budget.decisions_before else []
    if primary.effective_papers < primary.carrying / 2:
        notes.append(
            f"The papers differ so much in length that {primary.carrying} of them are worth "
            f"{primary.effective_papers:.0f}; more papers help more than longer ones."
        )
    if primary.skewness < -SKEWED:
        notes.append(
            f"A few papers get much worse (skewness {primary.skewness:.1f}): p-values come out "
            f"too small here, so {LEVEL_WHERE_SKEWED:g} of the level is asked; look at them."
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
