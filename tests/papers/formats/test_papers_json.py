"""Files in the papers layout are cut into the same records, however they are packed."""

import gzip
import io
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from steps.errors import UserError
from steps.papers.file_bytes import Bytes
from steps.papers.formats import json_scanner as scanner
from steps.papers.formats.papers_json import read_lines, read_records, records_of

MEBIBYTE = 1 << 20


PAPERS: list[dict[str, Any]] = [
    {"pmid": "1", "title": "Brackets ] } in [a title, {odd}", "score": 81.5},
    {"pmid": "2", "title": 'A "quoted" \\ title', "authors": ["A. B.", "C. D."]},
    {"pmid": "3", "title": "β-globin ☃ naïve", "component_scores": {"a": 1, "b": 0}},
]


def read(path: Path, decompressed: int = 10 * MEBIBYTE, record: int = MEBIBYTE) -> list[Any]:
    return [json.loads(r.data) for r in read_records(path, decompressed, record)]


def as_lines(papers: list[Any]) -> str:
    return "\n".join(json.dumps(paper) for paper in papers) + "\n"


LAYOUTS = {
    "wrapper.json": json.dumps({"metadata": {"papers": 3, "x": ["]"]}, "papers": PAPERS}),
    "metadata_last.json": json.dumps({"papers": PAPERS, "metadata": {"note": "}]"}}),
    "indented.json": json.dumps({"papers": PAPERS}, indent=2, ensure_ascii=False),
    "list.json": json.dumps(PAPERS),
    "lines.jsonl": as_lines(PAPERS),
    "lines_without_last_newline.ndjson": as_lines(PAPERS).rstrip("\n"),
    "blank_lines.jsonl": as_lines(PAPERS).replace("\n", "\r\n\r\n"),
    "lines_named_as_list.json": as_lines(PAPERS),
}


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_and_packing_gives_the_same_records(
    tmp_path: Path, name: str, packing: str
) -> None:
    content = LAYOUTS[name].encode()
    if packing == ".gz":
        content = gzip.compress(content)
    if packing == ".zst":
        # Two frames, as parallel compressors write them.
        half = len(content) // 2
        compressor = zstandard.ZstdCompressor()
        content = compressor.compress(content[:half]) + compressor.compress(content[half:])
    path = tmp_path / (name + packing)
    path.write_bytes(content)
    assert read(path) == PAPERS


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_byte_order_mark_is_accepted(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + LAYOUTS[name].encode())
    assert read(path) == PAPERS


def test_a_file_of_one_paper_is_one_record(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(PAPERS[0], indent=1))
    assert read(path) == PAPERS[:1]


def test_a_record_tells_its_number_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"pmid": "1"}\n\n  {"pmid": "2"}\n')
    first, second = read_records(path, MEBIBYTE, MEBIBYTE)
    assert (first.number, first.offset) == (0, 0)
    assert (second.number, second.offset) == (1, 15)
    array = tmp_path / "list.json"
    array.write_text('[{"pmid": "1"}, {"pmid": "2"}]')
    assert [r.offset for r in read_records(array, MEBIBYTE, MEBIBYTE)] == [1, 16]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\[]{},: \né☃') | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("window", [3, 64])
def test_records_do_not_depend_on_where_the_window_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(scanner, "READ_BYTES", window)
    path = tmp_path / "papers.json"

    @given(st.lists(JSON_VALUES, max_size=6), st.booleans(), st.sampled_from([None, 1]))
    def check(values: list[Any], wrapped: bool, indent: int | None) -> None:
        content = {"a": values, "papers": values, "z": "]"} if wrapped else values
        path.write_text(json.dumps(content, indent=indent))
        assert read(path) == values

    check()


def test_a_long_list_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "papers.json.gz"
    paper = json.dumps({"pmid": "1", "abstract": "gene " * 400}).encode()
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"[" + b",".join([paper] * 10_000) + b"]")
    tracemalloc.start()
    count = sum(1 for _ in read_records(path, 100 * MEBIBYTE, MEBIBYTE))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 8 * MEBIBYTE, f"{peak} bytes held of a list of {len(paper) * count}"


def test_a_broken_line_does_not_hide_the_lines_after_it(tmp_path: Path) -> None:
    path = tmp_path / "papers.jsonl"
    path.write_text('{"pmid": "1"}\n{"pmid": "2", "title": "broken\n{"pmid": "3"}\n')
    data = [r.data for r in read_records(path, MEBIBYTE, MEBIBYTE)]
    assert data == [b'{"pmid": "1"}', b'{"pmid": "2", "title": "broken', b'{"pmid": "3"}']


