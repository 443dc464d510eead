"""Conversations as a model's own chat template writes them, and where its answers stand.

    chat = Chat.of(tokenizer, training.instructions.chat_template)
    chat.rendered(messages).answers         # spans of the text that the model learns
    chat.prompt(messages[:-1])              # what it is given when it is to answer

The answer of a turn begins where the template's own generation prompt ends and includes the token
that ends the turn, so that a model learns to stop. A template that marks its answers itself
(`{% generation %}`) is taken at its word.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from steps.config.paths import find_file
from steps.errors import UserError, first_line
from steps.messages import Message
from steps.models.token_spans import encode

# Stand in for what is said, to see what a template puts around it.
_MARK = "QZX{number}XZQ"
# TRL's and transformers' way to say in a template what is learned.
_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\b")
_WORD = re.compile(r"\S+")
_HELLO = (Message("user", "Which gene?"), Message("assistant", "BRCA1."))


class CannotRender(Exception):
    """A conversation that a template refuses or changes; the reason in words."""


@dataclass(frozen=True)
class Answer:
    """Where one answer stands in a rendered conversation, in characters.

    Attributes:
        start: Where the model begins to write.
        said: From where to where the answer's own words stand.
        end: Past the token that ends the turn.
    """

    start: int
    said: tuple[int, int]
    end: int


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: With all special tokens of the template.
        answers: Of the assistant, in order.
    """

    text: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Tokens:
    """A conversation as tokens.

    Attributes:
        ids: Token ids, special tokens included.
        learned: Which of them are targets, bool `[tokens]`.
        said: Which of them hold the words of an answer, bool `[tokens]`.
    """

    ids: list[int]
    learned: Any
    said: Any


def template_file(name: str) -> Path:
    """The file of a chat template that the configuration names.

    Raises:
        UserError: There is none.
    """
    return find_file(name, "chat template", "training.instructions.chat_template")


