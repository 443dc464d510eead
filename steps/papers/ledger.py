"""The licence ledger of a dataset: what each paper is, by whom it may be named, and its licence.

    write_ledger(table, dataset_folder)
    for entry in read_ledger(dataset_folder): entry.paper, entry.identity, entry.licence

It stands in the dataset as `licences.csv`, so that a release can say under which licences a model's
training papers came, and whether one of them was taken back since, by whichever of its identifiers
a list of retractions names it.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steps.papers.identifiers import Identity
from steps.papers.licences import license_name

if TYPE_CHECKING:
    from steps.papers.paper_table import PaperTable

LEDGER_FILE = "licences.csv"
NOT_SAID = "not said"
COLUMNS = (
    "paper", "split", "licence", "pmid", "doi", "pmcid", "other_id", "year", "licence_as_stated",
    "format", "file",
)  # fmt: skip


@dataclass(frozen=True)
class LedgerEntry:
    """One paper of a dataset.

    Attributes:
        paper: Its identifier in the dataset.
        split: Where it is.
        licence: One name for its licence, such as cc-by; "not said" where its source names none.
        identity: All its identifiers.
        year: Of its publication, "" for none.
        stated: The licence as its source names it.
        source_format: The format that it came in.
        file: The file that it came in.
    """

    paper: str
    split: str
    licence: str
    identity: Identity
    year: str
    stated: str
    source_format: str
    file: str


def entries_of(table: "PaperTable") -> Iterator[LedgerEntry]:
    """The kept papers of a table, in their order."""
    for n in table.kept:
        yield LedgerEntry(
            paper=table.paper_ids[n],
            split=table.splits[n],
            licence=license_name(table.licenses[n]) or NOT_SAID,
            identity=table.identities[n],
            year=table.years[n],
            stated=table.licenses[n],
            source_format=table.formats[n],
            file=table.input_names[table.rows["input"][n]],
        )


def write_ledger(entries: Sequence[LedgerEntry], file: Path) -> None:
    """Write entries as CSV with a header."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for entry in entries:
            ids = entry.identity
            names = (ids.pmid, ids.doi, ids.pmcid, ids.other_id)
            writer.writerow(
                (entry.paper, entry.split, entry.licence, *names, entry.year, entry.stated,
                 entry.source_format, entry.file)
            )  # fmt: skip


def read_ledger(folder: Path) -> list[LedgerEntry]:
    """The papers of a dataset.

    A dataset that was made before there were ledgers names its papers in its manifest alone: they
    are known by one identifier, and by no licence.

    Args:
        folder: The dataset, or at least its ledger, or its manifest.
    """
    file = folder / LEDGER_FILE
    if not file.is_file():
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return [
            LedgerEntry(paper, split, NOT_SAID, _identity_by(paper), "", "", "", "")
            for split, facts in manifest["splits"].items()
            for paper in facts["paper_ids"]
        ]
    with file.open(encoding="utf-8", newline="") as stream:
        return [
            LedgerEntry(
                row["paper"],
                row["split"],
                row["licence"],
                Identity(row["pmid"], row["doi"], row["pmcid"], row["other_id"]),
                row["year"],
                row["licence_as_stated"],
                row["format"],
                row["file"],
            )
            for row in csv.DictReader(stream)
        ]


def _identity_by(paper: str) -> Identity:
    """The identity of a paper by the one identifier that a dataset calls it by."""
    if paper.isdigit():
        return Identity(pmid=paper, doi="")
    if paper.startswith("10."):
        return Identity(pmid="", doi=paper)
    if paper.startswith("PMC"):
        return Identity(pmid="", doi="", pmcid=paper)
    return Identity(pmid="", doi="", other_id=paper)
