"""Mutated records: nothing crashes, nothing forbidden is let in, nothing is lost.

The schema is stated here a second time, in plain Python, so that a slip in the first
statement does not pass unseen.
"""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.config.paper_sections import Deduplication, Filters, ScientificData
from steps.errors import UserError
from steps.papers.pipeline import prepare_dataset
from steps.papers.preparation import prepare_chunk
from steps.papers.records import RawRecord

ABSTRACT = (
    "The BRCA1 gene was measured in the cells of the patients, and c.68_69del was seen in it. "
)
SEEDS: list[dict[str, Any]] = [
    {
        "pmid": "1",
        "title": "A title of the paper",
        "authors": ["A. B.", "C. D."],
        "journal": "J",
        "publication_date": "2020-01-01",
        "doi": "10.1/x",
        "score": 104.5,
        "tier": "gold_standard",
        "ai_ml_detected": True,
        "component_scores": {"a": 1, "b": 2.5, "c": 0, "d": 4, "e": 5},
        "reasoning": "because",
        "keywords_found": ["one", "two"],
        "benchmarks_used": ["two"],
        "validation_methods": ["three"],
        "scored_at": "2024-01-01T00:00:00",
        "abstract": ABSTRACT * 2,
        "full_text": [
            {"heading": "Methods", "level": 1, "text": ABSTRACT},
            {"heading": "Results", "sections": [{"heading": "More", "text": [ABSTRACT]}]},
        ],
    },
    {"pmid": 2, "title": "A title", "keywords_found": ["a", "b"], "benchmarks_used": ["c"]},
    {
        "text": ABSTRACT,
        "pmid": "3",
        "title": "T",
        "score": 5,
        "tier": "low_quality",
        "benchmarks": [],
    },
    {"doi": "10.1/y", "full_text": {"Introduction": ABSTRACT, "Methods": [ABSTRACT, ABSTRACT]}},
    {"doi": "10.1/z", "full_text": f"Introduction\n\n{ABSTRACT}\n\nReferences\n\n1. A. B."},
]

