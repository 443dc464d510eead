"""Files of questions and answers as their authors publish them.

MMLU as Hendrycks' CSV, PubMedQA's JSON, GeneTuring's JSON. Each reader returns one mapping an item
with the fields that the prompt of the task is made of, `item_id`, and `pmid` where there is one.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

from steps.errors import UserError

Item = dict[str, Any]

LETTERS = "ABCD"
DECISIONS = ("yes", "no", "maybe")
# Choices of a GeneTuring question whose module has as many answers.
GENETURING_CHOICES = 4


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        UserError: It cannot be read as UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file.name}: cannot be read ({error}): expected a file in UTF-8, so mend it or "
            "name another one in training.evaluation.tasks"
        ) from None


def read_mmlu(file: Path) -> list[Item]:
    """Questions with four choices: question, A, B, C, D, answer, with or without a header.

    Raises:
        UserError: A record has another number of choices, or no answer; there is none.
    """
    lines = csv.reader(StringIO(read_text(file), newline=""), strict=True)
    items: list[Item] = []
    number = 0
    try:
        for number, fields in enumerate(lines, start=1):
            if not any(field.strip() for field in fields):
                continue
            if number == 1 and _is_header(fields):
                _check_choices(file, number, fields)
                continue
            items.append(_mmlu_item(file, number, fields))
    except csv.Error as error:
        raise UserError(
            f"{file.name}, record {number + 1}: is no CSV ({error}): mend its quotation marks"
        ) from None
    return _some(file, items)


def _is_header(fields: Sequence[str]) -> bool:
    return fields[0].strip().lower() == "question" or fields[-1].strip().lower() == "answer"


def _check_choices(file: Path, number: int, fields: Sequence[str]) -> None:
    choices = len(fields) - 2
    if choices != len(LETTERS):
        raise UserError(
            f"{file.name}, record {number}: has {choices} choices, expected {len(LETTERS)} "
            "(question, A, B, C, D, answer): write a task YAML for questions with another number"
        )


def _mmlu_item(file: Path, number: int, fields: Sequence[str]) -> Item:
    _check_choices(file, number, fields)
    question, *choices, answer = fields
    answer = answer.strip().upper()
    if len(answer) != 1 or answer not in LETTERS:
        raise UserError(
            f"{file.name}, record {number}: its answer is {fields[-1]!r}, expected one of "
            f"{', '.join(LETTERS)}: add it, or take the record out"
        )
    if not question.strip():
        raise UserError(f"{file.name}, record {number}: has no question: take the record out")
    gold = LETTERS.index(answer)
    return {"item_id": str(number), "question": question, "choices": choices, "answer": gold}


def read_pubmedqa(file: Path, ground_truth: Path | None) -> tuple[list[Item], list[Item]]:
    """Questions about abstracts, keyed by PMID, that are answered by yes, no or maybe.

    Args:
        file: Such as `ori_pqal.json`.
        ground_truth: Such as `test_ground_truth.json`: which items are asked, with their answers;
            None: all.

    Returns:
        The items to ask, and the others, of which examples are taken.

    Raises:
        UserError: An item has no question, no abstract or no answer; there is none.
    """
    records = _json_mapping(file)
    truth = None if ground_truth is None else _json_mapping(ground_truth)
    if truth is not None:
        missing = sorted(pmid for pmid in truth if pmid not in records)
        if missing:
            raise UserError(
                f"{file.name}: lacks {missing[0]}, which {ground_truth and ground_truth.name} "
                "holds the answer of: name files of one release"
            )
    asked: list[Item] = []
    others: list[Item] = []
    for pmid, record in records.items():
        if truth is None or pmid not in truth:
            item = _pubmedqa_item(file, pmid, record, None)
            (asked if truth is None else others).append(item)
        else:
            asked.append(_pubmedqa_item(file, pmid, record, truth[pmid]))
    return _some(file, asked), others


def _pubmedqa_item(file: Path, pmid: str, record: Any, decision: Any) -> Item:
    where = f"{file.name}, record {pmid}"
    fields = record if isinstance(record, Mapping) else {}
    decision = fields.get("final_decision") if decision is None else decision
    if decision not in DECISIONS:
        raise UserError(
            f"{where}: its final_decision is {decision!r}, expected one of {', '.join(DECISIONS)}: "
            "add it, take the record out, or name the answers by ground_truth"
        )
    question, contexts = fields.get("QUESTION"), fields.get("CONTEXTS")
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: has no QUESTION: take the record out")
    if not isinstance(contexts, list) or not all(isinstance(text, str) for text in contexts):
        raise UserError(f"{where}: its CONTEXTS are no list of texts: take the record out")
    return {
        "item_id": pmid,
        "pmid": pmid,
        "QUESTION": question,
        "CONTEXTS": contexts,
        "final_decision": decision,
    }


def read_geneturing(file: Path) -> dict[str, list[Item]]:
    """Questions with short answers, by module: `{"Gene alias": {QUESTION: ANSWER}}`.

    Returns:
        For each module its items, with `choices`, of which `gold` is the right one: the answers of
        other questions of the module, drawn by the question, so that they never change.

    Raises:
        UserError: An item has no answer; there is none.
    """
    modules: dict[str, list[Item]] = {}
    for module, pairs in _json_mapping(file).items():
        if not isinstance(pairs, Mapping) or not pairs:
            raise UserError(
                f"{file.name}, module {module!r}: holds no questions with their answers, expected "
                '{"QUESTION": "ANSWER"}'
            )
        for question, answer in pairs.items():
            if not isinstance(answer, str) or not answer.strip():
                raise UserError(
                    f"{file.name}, module {module!r}, {question!r}: its answer is {answer!r}, "
                    "expected a text: add it, or take the question out"
                )
        modules[module] = [
            _geneturing_item(module, number, question, pairs)
            for number, question in enumerate(pairs, start=1)
        ]
    if not modules:
        raise UserError(f"{file.name}: holds no question: name another file")
    return modules


def _geneturing_item(module: str, number: int, question: str, pairs: Mapping[str, str]) -> Item:
    answer = pairs[question]
    others = sorted({other for other in pairs.values() if other != answer})
    draw = Random(f"{module}\n{question}")
    choices = [answer, *draw.sample(others, min(GENETURING_CHOICES - 1, len(others)))]
    draw.shuffle(choices)
    return {
        "item_id": f"{module}/{number}",
        "module": module,
        "question": question,
        "answer": answer,
        "choices": choices,
        "gold": choices.index(answer),
    }


def is_pubmedqa(file: Path) -> bool:
    """Whether a JSON file is laid out as PubMedQA's rather than GeneTuring's.

    Raises:
        UserError: It is no JSON object.
    """
    first = next(iter(_json_mapping(file).values()), None)
    return isinstance(first, Mapping) and bool({"QUESTION", "final_decision"} & set(first))


def _json_mapping(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.name}: is no JSON ({error}): export it again") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{file.name}: holds a {type(content).__name__}, expected an object keyed by PMID "
            "(PubMedQA) or by module (GeneTuring)"
        )
    return content


def _some(file: Path, items: list[Item]) -> list[Item]:
    if not items:
        raise UserError(f"{file.name}: holds no question: name another file")
    return items
