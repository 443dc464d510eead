"""The page of a decision: complete, safe, self-contained."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from steps.comparison.comparable import EvaluatedModel
from steps.comparison.decision import Decision, decide
from steps.config.measurement_sections import Comparison, Guard
from steps.reports.comparison_report import paper_gains, write_comparison_report
from tests.support.synthetic_results import frame_of_papers

RULE = Comparison(
    bootstrap_samples=500,
    permutations=1000,
    guards=(Guard(metric="memorised_share", margin=0.02, optional=True),),
)


def compare(
    papers: int, gain: float, name: str = "models:/genomics/2"
) -> tuple[Decision, pd.DataFrame, pd.DataFrame]:
    """A decision with the frames behind it."""
    frames = frame_of_papers(papers, gain, 0.02)
    champion, challenger = (
        EvaluatedModel(who, who, "sha256:aa", "test", "1", "causal", frame)
        for who, frame in zip(("models:/genomics/1", name), frames, strict=True)
    )
    return decide(champion, challenger, RULE), *frames


class Outline(HTMLParser):
    """What a page loads, and which elements it leaves open."""

    VOID = ("meta", "link", "img", "br", "hr")

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element and what it refers to."""
        self.loads += [v for k, v in attrs if k in ("src", "href") and v and v[0] != "#"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element."""
        assert self.open.pop() == tag, f"</{tag}> closes another element"


def test_the_page_opens_with_the_decision_in_words(tmp_path: Path) -> None:
    """Before any figure."""
    decision, champion, challenger = compare(60, 0.03)
    write_comparison_report(tmp_path / "report.html", decision, champion, challenger)
    page = (tmp_path / "report.html").read_text()
    assert page.index("Promote.") < page.index(decision.reason) < page.index("<svg")


def test_every_figure_can_be_read_as_a_table(tmp_path: Path) -> None:
    """By whoever cannot see it, and by whoever wants its numbers."""
    decision, champion, challenger = compare(60, 0.03)
    write_comparison_report(tmp_path / "report.html", decision, champion, challenger)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figure>") == page.count("<summary>The figure as a table</summary>") == 2
    assert f"{decision.primary.low:.4f}" in page


def test_the_page_loads_nothing_and_is_well_formed(tmp_path: Path) -> None:
    """It opens from a store, a mail or a disk alike."""
    decision, champion, challenger = compare(60, 0.03)
    write_comparison_report(tmp_path / "report.html", decision, champion, challenger)
    outline = Outline()
    outline.feed((tmp_path / "report.html").read_text())
    assert outline.loads == []
    assert outline.open == []


def test_both_figures_are_in_the_page_and_beside_it(tmp_path: Path) -> None:
    """As text that can be searched, and as PNG for the store."""
    decision, champion, challenger = compare(60, 0.03)
    pictures = write_comparison_report(tmp_path / "report.html", decision, champion, challenger)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2
    for label in ("overall (60 papers)", "methods (", "gene ("):
        assert label in page
    assert [picture.name for picture in pictures] == ["report-gains.png", "report-papers.png"]
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_ids_on_the_page_are_unique_where_they_are_referred_to(tmp_path: Path) -> None:
    """Two drawings on one page must not clip each other."""
    decision, champion, challenger = compare(60, 0.03)
    write_comparison_report(tmp_path / "report.html", decision, champion, challenger)
    page = (tmp_path / "report.html").read_text()
    referred = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert referred
    for name in referred:
        assert page.count(f'id="{name}"') == 1, name


def test_names_and_texts_are_shown_as_text_not_run(tmp_path: Path) -> None:
    """A paper may hold anything."""
    decision, champion, challenger = compare(60, 0.0, name="models:/<script>alert(1)</script>/2")
    texts = dict.fromkeys(champion["paper_id"], "p < 0.05 & <script>alert(2)</script>")
    write_comparison_report(tmp_path / "report.html", decision, champion, challenger, texts)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "p &lt; 0.05 &amp; &lt;script&gt;alert(2)" in page


def test_the_ten_papers_that_got_worse_most_come_with_their_text(tmp_path: Path) -> None:
    """The worst first, and none that got better."""
    decision, champion, challenger = compare(60, 0.0)
    texts = {paper_id: f"text of {paper_id}" for paper_id in champion["paper_id"]}
    write_comparison_report(tmp_path / "report.html", decision, champion, challenger, texts)
    page = (tmp_path / "report.html").read_text()
    worse = (challenger["nats"] - champion["nats"]) / champion["bytes"]
    expected = champion["paper_id"][worse.sort_values(ascending=False).index[:10]].tolist()
    assert re.findall(r"<pre>text of (\w+)</pre>", page) == expected


def test_where_no_paper_got_worse_the_page_says_so(tmp_path: Path) -> None:
    """An empty list would look like a mistake."""
    decision, champion, challenger = compare(20, 0.0)
    challenger["nats"] = champion["nats"] * 0.9
    write_comparison_report(tmp_path / "report.html", decision, champion, challenger)
    assert "No paper got worse." in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("papers", [2, 3])
def test_a_page_without_intervals_is_written_too(tmp_path: Path, papers: int) -> None:
    """Two papers have no interval, and "none" stands in its place."""
    decision, champion, challenger = compare(papers, 0.02)
    write_comparison_report(tmp_path / "report.html", decision, champion, challenger)
    assert "Inconclusive." in (tmp_path / "report.html").read_text()


def test_a_papers_gain_is_turned_so_that_positive_is_better() -> None:
    """For a loss and for an accuracy, whatever the order of the rows."""
    champion, challenger = frame_of_papers(30, 0.0, 0.02)
    shuffled = challenger.sample(frac=1, random_state=0)
    for metric, sign in (("bits_per_byte", -1), ("gene_cloze_accuracy", 1)):
        papers = paper_gains(metric, champion, shuffled, {})
        assert [p.gain for p in papers] == sorted(p.gain for p in papers)
        for paper in papers:
            assert paper.gain == pytest.approx(sign * (paper.challenger - paper.champion))


def test_the_same_decision_gives_the_same_page(tmp_path: Path) -> None:
    """No dates and no random ids: two runs can be compared by their digests."""
    decision, champion, challenger = compare(20, 0.01)
    for name in ("one.html", "two.html"):
        write_comparison_report(tmp_path / name, decision, champion, challenger)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
