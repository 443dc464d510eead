"""Files of questions as their authors publish them, and what is wrong with some."""

import json
from pathlib import Path

import pytest

from steps.errors import UserError
from steps.evaluation.tasks.geneturing import score_answer
from steps.evaluation.tasks.item_files import read_geneturing, read_mmlu, read_pubmedqa

ROWS = 'Which base?,"A, or",B,C,D,B\nAnd which then?,E,F,G,H,d\n'


def written(folder: Path, content: object, name: str = "items.json") -> Path:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_a_header_changes_no_item(tmp_path: Path) -> None:
    plain = read_mmlu(written(tmp_path, ROWS, "plain.csv"))
    headed = read_mmlu(written(tmp_path, "question,A,B,C,D,answer\n" + ROWS, "headed.csv"))
    without = [{k: v for k, v in item.items() if k != "item_id"} for item in plain]
    assert without == [{k: v for k, v in item.items() if k != "item_id"} for item in headed]
    assert plain[0]["choices"] == ["A, or", "B", "C", "D"]
    assert [item["answer"] for item in plain] == [1, 3]
    assert [item["item_id"] for item in plain] == ["1", "2"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ROWS + "q,a,b,c,A\n", "record 3: has 3 choices, expected 4"),
        (ROWS + "q,a,b,c,d,e,A\n", "record 3: has 5 choices, expected 4"),
        (ROWS + "q,a,b,c,d,\n", "record 3: its answer is '', expected one of A, B, C, D"),
        (ROWS + "q,a,b,c,d,E\n", "record 3: its answer is 'E'"),
        (ROWS + " ,a,b,c,d,A\n", "record 3: has no question"),
        (ROWS + '"q,a,b,c,d,A\n', "record 3: is no CSV"),
        ("question,A,B,C,answer\n", "record 1: has 3 choices"),
        ("", "holds no question"),
    ],
)
def test_a_csv_that_is_no_mmlu_is_one_line(tmp_path: Path, rows: str, words: str) -> None:
    with pytest.raises(UserError) as raised:
        read_mmlu(written(tmp_path, rows, "some.csv"))
    assert "some.csv" in str(raised.value)
    assert words in str(raised.value)


def question(decision: str = "yes") -> dict[str, object]:
    return {"QUESTION": "Does it?", "CONTEXTS": ["It may.", "Or not."], "final_decision": decision}


def test_the_ground_truth_says_what_is_asked_and_the_rest_are_examples(tmp_path: Path) -> None:
    records = {str(pmid): question() for pmid in (11, 12, 13)}
    file = written(tmp_path, records)
    truth = written(tmp_path, {"13": "no", "11": "maybe"}, "truth.json")
    asked, others = read_pubmedqa(file, truth)
    assert {item["pmid"]: item["final_decision"] for item in asked} == {"11": "maybe", "13": "no"}
    assert [item["pmid"] for item in others] == ["12"]
    assert [item["pmid"] for item in read_pubmedqa(file, None)[0]] == ["11", "12", "13"]


@pytest.mark.parametrize(
    ("record", "truth", "words"),
    [
        (question(""), {}, "record 7: its final_decision is '', expected one of yes, no, maybe"),
        ({"QUESTION": "Does it?", "CONTEXTS": []}, {}, "record 7: its final_decision is None"),
        (question() | {"QUESTION": " "}, {}, "record 7: has no QUESTION"),
        (question() | {"CONTEXTS": "It may."}, {}, "record 7: its CONTEXTS are no list of texts"),
        (question(), {"8": "no"}, "lacks 8, which truth.json holds the answer of"),
        (question(), {"7": "perhaps"}, "record 7: its final_decision is 'perhaps'"),
    ],
)
def test_json_that_is_no_pubmedqa_is_one_line(
    tmp_path: Path, record: object, truth: dict[str, str], words: str
) -> None:
    file = written(tmp_path, {"7": record})
    answers = written(tmp_path, truth, "truth.json") if truth else None
    with pytest.raises(UserError) as raised:
        read_pubmedqa(file, answers)
    assert "items.json" in str(raised.value)
    assert words in str(raised.value)


PAIRS = {f"What is the symbol of X{n}?": f"GENE{n}" for n in range(6)}


def test_choices_are_answers_of_the_module_and_depend_on_the_question_alone(
    tmp_path: Path,
) -> None:
    content = {"Gene alias": PAIRS, "Protein-coding genes": {"Is A?": "TRUE", "Is B?": "NA"}}
    modules = read_geneturing(written(tmp_path, content))
    for item in modules["Gene alias"]:
        assert item["choices"][item["gold"]] == item["answer"] == PAIRS[item["question"]]
        assert len(set(item["choices"])) == 4
        assert set(item["choices"]) <= set(PAIRS.values())
    assert {tuple(sorted(i["choices"])) for i in modules["Protein-coding genes"]} == {
        ("NA", "TRUE")
    }
    turned = {"Gene alias": dict(reversed(PAIRS.items()))}
    again = read_geneturing(written(tmp_path, turned, "turned.json"))["Gene alias"]
    assert {i["question"]: i["choices"] for i in again} == {
        i["question"]: i["choices"] for i in modules["Gene alias"]
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"Gene alias": {"What?": ""}}, "module 'Gene alias', 'What?': its answer is ''"),
        ({"Gene alias": {"What?": None}}, "its answer is None, expected a text"),
        ({"Gene alias": ["What?"]}, "module 'Gene alias': holds no questions"),
        ({}, "holds no question"),
        ([1], "holds a list, expected an object keyed by PMID (PubMedQA) or by module"),
        ("{", "is no JSON"),
    ],
)
def test_json_that_is_no_geneturing_is_one_line(
    tmp_path: Path, content: object, words: str
) -> None:
    with pytest.raises(UserError) as raised:
        read_geneturing(written(tmp_path, content))
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("module", "expected", "said", "score"),
    [
        ("Gene alias", "PSMB10", " PSMB10.", 1.0),
        ("Gene alias", "PSMB10", " psmb10", 0.0),
        ("Gene alias", "PSMB10", "", 0.0),
        ("Gene location", "chr8", " It lies on 8", 1.0),
        ("Gene location", "chr8", " chr18", 0.0),
        ("Gene disease association", "SLC4A1, ATP6V0A4", " ATP6V0A4, TP53", 0.5),
        ("Human genome DNA aligment", "chr15:1-2", " chr15:7-9", 0.5),
        ("Human genome DNA aligment", "chr15:1-2", " chr15:1-2", 1.0),
        ("Human genome DNA aligment", "chr15:1-2", " chr1:1-2", 0.0),
        ("Multi-species DNA aligment", "worm", " Caenorhabditis elegans", 1.0),
        ("Protein-coding genes", "TRUE", " Yes", 1.0),
        ("Protein-coding genes", "NA", " Yes", 0.0),
    ],
)
def test_open_answers_are_scored_by_what_their_module_asks(
    module: str, expected: str, said: str, score: float
) -> None:
    assert score_answer({"module": module, "answer": expected}, [said]) == {"acc": score}
