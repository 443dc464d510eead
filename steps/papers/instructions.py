"""Instruction data: items of several common layouts, as messages of a conversation.

    items = read_items([Path("items.jsonl")], limits, reject)

A record becomes messages of `system`, `user` and `assistant`; what a model learns is what the
assistant says. Which template turns them into a text is the model's affair
(`steps.models.chat`). An item that names its paper follows that paper's split
(`steps.papers.item_splits`).
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from steps.config.paper_sections import Limits
from steps.errors import UserError
from steps.messages import Message
from steps.papers.file_bytes import Bytes
from steps.papers.formats.papers_json import read_lines
from steps.papers.identifiers import identity_of
from steps.papers.records import RawRecord, RecordProblem
from steps.papers.retractions import Retractions

# Called with the record, its file, its identifier (or None), and what is wrong with it.
Reject = Callable[[RawRecord, Path, RecordProblem], None]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
# Of the names of items.
ITEM_PREFIX = "item-"
LAYOUTS = (
    "messages",
    "prompt and completion",
    "question, context and answer",
    "instruction, input and output",
)
# The keys under which a JSON document may hold its list of items.
_LISTS = ("data", "items", "examples", "instances", "train", "rows")
# Of a question; PubMedQA has the last.
_ANSWERS = ("answer", "answers", "long_answer")
_FIRST_CHARACTERS = 4096


@dataclass(frozen=True)
class InstructionItem:
    """A conversation whose answers are learned.

    Attributes:
        item_id: From the content: the same messages have the same name.
        paper_id: The paper that it is about, or "".
        messages: Perhaps a system message, then user and assistant in turn; the last is the
            assistant's.
        identifiers: All that its record names that paper by; not kept on disk.
    """

    item_id: str
    paper_id: str
    messages: tuple[Message, ...]
    identifiers: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All that is said, for counting and for looking for duplicates."""
        return "\n\n".join(message.content for message in self.messages)

    @property
    def unit(self) -> str:
        """What is drawn anew in an interval: the paper, or the item where it names none."""
        return self.paper_id or self.item_id


def read_items(
    files: Sequence[Path],
    limits: Limits,
    reject: Reject,
    retractions: Retractions | None = None,
) -> Iterator[InstructionItem]:
    """The items of files, in their order; what is none is handed to `reject`.

    Args:
        files: JSON Lines, or a JSON list, plain or compressed.
        limits: The section `scientific_data.limits`.
        reject: Called for each record that is no item, or that is about a retracted paper.
        retractions: Papers that were taken back.

    Raises:
        UserError: A file cannot be read.
    """
    for file in files:
        for record in _records(file, limits):
            try:
                item = item_of(_decoded(record))
                if retractions is not None:
                    _refuse_retracted(item, retractions)
            except RecordProblem as problem:
                reject(record, file, problem)
                continue
            yield item


def _refuse_retracted(item: InstructionItem, retractions: Retractions) -> None:
    named = retractions.identifiers.intersection(item.identifiers)
    if named:
        raise RecordProblem(
            "retracted",
            f"its paper, {min(named)}, is named in {retractions.name} (scientific_data.retracted)",
        )


def _records(file: Path, limits: Limits) -> Iterator[RawRecord]:
    """Lines, or the elements of a list."""
    sizes = limits.max_decompressed_bytes, limits.max_record_bytes
    with closing(Bytes.open(file, sizes[0])) as source:
        head = source.head(_FIRST_CHARACTERS).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not head:
            raise UserError(f"{file.name}: is empty: expected instruction items as JSON Lines")
        if not _is_document(head):
            yield from read_lines(file, *sizes)
            return
        whole = source.read()
    try:
        content = msgspec.json.decode(whole.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{file.name}: is no JSON Lines and no JSON list ({error}): write one item a line"
        ) from None
    for number, one in enumerate(_listed(content)):
        yield RawRecord(number, 0, msgspec.json.encode(one))


def _is_document(head: bytes) -> bool:
    """Whether a file is one JSON value: a list, or an object that no line holds whole."""
    if head.startswith(b"["):
        return True
    first, newline, _ = head.partition(b"\n")
    if not newline:
        return False
    return first.strip() == b"{" or bool(re.match(rb'\{\s*"\w+"\s*:\s*\[\s*$', first.strip()))


def _listed(content: Any) -> list[Any]:
    if isinstance(content, dict):
        for key in _LISTS:
            if isinstance(content.get(key), list):
                return list(content[key])
        if content and all(isinstance(one, dict) for one in content.values()):
            # PubMedQA's: each record under its PMID.
            return [{"pmid": name, **one} for name, one in content.items()]
        return [content]
    return content if isinstance(content, list) else [content]


