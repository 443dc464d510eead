"""The text of a paper, made by one function for training and for scoring alike.

A dataset holds one row a section (see `steps.papers.dataset`). Here the rows of one
paper become its text, with the spans of genes, variants and sections moved to
positions in that text.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

PART_SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Span:
    """A half-open range of characters with a label.

    Attributes:
        start: First character, counted from 0.
        end: One past the last character.
        label: Gene symbol, kind of variant, or name of the section.
        species: "human" or "mouse" for genes, else "".
    """

    start: int
    end: int
    label: str
    species: str = ""


@dataclass(frozen=True)
class PaperText:
    """One paper as it is trained on and as it is scored.

    Attributes:
        paper_id: Identifier of the paper.
        text: The cleaned parts joined by blank lines.
        sections: Where each part stands in `text`; the separator belongs to none.
        genes: Gene mentions in `text`.
        variants: Variant mentions in `text`.
        score: The paper's quality score, or None.
        published: YYYY, YYYY-MM or YYYY-MM-DD, or None.
    """

    paper_id: str
    text: str
    sections: tuple[Span, ...]
    genes: tuple[Span, ...] = ()
    variants: tuple[Span, ...] = ()
    score: float | None = None
    published: str | None = None

    @property
    def unit(self) -> str:
        """What is drawn anew in an interval, as `InstructionItem.unit`."""
        return self.paper_id


def assemble_papers(
    rows: Iterable[Mapping[str, Any]], sections: tuple[str, ...] | None = None
) -> Iterator[PaperText]:
    """Join the section rows of a dataset split into papers.

    Args:
        rows: Rows in dataset order, all rows of one paper next to each other.
        sections: Names of the sections to use; None takes all.

    Yields:
        One `PaperText` a paper that has any of the sections, in dataset order.
    """
    for paper_id, paper_rows in groupby(rows, key=lambda row: row["paper_id"]):
        parts: list[str] = []
        section_spans: list[Span] = []
        genes: list[Span] = []
        variants: list[Span] = []
        score: float | None = None
        published: str | None = None
        position = 0
        for row in paper_rows:
            if sections is not None and row["section"] not in sections:
                continue
            if parts:
                position += len(PART_SEPARATOR)
            score = row["score"]
            published = row.get("publication_date")
            text = row["text"]
            section_spans.append(Span(position, position + len(text), row["section"]))
            genes.extend(
                Span(position + g["start"], position + g["end"], g["symbol"], g["species"])
                for g in row["genes"]
            )
            variants.extend(
                Span(position + v["start"], position + v["end"], v["kind"]) for v in row["variants"]
            )
            parts.append(text)
            position += len(text)
        if parts:
            yield PaperText(
                paper_id=paper_id,
                text=PART_SEPARATOR.join(parts),
                sections=tuple(section_spans),
                genes=tuple(genes),
                variants=tuple(variants),
                score=score,
                published=published,
            )


def read_column(dataset: Path, split: str, column: str) -> dict[str, str | None]:
    """One column of a split, such as journal or cluster, by paper_id.

    Args:
        dataset: A folder written by `steps.papers.pipeline.prepare_dataset`.
        split: "train", "validation" or "test".
        column: A column that is the same in all rows of a paper.
    """
    from datasets import Dataset

    rows = Dataset.load_from_disk(str(dataset / split)).select_columns(["paper_id", column])
    return {row["paper_id"]: row[column] for row in rows}
