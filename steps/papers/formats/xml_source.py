"""XML of papers, cut into the elements that hold one paper each, and parsed safely.

Nothing is fetched and no entity is expanded: a DTD is never loaded, and a file that declares
entities of its own is refused, which is what entity bombs and external entities need. The names
that the DTDs of publishers define (`&alpha;`, `&nbsp;`) stay in the tree as entity nodes and
become characters by the table of HTML.
"""

import html.entities
import re
from collections.abc import Iterator
from typing import Any

from lxml import etree

from steps.papers.file_bytes import Bytes
from steps.papers.possessive import compile_possessive
from steps.papers.records import RawRecord, RecordProblem

HEAD_BYTES = 1 << 16
MALFORMED = "malformed_xml"
_PROLOG = compile_possessive(
    rb"(?:\xef\xbb\xbf)?(?:\s++|<\?(?:(?!\?>).)*+\?>|<!--(?:(?!-->).)*+-->"
    rb"|<!DOCTYPE(?:[^\[<>\"']|\"[^\"]*+\"|'[^']*+')*+(?:\[(?:[^\]\"']|\"[^\"]*+\"|'[^']*+')*+\]\s*+)?>)*+",
    re.DOTALL,
)
_ROOT = re.compile(rb"<([A-Za-z_][\w.:-]*+)")
_PARSING = {"resolve_entities": False, "no_network": True, "load_dtd": False}
_COMMENT_TAGS = (etree.Comment, etree.ProcessingInstruction)


def root_name(head: bytes) -> str | None:
    """Local name of the root element of XML text that begins so; None where it is no XML."""
    prolog = _PROLOG.match(head)
    root = _ROOT.match(head, prolog.end()) if prolog else None
    return root[1].decode().rpartition(":")[2] if root else None


def local_name(element: Any) -> str:
    """The name of an element without its namespace; "" for comments and entities."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def entity_character(name: str) -> str:
    """What an entity that nobody declared stands for: `alpha` is α; an unknown one is a blank."""
    return html.entities.html5.get(f"{name};", " ")


def check_entities(head: bytes) -> None:
    """Refuse a file that declares entities before its root.

    Raises:
        RecordProblem: With reason xml_entities.
    """
    prolog = _PROLOG.match(head)
    declared = re.search(
        rb"<!ENTITY\s+(%?\s*[\w.-]{1,80})", head[: prolog.end()] if prolog else b""
    )
    if declared:
        raise RecordProblem(
            "xml_entities",
            f"the file declares the entity {declared[1].decode('ascii', 'replace')!r}, which can "
            "blow up or fetch files: take the declarations out, or export it again without",
        )


def parse_element(data: bytes) -> Any:
    """Parse the XML text of one element.

    Raises:
        RecordProblem: With reason malformed_xml and the parser's line, or xml_entities.
    """
    check_entities(data[:HEAD_BYTES])
    try:
        return etree.fromstring(data, etree.XMLParser(**_PARSING))
    except etree.XMLSyntaxError as error:
        raise RecordProblem(MALFORMED, _place(error)) from None


def cut_elements(
    source: Bytes, names: frozenset[str], source_format: str, max_record_bytes: int
) -> Iterator[RawRecord]:
    """Cut an XML file into its elements of some names, as a stream.

    Args:
        source: The open file.
        names: Local names of the elements that hold a paper each; they do not nest.
        source_format: Key of `steps.papers.formats.FORMATS` for all of them.
        max_record_bytes: Most bytes of one element.

    Yields:
        The elements in their order, and where the file is not well formed a record that says
        so: what stands before that place is kept, the rest of the file is not.
    """
    number = 0
    metered = _Metered(source, max_record_bytes)
    try:
        check_entities(source.head(HEAD_BYTES))
        for _, element in etree.iterparse(
            metered, events=("end",), tag=[f"{{*}}{name}" for name in sorted(names)],
            huge_tree=True, **_PARSING,
        ):  # fmt: skip
            data = etree.tostring(element, encoding="utf-8", with_tail=False)
            if len(data) > max_record_bytes:
                detail = (
                    f"{len(data)} bytes, more than scientific_data.limits.max_record_bytes "
                    f"({max_record_bytes}): raise it if that is one paper"
                )
                yield RawRecord(
                    number, 0, data[:1000], source_format, problem=("too_large", detail)
                )
            else:
                yield RawRecord(number, 0, data, source_format)
            number += 1
            metered.since_record = 0
            _forget(element)
    except etree.XMLSyntaxError as error:
        yield RawRecord(number, 0, b"", source_format, problem=(MALFORMED, _place(error)))
    except RecordProblem as problem:
        data = source.head(1000)
        yield RawRecord(number, 0, data, source_format, problem=(problem.reason, problem.detail))


class _Metered:
    """A file for the parser that ends in a problem where no record comes for too long.

    What stands outside the records, and a record that is not complete, is held in memory.
    """

    def __init__(self, source: Bytes, max_record_bytes: int) -> None:
        self._source = source
        self._limit = max_record_bytes
        self.since_record = 0

    def read(self, size: int) -> bytes:
        """Up to about `size` more bytes."""
        data = self._source.read(size)
        self.since_record += len(data)
        if self.since_record > self._limit + HEAD_BYTES:
            raise RecordProblem(
                "too_large",
                f"more than {self._limit} bytes without the end of a record: if one is that long, "
                "raise scientific_data.limits.max_record_bytes",
            )
        return data


def _forget(element: Any) -> None:
    """Drop an element and all that stands before it, so that memory stays flat."""
    element.clear()
    for ancestor in element.xpath("ancestor-or-self::*"):
        while ancestor.getprevious() is not None and ancestor.getparent() is not None:
            del ancestor.getparent()[0]


def _place(error: etree.XMLSyntaxError) -> str:
    message = " ".join(str(error.msg or error).split())
    return f"{message[:200]}: the file is cut off or broken there, download or export it again"


def children(element: Any, *names: str) -> list[Any]:
    """The direct children of these local names, in their order."""
    return [child for child in element if local_name(child) in names]


def child(element: Any, *path: str) -> Any:
    """The first descendant along a path of local names, or None."""
    for name in path:
        if element is None:
            return None
        element = next((inner for inner in element if local_name(inner) == name), None)
    return element


def is_markup_only(node: Any) -> bool:
    """Whether a node of the tree is a comment or an instruction, which hold no text."""
    return node.tag in _COMMENT_TAGS
