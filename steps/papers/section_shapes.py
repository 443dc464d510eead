"""Sections as lists, objects and tables, in the many shapes that exporters write."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from steps.errors import UserError
from steps.papers.headings import DROPPED, heading_without_marks, section_of_heading
from steps.papers.section_lines import Part, parts_of_string, without_numbering

_DEEPEST_NESTING = 50
# Keys of one section, lower case; what else stands in it is not text to learn from.
_HEADING_KEYS = (
    "heading", "section_title", "sec_title", "section_name", "header", "title", "name", "section",
    "label", "head",
)  # fmt: skip
_TEXT_KEYS = (
    "text", "content", "body", "paragraphs", "paragraph", "paras", "section_text", "sentences",
    "passages", "p", "body_text",
)  # fmt: skip
_CHILD_KEYS = ("sections", "subsections", "children", "subsection", "sub_sections", "secs", "parts")
_TABLE_KEYS_WITHOUT_HEADING = frozenset((*_TEXT_KEYS, *_CHILD_KEYS, "full_text", "title"))
# Keys beside the sections of a paper that tell about it; they are no headings.
_ABOUT_KEYS = frozenset(
    {
        "id", "level", "type", "number", "order", "sec_num", "sec_number", "sec_type", "sectype",
        "section_type", "section_number", "content_type", "cite_spans", "ref_spans", "eq_spans",
        "bib_entries", "ref_entries", "pmid", "pmcid", "pmc", "doi", "uid", "url", "uri", "license",
        "lang", "language", "source", "authors", "year", "journal", "infons", "offset",
        "annotations", "relations", "citations", "xrefs", "figures", "tables", "formulas",
        "equations", "footnotes", "score", "start", "end", "n", "position", "depth", "index",
        "html_id", "rid", "attrs", "attributes", "metadata",
    }
)  # fmt: skip


def parts_of(
    value: Any, around: str | None, where: str, depth: int, notes: list[str]
) -> Iterator[Part]:
    """Parts of any accepted shape; `around` is the section that a nested value stands in."""
    if depth > _DEEPEST_NESTING:
        raise UserError(
            f"{where[:60]}...: sections nested deeper than {_DEEPEST_NESTING}, expected text, a "
            "list of sections or a mapping from heading to text: flatten this paper's sections"
        )
    if isinstance(value, str):
        yield from parts_of_string(value) if around is None else [Part(around, [value])]
    elif isinstance(value, Mapping) and _is_section(value):
        yield from _parts_of_section(value, around, where, depth, notes)
    elif isinstance(value, Mapping):
        yield from _parts_of_table(value, around, where, depth, notes)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        yield from _parts_of_list(value, around, where, depth, notes)
    elif value is not None:
        notes.append(f"{type(value).__name__} in the full text, not read")


def _parts_of_list(
    items: Sequence[Any], around: str | None, where: str, depth: int, notes: list[str]
) -> Iterator[Part]:
    last = around
    heading: str | None = None  # of the paragraph before, where each names its section
    for texts, group in groupby(enumerate(items), key=lambda item: isinstance(item[1], str)):
        if texts:  # neighbouring strings are the paragraphs, or the heading lines, of one text
            joined = "\n\n".join(text for _, text in group)
            yield from parts_of(joined, around, where, depth + 1, notes)
            continue
        for position, item in group:
            # Below methods or results an unknown heading ("Patients") is a subsection. Behind
            # an abstract or an introduction it opens the body of a review: "other".
            inherits = last in ("methods", "results", "discussion", "conclusion", DROPPED)
            own = _known_heading(_heading_of(item)) if isinstance(item, Mapping) else None
            within = around or (last if inherits and not own else None)
            if isinstance(item, Mapping) and heading is not None and _heading_of(item) == heading:
                item, within = _without_heading(item), last
            else:
                heading = _heading_of(item) or None if isinstance(item, Mapping) else None
            opened = own  # the section of the item itself, not of the last one nested in it
            for part in parts_of(item, within, f"{where}[{position}]", depth + 1, notes):
                opened = opened or part.section
                yield part
            # Behind a statement (ethics, funding, abbreviations) the text goes on; behind the
            # references it does not.
            if opened and (opened != DROPPED or _ends_the_text(item)):
                last = opened


_END = ("reference", "bibliograph", "literature", "works cited", "further reading", "cited")


def _ends_the_text(value: Any) -> bool:
    heading = (
        _heading_of(value).lower().lstrip("0123456789. ") if isinstance(value, Mapping) else ""
    )
    return heading.startswith(_END)


def _heading_of(value: Mapping[str, Any]) -> str:
    fields = {str(key).lower(): item for key, item in value.items()}
    found = (_heading_text(fields.get(key)) for key in _HEADING_KEYS)
    return next((heading for heading in found if heading), "")


def _heading_text(value: Any) -> str:
    """A heading as text, in a list of one, or as an object with a text; "" where it is none."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        value = value.get("text")
    return value.strip() if isinstance(value, str) else ""


