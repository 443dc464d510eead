"""Items follow their papers, so that nobody is asked about what was trained on."""

import json
from pathlib import Path
from typing import Any

import pytest

from steps.config.paper_sections import ScientificData, Split
from steps.errors import UserError
from steps.papers.dataset import digest_of_dataset
from steps.papers.item_splits import read_split
from steps.papers.pipeline import Preparation, prepare_dataset
from steps.papers.splits import SPLITS
from tests.support.made_up_papers import made_up_papers

SETTINGS = ScientificData(split=Split(validation_fraction=0.2, test_fraction=0.3), num_workers=1)


def prepared(folder: Path, papers: list[Any], items: list[Any], name: str = "out") -> Preparation:
    (folder / "papers.json").write_text(json.dumps({"papers": papers}))
    lines = folder / f"{name}.jsonl"
    lines.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return prepare_dataset([folder / "papers.json"], SETTINGS, folder / name, instructions=[lines])


def question(number: object, **named: Any) -> dict[str, Any]:
    return {"question": f"What does finding {number} show about {number}?", "answer": "x", **named}


def splits_of_items(preparation: Preparation) -> dict[str, str]:
    """The split of each item by what is asked."""
    dataset = preparation.output / "dataset"
    return {
        item.messages[0].content: split for split in SPLITS for item in read_split(dataset, split)
    }


def splits_of_papers(preparation: Preparation) -> dict[str, str]:
    splits = preparation.manifest["splits"]
    return {paper: name for name, split in splits.items() for paper in split["paper_ids"]}


def test_every_item_stands_in_the_split_of_its_paper(tmp_path: Path) -> None:
    papers = [paper | {"doi": f"10.1/{n}"} for n, paper in enumerate(made_up_papers(40))]
    # The same paper, with a lower score, under another identifier: left out as a duplicate.
    twin = papers[3] | {"pmid": "77", "doi": "10.1/twin", "score": 1.0}
    items = [question(p["pmid"], pmid=p["pmid"]) for p in papers]
    items += [question(f"by DOI {p['doi']}", doi=p["doi"].upper()) for p in papers]
    items += [question("of the twin", pmid="77")]
    preparation = prepared(tmp_path, [*papers, twin], items)
    of_papers, of_items = splits_of_papers(preparation), splits_of_items(preparation)
    assert set(of_papers.values()) == set(SPLITS)
    for n, paper in enumerate(papers):
        expected = of_papers[paper["pmid"]]
        assert of_items[items[n]["question"]] == expected
        assert of_items[items[len(papers) + n]["question"]] == expected
    assert of_items[items[-1]["question"]] == of_papers[papers[3]["pmid"]]
    named = {
        item.paper_id
        for split in SPLITS
        for item in read_split(preparation.output / "dataset", split)
    }
    assert named <= of_papers.keys()
    stated = preparation.manifest["instructions"]
    assert (stated["papers_named"], stated["papers_not_in_dataset"]) == (len(named), 0)


def test_items_of_a_paper_that_is_not_there_go_together_and_are_counted(tmp_path: Path) -> None:
    items = [question(f"{paper} {n}", pmid=f"9000{paper}") for paper in range(30) for n in range(2)]
    made = prepared(tmp_path, made_up_papers(30), items)
    of_items = splits_of_items(made)
    for first, second in zip(items[::2], items[1::2], strict=True):
        assert of_items[first["question"]] == of_items[second["question"]]
    assert set(of_items.values()) == set(SPLITS)
    stated = made.manifest["instructions"]
    assert (stated["papers_named"], stated["papers_not_in_dataset"]) == (30, 30)


def test_items_of_no_paper_are_split_by_their_words_near_duplicates_together(
    tmp_path: Path,
) -> None:
    papers = made_up_papers(30)
    words = [" ".join(f"word{(7 * n + k) % 997}" for k in range(40)) for n in range(0, 600, 10)]
    items = [{"question": one, "answer": "x"} for one in words]
    items += [{"question": f"{one} and more", "answer": "x"} for one in words]
    made = splits_of_items(prepared(tmp_path, papers, items))
    assert set(made.values()) == set(SPLITS)
    for one in words:
        assert made[one] == made[f"{one} and more"]
    # Others move nobody, and neither does the order.
    fewer = splits_of_items(prepared(tmp_path, papers, items[::-1][:90], "fewer"))
    moved = [
        one for one, split in fewer.items() if made[one] != split and f"{one} and more" in made
    ]
    assert not moved


def test_an_item_like_one_of_a_test_paper_is_held_out_with_it(tmp_path: Path) -> None:
    papers = made_up_papers(30)
    test_paper = next(
        p
        for p, s in splits_of_papers(prepared(tmp_path, papers, [question(1)])).items()
        if s == "test"
    )
    text = " ".join(f"unusual{k}" for k in range(40))
    items = [
        {"question": text, "answer": "x", "pmid": test_paper},
        {"question": f"{text} indeed", "answer": "x"},
    ]
    made = splits_of_items(prepared(tmp_path, papers, items, "alike"))
    assert made == {text: "test", f"{text} indeed": "test"}


def test_the_digest_covers_the_items_and_no_item_is_lost(tmp_path: Path) -> None:
    papers = made_up_papers(30)
    items = [question(n) for n in range(20)]
    bad = [{"question": "x", "answer": ""}, {"neither": 1}]
    one = prepared(tmp_path, papers, [*items, items[0], *bad])
    stated = one.manifest["instructions"]
    counts = sum(split["items"] for split in stated["splits"].values())
    assert counts + stated["duplicates"] + sum(stated["rejected"].values()) == stated["read"] == 23
    assert stated["rejected"] == {"empty_answer": 1, "no_item": 1}
    lines = (one.output / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["empty_answer", "no_item"]
    assert digest_of_dataset(one.output / "dataset") == one.digest

    other = prepared(tmp_path, papers, items[:-1], "other")
    without = prepare_dataset([tmp_path / "papers.json"], SETTINGS, tmp_path / "without")
    assert len({one.digest, other.digest, without.digest}) == 3
    file = one.output / "dataset" / "instructions" / "train.jsonl"
    file.write_text(file.read_text().replace("finding", "result"))
    assert digest_of_dataset(one.output / "dataset") != one.digest


def test_training_items_that_quote_test_papers_are_counted(tmp_path: Path) -> None:
    papers = made_up_papers(30)
    splits = splits_of_papers(prepared(tmp_path, papers, [question(1)]))
    quoted = next(p for p in papers if splits[p["pmid"]] == "test")
    home = next(p for p in papers if splits[p["pmid"]] == "train")
    items = [
        question(1, pmid=home["pmid"]),
        {"question": f"Summarise: {quoted['abstract']}", "answer": "x", "pmid": home["pmid"]},
    ]
    made = prepared(tmp_path, papers, items, "quoting")
    assert made.manifest["instructions"]["training_items_overlapping_test_papers"] == 1


def test_a_file_without_any_item_is_refused_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        prepared(tmp_path, made_up_papers(12), [{"title": "x"}, {"question": "a", "answer": ""}])
    assert "no usable instruction item in out.jsonl" in str(refused.value)
    assert "record 0 of out.jsonl" in str(refused.value)
    assert len((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()) == 2


def test_a_dataset_without_items_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "papers.json").write_text(json.dumps(made_up_papers(12)))
    made = prepare_dataset([tmp_path / "papers.json"], SETTINGS, tmp_path / "out")
    with pytest.raises(UserError, match=r"training\.instructions\.data_file"):
        read_split(made.output / "dataset", "train")
