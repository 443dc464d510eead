"""The licence ledger: every paper of the dataset with its identifiers and its licence."""

import json
from pathlib import Path

from steps.config.paper_sections import ScientificData
from steps.papers.identifiers import Identity
from steps.papers.ledger import LEDGER_FILE, NOT_SAID, read_ledger
from steps.papers.pipeline import prepare_dataset
from steps.reports.dataset_card import write_dataset_card
from tests.support.made_up_papers import made_up_papers

LICENCES = ("CC BY 4.0", "https://creativecommons.org/licenses/by-nc/4.0/", None)


def prepared(tmp_path: Path) -> Path:
    papers = made_up_papers(30)
    for n, paper in enumerate(papers):
        paper["doi"], paper["license"] = f"10.1/P{n}", LICENCES[n % 3]
        paper["publication_date"] = f"{2000 + n % 4}-05"
    (tmp_path / "papers.json").write_text(json.dumps(papers), encoding="utf-8")
    prepare_dataset([tmp_path / "papers.json"], ScientificData(num_workers=1), tmp_path)
    return tmp_path / "dataset"


def test_the_ledger_names_each_paper_of_the_dataset_once(tmp_path: Path) -> None:
    dataset = prepared(tmp_path)
    manifest = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))
    ledger = read_ledger(dataset)
    for split, facts in manifest["splits"].items():
        assert [e.paper for e in ledger if e.split == split] == facts["paper_ids"]
    by_paper = {entry.paper: entry for entry in ledger}
    source = json.loads((tmp_path / "papers.json").read_text(encoding="utf-8"))
    for n, paper in enumerate(source):
        entry = by_paper[str(paper["pmid"])]
        assert entry.identity == Identity(str(paper["pmid"]), f"10.1/p{n}")
        assert entry.licence == ("cc-by", "cc-by-nc", NOT_SAID)[n % 3]
        assert entry.stated == (LICENCES[n % 3] or "")
        assert (entry.year, entry.source_format, entry.file) == (
            f"{2000 + n % 4}", "json", "papers.json",
        )  # fmt: skip


def test_an_earlier_dataset_has_papers_without_licences(tmp_path: Path) -> None:
    dataset = prepared(tmp_path)
    before = read_ledger(dataset)
    (dataset / LEDGER_FILE).unlink()
    after = read_ledger(dataset)
    assert {e.paper: e.split for e in after} == {e.paper: e.split for e in before}
    assert {e.licence for e in after} == {NOT_SAID}
    assert all(entry.identity.pmid == entry.paper for entry in after)


def test_the_card_counts_what_the_ledger_holds(tmp_path: Path) -> None:
    dataset = prepared(tmp_path)
    manifest = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))
    ledger = read_ledger(dataset)
    write_dataset_card(dataset / "README.md", manifest, ledger)
    card = (dataset / "README.md").read_text(encoding="utf-8")
    for licence in ("cc-by", "cc-by-nc", NOT_SAID):
        counts = [
            sum(e.licence == licence and e.split == split for e in ledger)
            for split in ("train", "validation", "test")
        ]
        assert f"| {licence} | {counts[0]} | {counts[1]} | {counts[2]} |" in card
    assert "The sources of 10 papers state no licence" in card
    assert manifest["dataset_digest"] in card
    assert "license:" not in card.split("---")[1]  # several licences are none of the whole
