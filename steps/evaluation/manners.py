"""Whether a model still does as it is told: rules of form that a program can check.

    frame = follow_rules(model, chat, rule_prompts(), max_new_tokens=96)

Adapting an instruct model to papers may cost it its manners without moving any likelihood of
papers. Each prompt asks an everyday question under one rule of form; no judge is needed. Of the
kind of IFEval (Zhou et al. 2023, arXiv:2311.07911), with prompts and rules of our own.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steps.distributed.sharing import Progress
from steps.evaluation.answers import say_next
from steps.messages import Message
from steps.models.chat import Chat

if TYPE_CHECKING:
    import pandas as pd

TOKENS_OF_AN_ANSWER = 96

_SENTENCE = re.compile(r"[.!?](?=\s|$)")
_WORD = re.compile(r"\w+")

QUESTIONS = (
    "Why are leaves green?",
    "What is a gene?",
    "How does a vaccine work?",
    "Why does bread rise?",
)


@dataclass(frozen=True)
class Rule:
    """A rule of form.

    Attributes:
        name: By which it is counted.
        demand: What the model is told.
        holds: Whether an answer follows it.
    """

    name: str
    demand: str
    holds: Callable[[str], bool]


@dataclass(frozen=True)
class RulePrompt:
    """A question under a rule.

    Attributes:
        prompt_id: Name of the rule and number of the question.
        text: What the model is told.
        rule: The rule.
    """

    prompt_id: str
    text: str
    rule: Rule


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _bullets(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _is_json_with_answer(text: str) -> bool:
    try:
        found = json.loads(text.strip().removeprefix("```json").strip("`\n "))
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "answer" in found


RULES = (
    Rule(
        "lower_case",
        "Answer in lower case letters only.",
        lambda text: any(c.isalpha() for c in text) and text == text.lower(),
    ),
    Rule(
        "capitals",
        "Answer in capital letters only.",
        lambda text: any(c.isalpha() for c in text) and text == text.upper(),
    ),
    Rule(
        "two_sentences",
        "Answer in exactly two sentences.",
        lambda text: len(_SENTENCE.findall(text)) == 2,
    ),
    Rule("at_most_10_words", "Use at most 10 words.", lambda text: 0 < len(_words(text)) <= 10),
    Rule("at_least_40_words", "Use at least 40 words.", lambda text: len(_words(text)) >= 40),
    Rule(
        "three_bullets",
        'Write exactly three lines, each of which begins with "- ".',
        lambda text: (
            len(_bullets(text)) == 3 and all(line.startswith("- ") for line in _bullets(text))
        ),
    ),
    Rule(
        "first_word",
        'Begin your answer with the word "Certainly".',
        lambda text: _words(text)[:1] == ["certainly"],
    ),
    Rule(
        "last_words",
        'End your answer with the words "that is all" and write nothing after them.',
        lambda text: _words(text)[-3:] == ["that", "is", "all"],
    ),
    Rule("without_the", 'Do not use the word "the".', lambda text: "the" not in _words(text)),
    Rule(
        "twice",
        'Use the word "simply" at least twice.',
        lambda text: _words(text).count("simply") >= 2,
    ),
    Rule(
        "json",
        'Answer with a JSON object that has the key "answer", and with nothing else.',
        _is_json_with_answer,
    ),
    Rule(
        "quoted",
        "Put your whole answer between double quotation marks.",
        lambda text: len(text) > 2 and text.startswith('"') and text.endswith('"'),
    ),
    Rule("no_comma", "Do not use any commas.", lambda text: "," not in text),
    Rule(
        "asks_back",
        "End your answer with a question.",
        lambda text: text.endswith("?"),
    ),
)


def rule_prompts() -> list[RulePrompt]:
    """Every question under every rule."""
    return [
        RulePrompt(f"{rule.name}/{number}", f"{question} {rule.demand}", rule)
        for rule in RULES
        for number, question in enumerate(QUESTIONS)
    ]


def follow_rules(
    model: Any,
    chat: Chat,
    prompts: Sequence[RulePrompt],
    *,
    max_new_tokens: int,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Let a model answer under rules, greedily, and look whether it follows them.

    Args:
        model: A causal `PreTrainedModel`, or one wrapped by peft, on any device.
        chat: Its tokenizer with a template.
        prompts: From `rule_prompts`.
        max_new_tokens: Most tokens of an answer; one that has no end by then breaks its rule where
            that asks for an end.
        progress: Called with prompts done and prompts in all.

    Returns:
        One row a prompt: `paper_id` (the prompt's), `prompt`, `generation`, `rules` (1) and
        `rules_followed` (0 or 1; an empty answer follows none).
    """
    import pandas as pd

    given = [chat.ids(chat.prompt([Message("user", prompt.text)])) for prompt in prompts]
    budgets = [max_new_tokens] * len(prompts)
    said = say_next(model, chat, given, max_new_tokens=budgets, progress=progress)
    return pd.DataFrame(
        {
            "paper_id": prompt.prompt_id,
            "prompt": prompt.text,
            "generation": one.text,
            "rules": 1,
            "rules_followed": int(bool(one.text) and prompt.rule.holds(one.text)),
        }
        for prompt, one in zip(prompts, said, strict=True)
    )
