"""Files in the papers layout are cut into the same records, however they are packed."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from steps.errors import UserError
from steps.papers.formats import papers_json as scanner
from steps.papers.formats.papers_json import read_records

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
    "papers are no list": ("a.json", b'{"papers": {"1": {}}}', "'papers' must be a list"),
    "no papers": ("a.json", b'{"metadata": {}}', "without a 'papers' list"),
    "by identifier": ("a.json", b'{"11": {"pmid": "11"}}', "without a 'papers' list"),
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