def _without_heading(value: Mapping[str, Any]) -> dict[str, Any]:
    """A further paragraph of the same section: its heading is said once."""
    return {key: item for key, item in value.items() if str(key).lower() not in _HEADING_KEYS}


def _is_section(value: Mapping[str, Any]) -> bool:
    """Whether a mapping is one section rather than a table from heading to text.

    A section holds a text, or sections, under one of the keys for them; a table holds headings
    that are known, such as "Methods", as keys of its own.
    """
    keys = {str(key).lower() for key in value}
    if not keys & {*_TEXT_KEYS, *_CHILD_KEYS}:
        return False
    others = keys - {*_HEADING_KEYS, *_TEXT_KEYS, *_CHILD_KEYS} - _ABOUT_KEYS
    return not any(_known_heading(key) for key in others)


def _known_heading(key: str) -> str | None:
    heading = key.replace("_", " ").strip()
    return section_of_heading(heading[:1].upper() + heading[1:])


def _parts_of_section(
    value: Mapping[str, Any], around: str | None, where: str, depth: int, notes: list[str]
) -> Iterator[Part]:
    fields = {str(key).lower(): item for key, item in value.items() if item is not None}
    heading = heading_without_marks(_heading_of(value))
    known = section_of_heading(heading[:1].upper() + heading[1:])
    # Within an abstract, and within what is dropped, every part stays what the whole is.
    section = around if around in ("abstract", DROPPED) else known or around
    if heading and known is None:
        section = section or "other"
        yield Part(section, [without_numbering(heading)])
    for key, item in fields.items():
        if key in _TEXT_KEYS or key in _CHILD_KEYS:
            yield from parts_of(item, section, f"{where}.{key}", depth + 1, notes)
        elif key not in _HEADING_KEYS and key not in _ABOUT_KEYS and _holds_prose(item):
            notes.append(f"key {key[:40]!r} of a section, not read")


def _holds_prose(value: Any) -> bool:
    """Whether a value that is not read holds running text, which its report should say."""
    if isinstance(value, list):
        return any(_holds_prose(item) for item in value[:20])
    if isinstance(value, Mapping):
        return any(_holds_prose(item) for item in list(value.values())[:20])
    return isinstance(value, str) and len(value.split()) > 8


def _parts_of_table(
    value: Mapping[str, Any], around: str | None, where: str, depth: int, notes: list[str]
) -> Iterator[Part]:
    keys = [str(key) for key, item in value.items() if item is not None]
    is_table = any(_known_heading(key) for key in keys) or any(_looks_like_heading(k) for k in keys)
    for key, item in value.items():
        name = str(key)
        place = f"{where}[{name!r}]"
        if item is None or name.lower() in _ABOUT_KEYS:
            continue
        if name.lower() in _TABLE_KEYS_WITHOUT_HEADING:
            yield from parts_of(item, around, place, depth + 1, notes)
        elif is_table and (_known_heading(name) or _looks_like_heading(name) or _holds_prose(item)):
            section = {"heading": name.replace("_", " ").strip(), "text": item}
            yield from _parts_of_section(section, around, place, depth + 1, notes)
        elif _holds_prose(item):
            notes.append(f"key {name[:40]!r} of a section, not read")


def _looks_like_heading(key: str) -> bool:
    """Whether an unknown key is a heading that an author wrote rather than a field's name."""
    return key[:1].isupper() or key[:1].isdigit() or " " in key.strip()
