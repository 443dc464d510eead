"""Texts of another domain are read in any form, cleaned as papers, and never those held out."""

import gzip
import json
import random
from pathlib import Path

import pytest

from steps.config.paper_sections import Limits, Preprocessing, ScientificData
from steps.errors import UserError
from steps.papers.inputs import resolve_inputs
from steps.papers.replay import ReplayTexts, is_plain_text, read_replay
from tests.support.made_up_papers import made_up_abstract
from tests.support.papers_in_formats import JATS_ARTICLE, PUBMED_RECORD

SETTINGS = ScientificData(sections=("title",), text_fields=("title",))


def abstract(seed: int, sentences: int = 8) -> str:
    return made_up_abstract(random.Random(seed), sentences)


def replay_of(folder: Path, *held_out: str, settings: ScientificData = SETTINGS) -> ReplayTexts:
    return read_replay(resolve_inputs(str(folder), "replay", is_plain_text), settings, held_out)


def records(folder: Path, *texts: str) -> Path:
    content = [{"id": f"T{number}", "text": text} for number, text in enumerate(texts)]
    (folder / "texts.json").write_text(json.dumps({"texts": content}))
    return folder


def test_papers_records_and_plain_texts_of_one_folder_are_read_together(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(f"<PubmedArticleSet>{PUBMED_RECORD}</PubmedArticleSet>")
    (tmp_path / "b.nxml").write_text(JATS_ARTICLE)
    records(tmp_path, "A tale of two ships.")
    # The first line reads like the header of a table of papers.
    (tmp_path / "c.txt").write_text("\ufeffThe title, an abstract painting.\n\nIt hangs there.")
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"A packed story."))
    (tmp_path / ".hidden.txt").write_text("Not to be read.")
    (tmp_path / "notes.md").write_text("Nor is this.")
    texts = {text.paper_id: text.text for text in replay_of(tmp_path).texts}
    assert list(texts) == ["12345678", "11111111", "c.txt", "d.txt.gz", "T0"]
    # Whole papers, whatever sections of papers are trained on.
    assert "BACKGROUND: Why ERBB2." in texts["12345678"]
    assert texts["c.txt"] == "The title, an abstract painting.\n\nIt hangs there."
    assert texts["d.txt.gz"] == "A packed story."


def test_texts_are_cleaned_by_the_rules_for_papers(tmp_path: Path) -> None:
    records(tmp_path, "The <i>tide</i> rose [1,2]. Then it fell.")
    (tmp_path / "a.txt").write_text("A lamp of <b>old</b> brass, at 37 ° C [1,2].")
    assert [text.text for text in replay_of(tmp_path).texts] == [
        "A lamp of old brass, at 37 °C.",
        "The tide rose. Then it fell.",
    ]
    rules = Preprocessing(remove_citations=False)
    kept = replay_of(tmp_path, settings=SETTINGS.model_copy(update={"preprocessing": rules}))
    assert all("[1,2]" in text.text for text in kept.texts)


def test_what_stands_in_a_held_out_text_is_left_out_and_counted(tmp_path: Path) -> None:
    held = abstract(1)
    words = held.split()
    near = " ".join([*words[:40], "entirely", *words[41:]])
    inside = f"{abstract(2)} {' '.join(words[10:40])} {abstract(3)}"
    short = "Errata are listed here."
    records(tmp_path, held, near, inside, abstract(4), short, "Errata, are LISTED here")
    found = replay_of(tmp_path, held, short)
    assert [text.paper_id for text in found.texts] == ["T3"]
    assert found.left_out == {"held out": 5}


def test_each_text_is_read_once(tmp_path: Path) -> None:
    records(tmp_path, abstract(1), abstract(2), abstract(1) + " Indeed.", "", "  ")
    found = replay_of(tmp_path)
    assert [text.paper_id for text in found.texts] == ["T0", "T1"]
    assert found.left_out == {"without a text": 2, "repeated": 1}


def test_the_digest_is_that_of_the_texts(tmp_path: Path) -> None:
    first = replay_of(records(tmp_path, abstract(1), abstract(2)))
    assert replay_of(tmp_path).digest == first.digest
    assert replay_of(records(tmp_path, abstract(1), abstract(3))).digest != first.digest
    # Which of them are left out is part of it.
    records(tmp_path, abstract(1), abstract(2))
    assert replay_of(tmp_path, abstract(2)).digest != first.digest


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("texts.json", b'{"texts": []}', r"no text is left of those in texts.json \(no record\)"),
        ("a.txt", b" \n", r"no text is left of those in a.txt \(1 without a text\)"),
        ("a.txt", b"caf\xe9", "a.txt is no UTF-8 text"),
        ("a.txt", b"x" * 2000, "a.txt holds 2000 bytes, more than"),
        ("a.json", b'{"texts": [', "breaks off"),
        ("a.csv", b"%PDF-1.4", "is a PDF"),
        ("a.txt.gz", b"plain", "is no gzip file"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    limits = {"limits": Limits(max_record_bytes=1000)}
    with pytest.raises(UserError, match=words) as refused:
        replay_of(tmp_path / name, settings=SETTINGS.model_copy(update=limits))
    assert str(refused.value).startswith("replay.source: ")
    assert "\n" not in str(refused.value)


def test_a_source_that_is_all_held_out_is_refused(tmp_path: Path) -> None:
    records(tmp_path, abstract(1), abstract(2))
    with pytest.raises(UserError, match=r"\(2 held out\).*not those of the evaluation"):
        replay_of(tmp_path, abstract(1), abstract(2))
