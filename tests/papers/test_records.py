"""Files in every layout become the same records; bad files give one clear line."""

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
from steps.papers.formats.papers_json import RecordProblem, read_records
from steps.papers.inputs import resolve_inputs
from steps.papers.paper import Identity, canonical_tier, identifier_in, identify, parse_paper

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


# --- locations ---------------------------------------------------------------------------


def test_a_folder_gives_its_paper_files_in_order(tmp_path: Path) -> None:
    for name in ("b.json", "a.jsonl.zst", "c.ndjson.gz", "notes.txt"):
        (tmp_path / name).write_text("[]")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.json").write_text("[]")
    assert [p.name for p in resolve_inputs(str(tmp_path))] == [
        "a.jsonl.zst",
        "b.json",
        "c.ndjson.gz",
    ]
    assert [p.name for p in resolve_inputs(f"{tmp_path}/**/*.json")] == ["b.json", "d.json"]
    assert resolve_inputs(str(tmp_path / "b.json")) == [tmp_path / "b.json"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "papers[1].json"
    path.write_text("[]")
    assert resolve_inputs(str(path)) == [path]


def test_a_missing_file_is_answered_with_near_names(tmp_path: Path) -> None:
    (tmp_path / "high_quality_papers.json").write_text("[]")
    with pytest.raises(UserError, match=r"did you mean '.*high_quality_papers\.json'"):
        resolve_inputs(str(tmp_path / "high_qualty_papers.json"))
    with pytest.raises(UserError, match="does not exist"):
        resolve_inputs(str(tmp_path / "no" / "such" / "folder" / "x.json"))


def test_a_folder_without_papers_says_what_it_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"holds no papers: expected files ending in \.json"):
        resolve_inputs(str(tmp_path))


def test_a_broken_link_is_called_one(tmp_path: Path) -> None:
    link = tmp_path / "papers.json"
    link.symlink_to(tmp_path / "gone.json")
    for location in (link, tmp_path):
        with pytest.raises(UserError, match=r"broken link to '.*gone\.json'"):
            resolve_inputs(str(location))


def test_a_pattern_that_matches_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="matches no file"):
        resolve_inputs(f"{tmp_path}/*.json")


# --- one record --------------------------------------------------------------------------

WHOLE_PAPER: dict[str, Any] = {
    "pmid": "123",
    "title": "A title",
    "authors": ["A. B."],
    "journal": "J",
    "publication_date": "2020-01-01",
    "doi": "10.1/x",
    "score": 104.5,
    "tier": "gold_standard",
    "ai_ml_detected": True,
    "component_scores": {"a": 1, "b": 2.5, "c": 0, "d": 4, "e": 5},
    "reasoning": "because",
    "keywords_found": ["one"],
    "benchmarks_used": ["two"],
    "validation_methods": ["three"],
    "scored_at": "2024-01-01T00:00:00",
    "abstract": "An abstract",
    "full_text": [{"heading": "Methods", "text": "We did."}],
    "a key of tomorrow": {"is": ["fine", None, float("1e300")]},
}


def problem_of(record: Any) -> RecordProblem:
    data = record if isinstance(record, bytes) else json.dumps(record).encode()
    with pytest.raises(RecordProblem) as caught:
        identify(parse_paper(data))
    assert "\n" not in caught.value.detail
    return caught.value


