"""One record becomes a paper, or is rejected with its reason."""

import json
from typing import Any

import pytest

from steps.papers.formats.convert import paper_fields
from steps.papers.identifiers import Identity, identity_of
from steps.papers.paper import (
    MISSING_NUMBERS,
    Paper,
    canonical_tier,
    identifier_in,
    identify,
    paper_of,
)
from steps.papers.records import RawRecord, RecordProblem


def parse_paper(data: bytes) -> Paper:
    _, fields = paper_fields(RawRecord(0, 0, data))
    return paper_of(fields)


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
    assert (paper.score, paper.tier, paper.journal) == (104.5, "gold_standard", "J")
    assert paper.benchmarks_used == ["two"]
    assert paper.notes == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("title", 7),
        ("title", {"en": "x"}),
        ("title", ["a", "b"]),
        ("abstract", 4),
        ("abstract", True),
        ("score", "high"),
        ("score", True),
        ("score", 10**400),
        ("score", [1]),
        ("tier", 3),
        ("full_text", 4),
        ("text", ["a", "b"]),
    ],
)
def test_a_text_or_score_of_a_wrong_type_rejects_the_paper(key: str, value: Any) -> None:
    problem = problem_of(WHOLE_PAPER | {key: value})
    assert problem.reason == "wrong_type"
    assert key in problem.detail


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("authors", [["A"]]),
        ("authors", 1),
        ("ai_ml_detected", "yes"),
        ("component_scores", {"a": "1", "b": float("nan")}),
        ("component_scores", "none"),
        ("reasoning", {"a": 1}),
        ("scored_at", 1700000000),
        ("keywords_found", ["a", None, {"x": 1}]),
        ("benchmarks_used", 7),
        ("validation_methods", 4),
        ("journal", 3),
        ("publication_date", {"season": ["x"]}),
    ],
)
def test_a_field_that_is_not_used_rejects_nothing(key: str, value: Any) -> None:
    paper = parse_paper(json.dumps(WHOLE_PAPER | {key: value}).encode())
    assert (paper.title, paper.abstract) == ("A title", "An abstract")


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("score", "81.5", 81.5),
        ("score", " 7 ", 7.0),
        ("score", "n/a", None),
        ("score", "", None),
        ("journal", {"title": "Nature", "issn": "1"}, "Nature"),
        ("journal", ["Cell"], "Cell"),
        ("publication_date", 2020, "2020"),
        ("publication_date", {"year": 2020, "month": "Mar", "day": 1}, "2020-Mar-01"),
        ("publication_date", {"date-parts": [[2020, 3, 1]]}, "2020-03-01"),
        ("publication_date", [2020, 3], "2020-03"),
        ("title", ["One title"], "One title"),
        ("keywords", "one", ["one"]),
        ("keywords", [{"term": "a"}, {"name": "b"}, 3], ["a", "b", "3"]),
        ("benchmarks_used", [{"name": "x"}], ["x"]),
        ("abstract", ["P1", "P2"], "P1\n\nP2"),
        ("abstract", {"Background": "B", "methods": ["M1", "M2"]},
         "Background: B\n\nmethods: M1\n\nM2"),
        ("abstract", [{"label": "AIM", "text": "A"}, {"text": "free"}], "AIM: A\n\nfree"),
        ("abstract", {"sections": [{"title": "Aim", "content": "A"}]}, "Aim: A"),
        ("abstract", {"text": "A"}, "A"),
        ("open_access", "Y", True),
        ("license", {"url": "http://x"}, "http://x"),
    ],
)  # fmt: skip
def test_values_are_read_as_people_write_them(key: str, value: Any, read: Any) -> None:
    assert getattr(parse_paper(json.dumps(WHOLE_PAPER | {key: value}).encode()), key) == read


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["score", "abstract", "journal", "doi", "impact"])
def test_nan_and_infinity_are_missing_values_and_counted(key: str, value: float) -> None:
    paper = parse_paper(json.dumps(WHOLE_PAPER | {key: value}).encode())
    assert getattr(paper, key, None) is None
    assert paper.notes == (MISSING_NUMBERS,)


def test_keys_in_other_case_are_read_with_a_note() -> None:
    record = {"PMID": 5, "Title": "T", "Abstract Text": "A", "Journal/Book": "J", "DOI": "10.1/x"}
    paper = parse_paper(json.dumps(record).encode())
    assert identify(paper) == Identity("5", "10.1/x")
    assert (paper.title, paper.abstract) == ("T", "A")
    assert "key 'PMID' read as pmid" in paper.notes


