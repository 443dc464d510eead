"""The gate: a form leaves only where it scores, reads and stops as the version did.

    result = judge(form, promoted, measured, limit, settings)
    result.refusal          # "" or one line

Two kinds of faults reach users. Those of the weights move the score; those of the files (another
token opens a text, another ends it, a template or a context is lost) may leave it as it is. So
the score is held against a limit, and what the files state against what the version states.

A version on a base of 4 or 8 bits scores differently on the base in full precision, often better,
and a gain must not hide a fault: a form that is merged onto those weights is also held against
the adapter on them, which it has to equal in both directions.

The limit holds for the point estimate on these papers: both sides read the same papers, so that
the difference has no noise but rounding, and a form that is worse by twice the limit here is
refused whatever its interval. The interval, over papers, says how far the difference may be
another on other papers.
"""

from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from steps.comparison.statistics import RatioTable, bootstrap_gains
from steps.releasing.scores import FormScores, agreement

# Facts that have to be the version's, in words.
FACTS = {
    "start_token": "opens a text with token {found}, not {expected}",
    "special_tokens": "puts the tokens {found} around a text, not {expected}",
    "stops": "stops at the tokens {found}, not {expected}",
    "mask_token": "masks with token {found}, not {expected}",
    "context": "reads {found} tokens at most, not {expected}",
    "chat_template": "has another chat template",
}


@dataclass(frozen=True)
class Fidelity:
    """How a form compares with the version that it is made from.

    Attributes:
        form: Its name.
        metric: "bits_per_byte" or "mlm_loss".
        score: Of the form; None where it cannot be loaded.
        promoted: Of the version, by the same questions.
        difference: Form less version; above 0 is worse.
        interval: Of the difference, 95 %, over papers; None: too few papers, or no score.
        limit: What the difference may be.
        expected: Score of the adapter on the weights that the form was merged onto.
        papers: Papers behind it.
        same_tokens: Papers whose tokens are the version's.
        restored: Papers whose tokens decode to the text.
        prompts: Prompts written on from.
        identical: Of these, written on from with the same tokens.
        agreement: Mean share of the written tokens before form and version part.
        tokens_per_second: Of the scoring, on this machine.
        bytes: Of its files.
        refusal: Why it does not leave; "" where it does.
    """

    form: str
    metric: str
    score: float | None
    promoted: float
    difference: float | None
    interval: tuple[float, float] | None
    limit: float
    expected: float
    papers: int
    same_tokens: int
    restored: int
    prompts: int
    identical: int
    agreement: float | None
    tokens_per_second: float | None
    bytes: int
    refusal: str


def ratio(scores: FormScores, objective: str) -> float:
    """Bits per byte of a causal model, nats per masked token of another."""
    scale = 1.0 if objective == "masked" else 1 / log(2)
    return scale * sum(scores.nats) / sum(scores.units)


def judge(
    form: str,
    promoted: FormScores,
    expected: FormScores,
    measured: FormScores,
    *,
    limit: float,
    objective: str,
    size: int,
) -> Fidelity:
    """Hold what a form answered against what the version did.

    Args:
        form: Its name.
        promoted: Of the version.
        expected: Of its adapter on the weights that the form was made of; mostly `promoted`.
        measured: Of the form.
        limit: What the scores may differ by.
        objective: "causal" or "masked".
        size: Bytes of its files.
    """
    score, before = ratio(measured, objective), ratio(promoted, objective)
    beside, difference = ratio(expected, objective), score - before
    same = sum(a == b for a, b in zip(measured.tokens, promoted.tokens, strict=True))
    # What the version itself does not restore is not the form's fault.
    lost = sum(b and not a for a, b in zip(measured.restored, promoted.restored, strict=True))
    pairs = list(zip(measured.written, promoted.written, strict=True))
    papers = len(promoted.tokens)
    reasons = [
        *_different_facts(promoted.facts, measured.facts),
        *([f"reads {papers - same} of {papers} papers as other tokens"] if same < papers else []),
        *([f"does not restore {lost} of {papers} papers from their tokens"] if lost else []),
        *_out_of_limit(difference, score - beside, limit, objective),
    ]
    return Fidelity(
        form=form,
        metric="mlm_loss" if objective == "masked" else "bits_per_byte",
        score=score,
        promoted=before,
        difference=difference,
        interval=_interval(promoted, measured, objective),
        limit=limit,
        expected=beside,
        papers=papers,
        same_tokens=same,
        restored=sum(measured.restored),
        prompts=len(pairs),
        identical=sum(a == b for a, b in pairs),
        agreement=float(np.mean([agreement(a, b) for a, b in pairs])) if pairs else None,
        tokens_per_second=measured.tokens_per_second,
        bytes=size,
        refusal="; ".join(reasons),
    )


def broken(
    form: str, promoted: FormScores, why: str, *, limit: float, objective: str, size: int
) -> Fidelity:
    """The result of a form that cannot be loaded."""
    return Fidelity(
        form=form,
        metric="mlm_loss" if objective == "masked" else "bits_per_byte",
        score=None,
        promoted=ratio(promoted, objective),
        difference=None,
        interval=None,
        limit=limit,
        expected=ratio(promoted, objective),
        papers=len(promoted.tokens),
        same_tokens=0,
        restored=0,
        prompts=len(promoted.written),
        identical=0,
        agreement=None,
        tokens_per_second=None,
        bytes=size,
        refusal=f"cannot be loaded ({why})",
    )


def _different_facts(promoted: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    return [
        words.format(found=measured.get(name), expected=promoted[name])
        for name, words in FACTS.items()
        if name in promoted and measured.get(name) != promoted[name]
    ]


def _out_of_limit(
    difference: float, difference_expected: float, limit: float, objective: str
) -> list[str]:
    unit = "nats per masked token" if objective == "masked" else "bits per byte"
    # A figure that is not a number is out of any limit.
    if not difference <= limit:
        return [f"scores {difference:.4f} {unit} worse than the version (limit {limit:g})"]
    if not abs(difference_expected) <= limit:
        way = "better" if difference_expected < 0 else "worse"
        return [
            f"scores {abs(difference_expected):.4f} {unit} {way} than the adapter on the weights "
            f"that it was made of (limit {limit:g}): it is another model"
        ]
    return []


def _interval(
    promoted: FormScores, measured: FormScores, objective: str
) -> tuple[float, float] | None:
    if len(promoted.nats) < 2:
        return None
    values = np.column_stack([promoted.nats, promoted.units, measured.nats, measured.units]).astype(
        np.float64
    )
    if not np.isfinite(values).all():
        return None
    table = RatioTable(values, 1.0 if objective == "masked" else 1 / log(2))
    bounds = bootstrap_gains([table], samples=2000, seed=0)[0].interval()
    # A gain is a difference turned round.
    return None if bounds is None else (-bounds[1], -bounds[0])
