"""One record becomes a paper, or is rejected with its reason."""

import json
from typing import Any

import pytest

from steps.papers.paper import Identity, canonical_tier, identifier_in, identify, parse_paper
from steps.papers.records import RecordProblem

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
