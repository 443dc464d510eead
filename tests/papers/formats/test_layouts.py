"""Variants of the papers layout that exporters write give the right text in the right sections."""

import json
from pathlib import Path
from typing import Any

import pytest

from steps.config.paper_sections import Filters, Limits, ScientificData
from steps.papers.formats.convert import paper_fields
from steps.papers.formats.reading import read_papers
from steps.papers.paper import identify, paper_of
from steps.papers.preparation import clean_paper
from steps.papers.records import RecordProblem

EVERYTHING = ScientificData(filters=Filters(min_words=0, language=None))
INTRO = "Loss of BRCA1 was seen before in many of these cells."
METHODS = "We sequenced TP53 in all of the samples of the patients."
MICE = "Mice were kept for nine weeks in the dark."
SECTIONS = [("introduction", INTRO), ("methods", METHODS)]


def read(path: Path, content: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """Identifier and sections of each paper of a file."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    found = []
    for record in read_papers(path, Limits(), None, lambda line: None):
        source_format, fields = paper_fields(record)
        paper = paper_of(fields, source_format)
        found.append((identify(paper).paper_id, clean_paper(paper, EVERYTHING).sections))
    return found


def with_body(body: Any, **more: Any) -> dict[str, Any]:
    return {"pmid": "5", "title": "T", **more, **body}


TITLE_AND = [("title", "T"), *SECTIONS]
LAYOUTS: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "pmcgrab, object of sections": (
        {"pmcid": "PMC5", "title": "T", "abstract": {"Background": "Why.", "Aim": "What."},
         "body": {"Introduction": INTRO, "Materials and methods": METHODS},
         "journal": {"title": "J"}, "authors": [{"first": "A"}],
         "figures": [{"label": "1", "caption": "x"}]},
        [("title", "T"), ("abstract", "Background: Why.\n\nAim: What."), *SECTIONS],
    ),
    "pmcgrab, version 1": (
        {"schema": "pmcgrab.paper.v1", "identifiers": {"pmcid": "PMC5", "doi": "10.1/x"},
         "paper": {"title": "T", "abstract": [{"title": "", "content": [
             {"type": "paragraph", "text": "Why."}]}],
             "body": [{"title": "Introduction", "content": [{"type": "paragraph", "text": INTRO}],
                       "sections": []},
                      {"title": "Methods", "content": [{"type": "paragraph", "text": METHODS}],
                       "sections": [{"title": "Animals", "content": [
                           {"type": "paragraph", "text": MICE}]}]}]}},
        [("title", "T"), ("abstract", "Why."), ("introduction", INTRO),
         ("methods", f"{METHODS}\n\nAnimals\n\n{MICE}")],
    ),
    "sections as a list of paragraphs that name theirs": (
        with_body({"full_text": [
            {"section": "Introduction", "text": INTRO, "cite_spans": [], "ref_spans": []},
            {"section": "Methods", "text": METHODS, "cite_spans": [], "sec_type": "methods"},
            {"section": "Methods", "text": MICE, "n": 3, "is_boxed": False}]}),
        [("title", "T"), ("introduction", INTRO), ("methods", f"{METHODS}\n\n{MICE}")],
    ),
    "body_text beside a title, no spans": (
        with_body({"body_text": [{"section": "Introduction", "text": INTRO},
                                 {"section": "Methods", "text": METHODS}]}),
        TITLE_AND,
    ),
    "sections with heads and paragraphs": (
        with_body({"sections": [{"head": "1 Introduction", "paragraphs": [INTRO]},
                                {"head": "2 Methods", "paras": [METHODS]}]}),
        TITLE_AND,
    ),
    "sections with levels and numbers": (
        with_body({"full_text": [
            {"level": 1, "heading": "Introduction", "text": INTRO, "id": 4},
            {"level": 1, "heading": "Methods", "content": METHODS, "score": 1.5}]}),
        TITLE_AND,
    ),
    "JSON:API": (
        {"data": [{"id": "x1", "type": "articles", "attributes": with_body(
            {"fullText": {"Introduction": INTRO, "Methods": METHODS}})}]},
        TITLE_AND,
    ),
    "search hits": (
        {"hits": {"total": 1, "hits": [{"_id": "a", "_source": with_body(
            {"body": f"Introduction\n\n{INTRO}\n\nMethods\n\n{METHODS}"})}]}},
        TITLE_AND,
    ),
    "keyed by PMID": (
        {"5": {"title": "T", "full_text": {"Introduction": INTRO, "Methods": METHODS}}},
        TITLE_AND,
    ),
    "labelled parts of an abstract": (
        with_body({"abstract": [{"label": "BACKGROUND", "text": "Why.", "nlm_category": "X"},
                                {"label": "RESULTS", "text": "That."}]}),
        [("title", "T"), ("abstract", "BACKGROUND: Why.\n\nRESULTS: That.")],
    ),
    "title as a list, dates in parts": (
        {"DOI": "10.1/x", "title": ["T"], "abstract": "<jats:p>Why.</jats:p>",
         "published": {"date-parts": [[2020, 3]]}, "container-title": ["J"]},
        [("title", "T"), ("abstract", "Why.")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_gives_its_sections(tmp_path: Path, name: str) -> None:
    content, sections = LAYOUTS[name]
    ((paper_id, found),) = read(tmp_path / "papers.json", content)
    assert found == sections
    assert paper_id in ("5", "PMC5", "10.1/x")


def test_a_layout_of_paragraphs_is_refused_and_named(tmp_path: Path) -> None:
    lines = [{"pmid": "5", "pmc": "7", "section": "Methods", "text": METHODS, "reference_ids": []}]
    with pytest.raises(RecordProblem, match="wrong_layout: the record is one paragraph"):
        read(tmp_path / "papers.json", lines)
