"""The report shows what happened, escapes what came from papers, and needs nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from steps.config.paper_sections import ScientificData
from steps.papers.pipeline import Preparation, prepare_dataset
from steps.reports.page import PageSection, Table, format_cell, render_page
from steps.reports.preprocess_report import render_report, write_report

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Reads a page strictly: every element that opens closes, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.text += " "  # so that neighbouring cells stay apart
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def paper(n: int, **changes: Any) -> dict[str, Any]:
    words = " ".join(f"word{n}x{k}" for k in range(40))
    abstract = f"The V600E mutation of BRAF was found in the cells of the patients. {words}"
    return {"pmid": str(n), "title": f"Paper {n}", "abstract": abstract, "score": n} | changes


def prepare(folder: Path, papers: list[Any]) -> Preparation:
    path = folder / "papers.json"
    path.write_text(json.dumps(papers))
    return prepare_dataset([path], ScientificData(num_workers=1), folder / "out")


@pytest.fixture
def preparation(tmp_path: Path) -> Preparation:
    hostile = "<script>alert('x')</script> & <b>"
    papers = [paper(n) for n in range(1, 30)]
    papers[4]["abstract"] += " It was shown before [12,13]."
    papers += [
        paper(90, tier=hostile),
        {"pmid": "91", "title": hostile},
        paper(5, score=0.5),
        papers[6] | {"pmid": "92", "score": 0},
    ]
    return prepare(tmp_path, papers)


def test_the_report_is_whole_and_self_contained(preparation: Preparation) -> None:
    page = Page(render_report(preparation))
    assert page.open == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert len(page.ids) == len(set(page.ids)), "two figures must not share an identifier"
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_what_came_from_papers_is_escaped(preparation: Preparation) -> None:
    html = render_report(preparation)
    assert "<script" not in html
    assert "&lt;script&gt;alert(" in html


def test_the_report_shows_funnel_splits_leakage_and_mentions(preparation: Preparation) -> None:
    text = Page(render_report(preparation)).text
    for reason, count in preparation.rejected.items():
        assert re.search(rf"rejected: {reason}\s+-{count}\s", text)
    assert "29 of 33 records" in text
    assert preparation.digest in text
    for name, split in preparation.manifest["splits"].items():
        assert re.search(rf"{name}\s+{split['papers']}\s", text)
    assert "13-grams" in text
    assert "BRAF" in text
    assert "protein_substitution" in text


def test_the_rejected_are_listed_with_their_reason(preparation: Preparation) -> None:
    text = Page(render_report(preparation)).text
    for rejected in preparation.rejected_papers:
        assert re.search(rf"{rejected.identifier}\s+{rejected.reason}\s", text)
        assert rejected.detail in text
    assert len(preparation.rejected_papers) == 4


def test_only_texts_that_cleaning_changed_are_shown(preparation: Preparation) -> None:
    text = Page(render_report(preparation)).text
    assert "5, before" in text
    assert "shown before [12,13]." in text
    assert len(re.findall(r"\d, before", text)) == 1


def test_sources_notes_and_heavy_cuts_are_told(tmp_path: Path) -> None:
    papers = [paper(n) | {"license": "CC BY 4.0", "open_access": True} for n in range(1, 13)]
    papers[2]["abstract"] += " https://www.example.org/page [12, 13]" * 200
    papers[3]["impact"] = float("nan")
    text = Page(render_report(prepare(tmp_path, papers))).text
    assert "12 say that they may be read freely; 0 tables were left out." in text
    assert re.search(r"papers layout\s+12\s", text)
    assert re.search(r"cc-by\s+12\s", text)
    assert re.search(r"NaN or Infinity read as missing\s+1\s", text)
    assert re.search(r"lost more than a third of their words\s.*\s3\s+\d\d%\s", text, re.DOTALL)


def test_study_texts_of_training_papers_are_shown_with_their_counts(
    preparation: Preparation,
) -> None:
    text = Page(render_report(preparation)).text
    training = preparation.manifest["splits"]["train"]["paper_ids"]
    # A title of each, and one sentence with a gene and a variant.
    for kind in ("title", "gene_cloze", "variant_cloze"):
        assert re.search(rf"{kind}\s+{len(training)}\s", text)
        shown = re.findall(rf"{kind}, (\d+)\s", text)
        assert len(shown) == 2 and set(shown) <= set(training)
    assert "Answer: V600E" in text and "Answer: BRAF" in text
    assert re.search(r"keywords\s+0\s+0\s", text)


def test_more_files_than_a_page_holds_are_counted(tmp_path: Path) -> None:
    files = []
    for number in range(1, 14):
        files.append(tmp_path / f"p{number}.json")
        files[-1].write_text(json.dumps([paper(number)]))
    made = prepare_dataset(files, ScientificData(num_workers=1), tmp_path / "out")
    text = Page(render_report(made)).text
    assert "Input p10.json" in text and "Input p11.json" not in text
    assert re.search(r"Further inputs\s+3; manifest.json has them", text)


def test_the_report_is_the_same_for_the_same_preparation(
    preparation: Preparation, tmp_path: Path
) -> None:
    for name in ("one.html", "two.html"):
        write_report(preparation, tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_papers_without_scores_genes_or_rejections_have_a_report_too(tmp_path: Path) -> None:
    papers = [
        {"pmid": str(n + 1), "abstract": "It was seen in the dark. " + f"Word{n} of {n}. " * 20}
        for n in range(12)
    ]
    text = Page(render_report(prepare(tmp_path, papers))).text
    assert "No record was rejected." in text
    assert "Cleaning changed none of the texts." in text
    assert "0 mentions of 0 genes" in text
    assert "Quality scores" not in text


# --- the page that all reports share -----------------------------------------------------


def test_everything_on_a_page_is_escaped() -> None:
    bad = "<i>&"
    section = PageSection(bad, [bad], tables=[Table([bad], [[bad]], bad)], passages=[(bad, bad)])
    page = Page(render_page(bad, bad, [(bad, bad)], [section]))
    assert "i" not in page.tags
    assert page.text.count(bad) == 12


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (1234567, "1,234,567"), (0.123456, "0.1235"), (True, "yes"), ("1e5", "1e5")],
)
def test_cells_are_readable(value: Any, shown: str) -> None:
    assert format_cell(value) == shown