ZSTD = zstandard.ZstdCompressor().compress(as_lines(PAPERS * 50).encode())


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "truncated list": (
        "a.json",
        b'[{"pmid": "1"}, {"pmid": "2',
        "record 1, which starts at byte 16",
    ),
    "truncated between records": ("a.json", b'[{"pmid": "1"},', "breaks off at byte 15"),
    "truncated wrapper": ("a.json", b'{"papers": [{"pmid": "1"}]', "truncated"),
    "missing comma": ("a.json", b'[{"pmid": "1"} {"pmid": "2"}]', "byte 15: expected ','"),
    "comma at the end": ("a.json", b'[{"pmid": "1"},]', "byte 15: expected a value"),
    "more behind the list": ("a.json", b'[{"pmid": "1"}] x', "byte 16: expected the end"),
    "papers are no list": ("a.json", b'{"papers": "1"}', "'papers' must be a list"),
    "no papers": ("a.json", b'{"metadata": {}}', "without a 'papers' list"),
    "another wrapper": (
        "a.json",
        b'{"count": 1, "publications": [{"pmid": "1"}]}',
        "rename 'publications' to 'papers'",
    ),
    "misspelt wrapper": ("a.json", b'{"artcles": [{"pmid": "1"}]}', "to 'articles'?"),
    "wrapper of texts": ("a.json", b'{"data": ["a", "b"]}', "'data' must be a list of objects"),
    "another wrapper over lines": (
        "a.jsonl",
        b'{\n "rows": [\n  {"pmid": "1"}\n ]\n}\n',
        "with the keys 'rows'",
    ),
    "many long keys": (
        "a.json",
        json.dumps({f"{n}{'k' * 200}": n for n in range(9)}).encode(),
        ", ...: expected",
    ),
    "list of lines that breaks off": ("a.jsonl", b'[\n{"pmid": "1"},\n', "breaks off at byte 17"),
    "top level is text": ("a.json", b'"papers"', "expected a list of papers or an object"),
    "top level is a number": ("a.json", b"42", "expected a list of papers or an object"),
    "empty": ("a.json", b"", "is empty"),
    "only white space": ("a.jsonl", b" \n\n", "is empty"),
    "UTF-16": ("a.json", json.dumps(PAPERS).encode("utf-16"), "iconv"),
    "UTF-16 without a mark": ("a.json", json.dumps(PAPERS).encode("utf-16-le"), "iconv"),
    "corrupt gzip": ("a.json.gz", gzip.compress(b"[]" * 999)[:-30], "corrupt gzip"),
    "flipped gzip": ("a.json.gz", gzip.compress(b"[]")[:-6] + b"abcdef", "corrupt gzip"),
    "no gzip": ("a.json.gz", b"[]", "no gzip file"),
    "truncated zst": ("a.jsonl.zst", ZSTD[:-9], "corrupt zst"),
    "corrupt zst": ("a.jsonl.zst", ZSTD[:20] + b"\xff" * 20 + ZSTD[40:], "corrupt zst"),
    "no zst": ("a.json.zst", b"[]", "no Zstandard file"),
    "long line": ("a.jsonl", b'{"title": "' + b"x" * 2 * MEBIBYTE + b'"}', "max_record_bytes"),
    "long record": ("a.json", b'[{"title": "' + b"x" * 2 * MEBIBYTE + b'"}]', "max_record_bytes"),
    "long string": ("a.json", b'["' + b"x" * 3 * MEBIBYTE + b'"]', "max_record_bytes"),
    "long value": ("a.json", b'{"a":' + b"9" * 2 * MEBIBYTE + b"}", "max_record_bytes"),
    "long object": ("a.json", b'{"a":1' + b',"b":[2]' * MEBIBYTE, "no 'papers' list"),
    "endless string": ("a.json", b'[{"title": "' + b"x" * 9 * MEBIBYTE, "max_record_bytes"),
    "gzip bomb": ("a.json.gz", gzip.compress(b" " * 20 * MEBIBYTE, 9), "max_decompressed_bytes"),
    "zst bomb": (
        "a.json.zst",
        zstandard.ZstdCompressor().compress(b" " * 20 * MEBIBYTE),
        "max_decompressed_bytes",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_gives_one_line_that_names_it(tmp_path: Path, case: str) -> None:
    name, content, expected = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert expected in message
    assert name in message
    assert "\n" not in message
    assert len(message) < 300


# --- JSON as people write it -------------------------------------------------------------------

A, B, C = PAPERS
JQ = [json.dumps(paper, indent=2) for paper in PAPERS]
FLAT = [json.dumps(paper) for paper in PAPERS]
MARK = "\ufeff"

AS_WRITTEN = {
    "jq": "\n".join(JQ),
    "jq with blank lines": "\n\n".join(JQ) + "\n\n",
    "jq without line breaks between": "".join(JQ),
    "jq of indentation 0": "\n".join(json.dumps(paper, indent=0) for paper in PAPERS),
    "several on a line": " ".join(FLAT),
    "nothing between": "".join(FLAT),
    "joined by commas": ",".join(FLAT),
    "joined by commas at the ends of lines": ",\n".join(FLAT) + ",\n",
    "joined by commas, each over several lines": ",\n".join(JQ),
    "two on a line": f"{FLAT[0]} {FLAT[1]}\n{FLAT[2]}\n",
    "a list": json.dumps(PAPERS),
    "a list over several lines": json.dumps(PAPERS, indent=2),
    "a list of lines": "[\n" + ",\n".join(FLAT) + "\n]\n",
    "a list a line": f"[{FLAT[0]}, {FLAT[1]}]\n[{FLAT[2]}]\n",
    "lists one behind the other": f"[{FLAT[0]}][{FLAT[1]}]\n[]\n[{FLAT[2]}]",
    "lists over lines one behind the other": "\n".join(
        json.dumps(papers, indent=1) for papers in ([A, B], [C])
    ),
    "a list followed by objects": f"[{FLAT[0]}]\n{FLAT[1]}\n{JQ[2]}",
    "objects followed by a list": f"{JQ[0]}\n[{FLAT[1]},\n{FLAT[2]}]\n",
    "a wrapper": json.dumps({"metadata": {"n": 3}, "papers": PAPERS}),
    "a wrapper over lines": json.dumps({"metadata": {"n": 3}, "papers": PAPERS}, indent=2),
    "a wrapper a line": "\n".join(
        json.dumps({"hits": 3, "papers": papers}) for papers in ([A, B], [C])
    ),
    "wrappers over lines": "\n".join(
        json.dumps({"total": 3, "results": papers}, indent=1) for papers in ([A, B], [], [C])
    ),
    "a wrapper followed by objects": json.dumps({"papers": [A]}) + "\n" + "\n".join(FLAT[1:]),
    "marks at the beginning": MARK + MARK + "\n".join(FLAT),
    "a mark on each line": "".join(f"{MARK}{line}\r\n" for line in FLAT),
    "a mark before each, over lines": "".join(f"{MARK}{text}\n" for text in JQ),
    "a mark between lists": f"{MARK}[{FLAT[0]}]\n{MARK}[{FLAT[1]}, {FLAT[2]}]",
    "a mark before each element": f"[{MARK}{FLAT[0]},{MARK}{FLAT[1]},\n{MARK}{FLAT[2]}]",
}  # fmt: skip


@pytest.mark.parametrize("window", [3, MEBIBYTE])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson.gz", ".json.zst"])
@pytest.mark.parametrize("case", AS_WRITTEN)
def test_json_is_read_as_people_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, suffix: str, window: int
) -> None:
    monkeypatch.setattr(scanner, "READ_BYTES", window)
    content = AS_WRITTEN[case].encode()
    path = tmp_path / f"a{suffix}"
    if suffix.endswith(".gz"):
        content = gzip.compress(content)
    if suffix.endswith(".zst"):
        content = zstandard.ZstdCompressor().compress(content)
    path.write_bytes(content)
    assert read(path) == PAPERS
    assert [r.number for r in read_records(path, MEBIBYTE, MEBIBYTE)] == [0, 1, 2]


