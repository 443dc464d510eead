"""Values of a JSON object, read without trust in their types."""

from collections.abc import Mapping
from typing import Any

from steps.papers.formats.fields import one_line
from steps.papers.json_text import is_missing
from steps.papers.records import RecordProblem


def _only(value: Any) -> Any:
    """What a list of one holds, for some exporters (getpapers) wrap every value in one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def text_in(value: Mapping[str, Any], key: str) -> str:
    """Text to learn from, on one line; see `text_as_given_in`."""
    return one_line(text_as_given_in(value, key))


def text_as_given_in(value: Mapping[str, Any], key: str) -> str:
    """Text to learn from, character for character; "" where there is none.

    Raises:
        RecordProblem: With reason wrong_type, where it is something else.
    """
    text = _only(value.get(key))
    if is_missing(text):
        return ""
    if not isinstance(text, str):
        raise RecordProblem("wrong_type", f"{key} is {type(text).__name__}, expected text")
    return text


def objects_in(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects of a list that holds text to learn from.

    Raises:
        RecordProblem: With reason wrong_type, where it is no list of objects.
    """
    items = value.get(key)
    if items is None:
        return []
    if not isinstance(items, list):
        raise RecordProblem("wrong_type", f"{key} is {type(items).__name__}, expected a list")
    found = [item for item in items if item is not None]
    wrong = next((item for item in found if not isinstance(item, dict)), None)
    if wrong is not None:
        raise RecordProblem("wrong_type", f"{key} holds {type(wrong).__name__}, expected objects")
    return found


def object_in(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object of particulars; empty where it is something else."""
    inner = _only(value.get(key))
    return inner if isinstance(inner, dict) else {}


def name_in(value: Mapping[str, Any], key: str) -> str:
    """A name, number or code on one line; "" where it is something else."""
    name = _only(value.get(key))
    if isinstance(name, int) and not isinstance(name, bool) and abs(name) < 10**18:
        return str(name)
    return one_line(name) if isinstance(name, str) else ""


def names_in(value: Mapping[str, Any], key: str) -> list[str]:
    """A list of names, or a single one; what is no name is passed over."""
    names = value.get(key)
    items = names if isinstance(names, list) else [names]
    return [name for item in items if isinstance(item, str) and (name := one_line(item))]