def _decoded(record: RawRecord) -> Mapping[str, Any]:
    try:
        content = msgspec.json.decode(record.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordProblem("malformed_json", str(error)) from None
    if not isinstance(content, dict):
        raise RecordProblem("not_an_object", f"expected an object, found {type(content).__name__}")
    return content


def item_of(fields: Mapping[str, Any]) -> InstructionItem:
    """The item that a record holds.

    Raises:
        RecordProblem: It is of no known layout, has no question or answer, or its roles are out
            of order.
    """
    fields = {name.lower(): value for name, value in fields.items() if value is not None}
    messages = _checked(_messages_of(fields))
    digest = hashlib.sha256(msgspec.json.encode(messages)).hexdigest()
    identifiers = _identifiers(fields)
    paper_id = identifiers[0] if identifiers else ""
    return InstructionItem(f"{ITEM_PREFIX}{digest[:16]}", paper_id, messages, identifiers)


def _identifiers(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """What a record names its paper by, the one first by which a dataset would."""
    inner = fields.get("metadata")
    where = {**inner, **fields} if isinstance(inner, dict) else fields
    named = str(where.get("paper_id") or "").strip()
    as_doi = named if named.lower().startswith(("10.", "doi:", "http")) else None
    try:
        found = identity_of(
            where.get("pmid") or (named if named.isdigit() else None),
            where.get("doi") or as_doi,
            where.get("pmcid") or (named if named.upper().startswith("PMC") else None),
        )
    except RecordProblem:
        return (named,) if named else ()
    names = (found.paper_id, found.pmid, found.doi, found.pmcid, named)
    return tuple(dict.fromkeys(name for name in names if name))


def _messages_of(fields: Mapping[str, Any]) -> list[Message]:
    if isinstance(fields.get("messages"), list):
        return [_message(one) for one in fields["messages"]]
    if isinstance(fields.get("conversations"), list):
        return [_message(one) for one in fields["conversations"]]
    if "prompt" in fields and "completion" in fields:
        return [*_turn("user", fields["prompt"]), *_turn("assistant", fields["completion"])]
    answers = [fields[key] for key in _ANSWERS if key in fields]
    if "question" in fields and answers:
        answer = answers[0]
        asked = _joined(fields.get("context", fields.get("contexts")), fields["question"])
        return [*_system(fields), Message("user", asked), Message("assistant", _answer(answer))]
    if "instruction" in fields and ("output" in fields or "response" in fields):
        # Dolly's context stands where Alpaca's input does.
        asked = _joined(fields["instruction"], fields.get("input"), fields.get("context"))
        output = _answer(fields["output"] if "output" in fields else fields["response"])
        return [*_system(fields), Message("user", asked), Message("assistant", output)]
    found = ", ".join(sorted(fields)[:6]) or "nothing"
    raise RecordProblem("no_item", f"has {found}: expected {'; '.join(LAYOUTS)}")


def _system(fields: Mapping[str, Any]) -> list[Message]:
    said = fields.get("system")
    return [Message("system", said.strip())] if isinstance(said, str) and said.strip() else []


def _turn(role: str, said: Any) -> list[Message]:
    """A side of a pair: a text, or messages of its own."""
    if isinstance(said, list):
        return [_message(one) for one in said]
    return [Message(role, _text(said).strip())]


def _message(one: Any) -> Message:
    if not isinstance(one, dict):
        raise RecordProblem("bad_message", f"a message is {type(one).__name__}: expected an object")
    name = one.get("role", one.get("from"))
    role = _ROLES.get(str(name).lower())
    if role is None:
        raise RecordProblem(
            "unknown_role", f"role {name!r}: expected system, user or assistant in each message"
        )
    return Message(role, _text(one.get("content", one.get("value"))).strip())


def _text(value: Any) -> str:
    """A text; OpenAI's parts of one are joined."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        if any(part.get("type") != "text" for part in value):
            raise RecordProblem("not_text", "a message holds an image, a tool or a file")
        return "".join(str(part.get("text", "")) for part in value)
    if value is None:
        return ""
    raise RecordProblem("not_text", f"expected a text, found {type(value).__name__}")


def _joined(*parts: Any) -> str:
    """What is asked: the parts that there are, a blank line between."""
    texts: list[str] = []
    for part in parts:
        if isinstance(part, dict) and isinstance(part.get("contexts"), list):
            part = part["contexts"]
        if isinstance(part, list) and all(isinstance(one, str) for one in part):
            texts.extend(part)
        else:
            texts.append(_text(part))
    return "\n\n".join(text.strip() for text in texts if text.strip())


def _answer(value: Any) -> str:
    """An answer; of several that count as right the first."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = value[0] if value else ""
    return _text(value).strip()


def _checked(messages: list[Message]) -> tuple[Message, ...]:
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user", "assistant"] * (len(turns) // 2)
    if not turns or turns != expected:
        raise RecordProblem(
            "roles_out_of_order",
            f"{', '.join(roles) or 'no message'}: expected at most one system message, then user "
            "and assistant in turn, the assistant last",
        )
    for number, message in enumerate(messages):
        if not message.content:
            reason = {"assistant": "empty_answer", "user": "empty_question"}
            raise RecordProblem(
                reason.get(message.role, "empty_message"),
                f"message {number} ({message.role}) says nothing",
            )
    return tuple(messages)
