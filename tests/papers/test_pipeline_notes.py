"""What a run says of papers that are few, cut down, or mostly rejected."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from steps.config.paper_sections import ScientificData
from steps.errors import UserError
from steps.papers.pipeline import Preparation, prepare_dataset
from tests.support.made_up_papers import made_up_papers


def prepare(folder: Path, papers: Sequence[Any]) -> Preparation:
    path = folder / "papers.json"
    path.write_text(json.dumps(papers))
    return prepare_dataset([path], ScientificData(num_workers=1), folder / "out")


def test_too_few_papers_to_hold_any_out_all_train(tmp_path: Path) -> None:
    made = prepare(tmp_path, made_up_papers(9))
    sizes = {name: split["papers"] for name, split in made.manifest["splits"].items()}
    assert sizes == {"train": 9, "validation": 0, "test": 0}
    (note,) = made.notes
    assert "all of them train; evaluate and ab_compare will refuse" in note


def test_a_paper_that_loses_more_than_a_third_of_its_words_is_named(tmp_path: Path) -> None:
    papers = made_up_papers(12)
    papers[3]["abstract"] += " https://www.example.org/page [12, 13]" * 200
    papers[4]["abstract"] += " https://www.example.org/page"
    made = prepare(tmp_path, papers)
    ((named, share),) = made.heavily_cut
    assert named == papers[3]["pmid"]
    assert 1 / 3 < share < 1


def test_where_most_papers_were_rejected_an_empty_split_says_for_what(tmp_path: Path) -> None:
    papers = [*made_up_papers(2), *({"pmid": str(9000 + n)} for n in range(20))]
    with pytest.raises(UserError) as caught:
        prepare(tmp_path, papers)
    for words in (
        "2 papers",
        "_fraction is",
        "20 of 22 records were rejected before, for no_text 20 (record 2 of papers.json",
    ):
        assert words in str(caught.value)
