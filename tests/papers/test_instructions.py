"""Instruction items: every common layout becomes the same conversation; what is none is named."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from steps.config.paper_sections import Limits
from steps.errors import UserError
from steps.messages import Message
from steps.papers.instructions import InstructionItem, item_of, read_items
from steps.papers.records import RawRecord, RecordProblem

ASKED = [Message("user", "Which gene?"), Message("assistant", "BRCA1.")]


def read(*files: Path) -> tuple[list[InstructionItem], list[tuple[int, str]]]:
    rejected: list[tuple[int, str]] = []

    def reject(record: RawRecord, file: Path, problem: RecordProblem) -> None:
        rejected.append((record.number, problem.reason))

    return list(read_items(files, Limits(), reject)), rejected


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": m.role, "content": m.content} for m in ASKED]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Which gene?"}]},
                {"role": "assistant", "content": "BRCA1."},
            ]
        },
        {
            "conversations": [
                {"from": "human", "value": "Which gene?"},
                {"from": "gpt", "value": "BRCA1."},
            ]
        },
        {"instruction": "Which gene?", "input": "", "output": "BRCA1."},
        {"instruction": "Which gene?", "input": None, "output": " BRCA1.\n"},
        {"instruction": "Which gene?", "context": "", "response": "BRCA1.", "category": "qa"},
        {"question": "Which gene?", "answer": "BRCA1."},
        {"question": "Which gene?", "context": None, "answers": {"text": ["BRCA1.", "BRCA 1"]}},
        {"prompt": "Which gene?", "completion": " BRCA1."},
        {
            "prompt": [{"role": "user", "content": "Which gene?"}],
            "completion": [{"role": "assistant", "content": "BRCA1."}],
        },
        {"messages": None, "prompt": "Which gene?", "completion": "BRCA1.", "score": 3},
    ],
    ids=lambda record: ", ".join(record),
)
def test_all_layouts_of_one_question_are_one_item(record: dict[str, Any]) -> None:
    item = item_of(record)
    assert list(item.messages) == ASKED
    assert item.item_id == item_of({"question": "Which gene?", "answer": "BRCA1."}).item_id


def test_a_context_stands_before_its_question_and_an_input_after_its_instruction() -> None:
    asked = item_of({"question": "Which?", "context": ["One.", "Two."], "answer": "A"})
    assert asked.messages[0].content == "One.\n\nTwo.\n\nWhich?"
    told = item_of({"instruction": "Name it.", "input": "TP53 binds.", "output": "TP53"})
    assert told.messages[0].content == "Name it.\n\nTP53 binds."


@pytest.mark.parametrize(
    ("named", "paper"),
    [
        ({"pmid": 123}, "123"),
        ({"pmid": "PMID: 123"}, "123"),
        ({"paper_id": "123"}, "123"),
        ({"doi": "https://doi.org/10.1/ABC"}, "10.1/abc"),
        ({"paper_id": "10.1/ABC"}, "10.1/abc"),
        ({"pmcid": "PMC7"}, "PMC7"),
        ({"metadata": {"pmid": "9"}}, "9"),
        ({"paper_id": "own-7"}, "own-7"),
        ({"pmid": "n/a"}, ""),
        ({}, ""),
    ],
)
def test_an_item_names_its_paper_as_papers_are_named(named: dict[str, Any], paper: str) -> None:
    item = item_of({"question": "Which gene?", "answer": "BRCA1.", **named})
    assert item.paper_id == paper
    assert item.unit == (paper or item.item_id)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"question": "Which?", "answer": " "}, "empty_answer"),
        ({"question": "Which?", "answer": None}, "no_item"),
        ({"prompt": "", "completion": "x"}, "empty_question"),
        ({"messages": []}, "roles_out_of_order"),
        ({"messages": [{"role": "user", "content": "a"}]}, "roles_out_of_order"),
        (
            {"messages": [{"role": r, "content": "a"} for r in ("assistant", "user")]},
            "roles_out_of_order",
        ),
        (
            {"messages": [{"role": r, "content": "a"} for r in ("user", "system", "assistant")]},
            "roles_out_of_order",
        ),
        ({"messages": [{"role": "tool", "content": "a"}]}, "unknown_role"),
        ({"messages": [{"content": "a"}]}, "unknown_role"),
        ({"messages": ["a"]}, "bad_message"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "not_text",
        ),
        ({"title": "A paper", "abstract": "x"}, "no_item"),
        ({}, "no_item"),
    ],
)
def test_what_is_no_item_is_named(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecordProblem) as problem:
        item_of(record)
    assert problem.value.reason == reason
    assert problem.value.detail


def test_records_under_their_pmid_are_items_of_that_paper(tmp_path: Path) -> None:
    """PubMedQA's own file."""
    file = tmp_path / "ori_pqal.json"
    record = {"QUESTION": "Is it so?", "CONTEXTS": ["One.", "Two."], "LONG_ANSWER": "It is."}
    file.write_text(json.dumps({"123": record, "456": record | {"LONG_ANSWER": ""}}, indent=4))
    items, rejected = read(file)
    assert rejected == [(1, "empty_answer")]
    assert (items[0].paper_id, items[0].text) == ("123", "One.\n\nTwo.\n\nIs it so?\n\nIt is.")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_lines_a_list_and_a_document_hold_the_same_items(packed: bool, tmp_path: Path) -> None:
    records = [{"question": f"Which {n}?", "answer": f"A{n}"} for n in range(3)]
    lines = "\n".join(json.dumps(one) for one in records) + "\n\n"
    contents = {
        "a.jsonl": "\ufeff" + lines,
        "b.json": json.dumps(records),
        "c.json": json.dumps({"version": 1, "data": records}, indent=1),
        "d.json": lines,
    }
    found = []
    for name, content in contents.items():
        data = content.encode()
        file = tmp_path / (f"{name}.gz" if packed else name)
        file.write_bytes(gzip.compress(data) if packed else data)
        items, rejected = read(file)
        assert not rejected, name
        found.append([item.item_id for item in items])
    assert found[0] and all(one == found[0] for one in found)


def test_a_bad_record_costs_no_other_one(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    good = json.dumps({"question": "Which?", "answer": "A"})
    file.write_text(f'{good}\n{{"question": \n[1]\n"text"\n{good.replace("A", "B")}\n')
    items, rejected = read(file)
    assert [item.messages[1].content for item in items] == ["A", "B"]
    assert rejected == [(1, "malformed_json"), (2, "not_an_object"), (3, "not_an_object")]


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(" \n")
    with pytest.raises(UserError, match=r"items\.jsonl: is empty: expected instruction items"):
        read(file)
