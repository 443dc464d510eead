"""Prompts of the command line and of files, and what is no prompt."""

import errno
import json
import os
from pathlib import Path

import pytest

from steps.errors import UserError
from steps.evaluation.prompts import read_prompts


def refusal(prompt: str = "", file: str = "") -> str:
    with pytest.raises(UserError) as refused:
        read_prompts(prompt, file)
    message = str(refused.value)
    assert "\n" not in message
    return message


def written(folder: Path, name: str, *lines: object) -> str:
    file = folder / name
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(file)


def test_a_prompt_is_taken_as_it_is() -> None:
    (prompt,) = read_prompts("  Variants in BRCA1 ", "")
    assert prompt.text == "  Variants in BRCA1 "


def test_a_text_holds_a_prompt_a_line_and_blank_lines_count_for_none(tmp_path: Path) -> None:
    file = written(tmp_path, "prompts.txt", "\ufeffThe gene", "", "A line\u2028 of its own", "  ")
    prompts = read_prompts("", file)
    assert [(one.prompt_id, one.text) for one in prompts] == [
        ("1", "The gene"),
        ("3", "A line\u2028 of its own"),
    ]
    assert prompts[1].place == "line 3 of prompts.txt"


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.txt"])
def test_json_lines_are_known_by_their_name_and_by_their_content(tmp_path: Path, name: str) -> None:
    asked = {"messages": [{"role": "user", "content": "Which gene?"}]}
    file = written(tmp_path, name, {"id": 7, "prompt": "The gene"}, "", asked)
    first, second = read_prompts("", file)
    assert (first.prompt_id, first.text, first.messages) == ("7", "The gene", ())
    assert (second.prompt_id, second.text) == ("3", "Which gene?")
    assert second.messages[0].role == "user"


def test_nothing_to_ask_and_two_things_to_ask_are_refused(tmp_path: Path) -> None:
    assert "nothing to ask" in refusal()
    assert "both given" in refusal("The gene", written(tmp_path, "p.txt", "The gene"))
    assert "nothing but blanks" in refusal(" \t")
    assert "holds no prompt" in refusal(file=written(tmp_path, "p.txt", "", " "))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    written(tmp_path, "prompts.txt", "The gene")
    assert "did you mean prompts.txt?" in refusal(file=str(tmp_path / "prompt.txt"))
    (tmp_path / "latin.txt").write_bytes("Gène".encode("latin-1"))
    assert "latin.txt' are not UTF-8 (byte 1)" in refusal(file=str(tmp_path / "latin.txt"))


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *_: object, **__: object) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    # The superuser may read everything, so that the file's mode alone would show nothing to one.
    file = written(tmp_path, "prompts.txt", "The gene")
    monkeypatch.setattr(Path, "read_bytes", refused)
    assert "cannot be read (Permission denied)" in refusal(file=file)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "The', "line 2 of p.jsonl is no JSON"),
        ("[" * 100_000, "line 2 of p.jsonl is no JSON"),
        (["The gene"], "line 2 of p.jsonl is list: expected an object"),
        ({"text": "The gene"}, 'line 2 of p.jsonl has text: expected an object with "prompt"'),
        ({"prompt": "The gene", "messages": []}, "has prompt, messages"),
        ({}, "has nothing"),
        ({"prompt": " "}, "line 2 of p.jsonl: prompt is"),
        ({"prompt": 3}, "prompt is 3: expected a text"),
        ({"id": 1.5, "prompt": "The gene"}, "id is 1.5: expected a text or a whole number"),
        ({"id": "a", "prompt": "The gene"}, "line 2 of p.jsonl has the id 'a', as line 1"),
        ({"messages": "Which gene?"}, "messages are no list"),
        ({"messages": [{"role": "user"}]}, "messages are no list of objects with role and content"),
        ({"messages": []}, "messages are of nobody"),
        (
            {
                "messages": [
                    {"role": "user", "content": "Which?"},
                    {"role": "assistant", "content": "BRCA1"},
                ]
            },
            "messages are of user, assistant: expected",
        ),
        ({"messages": [{"role": "user", "content": " "}]}, "a message says nothing"),
    ],
)
def test_a_line_that_is_no_prompt_is_named_by_its_number(
    tmp_path: Path, line: object, words: str
) -> None:
    file = written(tmp_path, "p.jsonl", {"id": "a", "prompt": "The gene"}, line)
    message = refusal(file=file)
    assert words in message
    assert "line 2" in message
