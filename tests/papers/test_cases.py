"""Small inputs that broke earlier versions, where they are present, read as they should be.

The rule behind each is tested with inputs of our own in the tests of its module; here the
reported ones run as they came.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.config.paper_sections import ScientificData, Split
from steps.errors import UserError
from steps.papers.pipeline import Preparation, prepare_dataset
from steps.papers.stored_papers import read_papers
from steps.papers.text import PaperText
from tests.support.project import SHARED_DATA

CASES = SHARED_DATA / "cases"
ALL_TRAIN = ScientificData(split=Split(validation_fraction=0, test_fraction=0), num_workers=1)
# What these are about is tested with the step that it concerns, not with papers.
OF_OTHER_STEPS = {
    "deepspeed-file", "moe-plan", "name-refused-after-training", "no-eos-token",
    "prequantised-base", "stale-run-id", "tokens-beyond-embedding",
}  # fmt: skip


def prepared(name: str, output: Path) -> tuple[Preparation, dict[str, PaperText]]:
    made = prepare_dataset([CASES / name / "papers.json"], ALL_TRAIN, output)
    return made, {paper.paper_id: paper for paper in read_papers(made.output / "dataset", "train")}


def sections_of(paper: PaperText) -> dict[str, str]:
    return {span.label: paper.text[span.start : span.end] for span in paper.sections}


def bad_second_id(output: Path) -> None:
    made, papers = prepared("bad-second-id", output)
    assert made.num_accepted == made.num_read == len(papers)


def concatenated_json(output: Path) -> None:
    made, papers = prepared("concatenated-json", output)
    assert (made.num_read, made.num_accepted) == (3, 3)
    assert sorted(papers) == ["30000000", "30000001", "30000002"]


def karyotype_counts(output: Path) -> None:
    (paper,) = prepared("karyotype-counts", output)[1].values()
    for kept in (
        "46,XX,del(5)(q13q33)[4]/47,sl,+21[8]/48,sdl1,+19[3]",
        "der(3)t(3;17)(p21;q21),-7[12]",
        "46, XY, del(7)(q22q34)[14]",
        "nuc ish(ABL1,BCR)x2[200]",
        "34 [28–41] years",
        "BMI 27 [24–30]",
    ):
        assert kept in paper.text


def nan_is_missing(output: Path) -> None:
    made, papers = prepared("nan-is-missing", output)
    assert made.num_accepted == made.num_read == len(papers) == 4
    assert any("NaN" in note for note in made.notes)


def no_reason_when_all_are_rejected(output: Path) -> None:
    made, _ = prepared("no-reason-when-all-are-rejected", output)
    assert made.num_accepted == 2
    # The journal as an object is read now; the message is tried with what cannot be read.
    papers = json.loads((CASES / "no-reason-when-all-are-rejected" / "papers.json").read_text())
    file = output / "all_bad.json"
    file.write_text(json.dumps([paper | {"title": {"en": "T"}} for paper in papers]))
    with pytest.raises(UserError, match=r"wrong_type 2 \(record 0 of all_bad.json: title is"):
        prepare_dataset([file], ALL_TRAIN, output / "again")
    assert len((output / "again" / "rejected.jsonl").read_text().splitlines()) == 2


def pandoc_headings(output: Path) -> None:
    (paper,) = prepared("pandoc-headings", output)[1].values()
    assert {"title", "abstract", "introduction"} <= sections_of(paper).keys()
    assert not any(mark in paper.text for mark in ("{#", "{-}", "====", "References"))


def placeholder_id(output: Path) -> None:
    made, papers = prepared("placeholder-id", output)
    assert made.num_accepted == made.num_read == len(papers) == 4


def section_extra_key(output: Path) -> None:
    papers = prepared("section-extra-key", output)[1]
    source = json.loads((CASES / "section-extra-key" / "papers.json").read_text())
    assert len(papers) == len(source)
    for record in source:
        paper = papers[record["pmid"]]
        full_text = record["full_text"]
        first = full_text["Methods"] if isinstance(full_text, dict) else full_text[0]
        assert sections_of(paper)["methods"].startswith(first["text"][:60])
        words = set(paper.text.lower().split())
        assert not words & {"heading", "sec_type", "section", "references"}


def split_message_hides_rejections(output: Path) -> None:
    path = CASES / "split-message-hides-rejections" / "papers.json"
    made = prepare_dataset([path], ScientificData(num_workers=1), output)
    assert made.num_accepted == 30
    # Where 29 of the 30 cannot be used, the message says so.
    papers = json.loads(path.read_text())
    file = output / "mostly_bad.json"
    file.write_text(json.dumps([papers[0], *({"pmid": "1"} for _ in papers[1:])]))
    with pytest.raises(UserError, match=r"29 of 30 records were rejected before, for no_text 29"):
        prepare_dataset([file], ScientificData(num_workers=1), output / "again")


def unused_field(output: Path) -> None:
    made, papers = prepared("unused-field", output)
    assert made.num_accepted == made.num_read == len(papers) == 6


CHECKS: dict[str, Callable[[Path], Any]] = {
    check.__name__.replace("_", "-"): check
    for check in (
        bad_second_id, concatenated_json, karyotype_counts, nan_is_missing,
        no_reason_when_all_are_rejected, pandoc_headings, placeholder_id, section_extra_key,
        split_message_hides_rejections, unused_field,
    )
}  # fmt: skip


def test_every_case_is_read_as_it_should_be(tmp_path: Path) -> None:
    present = {folder.name for folder in CASES.iterdir()} if CASES.is_dir() else set()
    unknown = present - CHECKS.keys() - OF_OTHER_STEPS
    assert not unknown, f"cases without a check: {sorted(unknown)}"
    for name in sorted(present & CHECKS.keys()):
        CHECKS[name](tmp_path / name)
