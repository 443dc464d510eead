"""Papers are found in the objects that databases and people put around them."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from steps.papers.formats import json_scanner as scanner
from steps.papers.formats.papers_json import read_records

MEBIBYTE = 1 << 20
PAPERS: list[dict[str, Any]] = [
    {"pmid": "1", "title": "Brackets ] } in [a title, {odd}", "score": 81.5},
    {"pmid": "2", "title": 'A "quoted" \\ title', "authors": ["A. B.", "C. D."]},
    {"pmid": "3", "title": "β-globin ☃ naïve", "component_scores": {"a": 1, "b": 0}},
]
A, B, C = PAPERS


def read(path: Path) -> list[Any]:
    return [json.loads(r.data) for r in read_records(path, 10 * MEBIBYTE, MEBIBYTE)]


WRAPPERS: dict[str, Any] = {
    "papers": {"papers": PAPERS},
    "papers of a collection with a title and a DOI": {
        "title": "T", "doi": "10.1/s", "papers": PAPERS,
    },
    "Europe PMC": {"version": "6", "hitCount": 3, "resultList": {"result": PAPERS}},
    "PubTator3": {"PubTator3": PAPERS},
    "BioC": {"source": "PMC", "date": "2020", "key": "k", "infons": {}, "documents": PAPERS},
    "BioC collection": {"collection": {"source": "PMC", "documents": PAPERS}},
    "bioRxiv": {"messages": [{"status": "ok"}], "collection": PAPERS},
    "Crossref": {"status": "ok", "message": {"total-results": 3, "facets": {}, "items": PAPERS}},
    "Solr": {
        "responseHeader": {"params": {"items": [{}]}}, "response": {"numFound": 3, "docs": PAPERS},
    },
    "Elasticsearch": {"took": 1, "hits": {"total": {"value": 3}, "hits": PAPERS}},
    "OpenAlex": {"meta": {"count": 3}, "results": PAPERS, "group_by": []},
    "JSON:API": {"data": PAPERS, "included": [{"id": "1"}], "links": {}},
    "texts": {"texts": PAPERS},
    "works two deeper": {"export": {"of": {"works": PAPERS}}},
    "parts": {"train": {"articles": [A]}, "test": {"articles": [B, C]}},
    "upper case": {"Articles": PAPERS},
    "by identifier": {paper["pmid"]: paper for paper in PAPERS},
    "by name": {"a2020": A | {"abstract": "x"}, "note": 1, "b2021": B | {"abstract": "x"}},
    "papers by identifier": {"papers": {paper["pmid"]: paper for paper in PAPERS}},
    "one in an envelope": {"status": "ok", "message": A | {"abstract": "x"}},
}  # fmt: skip


@pytest.mark.parametrize("window", [3, MEBIBYTE])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("case", WRAPPERS)
def test_a_wrapper_gives_its_papers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, name: str, indent: int, window: int
) -> None:
    monkeypatch.setattr(scanner, "READ_BYTES", window)
    path = tmp_path / name
    path.write_text(json.dumps(WRAPPERS[case], indent=indent))
    expected = PAPERS
    if case == "by name":
        expected = [A | {"abstract": "x"}, B | {"abstract": "x"}]
    if case == "one in an envelope":
        expected = [A | {"abstract": "x"}]
    if case.endswith("a DOI") and name == "a.jsonl":
        expected = [WRAPPERS[case]]  # in JSON Lines nothing is looked at behind a paper's key
    assert read(path) == expected


ONE_PAPER: dict[str, Any] = {
    "with lists": {
        "id": 1, "references": [{}], "sections": [{"a": 1}], "body_text": [{"text": "x"}],
    },
    "with lists of a wrapper": {"pmid": "1", "data": [{"x": 1}], "items": [{}], "results": [{}]},
    "CORD-19": {
        "paper_id": "ab", "metadata": {"title": "T", "authors": [{"first": "A"}]},
        "abstract": [{"text": "x"}], "body_text": [{"text": "y"}],
        "bib_entries": {"BIBREF0": {"title": "Z", "abstract": "q"}},
    },
    "CORD-19 with the metadata first": {
        "metadata": {"title": "T", "items": [{}]}, "bib_entries": {"1": {"text": ""}},
        "paper_id": "ab",
    },
    "S2ORC": {"corpusid": 1, "content": {"text": "x", "annotations": {"data": [{"a": 1}]}}},
    "BioC document": {"id": "1", "infons": {}, "passages": [{"text": "x", "annotations": []}]},
    "JSON:API": {"id": "1", "type": "x", "attributes": {"title": "T", "items": [{}]}},
}  # fmt: skip


@pytest.mark.parametrize("window", [3, MEBIBYTE])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("case", ONE_PAPER)
def test_a_paper_is_not_taken_for_a_wrapper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, name: str, indent: int, window: int
) -> None:
    monkeypatch.setattr(scanner, "READ_BYTES", window)
    path = tmp_path / name
    text = json.dumps(ONE_PAPER[case], indent=indent)
    path.write_text(text)
    assert read(path) == [ONE_PAPER[case]]
    path.write_text(f"{text}\n{text}\n")
    assert read(path) == [ONE_PAPER[case]] * 2


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("12345678", "pmid"),
        ("PMC123", "pmcid"),
        ("10.1/x", "doi"),
        ('10.1000/a"b', "doi"),
        ("arxiv:2101.00001", "other_id"),
    ],
)
def test_an_identifier_that_papers_stand_under_is_not_lost(
    tmp_path: Path, key: str, field: str
) -> None:
    path = tmp_path / "a.json"
    bare = {"abstract": "x"}
    path.write_text(json.dumps({key: bare, key + "1": {"pmid": None, **bare}}))
    first, second = read(path)
    assert first == {"abstract": "x", field: key}
    assert second == {"pmid": None, "abstract": "x"} | {field: key + "1"}
    for own in ("pmid", "doi", "pmcid", "paper_id"):
        path.write_text(json.dumps({key: {own: "7", **bare}}))
        assert read(path) == [{own: "7", **bare}]
    path.write_text('{"12": {}, "13": {"a": x}}')
    assert [r.data for r in read_records(path, MEBIBYTE, MEBIBYTE)] == [
        b'{"pmid": "12"}',
        b'{"a": x}',
    ]


@pytest.mark.parametrize(
    "head", [b'{"a": {"x": 1}, "resultList": {"result": [', b'{"data":[', b"["]
)
@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz"])
def test_a_list_in_a_wrapper_is_read_as_a_stream(tmp_path: Path, name: str, head: bytes) -> None:
    path = tmp_path / name
    paper = json.dumps({"pmid": "1", "abstract": "gene " * 400}).encode()
    tail = b"]" + b"}" * head.count(b"{") if b"x" not in head else b"]}}"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head + b",".join([paper] * 10_000) + tail)
    tracemalloc.start()
    count = sum(1 for _ in read_records(path, 100 * MEBIBYTE, MEBIBYTE))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 10 * MEBIBYTE, f"{peak} bytes held of a list of {len(paper) * count}"
