"""What was written, as JSON Lines, as a page and on the terminal."""

import json
from pathlib import Path
from typing import Any

import pytest

from steps.config.generate_section import Generate
from steps.evaluation.filling import Word
from steps.evaluation.prompts import AskedPrompt
from steps.evaluation.side_by_side import Answered
from steps.messages import Message
from steps.reports.generations import (
    SHOWN,
    show_generations,
    write_generations_page,
    write_json_lines,
)

NAMES = {"base": "tiny", "model": "lab/1"}
TEXT = Answered(AskedPrompt("a", "The <gene>"), 3, {"base": ["[red]\x1b[2Jx"], "model": ["y\nz"]})
FILLED = Answered(
    AskedPrompt("m", "The [MASK]"),
    0,
    {"base": [[Word("gene", 0.5)]], "model": [[Word("cell", 0.25)]]},
)


def lines(folder: Path, answered: list[Answered], **settings: Any) -> list[dict[str, Any]]:
    write_json_lines(folder / "g.jsonl", answered, Generate(**settings))
    text = (folder / "g.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def test_a_line_has_the_prompt_both_texts_and_how_they_were_written(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, [TEXT])
    assert line == {
        "id": "a",
        "prompt": "The <gene>",
        "tokens_cut": 3,
        "base": "[red]\x1b[2Jx",
        "model": "y\nz",
        "settings": Generate().model_dump(),
    }


def test_each_sample_has_a_line_and_a_conversation_its_turns(tmp_path: Path) -> None:
    asked = AskedPrompt("q", "Which?", (Message("user", "Which?"),))
    found = lines(
        tmp_path, [Answered(asked, 0, {"base": ["a", "b"]})], temperature=1.0, num_samples=2
    )
    assert [(line["sample"], line["base"]) for line in found] == [(1, "a"), (2, "b")]
    assert found[0]["messages"] == [{"role": "user", "content": "Which?"}]
    assert "model" not in found[0]


def test_words_for_masks_carry_their_probability_and_no_settings_of_drawing(
    tmp_path: Path,
) -> None:
    (line,) = lines(tmp_path, [FILLED])
    assert line["base"] == [[{"word": "gene", "probability": 0.5}]]
    assert line["model"] == [[{"word": "cell", "probability": 0.25}]]
    assert line["settings"] == {}


def test_the_page_escapes_what_was_asked_and_written_and_needs_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    file = tmp_path / "g.html"
    write_generations_page(file, NAMES, [TEXT, FILLED], Generate())
    page = file.read_text(encoding="utf-8")
    assert "The &lt;gene&gt;" in page
    assert "<gene>" not in page
    assert "\x1b" not in page
    assert "its first 3 tokens were left out" in page
    assert "0.250  cell" in page
    assert not any(word in page for word in ("<script", "<link", "src=", "http"))


def test_the_base_alone_has_one_column(tmp_path: Path) -> None:
    file = tmp_path / "g.html"
    alone = Answered(AskedPrompt("a", "The gene"), 0, {"base": ["x"]})
    write_generations_page(file, {"base": "tiny"}, [alone], Generate())
    page = file.read_text(encoding="utf-8")
    assert page.count("<div><p>base</p>") == 1
    assert "<p>model</p>" not in page


def test_the_terminal_shows_texts_as_they_are_and_not_more_than_a_screen_or_two(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_generations(NAMES, [TEXT] * (SHOWN + 5))
    said = capsys.readouterr().out
    assert "\x1b[2J" not in said
    assert "[red]" in said
    assert "lab/1" in said
    assert said.count("The <gene>") == SHOWN