STRANGE: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(
        [10**30, -1, 0, "", " ", "\x00", "\ud800", "\udfff\ud800", "moderate_quality"]
    )
    | st.floats()
    | st.text(max_size=12)
    | st.text(st.characters(categories=["Cs", "Lu", "Nd"]), max_size=5)
    | st.sampled_from([ABSTRACT, "[" * 40, "(" * 60, "\\" * 9, "&amp;" * 9, "10^" * 30, "\n" * 30]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["heading", "title", "text", "sections", "Methods", "level"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a nested value, as the keys and indices that lead to it."""
    found = [path]
    if isinstance(value, dict):
        inner = list(value.items())
    else:
        inner = list(enumerate(value)) if isinstance(value, list) else []
    for key, item in inner:
        found += places(item, (*path, key))
    return found


@st.composite
def mutated_records(draw: st.DrawFn) -> Any:
    record: Any = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(places(record)))
        if not path:
            record = draw(st.one_of(st.just(record), STRANGE))
            continue
        holder = record
        for key in path[:-1]:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.booleans()):
            holder[draw(st.sampled_from([*SEEDS[0], "text", "keywords", "benchmarks"]))] = draw(
                STRANGE
            )
        elif draw(st.booleans()):
            holder[path[-1]] = draw(STRANGE)
        else:
            del holder[path[-1]]
    return record


@st.composite
def mutated_bytes(draw: st.DrawFn) -> bytes:
    data = json.dumps(draw(mutated_records()), ensure_ascii=draw(st.booleans())).encode(
        "utf-8", "surrogatepass"
    )
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 1, 5, 50])))
        data = data[:start] + draw(st.binary(max_size=3)) + data[end:]
    return data


# --- the schema in plain Python ----------------------------------------------------------------


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def is_number(value: Any) -> bool:
    if isinstance(value, str):
        try:
            return not value.strip() or not math.isnan(float(value))
        except ValueError:
            return value.strip().lower() in ("nan", "none", "null", "n/a", "na", "-")
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    return is_missing(value) or isinstance(value, str)


def is_title(value: Any) -> bool:
    return is_text(value) or (isinstance(value, list) and len(value) == 1 and is_text(value[0]))


def is_allowed(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and is_title(record.get("title"))
        and is_title(record.get("text"))
        and is_text(record.get("tier"))
        and (is_text(record.get("abstract")) or isinstance(record["abstract"], list | dict))
        and (is_text(record.get("full_text")) or isinstance(record["full_text"], list | dict))
        and (is_missing(record.get("score")) or is_number(record["score"]))
        and any(record.get(key) for key in ("pmid", "doi"))
    )


ANYTHING = ScientificData(
    filters=Filters(min_words=1, language=None),
    deduplication=Deduplication(num_permutations=16),
    num_workers=1,
)


def check_record(data: bytes) -> None:
    prepared = prepare_chunk([RawRecord(0, 0, data)], ANYTHING)
    assert len(prepared.papers) + len(prepared.rejections) == 1
    for rejection in prepared.rejections:
        assert rejection.reason.isidentifier()
        assert rejection.detail
        assert "\n" not in rejection.detail
    for paper in prepared.papers:
        assert is_allowed(json.loads(data)), data
        assert paper.paper_id.isprintable()
        assert paper.num_words > 0


@given(mutated_bytes())
@settings(max_examples=200, deadline=None)
def test_a_mutated_record_is_accepted_lawfully_or_rejected(data: bytes) -> None:
    check_record(data)


@pytest.mark.slow
@given(mutated_bytes())
@settings(max_examples=5000, deadline=None)
def test_thousands_of_mutated_records_are_accepted_lawfully_or_rejected(data: bytes) -> None:
    check_record(data)


def good_papers() -> list[dict[str, Any]]:
    return [
        {"pmid": str(100 + n), "abstract": " ".join(f"word{n}of{k}" for k in range(20))}
        for n in range(14)
    ]


def check_file(folder: Path, records: list[Any], lines: bool, cut: int | None) -> None:
    if lines:  # a line that is a list holds the records of that list
        records = [record for record in records if not isinstance(record, list)]
    everything = [*good_papers(), *records]
    encoded = [json.dumps(record).encode("utf-8", "surrogatepass") for record in everything]
    content = b"\n".join(encoded) if lines else b"[" + b",".join(encoded) + b"]"
    path = folder / ("papers.jsonl" if lines else "papers.json")
    path.write_bytes(content if cut is None else content[:cut])
    try:
        preparation = prepare_dataset([path], ANYTHING, folder / "out")
    except UserError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
    if message:
        assert not lines or cut is not None, "a line that is broken rejects that record only"
        return
    assert cut is None or lines
    funnel = preparation.manifest["funnel"]
    assert funnel["read"] == len(path.read_bytes().splitlines() if lines else everything)
    assert funnel["accepted"] + sum(funnel["rejected"].values()) == funnel["read"]
    rejected = (folder / "out" / "rejected.jsonl").read_bytes().splitlines()
    assert len(rejected) == sum(funnel["rejected"].values())
    assert all(json.loads(line)["reason"] for line in rejected)


FILES = given(
    st.lists(mutated_records(), max_size=5),
    st.booleans(),
    st.one_of(st.none(), st.none(), st.integers(1, 2500)),
)


@FILES
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_file_of_mutated_records_loses_none(
    tmp_path: Path, records: list[Any], lines: bool, cut: int | None
) -> None:
    check_file(tmp_path, records, lines, cut)


@pytest.mark.slow
@FILES
@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_hundreds_of_files_of_mutated_records_lose_none(
    tmp_path: Path, records: list[Any], lines: bool, cut: int | None
) -> None:
    check_file(tmp_path, records, lines, cut)
