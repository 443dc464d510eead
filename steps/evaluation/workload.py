"""What an evaluation is going to do, how long that takes, and what is left out to fit a budget.

    phases = [reading_phase(training, adapted, "papers", papers, "papers"), ...]
    cuts = fit_to_budget(training, adapted, phases, texts)   # says it
    cuts["gene_cloze"].kept                                  # where a budget cuts it

The rates are measured on the first texts, in the code that the evaluation itself runs. The papers'
likelihood is what models are compared by, so it is never cut; prompts and items are, all by the
same share, and always the last of their fixed order: of two cuts, the smaller is a part of the
larger.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.distributed.collectives import world_size
from steps.distributed.sharing import agreed
from steps.evaluation.byte_spans import tokens_and_bytes
from steps.evaluation.generation import write_on
from steps.evaluation.likelihood import sequence_nats
from steps.evaluation.masked import MaskedRow, restore
from steps.models.tokenizer import with_special_tokens
from steps.terminal import say

if TYPE_CHECKING:
    from steps.evaluation.cloze import ClozeItem
    from steps.models.adapted import AdaptedModel
    from steps.papers.text import PaperText

# A first trial: enough for a rate where reading is slow, at most a second or two of work there.
_FEW_TOKENS = 256
_FEW_PROMPTS = 8
# A machine that is done sooner is fast enough to be tried with a whole batch.
_SOON = 0.5
_TRIED_STEPS = 4
# Texts whose tokens are counted, to know how many bytes a token has.
_TOKENIZED_TEXTS = 50


@dataclass(frozen=True)
class Phase:
    """A part of an evaluation.

    Attributes:
        name: Such as `papers` or `gene_cloze`.
        parts: How many papers, items or prompts.
        unit: What they are called.
        read: Tokens that go through the model at once.
        written: Tokens that are written one after the other.
        can_be_cut: Whether some parts may be left out.
        is_shared: Whether several processes share the parts out; else the first does all.
    """

    name: str
    parts: int
    unit: str
    read: int
    written: int = 0
    can_be_cut: bool = False
    is_shared: bool = True

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')} ({self.parts:,} {self.unit})"


@dataclass(frozen=True)
class Cut:
    """What is left of a phase.

    Attributes:
        kept: Parts that are measured, the first ones of their fixed order.
        wanted: Parts that the configuration asks for.
    """

    kept: int
    wanted: int


@dataclass(frozen=True)
class Rates:
    """Tokens a second, of one process.

    Attributes:
        read: Of texts that are read.
        written: Of texts that are written, all of a batch together; None where none are.
    """

    read: float
    written: float | None = None


@dataclass(frozen=True)
class Workload:
    """What an evaluation is going to do.

    Attributes:
        phases: In their order.
        rates: As they were measured.
        processes: That share the work out.
    """

    phases: Sequence[Phase]
    rates: Rates
    processes: int = 1

    def seconds(self, phase: Phase) -> float:
        """About how long a phase takes."""
        writing = phase.written / self.rates.written if self.rates.written else 0.0
        seconds = phase.read / self.rates.read + writing
        return seconds / self.processes if phase.is_shared else seconds

    def total(self) -> float:
        """About how long all phases take, in seconds."""
        return sum(self.seconds(phase) for phase in self.phases)

    def cuts_within(self, minutes: float) -> dict[str, Cut]:
        """What has to be left out, by the name of its phase; nothing where all fits.

        Args:
            minutes: The budget of all phases.
        """
        cuttable = [p for p in self.phases if p.can_be_cut and p.parts]
        fixed = sum(self.seconds(p) for p in self.phases if not p.can_be_cut)
        wanted = sum(self.seconds(p) for p in cuttable)
        room = max(60 * minutes - fixed, 0.0)
        if room >= wanted:
            return {}
        return {p.name: Cut(int(room / wanted * p.parts), p.parts) for p in cuttable}

    def description(self) -> str:
        """What is going to be done and how long it takes, in one line."""
        phases = ", ".join(str(phase) for phase in self.phases if phase.parts)
        rates = f"reads {self.rates.read:,.0f} tokens/s"
        if self.rates.written:
            rates += f" and writes {self.rates.written:,.0f}"
        processes = f", {self.processes} processes" if self.processes > 1 else ""
        return f"{phases}: about {_duration(self.total())} (the model {rates}{processes})"


def cut_notice(minutes: float, cuts: Mapping[str, Cut]) -> str:
    """What a budget leaves out, in one line.

    Args:
        minutes: The budget.
        cuts: By the name of the phase.
    """
    named = ", ".join(
        f"{name.replace('_', ' ')} to {cut.kept:,} of {cut.wanted:,}" for name, cut in cuts.items()
    )
    nothing_left = not any(cut.kept for cut in cuts.values())
    end = "; what is never cut takes longer than that" if nothing_left else ""
    return f"evaluation.budget_minutes={minutes:g} cuts {named}{end}"


def fit_to_budget(
    training: Training,
    adapted: "AdaptedModel",
    phases: Sequence[Phase],
    texts: Sequence[str],
    prompts: Sequence[str] = (),
) -> dict[str, Cut]:
    """Say what is going to be done and for how long, and cut it to `evaluation.budget_minutes`.

    Args:
        training: The configuration; read are `evaluation` and `model.max_length`.
        adapted: The model, which is timed.
        phases: What is wanted; see `reading_phase` and its like.
        texts: Some of those that are going to be read.
        prompts: Those that are going to be gone on from, where there are any.

    Returns:
        What is cut, by the name of its phase.
    """
    settings = training.evaluation
    with adapted.autocast():
        rates = _measured_rates(training, adapted, texts, prompts)
    workload = Workload(phases, rates, world_size())
    say(f"measuring {workload.description()}")
    minutes = settings.budget_minutes
    cuts = {} if minutes is None else workload.cuts_within(minutes)
    if minutes is not None and cuts:
        say(cut_notice(minutes, cuts))
    return cuts


def reading_phase(
    training: Training, adapted: "AdaptedModel", name: str, papers: "Sequence[PaperText]", unit: str
) -> Phase:
    """The likelihood of papers (of a masked model: its restoring of their tokens)."""
    settings = training.evaluation
    context = settings.context or training.model.max_length
    stride = settings.stride or max(1, context // 2)
    tokens = 0
    for length in _lengths(adapted.tokenizer, [paper.text for paper in papers]):
        if adapted.objective == "masked":
            one_by_one = min(settings.pseudo_likelihood_tokens, length) * min(length, context)
            tokens += length + one_by_one
        else:
            further = max(0, length - context)
            tokens += min(length, context) + -(-further // stride) * context
    return Phase(name, len(papers), unit, tokens)


def cloze_phase(adapted: "AdaptedModel", name: str, items: "Sequence[ClozeItem]") -> Phase:
    """The candidates of cloze items; of a causal model, the beginning is read once."""
    tokenizer = adapted.tokenizer
    sides = zip(
        _lengths(tokenizer, [item.before for item in items]),
        _lengths(tokenizer, [item.answer for item in items]),
        _lengths(tokenizer, [item.after for item in items]),
        items,
        strict=True,
    )
    tokens = 0
    for before, answer, after, item in sides:
        candidates = len(item.candidates)
        if adapted.objective == "masked":
            tokens += candidates * answer * (before + answer + after)
        else:
            tokens += before + candidates * (answer + after)
    return Phase(name, len(items), "sentences", tokens, can_be_cut=True)


def writing_phase(
    adapted: "AdaptedModel",
    name: str,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    can_be_cut: bool = True,
) -> Phase:
    """What a model writes after prompts."""
    read = sum(_lengths(adapted.tokenizer, prompts))
    written = len(prompts) * max_new_tokens
    return Phase(name, len(prompts), "prompts", read, written, can_be_cut)


def _lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """About how many tokens each text has, by its bytes: tokenizing all of them takes too long."""
    some = texts[:: max(1, len(texts) // _TOKENIZED_TEXTS)]
    tokens = sum(len(tokens_and_bytes(tokenizer, text)[0]) for text in some)
    per_byte = tokens / max(1, sum(len(text.encode()) for text in some))
    return [max(1, round(per_byte * len(text.encode()))) for text in texts]


def _measured_rates(
    training: Training, adapted: "AdaptedModel", texts: Sequence[str], prompts: Sequence[str]
) -> Rates:
    tokenizer, model = adapted.tokenizer, adapted.model
    context = training.evaluation.context or training.model.max_length
    # A masked model's special tokens stand around a row.
    room = max(2, context - 2)
    batch_tokens = training.evaluation.batch_tokens
    rows = [tokens_and_bytes(tokenizer, text)[0][:room] for text in texts[:_TOKENIZED_TEXTS]]
    rows = [row for row in rows if len(row) > 1]
    read = _reading_rate(model, tokenizer, rows, batch_tokens, adapted.objective == "masked")
    written = None
    if prompts:
        given = [tokens_and_bytes(tokenizer, text)[0][-room:] for text in prompts]
        written = _writing_rate(model, tokenizer, [row for row in given if row])
    rates: Rates = agreed(Rates(read, written))
    return rates


def _reading_rate(
    model: Any, tokenizer: Any, texts: Sequence[Sequence[int]], batch_tokens: int, masked: bool
) -> float:
    def seconds_for(documents: Sequence[Sequence[int]]) -> float:
        started = time.perf_counter()
        if masked:
            rows = [_with_one_mask(tokenizer, document) for document in documents]
            restore(model, tokenizer, rows, batch_tokens=batch_tokens)
        else:
            longest = max(map(len, documents))
            sequence_nats(
                model, documents, context=longest, stride=longest, batch_tokens=batch_tokens
            )
        return time.perf_counter() - started

    few = _first_tokens(texts, _FEW_TOKENS)
    if not few:
        return math.inf
    # The first call also finds out how the model bears several documents.
    seconds_for(few)
    taken, documents = seconds_for(few), few
    if taken < _SOON:
        documents = _first_tokens(texts, batch_tokens)
        seconds_for(documents)
        taken = seconds_for(documents)
    return sum(map(len, documents)) / taken


def _with_one_mask(tokenizer: Any, document: Sequence[int]) -> MaskedRow:
    tokens, offset = with_special_tokens(tokenizer, list(document))
    tokens[offset] = tokenizer.mask_token_id
    return MaskedRow(tuple(tokens), (offset,), (document[0],))


def _first_tokens(texts: Sequence[Sequence[int]], count: int) -> list[Sequence[int]]:
    """The first texts, the last one of them cut, that make `count` tokens."""
    chosen: list[Sequence[int]] = []
    for text in texts:
        room = count - sum(map(len, chosen))
        if room < 2:
            break
        chosen.append(text[:room])
    return chosen


def _writing_rate(model: Any, tokenizer: Any, prompts: Sequence[list[int]]) -> float:
    """Tokens written a second, without reading the prompts."""

    def rate_of(chosen: Sequence[list[int]]) -> tuple[float, float]:
        taken = []
        for steps in (1, 1 + _TRIED_STEPS):
            started = time.perf_counter()
            write_on(model, tokenizer, chosen, max_new_tokens=[steps] * len(chosen))
            taken.append(time.perf_counter() - started)
        seconds = max(taken[1] - taken[0], 1e-6)
        return _TRIED_STEPS * len(chosen) / seconds, taken[1]

    rate, taken = rate_of(prompts[:_FEW_PROMPTS])
    if taken < _SOON and len(prompts) > _FEW_PROMPTS:
        rate, _ = rate_of(prompts)
    return rate


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
