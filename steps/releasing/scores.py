"""What each form is asked, and what it answers: the same questions to all, by one definition.

    questions = Questions(papers, prompts, context=1024, stride=512, ...)
    scores = score(model, tokenizer, questions)        # transformers; llama.cpp: llama_cpp.py

A form reads the papers with its own tokenizer, opens them with its own start token, and is scored
with its own weights: whatever of these was lost on the way shows in the answers.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from steps.models.lengths import longest_text
from steps.models.tokenizer import special_tokens, start_token

if TYPE_CHECKING:
    from steps.models.sources import Objective
    from steps.papers.text import PaperText


@dataclass(frozen=True)
class Questions:
    """What a form is asked.

    Attributes:
        papers: Held-out papers to score.
        prompts: Texts to write on from.
        context: Tokens of a scoring window.
        stride: Tokens by which the window advances in a longer paper.
        batch_tokens: Tokens of one forward pass; changes no figure.
        new_tokens: Tokens to write after each prompt, the likeliest each time.
        stops: Ids that end a text in the version, which the form has to stop at too.
        seed: Of a masked model's masks.
    """

    papers: "Sequence[PaperText]"
    prompts: Sequence[str]
    context: int
    stride: int
    batch_tokens: int
    new_tokens: int
    stops: tuple[int, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class FormScores:
    """What a form answered.

    Attributes:
        tokens: Token ids of each paper, without special tokens.
        restored: For each paper, whether its tokens decode to its text.
        nats: Negative log-likelihood of each paper (masked models: of its masked tokens).
        units: What the nats are divided by: UTF-8 bytes of each paper (masked: masked tokens).
        written: The tokens written after each prompt.
        facts: What is stated and not measured: start token, stops, context, template.
        seconds: Time of the scoring.
    """

    tokens: list[list[int]]
    restored: list[bool]
    nats: list[float]
    units: list[int]
    written: list[list[int]]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of papers scored in a second."""
        return sum(map(len, self.tokens)) / max(self.seconds, 1e-9)


def stops_of(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids at which a model ends a text: the tokenizer's EOS, and what its settings state."""
    stated = getattr(model.generation_config, "eos_token_id", None)
    ends = [tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])]
    return tuple(sorted({int(end) for end in ends if end is not None}))


def score(model: Any, tokenizer: Any, objective: "Objective", questions: Questions) -> FormScores:
    """Ask a model of transformers.

    Args:
        model: A `PreTrainedModel` or `PeftModel`, in evaluation mode.
        tokenizer: Its tokenizer.
        objective: "causal" or "masked".
        questions: What to ask.
    """
    import torch

    texts = [paper.text for paper in questions.papers]
    tokens = [
        list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids) for text in texts
    ]
    restored = [
        tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        for ids, text in zip(tokens, texts, strict=True)
    ]
    started = time.perf_counter()
    with torch.no_grad():
        nats, units = (
            _of_masked(model, tokenizer, questions)
            if objective == "masked"
            else _of_causal(model, tokenizer, tokens, questions)
        )
        seconds = time.perf_counter() - started
        written = [] if objective == "masked" else _write_on(model, tokenizer, questions)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    facts: dict[str, Any] = {
        "context": longest_text(inner.config),
        "chat_template": tokenizer.chat_template,
        "special_tokens": [list(side) for side in special_tokens(tokenizer)],
    }
    if objective == "causal":
        facts["start_token"] = start_token(tokenizer)
        facts["stops"] = list(stops_of(inner, tokenizer))
    else:
        facts["mask_token"] = tokenizer.mask_token_id
    return FormScores(tokens, restored, nats, units, written, facts, seconds)


def _of_causal(
    model: Any, tokenizer: Any, tokens: list[list[int]], questions: Questions
) -> tuple[list[float], list[int]]:
    from steps.evaluation.likelihood import sequence_nats

    start = start_token(tokenizer)
    nats = sequence_nats(
        model,
        [[start, *ids] for ids in tokens],
        context=questions.context,
        stride=questions.stride,
        batch_tokens=questions.batch_tokens,
    )
    return [float(each.sum()) for each in nats], paper_bytes(questions)


def paper_bytes(questions: Questions) -> list[int]:
    """UTF-8 bytes of each paper."""
    return [len(paper.text.encode()) for paper in questions.papers]


def _of_masked(model: Any, tokenizer: Any, questions: Questions) -> tuple[list[float], list[int]]:
    from steps.evaluation.masked import score_papers_masked

    frame = score_papers_masked(
        model,
        tokenizer,
        questions.papers,
        context=questions.context,
        batch_tokens=questions.batch_tokens,
        pseudo_tokens=0,
        seed=questions.seed,
    )
    return frame["mlm_nats"].tolist(), frame["mlm_targets"].tolist()


def _write_on(model: Any, tokenizer: Any, questions: Questions) -> list[list[int]]:
    from steps.evaluation.generation import write_on

    start = start_token(tokenizer)
    prompts = [
        [start, *tokenizer(text, add_special_tokens=False).input_ids] for text in questions.prompts
    ]
    if not prompts:
        return []
    written = write_on(
        model,
        tokenizer,
        prompts,
        max_new_tokens=[questions.new_tokens] * len(prompts),
        # One at a time, as llama.cpp does: no padding beside a prompt.
        batch_size=1,
        stops=questions.stops or None,
    )
    return [until_stop(ids, questions.stops) for ids in written]


def until_stop(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    """The tokens up to the first that ends a text, that one left out."""
    end = next((place for place, i in enumerate(ids) if i in stops), len(ids))
    return list(ids[:end])


def agreement(one: Sequence[int], other: Sequence[int]) -> float:
    """Share of the first tokens that two texts have in common, before they part."""
    longest = max(len(one), len(other))
    if not longest:
        return 1.0
    shortest = min(len(one), len(other))
    different = np.flatnonzero(np.array(one[:shortest]) != np.array(other[:shortest]))
    return float(different[0] if len(different) else shortest) / longest
