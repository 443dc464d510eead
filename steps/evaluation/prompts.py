"""What somebody asks a model: one prompt, or a file of them.

    prompts = read_prompts("Variants in BRCA1", "")
    prompts = read_prompts("", "prompts.jsonl")

A file holds one prompt a line, or JSON Lines: `prompt`, or `messages` for models that answer, and
perhaps an `id`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from steps.config.paths import find_file
from steps.errors import UserError
from steps.messages import Message

JSON_LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt.

    Attributes:
        prompt_id: As its file names it, else the number of its line.
        text: What is asked; of a conversation, its last turn.
        messages: The conversation, or none.
        place: Where it stands, for messages about it.
    """

    prompt_id: str
    text: str
    messages: tuple[Message, ...] = ()
    place: str = "the prompt"


def read_prompts(prompt: str, file: str) -> list[AskedPrompt]:
    """The prompts of the command line or of a file.

    Args:
        prompt: A prompt, or "".
        file: A file, from the working folder or else from the project; or "".

    Raises:
        UserError: Neither or both are given, or the file holds something else.
    """
    if prompt and file:
        raise UserError("prompt and file are both given: give one of them")
    if not prompt and not file:
        raise UserError("nothing to ask: give prompt, or file (one prompt a line, or JSON Lines)")
    if prompt:
        if not prompt.strip():
            raise UserError("prompt holds nothing but blanks: give a text")
        return [AskedPrompt("1", prompt)]
    found = find_file(file, "prompts", "file")
    lines = list(_lines(found))
    as_json = found.suffix.lower() in JSON_LINES or _begins_as_json(lines)
    prompts = [
        _from_json(line, number, found.name)
        if as_json
        else AskedPrompt(str(number), line, place=f"line {number} of {found.name}")
        for number, line in lines
    ]
    if not prompts:
        raise UserError(f"file {file!r} holds no prompt: give one a line")
    _refuse_ids_given_twice(prompts)
    return prompts


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that hold something, with their numbers."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"prompts {str(file)!r} cannot be read ({error.strerror}): see to its permissions"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"prompts {str(file)!r} are not UTF-8 (byte {error.start}): save the file as UTF-8 text"
        ) from None
    # Not `splitlines`: it also divides at marks that a text may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def _begins_as_json(lines: list[tuple[int, str]]) -> bool:
    try:
        return bool(lines) and isinstance(json.loads(lines[0][1]), dict)
    except (ValueError, RecursionError):
        return False


def _from_json(line: str, number: int, name: str) -> AskedPrompt:
    place = f"line {number} of {name}"
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is no JSON ({error}): mend or remove it") from None
    expected = 'expected an object with "prompt" (a text) or "messages", and perhaps "id"'
    if not isinstance(content, dict):
        raise UserError(f"{place} is {type(content).__name__}: {expected}")
    given = content.get("id")
    if not isinstance(given, str | int | None) or isinstance(given, bool):
        raise UserError(f"{place}: id is {json.dumps(given)}: expected a text or a whole number")
    prompt_id = str(number if given is None else given)
    if ("prompt" in content) == ("messages" in content):
        raise UserError(f"{place} has {', '.join(map(str, content)) or 'nothing'}: {expected}")
    if "messages" in content:
        messages = _messages(content["messages"], place)
        return AskedPrompt(prompt_id, messages[-1].content, messages, place)
    text = content["prompt"]
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{place}: prompt is {json.dumps(text)}: expected a text")
    return AskedPrompt(prompt_id, text, place=place)


def _messages(content: Any, place: str) -> tuple[Message, ...]:
    try:
        messages = tuple(msgspec.convert(content, list[Message]))
    except msgspec.ValidationError as error:
        raise UserError(
            f"{place}: messages are no list of objects with role and content ({error})"
        ) from None
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected = [("user", "assistant")[turn % 2] for turn in range(len(turns))]
    if turns != expected or len(turns) % 2 == 0:
        raise UserError(
            f"{place}: messages are of {', '.join(roles) or 'nobody'}: expected perhaps one of "
            "system, then user and assistant in turn, and last what the user asks"
        )
    if not all(message.content.strip() for message in messages):
        raise UserError(f"{place}: a message says nothing: give each a content")
    return messages


def _refuse_ids_given_twice(prompts: list[AskedPrompt]) -> None:
    seen: dict[str, str] = {}
    for prompt in prompts:
        if prompt.prompt_id in seen:
            raise UserError(
                f"{prompt.place} has the id {prompt.prompt_id!r}, as {seen[prompt.prompt_id]} has: "
                "give each prompt its own"
            )
        seen[prompt.prompt_id] = prompt.place
