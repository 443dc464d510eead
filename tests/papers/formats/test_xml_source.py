"""XML is cut into papers as a stream, and parsed without fetching or expanding anything."""

import tracemalloc
from pathlib import Path

import pytest

from steps.papers.file_bytes import Bytes
from steps.papers.formats.xml_source import cut_elements, parse_element, root_name
from steps.papers.formats.xml_text import text_of
from steps.papers.records import RawRecord, RecordProblem

PROLOG = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<!-- a > comment --><!DOCTYPE s PUBLIC "-//x" "x.dtd">'
)


def cut(path: Path, content: str | bytes, max_record_bytes: int = 1 << 20) -> list[RawRecord]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = Bytes.open(path, 1 << 30)
    return list(cut_elements(source, frozenset({"a"}), "jats", max_record_bytes))


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"<article>", "article"),
        (PROLOG.encode() + b"\n<x:TEI xmlns:x='y'>", "TEI"),
        (b"\xef\xbb\xbf  <collection/>", "collection"),
        (b'<!DOCTYPE s [ <!ENTITY e "<b>"> ]><s>', "s"),
        (b"{}", None),
        (b"<", None),
        (b"", None),
    ],
)
def test_the_root_is_told_by_the_head(head: bytes, name: str | None) -> None:
    assert root_name(head) == name


def test_elements_come_whole_and_in_order(tmp_path: Path) -> None:
    records = cut(tmp_path / "x.xml", f"{PROLOG}<s><a>1<b>α</b></a>\n<a xmlns='n'>2</a><c/></s>")
    assert [(r.number, r.problem) for r in records] == [(0, None), (1, None)]
    assert records[0].data.decode() == "<a>1<b>α</b></a>"
    assert text_of(parse_element(records[1].data)) == "2"


def test_what_stands_before_a_broken_place_is_kept_and_the_place_named(tmp_path: Path) -> None:
    whole, problem = cut(tmp_path / "x.xml", "<s><a>1</a>\n<a>2<b></a></s>")
    assert whole.data == b"<a>1</a>"
    assert problem.problem is not None
    reason, detail = problem.problem
    assert reason == "malformed_xml"
    assert "line 2" in detail


@pytest.mark.parametrize("end", ["", "<a>", "<a>text", "<a><![CDATA["])
def test_a_truncated_file_is_one_problem(tmp_path: Path, end: str) -> None:
    *whole, problem = cut(tmp_path / "x.xml", f"<s><a>1</a>{end}")
    assert len(whole) == 1
    assert problem.problem is not None


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = {
    "bomb": f'<!DOCTYPE s [<!ENTITY l0 "lol">{LAUGHS}]><s><a>&l9;</a></s>',
    "file": '<!DOCTYPE s [<!ENTITY f SYSTEM "file:///etc/passwd">]><s><a>&f;</a></s>',
    "network": '<!DOCTYPE s [<!ENTITY % r SYSTEM "http://127.0.0.1:9/x.dtd"> %r;]><s><a>1</a></s>',
    "attribute": f'<!DOCTYPE s [<!ENTITY l0 "lol">{LAUGHS}]><s><a b="&l9;">1</a></s>',
}


@pytest.mark.parametrize("case", HOSTILE)
def test_declared_entities_are_refused(tmp_path: Path, case: str) -> None:
    (problem,) = cut(tmp_path / "x.xml", HOSTILE[case])
    assert problem.problem is not None
    assert problem.problem[0] == "xml_entities"
    with pytest.raises(RecordProblem, match="xml_entities"):
        parse_element(HOSTILE[case].encode())


def test_a_dtd_is_not_fetched_and_its_names_become_characters(tmp_path: Path) -> None:
    dtd = tmp_path / "evil.dtd"
    dtd.write_text('<!ENTITY alpha "fetched">')
    text = f'<!DOCTYPE s SYSTEM "{dtd}"><s><a>&alpha;-globin &unheard; &#946;</a></s>'
    (record,) = cut(tmp_path / "x.xml", text)
    assert record.data == b"<a>&alpha;-globin &unheard; \xce\xb2</a>"
    (whole,) = parse_element(text.encode())
    assert text_of(whole) == "α-globin β"


def test_an_element_beyond_the_limit_is_a_problem_and_the_next_is_read(tmp_path: Path) -> None:
    long, short = cut(tmp_path / "x.xml", f"<s><a>{'x' * 5000}</a><a>2</a></s>", 1000)
    assert long.problem is not None
    assert "max_record_bytes (1000)" in long.problem[1]
    assert short.data == b"<a>2</a>"


@pytest.mark.parametrize("filling", ["<b/>", "<a><b/>"])
def test_a_file_without_the_end_of_a_record_is_not_held_in_memory(
    tmp_path: Path, filling: str
) -> None:
    inside = filling + "<b/>" * 500_000
    whole, problem = cut(tmp_path / "x.xml", f"<s><a>1</a>{inside}", 100_000)
    assert whole.data == b"<a>1</a>"
    assert problem.problem is not None
    assert problem.problem[0] == "too_large"
    assert "100000 bytes without the end of a record" in problem.problem[1]


def test_a_long_file_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_bytes(b"<s>" + (b"<a>" + b"gene " * 400 + b"</a>") * 10_000 + b"</s>")
    source = Bytes.open(path, 1 << 30)
    tracemalloc.start()
    count = sum(1 for _ in cut_elements(source, frozenset({"a"}), "jats", 1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 8 << 20


def test_an_encoding_that_the_file_declares_is_followed(tmp_path: Path) -> None:
    content = '<?xml version="1.0" encoding="ISO-8859-1"?><s><a>café</a></s>'.encode("latin-1")
    (record,) = cut(tmp_path / "x.xml", content)
    assert text_of(parse_element(record.data)) == "café"


def test_nesting_without_end_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(RecordProblem, match="malformed_xml"):
        parse_element(b"<a>" * 100_000)
    records = cut(tmp_path / "x.xml", "<s><a>" + "<b>" * 50_000 + "</b>" * 50_000 + "</a></s>")
    assert all(r.problem for r in records)