OBJECTS = st.dictionaries(
    st.sampled_from(["pmid", "title", "x", "papers ", "sections", "data ", '"}{', "é"]),
    JSON_VALUES,
    max_size=3,
).map(lambda fields: {"pmid": 1} | fields)


@pytest.mark.parametrize("window", [3, 64, MEBIBYTE])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_objects_read_the_same_whatever_stands_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, window: int
) -> None:
    monkeypatch.setattr(scanner, "READ_BYTES", window)
    path = tmp_path / name
    between = st.sampled_from(["", " ", "\n", "\r\n\r\n", ",", " ,\n", "\n, ", "\n" + MARK, MARK])

    @given(st.lists(st.tuples(OBJECTS, st.sampled_from([None, 0, 2]), between), min_size=1))
    def check(parts: list[tuple[dict[str, Any], int | None, str]]) -> None:
        text = "".join(json.dumps(value, indent=i) + separator for value, i, separator in parts)
        path.write_text(text)
        assert read(path) == [value for value, _, _ in parts]

    check()


@pytest.mark.parametrize("window", [3, MEBIBYTE])
def test_a_broken_record_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(scanner, "READ_BYTES", window)
    path = tmp_path / "a.jsonl"
    good = ['{"pmid": "1"}', '{"pmid": "9"}', '{"x": [{"y": 1}, {"z": 2}]}']
    broken = [
        '{"pmid": "2", "title": "no end',
        '{"pmid": "2", "title":',
        '{"pmid": "2", "title": "ends"',
        '{"pmid": "2",',
        '{"x": [1, 2',
        '{"x": [1,',
        '{"x": {"y": {',
        "{",
        '{"pmid": "2"]',
        "not JSON at all",
        '{"pmid": "2", "a": "back\\',
        ', "pmid": 7}',
        "]",
        "}",
        "42",
    ]
    for line in broken:
        path.write_text("\n".join([*good, line, *good]))
        data = [r.data.decode() for r in read_records(path, MEBIBYTE, MEBIBYTE)]
        assert data == [*good, line.removeprefix(", "), *good], line


