"""Lists of retracted papers, in the forms that people have them."""

import gzip
import json
from pathlib import Path

import pytest

from steps.config.paper_sections import Limits, ScientificData
from steps.errors import UserError
from steps.papers.identifiers import identity_of
from steps.papers.pipeline import prepare_dataset
from steps.papers.retractions import Retractions, read_retractions

HEADER = (
    "Record ID,Title,RetractionDOI,RetractionPubMedID,OriginalPaperDOI,OriginalPaperPubMedID,"
    "RetractionNature\n"
)
WATCH = """1,"A, with a comma",10.1/notice1,901,10.1/Paper.One,101,Retraction
2,Corrected,10.1/notice2,902,10.1/two,102,Correction
3,Doubted,10.1/notice3,903,10.1/three,103,Expression of concern
4,No PMID,10.1/notice4,0,10.1/four,0,Retraction
5,Reinstated,10.1/notice5,905,10.1/five,105,Retraction
6,Reinstated,10.1/notice6,906,10.1/five,105,Reinstatement
7,Nothing,unavailable,0,unavailable,0,Retraction
8,No DOI,unavailable,0,Unavailable,108,Retraction
"""


def read(tmp_path: Path, content: str | bytes, name: str = "list.txt") -> Retractions:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_retractions(file, Limits())


@pytest.mark.parametrize(
    "content",
    [
        "101\n\n# a comment\nhttps://doi.org/10.1/FOUR\nPMC77 # with a remark\n",
        "﻿PMID: 101\r\ndoi:10.1/four\r\nhttps://www.ncbi.nlm.nih.gov/pmc/articles/PMC77/\r\n",
        "pmid,doi,pmcid\n101,,\n,10.1/four,\n,,PMC77\n",
        "Title\tDOI\tPMCID\tPMID\nA\t10.1/four\tPMC77\t101.0\n",
        "paper;note\n101;a\n10.1/four;b\nPMC77;c\n",
        json.dumps([101, "10.1/four", "PMC77"]),
        json.dumps({"papers": [{"pmid": "101", "doi": "10.1/four"}, {"pmcid": "PMC77"}]}),
        '{"pmid": 101, "title": "A"}\n{"doi": "10.1/FOUR"}\n{"pmcid": "PMC77"}\n',
        # Without the time: it would stand in the test's name, which two workers have to agree on.
        gzip.compress(b"101\n10.1/four\nPMC77\n", mtime=0),
    ],
)
def test_a_list_is_read_in_any_usual_form(tmp_path: Path, content: str | bytes) -> None:
    named = read(tmp_path, content)
    assert named.identifiers == {"101", "10.1/four", "PMC77"}
    assert named.holds(identity_of(None, "10.1/Four"))
    assert named.holds(identity_of("999", None, "PMC77"))
    assert not named.holds(identity_of("10", "10.1/fou"))


def test_of_retraction_watch_the_retracted_papers_count_and_not_the_notices(
    tmp_path: Path,
) -> None:
    named = read(tmp_path, HEADER + WATCH, "retraction_watch.csv")
    assert named.identifiers == {"101", "10.1/paper.one", "10.1/four", "108"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "names no paper"),
        ("# nothing\n\n", "names no paper"),
        ("101\nhello\n", "list.txt, line 2: 'hello' is no PMID, DOI or PMCID"),
        ("title,year\nA,2020\n", "no column of its header is one of identifiers"),
        ('[{"pmid": 1}, true]', "list.txt, record 1"),
        ('{"pmid": 1}\n{"pmid": \n', "neither JSON nor JSON Lines"),
        (b"\xff\xfe1\x000\x001\x00", "not UTF-8"),
    ],
)
def test_what_is_no_list_is_one_line(tmp_path: Path, content: str | bytes, expected: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, content)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def papers(count: int) -> list[dict[str, str]]:
    return [
        {
            "pmid": str(100 + n),
            "doi": f"10.1/p{n}",
            "title": f"Variant number {n} of the gene TP{n} and what it does to cells",
            "abstract": " ".join(f"word{n}x{k}" for k in range(40)) + " the of and in to a is",
        }
        for n in range(count)
    ]


def test_named_papers_are_rejected_by_whichever_identifier(tmp_path: Path) -> None:
    (tmp_path / "papers.json").write_text(json.dumps(papers(14)), encoding="utf-8")
    (tmp_path / "list.txt").write_text("101\n10.1/P2\n999\n", encoding="utf-8")
    settings = ScientificData(retracted=str(tmp_path / "list.txt"))
    made = prepare_dataset([tmp_path / "papers.json"], settings, tmp_path / "out")
    assert made.rejected == {"retracted": 2}
    kept = {paper for facts in made.manifest["splits"].values() for paper in facts["paper_ids"]}
    assert kept == {str(100 + n) for n in range(14)} - {"101", "102"}
    lines = (tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["identifier"] for line in lines} == {"101", "102"}
    assert "named in list.txt (scientific_data.retracted)" in lines[0]
    assert made.manifest["configuration"]["retracted"] == "list.txt"


def test_a_list_that_names_all_papers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "papers.json").write_text(json.dumps(papers(2)), encoding="utf-8")
    (tmp_path / "list.txt").write_text("100\n101\n", encoding="utf-8")
    settings = ScientificData(retracted=str(tmp_path / "list.txt"))
    with pytest.raises(UserError, match="no paper is left: all are named in list.txt"):
        prepare_dataset([tmp_path / "papers.json"], settings, tmp_path / "out")


def test_items_of_retracted_papers_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "papers.json").write_text(json.dumps(papers(14)), encoding="utf-8")
    items = [
        {"pmid": "101", "question": "What is one?", "answer": "A number."},
        {"doi": "10.1/p2", "question": "What is two?", "answer": "Another number."},
        {"pmid": "103", "question": "What is three?", "answer": "A third number."},
    ]
    (tmp_path / "items.jsonl").write_text(
        "".join(json.dumps(item) + "\n" for item in items), encoding="utf-8"
    )
    (tmp_path / "list.txt").write_text("10.1/p1\n102\n", encoding="utf-8")
    made = prepare_dataset(
        [tmp_path / "papers.json"],
        ScientificData(retracted=str(tmp_path / "list.txt")),
        tmp_path / "out",
        instructions=[tmp_path / "items.jsonl"],
    )
    assert made.manifest["instructions"]["rejected"] == {"retracted": 2}
    assert sum(s["items"] for s in made.manifest["instructions"]["splits"].values()) == 1