def test_what_stands_under_another_name_is_read_where_the_name_is_empty() -> None:
    record = {"pmid": "5", "abstract": "", "abstractText": "A", "full_text": "", "sections": ["S"]}
    paper = parse_paper(json.dumps(record).encode())
    assert (paper.abstract, paper.full_text) == ("A", ["S"])
    apart = {"pmid": "5", "title": "T", "introduction": "I", "methods": "M", "reasoning": "R"}
    assert parse_paper(json.dumps(apart).encode()).full_text == {
        "introduction": "I",
        "methods": "M",
    }
    none = {"pmid": "5", "title": "T", "abstract": "[No abstract available]"}
    assert parse_paper(json.dumps(none).encode()).abstract is None


@pytest.mark.parametrize(
    ("fields", "retracted"),
    [
        ({"title": "RETRACTED: The role of x"}, "retracted"),
        ({"title": "Retracted article: the role"}, "retracted"),
        ({"title": "[WITHDRAWN] - the role"}, "withdrawn"),
        ({"title": "Retracted studies and their role"}, None),
        ({"title": "Retraction: the role"}, None),
        ({"publication_types": ["Review", "Retracted Publication"]}, "retracted"),
        ({"publication_types": ["Retraction of Publication"]}, None),
        ({"retracted": True}, "retracted"),
        ({"retracted": False}, None),
        ({"retracted": "withdrawn"}, "withdrawn"),
    ],
)
def test_a_paper_that_was_taken_back_is_known(fields: Any, retracted: str | None) -> None:
    assert parse_paper(json.dumps(WHOLE_PAPER | fields).encode()).retracted == retracted


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


def test_bytes_of_windows_are_named_with_what_converts_them() -> None:
    problem = problem_of(b'{"pmid": "1", "title": "caf\xe9 au lait"}')
    assert "read as Windows-1252 (cp1252) it says" in problem.detail
    assert "caf\xe9 au lait" in problem.detail
    assert "iconv -f CP1252 -t UTF-8" in problem.detail


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
        ({"pmid": 12345678.0}, "12345678", Identity("12345678", "")),
        ({"pmid": "12345678.0"}, "12345678", Identity("12345678", "")),
        ({"pmid": "https://pubmed.ncbi.nlm.nih.gov/123/"}, "123", Identity("123", "")),
        ({"pmid": ["11", "22"]}, "11", Identity("11", "")),
        ({"pmid": "00123"}, "123", Identity("123", "")),
        ({"pmid": "１２３"}, "123", Identity("123", "")),
        ({"pmid": "1.23E+07", "doi": "10.1/a"}, "10.1/a", Identity("", "10.1/a")),
        ({"pmid": "NaT", "pmcid": "PMC", "doi": "10.1/a"}, "10.1/a", Identity("", "10.1/a")),
        (
            {"doi": "https://www.biorxiv.org/content/10.1000/X%281%29?utm=1"},
            "10.1000/x(1)",
            Identity("", "10.1000/x(1)"),
        ),
        ({"pmid": "11; 22"}, "11", Identity("11", "")),
        ({"pmid": "PMC77"}, "PMC77", Identity("", "", "PMC77")),
        ({"pmcid": 77}, "PMC77", Identity("", "", "PMC77")),
        ({"doi": "10.1/a, 10.1/b"}, "10.1/a", Identity("", "10.1/a")),
        (
            {"doi": "10.1002/(SICI)1097;3.0.CO;2-2"},
            "10.1002/(sici)1097;3.0.co;2-2",
            Identity("", "10.1002/(sici)1097;3.0.co;2-2"),
        ),
        ({"pmid": "no idea", "doi": "10.1/a"}, "10.1/a", Identity("", "10.1/a")),
        ({"pmid": 5, "doi": "see the web page"}, "5", Identity("5", "")),
        ({"pmid": 1.5, "doi": "10.1/a"}, "10.1/a", Identity("", "10.1/a")),
        ({"other_id": "arxiv:2101.1"}, "arxiv:2101.1", Identity("", "", "", "arxiv:2101.1")),
    ],
)
def test_one_paper_has_one_identifier_however_it_is_written(
    record: dict[str, Any], paper_id: str, identity: Identity
) -> None:
    found = identify(parse_paper(json.dumps(record).encode()))
    assert found == identity
    assert found.paper_id == paper_id


@pytest.mark.parametrize(
    "placeholder",
    ["N/A", "n/a", "NA", "nan", "NaN", "None", "NULL", "-", "--", "—", "0", "00", "0.0", "unknown",
     "Not available", "not_available", "not found", "no doi", "No PMID", "n.a.", "#N/A", "<NA>",
     "?", ".",
     "undefined", "TBD", "pending", "", "  ", "not yet assigned", "-1", "doi: N/A",
     "https://doi.org/nan", "PMID: None", 0, None, False],
)  # fmt: skip
def test_a_placeholder_is_no_identifier(placeholder: Any) -> None:
    assert identity_of("5", placeholder) == Identity("5", "")
    assert identity_of(placeholder, "10.1/a") == Identity("", "10.1/a")
    with pytest.raises(RecordProblem, match="no_identifier"):
        identity_of(placeholder, placeholder)


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
