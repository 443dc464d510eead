"""The dataset on disk holds what was written, and its digest sees every change of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import load_from_disk
from hypothesis import given
from hypothesis import strategies as st

from steps.papers.dataset import (
    ROW_SCHEMA,
    ByteSpool,
    SectionRow,
    SplitDigest,
    combine_digests,
    dataset_features,
    digest_of_dataset,
    paper_digest,
    rows_to_batch,
    write_splits,
)
from steps.papers.genes import GeneMention
from steps.papers.splits import SPLITS
from steps.papers.text import assemble_papers
from steps.papers.variants.finder import VariantMention

GENE = GeneMention(start=4, end=9, symbol="BRCA1", species="human", surface="BRCA1")
VARIANT = VariantMention(start=10, end=15, kind="protein_substitution", surface="V600E")
ROW = SectionRow(
    paper_id="1",
    section="abstract",
    section_index=1,
    text="The BRCA1 V600E ☃ of 5 cells",
    genes=[GENE],
    variants=[VARIANT],
    score=81.5,
    tier="gold_standard",
    journal="J",
    publication_date="2020-01-01",
)
BARE = ROW._replace(
    paper_id="2", genes=[], variants=[], score=None, tier=None, journal=None, publication_date=None
)


def digests_of(papers: dict[str, list[list[SectionRow]]], cluster: str = "c") -> dict[str, str]:
    digests = {}
    for name in SPLITS:
        digest = SplitDigest()
        for rows in papers.get(name, []):
            digest.add(paper_digest(rows), cluster)
        digests[name] = str(digest)
    return digests


def write(folder: Path, papers: dict[str, list[list[SectionRow]]], rows_a_piece: int = 99) -> Any:
    def pieces() -> Any:
        for name, of_split in papers.items():
            rows = [row for paper in of_split for row in paper]
            for start in range(0, len(rows), rows_a_piece):
                piece = rows[start : start + rows_a_piece]
                yield name, rows_to_batch(piece), ["c"] * len(piece)

    return write_splits(folder, digests_of(papers), pieces())


def test_the_dataset_loads_with_its_columns_and_rows(tmp_path: Path) -> None:
    papers = {"train": [[ROW], [BARE]], "test": [[ROW._replace(paper_id="3")]]}
    write(tmp_path / "dataset", papers)
    dataset = load_from_disk(str(tmp_path / "dataset"))
    assert list(dataset) == list(SPLITS)
    assert {name: len(dataset[name]) for name in SPLITS} == {"train": 2, "validation": 0, "test": 1}
    assert dataset["train"].features == dataset_features()
    first, second = dataset["train"]
    assert first == {
        "paper_id": "1",
        "section": "abstract",
        "section_index": 1,
        "text": ROW.text,
        "genes": [{"start": 4, "end": 9, "symbol": "BRCA1", "species": "human"}],
        "variants": [{"start": 10, "end": 15, "kind": "protein_substitution"}],
        "score": 81.5,
        "tier": "gold_standard",
        "journal": "J",
        "publication_date": "2020-01-01",
        "cluster": "c",
    }
    assert (second["genes"], second["score"], second["journal"]) == ([], None, None)


def test_rows_become_paper_texts_again(tmp_path: Path) -> None:
    title = ROW._replace(section="title", section_index=0, text="Title", genes=[], variants=[])
    write(tmp_path / "dataset", {"train": [[title, ROW], [BARE]]})
    rows = load_from_disk(str(tmp_path / "dataset"))["train"]
    first, second = assemble_papers(rows)
    assert first.text == f"Title\n\n{ROW.text}"
    assert first.text[first.genes[0].start : first.genes[0].end] == "BRCA1"
    assert second.paper_id == "2"


def test_fingerprints_differ_with_the_content(tmp_path: Path) -> None:
    """Equal fingerprints would let `datasets` take the cached results of another dataset."""
    for name, row in (("a", ROW), ("b", BARE)):
        write(tmp_path / name, {"train": [[row]]})
    states = [json.loads((tmp_path / n / "train" / "state.json").read_text()) for n in "ab"]
    assert states[0]["_fingerprint"] != states[1]["_fingerprint"]


@pytest.mark.parametrize("rows_a_piece", [1, 2, 99])
def test_the_digest_is_that_of_the_rows_however_they_are_cut(
    tmp_path: Path, rows_a_piece: int
) -> None:
    papers = {"train": [[ROW, ROW._replace(section_index=2)], [BARE]], "validation": [[BARE]]}
    write(tmp_path / "dataset", papers, rows_a_piece)
    assert digest_of_dataset(tmp_path / "dataset") == combine_digests(digests_of(papers))


CHANGES: dict[str, Any] = {
    "paper_id": "9",
    "section": "methods",
    "section_index": 4,
    "text": ROW.text + " ",
    "genes": [GENE._replace(start=5)],
    "variants": [replace(VARIANT, kind="rsid")],
    "score": 81.50000000000001,
    "tier": None,
    "journal": "",
    "publication_date": "2020-01-02",
}


def test_every_column_is_in_the_digest() -> None:
    assert set(CHANGES) == set(ROW_SCHEMA.names)
    digests = {paper_digest([ROW._replace(**{key: value})]) for key, value in CHANGES.items()}
    assert len(digests | {paper_digest([ROW])}) == len(CHANGES) + 1


@pytest.mark.parametrize("change", [{"end": 8}, {"symbol": "BRCA2"}, {"species": "mouse"}])
def test_every_part_of_a_mention_is_in_the_digest(change: dict[str, Any]) -> None:
    assert paper_digest([ROW]) != paper_digest([ROW._replace(genes=[GENE._replace(**change)])])


def test_cluster_order_and_split_are_in_the_digest() -> None:
    one, two = [ROW], [BARE]
    variants = [
        digests_of({"train": [one, two]}),
        digests_of({"train": [two, one]}),
        digests_of({"train": [one], "test": [two]}),
        digests_of({"train": [one, two]}, cluster="d"),
        digests_of({"train": [[ROW, BARE]]}),
        digests_of({}),
    ]
    assert len({combine_digests(digests) for digests in variants}) == len(variants)


@given(
    st.lists(
        st.builds(
            ROW._replace,
            text=st.text(st.characters(exclude_categories=["Cs"])),
            score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
            genes=st.lists(st.just(GENE), max_size=2),
            journal=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        ),
        max_size=4,
    )
)
def test_arrow_gives_back_what_it_was_given(rows: list[SectionRow]) -> None:
    table = pa.Table.from_batches([rows_to_batch(rows)])
    expected = [
        {key: value for key, value in row._asdict().items() if key not in ("genes", "variants")}
        | {
            "genes": [
                {"start": g.start, "end": g.end, "symbol": g.symbol, "species": g.species}
                for g in row.genes
            ],
            "variants": [{"start": v.start, "end": v.end, "kind": v.kind} for v in row.variants],
        }
        for row in rows
    ]
    assert table.to_pylist() == expected


def test_contents_are_counted_over_all_splits(tmp_path: Path) -> None:
    contents = write(tmp_path / "dataset", {"train": [[ROW], [BARE]], "test": [[ROW]]})
    assert contents.sections == {"abstract": 3}
    assert contents.genes == {"BRCA1": 2}
    assert contents.variants == {"protein_substitution": 2}


def test_what_is_set_aside_is_read_back(tmp_path: Path) -> None:
    spool = ByteSpool(tmp_path / "spool")
    positions = [spool.append(data) for data in (b"one", b"", b"three")]
    assert positions == [0, 3, 3]
    assert spool.read(3, 5) == b"three"
    assert spool.append(b"more") == 8
    assert spool.read(0, 12) == b"onethreemore"
    spool.close()