def test_a_broken_record_over_several_lines_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    broken = '{\n  "pmid": "2",\n  "sections": [\n    {"a": "cut\n    },\n    {"b": 1}\n  ]\n}'
    path.write_text("\n".join([JQ[0], broken, JQ[1], JQ[2]]))
    data = [r.data.decode() for r in read_records(path, MEBIBYTE, MEBIBYTE)]
    assert data == [JQ[0], broken, JQ[1], JQ[2]]
    in_list = tmp_path / "a.jsonl"
    in_list.write_text(json.dumps(PAPERS, indent=2).replace('"2",', '"2'))
    first, second, third = (r.data for r in read_records(in_list, MEBIBYTE, MEBIBYTE))
    assert (json.loads(first), json.loads(third)) == (A, C)
    assert b"quoted" in second


@pytest.mark.parametrize("line", ['{"a":', '{"a":[{"b":1},', '{"x":[1,\n{"p":1},', '{"a": "b'])
def test_many_broken_lines_take_linear_time(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{line}\n" * 4000)
    started = time.process_time()
    assert len(list(read_records(path, MEBIBYTE, MEBIBYTE))) in (4000, 8000)
    assert time.process_time() - started < 10


def test_a_paper_of_windows_1252_is_left_to_who_parses_it(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json"):
        path = tmp_path / name
        path.write_bytes(b'{"pmid": "1", "title": "na\xefve \x96"}\n{"pmid": "2"}\n')
        data = [r.data for r in read_records(path, MEBIBYTE, MEBIBYTE)]
        assert data == [b'{"pmid": "1", "title": "na\xefve \x96"}', b'{"pmid": "2"}']


def test_a_list_in_a_list_is_one_record(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        path = tmp_path / name
        path.write_text(json.dumps([[A], [B, C]]))
        assert read(path) == [[A], [B, C]]


def test_lines_of_text_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text('[Background] We, {"x": 1} {"y"\n\n  {"papers": [{}]}\n' + MARK + "last, \n")
    lines = [line.data.decode() for line in read_lines(path, MEBIBYTE, MEBIBYTE)]
    assert lines == ['[Background] We, {"x": 1} {"y"', '{"papers": [{}]}', "last,"]


def test_an_open_file_is_read_under_the_name_that_it_is_given() -> None:
    source = Bytes(io.BytesIO(b"[" + FLAT[0].encode() + b", x"), "a.json", MEBIBYTE)
    records = records_of(source, "bundle.zip: a.json", MEBIBYTE, lines=False)
    assert json.loads(next(records).data) == A
    with pytest.raises(UserError, match=r"^bundle\.zip: a\.json: "):
        list(records)
