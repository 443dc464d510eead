"""Texts outside the domain are read in any form that papers come in."""

import json
from pathlib import Path

import pytest

from steps.errors import UserError
from steps.papers.general_texts import general_files, read_general_texts
from tests.support.papers_in_formats import JATS_ARTICLE, PUBMED_RECORD


def test_a_json_record_gives_its_text_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    texts = [{"id": "G1", "text": " One <i>text</i>. "}, {"pmid": 5, "abstract": "An abstract."}]
    for content in ({"texts": texts}, {"papers": texts}, texts):
        path.write_text(json.dumps(content))
        read = read_general_texts(str(path))
        assert [(t.paper_id, t.text) for t in read] == [
            ("G1", "One <i>text</i>."), ("5", "An abstract."),
        ]  # fmt: skip


def test_a_folder_of_papers_is_read_and_cleaned(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(f"<PubmedArticleSet>{PUBMED_RECORD}</PubmedArticleSet>")
    (tmp_path / "b.nxml").write_text(JATS_ARTICLE)
    first, second = read_general_texts(str(tmp_path))
    assert first.paper_id == "12345678"
    assert first.text.startswith("Loss of PTEN and IL-2⁺ cells.\n\nBACKGROUND: Why ERBB2.")
    assert second.paper_id == "11111111"
    assert general_files(str(tmp_path)) == [tmp_path / "a.xml", tmp_path / "b.nxml"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"texts": [{"id": "1"}]}', "record 0: no text or abstract"),
        ("[]", "no record holds a text"),
        ('{"texts": [', "breaks off"),
    ],
)
def test_what_holds_no_text_is_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "texts.json"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        read_general_texts(str(path))