def test_a_paper_with_every_field_is_read_whole() -> None:
    paper = parse_paper(json.dumps(WHOLE_PAPER).encode())
    assert (paper.score, paper.tier, paper.authors) == (104.5, "gold_standard", ["A. B."])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pmid", 1.5),
        ("pmid", ["1"]),
        ("pmid", -4),
        ("pmid", True),
        ("title", 7),
        ("title", {"en": "x"}),
        ("abstract", ["x"]),
        ("authors", [["A"]]),
        ("authors", [1]),
        ("score", "81"),
        ("score", True),
        ("score", 10**400),
        ("tier", 3),
        ("journal", ["J"]),
        ("ai_ml_detected", "yes"),
        ("component_scores", {"a": "1"}),
        ("component_scores", [1, None, "2"]),
        ("keywords_found", ["a", None]),
        ("benchmarks_used", [{"name": "x"}]),
        ("validation_methods", 4),
        ("full_text", 4),
    ],
)
def test_a_wrong_type_at_any_depth_is_rejected(key: str, value: Any) -> None:
    problem = problem_of(WHOLE_PAPER | {key: value})
    assert problem.reason == "wrong_type"
    assert key in problem.detail


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_finite_number_is_rejected(value: float) -> None:
    assert problem_of(WHOLE_PAPER | {"score": value}).reason == "not_finite"
    assert problem_of(WHOLE_PAPER | {"component_scores": {"a": value}}).reason == "not_finite"


def test_nan_in_a_field_that_is_not_used_does_no_harm() -> None:
    paper = parse_paper(b'{"pmid": "1", "title": "t", "impact": NaN}')
    assert paper.title == "t"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"null", "wrong_type"),
        (b"[]", "wrong_type"),
        (b'"text"', "wrong_type"),
        (b"{", "malformed_json"),
        (b'{"pmid": "1",}', "malformed_json"),
        (b'{"pmid": "1" "title": "t"}', "malformed_json"),
        (b'{"title": "caf\xe9"}', "invalid_utf8"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed_json"),
        (b'{"score": NaN, "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed_json"),
        (b'{"score": NaN, "big": ' + b"1" * 9999 + b"}", "malformed_json"),
        (b'{"title": "no identifier"}', "no_identifier"),
        (b'{"pmid": " ", "doi": ""}', "no_identifier"),
        (b'{"pmid": "PMID:"}', "no_identifier"),
        (b'{"pmid": "two words"}', "bad_identifier"),
        (b'{"pmid": "1\\u0000"}', "bad_identifier"),
        (b'{"doi": "' + b"9" * 300 + b'"}', "bad_identifier"),
    ],
)
def test_a_malformed_record_has_its_reason(data: bytes, reason: str) -> None:
    assert problem_of(data).reason == reason


def test_lone_surrogates_are_replaced_and_pairs_kept() -> None:
    paper = parse_paper(rb'{"pmid": "1", "title": "a \ud83d b \ud83d\ude00", "x\udc00": 1}')
    assert paper.title == "a � b 😀"


@pytest.mark.parametrize(
    ("record", "paper_id", "identity"),
    [
        ({"pmid": 123, "doi": "10.1/X"}, "123", Identity("123", "10.1/x")),
        ({"pmid": " PMID: 123 "}, "123", Identity("123", "")),
        ({"doi": "https://doi.org/10.1/Ab"}, "10.1/ab", Identity("", "10.1/ab")),
        ({"pmid": "", "doi": "doi:10.1/ab"}, "10.1/ab", Identity("", "10.1/ab")),
    ],
)
def test_one_paper_has_one_identifier_however_it_is_written(
    record: dict[str, Any], paper_id: str, identity: Identity
) -> None:
    found = identify(parse_paper(json.dumps(record).encode()))
    assert found == identity
    assert found.paper_id == paper_id


def test_tiers_have_one_name_each() -> None:
    assert (
        canonical_tier("moderate_quality") == canonical_tier("Medium-Quality") == "medium_quality"
    )
    assert canonical_tier(None) is None
    with pytest.raises(RecordProblem, match="unknown_tier"):
        canonical_tier("platinum")


@pytest.mark.parametrize(
    ("data", "identifier"),
    [
        (b'{"pmid": "1", "title": 4}', "1"),
        (b'{"pmid": 12, "score": NaN}', "12"),
        (b'{"pmid": [], "doi": "10.1/x"}', "10.1/x"),
        (b'{"pmid": "1", broken', None),
        (b"[1]", None),
        (b'{"pmid": ' + b"9" * 9999 + b"}", None),
    ],
)
def test_a_rejected_record_is_named_as_far_as_it_can_be(
    data: bytes, identifier: str | None
) -> None:
    assert identifier_in(data) == identifier