@dataclass(frozen=True)
class Chat:
    """A tokenizer with the template by which it writes conversations.

    Attributes:
        tokenizer: Its `chat_template` is set.
    """

    tokenizer: Any

    @classmethod
    def of(cls, tokenizer: Any, template: str | None, model: str = "the model") -> "Chat":
        """Give a tokenizer its template, and try it.

        Args:
            tokenizer: From `load_tokenizer`; changed where a template is named.
            template: A file of Jinja; None: the tokenizer's own.
            model: What an error calls the model.

        Raises:
            UserError: There is no template, or it cannot write a question and an answer.
        """
        key = "training.instructions.chat_template"
        if template is not None:
            tokenizer.chat_template = template_file(template).read_text(encoding="utf-8")
        if not tokenizer.chat_template:
            raise UserError(
                f"{model} has no chat template: name one by {key}, such as "
                "configs/chat_templates/plain.jinja, or an instruct model"
            )
        chat = cls(tokenizer)
        try:
            found = chat.rendered(_HELLO)
        except CannotRender as error:
            where = template or f"of {model}"
            raise UserError(
                f"the chat template {where} cannot write a question and its answer ({error}): "
                f"name another by {key}"
            ) from None
        assert len(found.answers) == 1
        return chat

    def prompt(self, messages: Sequence[Message]) -> str:
        """What the model is given so that it answers.

        Raises:
            CannotRender: The template refuses.
        """
        return self._render(messages, add_generation_prompt=True)

    def rendered(self, messages: Sequence[Message]) -> Rendered:
        """A conversation, with the places of its answers.

        Raises:
            CannotRender: The template refuses it, or writes something else than is said.
        """
        text = self._render(messages)
        contents = self._places(messages, text)
        # What ends the last turn ends the earlier ones too; there the next turn follows at once.
        closing = self._closing(text[contents[-1][1] :], most=None)
        answers = []
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            start, end = contents[number]
            following = contents[number + 1][0] if number + 1 < len(messages) else len(text)
            opening = self._render(messages[:number], add_generation_prompt=True)
            # A template may write an earlier turn in another way than the last one (without its
            # reasoning); then the answer begins with its words.
            begins = len(opening) if text.startswith(opening) and len(opening) <= start else start
            between = text[end:following]
            same = closing and between.startswith(closing)
            close = end + len(closing if same else self._closing(between, most=1))
            answers.append(Answer(begins, (start, end), close))
        if answers[-1].end == answers[-1].said[1]:
            # Nothing of the template says that the answer is over.
            text = text[: answers[-1].end] + str(self.tokenizer.eos_token or "")
            last = answers[-1]
            answers[-1] = Answer(last.start, last.said, len(text))
        return Rendered(text, tuple(answers))

    def tokens(self, messages: Sequence[Message]) -> Tokens:
        """A conversation as tokens; a token is learned if any of its characters are.

        Raises:
            CannotRender: As `rendered`; also where what is said holds special tokens.
        """
        for message in messages:
            if special := self._special_in(message.content):
                raise CannotRender(f"a message holds the special token {special!r}")
        rendered = self.rendered(messages)
        encoded = encode(self.tokenizer, rendered.text)
        starts, ends = np.array(encoded.spans, dtype=np.int64).reshape(-1, 2).T
        learned, said = np.zeros((2, len(encoded.ids)), dtype=np.bool_)
        for answer in rendered.answers:
            learned |= (starts < answer.end) & (ends > answer.start) & (ends > starts)
            said |= (starts < answer.said[1]) & (ends > answer.said[0]) & (ends > starts)
        marked = self._learned_by_template(messages)
        if marked is not None and len(marked) == len(learned):
            learned = marked
        return Tokens(encoded.ids, learned, said & learned)

    def _learned_by_template(self, messages: Sequence[Message]) -> Any:
        """What a template that marks answers itself gives to learn, bool `[tokens]`, or None."""
        if not _MARKS_ANSWERS.search(self.tokenizer.chat_template) or not self.tokenizer.is_fast:
            return None
        made = self.tokenizer.apply_chat_template(
            _as_dicts(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return np.array(made["assistant_masks"], dtype=np.bool_)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text as it stands, special tokens that are written in it included."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    @cached_property
    def stops(self) -> list[int]:
        """The tokens by which the model says that it is done: EOS, and what ends a turn."""
        hello = self.tokens(_HELLO)
        closing = hello.learned & ~hello.said
        ended = [one for one, closes in zip(hello.ids, closing, strict=True) if closes]
        known = (self.tokenizer.eos_token_id, *ended[-1:])
        return list(dict.fromkeys(one for one in known if one is not None))

    @cached_property
    def preface(self) -> str:
        """What the model writes before the words of its answer (Qwen3: an empty reasoning)."""
        rendered = self.rendered(_HELLO)
        (answer,) = rendered.answers
        return rendered.text[answer.start : answer.said[0]].strip()

    def _special_in(self, content: str) -> str:
        return next((one for one in self._specials if one in content), "")

    @cached_property
    def _specials(self) -> set[str]:
        added = self.tokenizer.added_tokens_decoder.values()
        return {token.content for token in added if token.special and token.content.strip()}

    def _closing(self, following: str, *, most: int | None) -> str:
        """The special tokens with which the text after an answer begins, and blanks before them.

        Args:
            following: What stands after the answer.
            most: Most special tokens; None: as many as touch one another.
        """
        specials = sorted(self._specials, key=len, reverse=True)
        end = len(following) - len(following.lstrip())
        found = 0
        while most is None or found < most:
            token = next((one for one in specials if following.startswith(one, end)), None)
            if token is None:
                break
            end, found = end + len(token), found + 1
        return following[:end] if found else ""

    def _places(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Where the words of each message stand in a rendered conversation."""
        places = []
        position = 0
        marks = [_MARK.format(number=number) for number in range(len(messages))]
        marked = self._render(
            [Message(m.role, mark) for m, mark in zip(messages, marks, strict=True)]
        )
        rest = marked
        for message, mark in zip(messages, marks, strict=True):
            before, found, rest = rest.partition(mark)
            said = message.content
            start = position + len(before)
            if not found or text[position:start] != before or not text.startswith(said, start):
                raise CannotRender(
                    f"the template changes or leaves out what the {message.role} says"
                )
            places.append((start, start + len(said)))
            position = start + len(said)
        if text[position:] != rest:
            raise CannotRender("the template writes more than once what is said")
        return places

    def _render(self, messages: Sequence[Message], **settings: Any) -> str:
        from jinja2 import TemplateError

        said = _as_dicts(messages)
        try:
            text: str = self.tokenizer.apply_chat_template(said, tokenize=False, **settings)
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise CannotRender(first_line(error)) from None
        return text


def _as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def fit(messages: Sequence[Message], chat: Chat, max_length: int) -> tuple[Tokens, bool] | None:
    """A conversation of at most `max_length` tokens that ends with the whole last answer.

    Returns:
        Its tokens, and whether something was cut; None where the answer alone is too long.

    Raises:
        CannotRender: The template refuses the conversation.
    """
    tokens = chat.tokens(messages)
    if len(tokens.ids) <= max_length:
        return tokens, False
    for shorter in _without_earlier_turns(messages):
        tokens = chat.tokens(shorter)
        if len(tokens.ids) <= max_length:
            return tokens, True
        messages = shorter
    return _with_shorter_question(messages, chat.tokens, max_length)


def _without_earlier_turns(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The conversation without its first question and answer, without its first two, ..."""
    system = [m for m in messages if m.role == "system"]
    turns = [m for m in messages if m.role != "system"]
    for start in range(2, len(turns) - 1, 2):
        yield [*system, *turns[start:]]


def _with_shorter_question(
    messages: Sequence[Message], tokens_of: Callable[[list[Message]], Tokens], max_length: int
) -> tuple[Tokens, bool] | None:
    """The most words of the end of the last question that fit."""
    *before, question, answer = messages
    words = [word.start() for word in _WORD.finditer(question.content)]
    best: Tokens | None = None
    # The first word that stays: the more are gone, the shorter it is.
    low, high = 1, len(words) - 1
    while low <= high:
        first = (low + high) // 2
        rest = Message(question.role, question.content[words[first] :])
        tokens = tokens_of([*before, rest, answer])
        if len(tokens.ids) <= max_length:
            best, high = tokens, first - 1
        else:
            low = first + 1
    return None if best is None else (best, True)
