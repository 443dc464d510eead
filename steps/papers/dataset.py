"""The dataset on disk: its columns, its digest, and how it is written.

A dataset is a `datasets.DatasetDict` with one row a section of a paper; the rows of one
paper stand next to each other in reading order. `steps.papers.text.assemble_papers` joins
them again.

The digest is our own: the digest of the `datasets` library leaves out list columns and
looks at the first rows only. Each paper's digest is the SHA-256 of its rows in a canonical
JSON encoding; a split's digest is the SHA-256 over the digests and clusters of its papers
in order; the dataset's digest is that over the splits. It depends on the content of every
column of every row, and not on how Arrow has cut the rows into batches.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from steps.papers.genes import GeneMention
from steps.papers.item_splits import digest_of_items
from steps.papers.splits import SPLITS
from steps.papers.stored_papers import stored_batches
from steps.papers.variants.finder import VariantMention

if TYPE_CHECKING:
    from datasets import Features

SCHEMA_VERSION = 1

GENE = pa.struct(
    [("start", pa.int32()), ("end", pa.int32()), ("symbol", pa.string()), ("species", pa.string())]
)
VARIANT = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())])
# All columns but `cluster`, which is known only when all papers have been read.
ROW_SCHEMA = pa.schema(
    [
        ("paper_id", pa.string()),
        ("section", pa.string()),
        ("section_index", pa.int32()),
        ("text", pa.string()),
        ("genes", pa.list_(GENE)),
        ("variants", pa.list_(VARIANT)),
        ("score", pa.float64()),
        ("tier", pa.string()),
        ("journal", pa.string()),
        ("publication_date", pa.string()),
    ]
)


class SectionRow(NamedTuple):
    """One section of a paper, in the order of the columns."""

    paper_id: str
    section: str
    section_index: int
    text: str
    genes: list[GeneMention]
    variants: list[VariantMention]
    score: float | None
    tier: str | None
    journal: str | None
    publication_date: str | None


def rows_to_batch(rows: Sequence[SectionRow]) -> pa.RecordBatch:
    """The rows as an Arrow batch of `ROW_SCHEMA`."""
    genes = [gene for row in rows for gene in row.genes]
    variants = [variant for row in rows for variant in row.variants]
    gene_structs = pa.StructArray.from_arrays(
        [
            pa.array([gene.start for gene in genes], pa.int32()),
            pa.array([gene.end for gene in genes], pa.int32()),
            pa.array([gene.symbol for gene in genes], pa.string()),
            pa.array([gene.species for gene in genes], pa.string()),
        ],
        fields=list(GENE),
    )
    variant_structs = pa.StructArray.from_arrays(
        [
            pa.array([variant.start for variant in variants], pa.int32()),
            pa.array([variant.end for variant in variants], pa.int32()),
            pa.array([variant.kind for variant in variants], pa.string()),
        ],
        fields=list(VARIANT),
    )
    nested = {
        "genes": pa.ListArray.from_arrays(_offsets(row.genes for row in rows), gene_structs),
        "variants": pa.ListArray.from_arrays(
            _offsets(row.variants for row in rows), variant_structs
        ),
    }
    values = zip(*rows, strict=True) if rows else [()] * len(ROW_SCHEMA)
    columns = [
        nested[column.name] if column.name in nested else pa.array(cells, column.type)
        for column, cells in zip(ROW_SCHEMA, values, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


def _offsets(lists: Iterable[Sequence[Any]]) -> pa.Array:
    ends = [0]
    for items in lists:
        ends.append(ends[-1] + len(items))
    return pa.array(ends, pa.int32())


# --- digests ---------------------------------------------------------------------------


def paper_digest(rows: Iterable[SectionRow]) -> bytes:
    """SHA-256 of the rows of one paper, without their cluster, in canonical JSON."""
    digest = hashlib.sha256()
    for row in rows:
        encoded = msgspec.json.encode(
            (
                *row[:4],
                [(gene.start, gene.end, gene.symbol, gene.species) for gene in row.genes],
                [(variant.start, variant.end, variant.kind) for variant in row.variants],
                *row[6:],
            )
        )
        digest.update(encoded + b"\n")
    return digest.digest()


class SplitDigest:
    """The digest of one split, fed paper by paper."""

    def __init__(self) -> None:
        """Start with no papers."""
        self._sha256 = hashlib.sha256()

    def add(self, paper: bytes, cluster: str) -> None:
        """Take in a paper's digest and cluster."""
        self._sha256.update(paper + cluster.encode() + b"\n")

    def __str__(self) -> str:
        """The digest so far, as "sha256:..."."""
        return f"sha256:{self._sha256.hexdigest()}"


def combine_digests(splits: Mapping[str, str], items: str = "") -> str:
    """The digest of a dataset from those of its splits, and of its instruction items."""
    lines = "".join(f"{name} {splits[name]}\n" for name in SPLITS)
    lines += f"instructions {items}\n" if items else ""
    content = f"dataset schema {SCHEMA_VERSION}\n{lines}"
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def digest_of_dataset(folder: Path) -> str:
    """Compute the digest of a dataset on disk anew, from its rows.

    Args:
        folder: The `dataset/` folder.

    Returns:
        "sha256:...", the same as in its manifest unless a row has changed.
    """
    digests = {}
    for name in SPLITS:
        digest = SplitDigest()
        stored = (row for batch in stored_batches(folder / name) for row in batch.to_pylist())
        for _, rows in groupby(stored, key=lambda row: row["paper_id"]):
            paper_rows = list(rows)
            digest.add(paper_digest(map(_row_from_disk, paper_rows)), paper_rows[0]["cluster"])
        digests[name] = str(digest)
    return combine_digests(digests, digest_of_items(folder))


def _row_from_disk(row: Mapping[str, Any]) -> SectionRow:
    values = {column.name: row[column.name] for column in ROW_SCHEMA}
    values["genes"] = [GeneMention(**gene, surface="") for gene in row["genes"]]
    values["variants"] = [VariantMention(**variant, surface="") for variant in row["variants"]]
    return SectionRow(**values)


# --- writing ---------------------------------------------------------------------------


@dataclass
class SplitSummary:
    """What one split holds; goes into the manifest.

    Attributes:
        papers: Number of papers.
        sections: Number of rows.
        words: Words separated by white space.
        digest: "sha256:...".
        paper_ids: Identifiers in the order of the split.
    """

    papers: int = 0
    sections: int = 0
    words: int = 0
    digest: str = ""
    paper_ids: list[str] = field(default_factory=list)


@dataclass
class Contents:
    """Counts over the whole dataset, for the report."""

    sections: Counter[str] = field(default_factory=Counter)
    genes: Counter[str] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)


def write_splits(
    folder: Path,
    digests: Mapping[str, str],
    pieces: Iterable[tuple[str, pa.RecordBatch, Sequence[str]]],
) -> Contents:
    """Write the dataset folder from pieces of its splits, holding one piece at a time.

    Args:
        folder: The `dataset/` folder to make; must not exist.
        digests: Digest of each split.
        pieces: Split, rows of `ROW_SCHEMA`, and the cluster of each row; the pieces of one
            split in order, those of different splits in any mixture.

    Returns:
        Counts over all rows.
    """
    files = _save_layout(folder, digests)
    contents = Contents()
    schema = dataset_features().arrow_schema
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(pa.ipc.new_stream(str(path), schema))
            for name, path in files.items()
        }
        for name, batch, clusters in pieces:
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            columns["cluster"] = pa.array(clusters, pa.string())
            writers[name].write_batch(
                pa.RecordBatch.from_arrays([columns[c] for c in schema.names], schema=schema)
            )
            _count(contents.sections, columns["section"])
            _count(contents.genes, pc.struct_field(pc.list_flatten(columns["genes"]), "symbol"))
            _count(contents.variants, pc.struct_field(pc.list_flatten(columns["variants"]), "kind"))
    return contents


def _save_layout(folder: Path, digests: Mapping[str, str]) -> dict[str, Path]:
    """Let `datasets` lay out the folder with one blank row; the Arrow file of each split.

    `save_to_disk` copies a dataset through a memory map, which holds all of it in memory
    as far as the process is charged. So it writes the layout, and the rows are streamed
    over its files afterwards. The fingerprint, which names cached results, is the content's.
    """
    import datasets

    features = dataset_features()
    blank = pa.Table.from_pylist([{}], schema=features.arrow_schema)
    splits = {
        name: datasets.Dataset(
            datasets.table.InMemoryTable(blank),
            fingerprint=digests[name].removeprefix("sha256:")[:16],
        )
        for name in SPLITS
    }
    bars_were_on = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        datasets.DatasetDict(splits).save_to_disk(str(folder))
    finally:
        if bars_were_on:
            datasets.enable_progress_bars()
    return {name: next((folder / name).glob("*.arrow")) for name in SPLITS}


def dataset_features() -> "Features":
    """The columns of a dataset as `datasets.Features`."""
    from datasets import Features

    return Features.from_arrow_schema(ROW_SCHEMA.append(pa.field("cluster", pa.string())))


def _count(counter: Counter[str], values: pa.Array) -> None:
    for entry in pc.value_counts(values).to_pylist():
        counter[entry["values"]] += entry["counts"]


# --- what is set aside while papers are being read --------------------------------------


class ByteSpool:
    """Bytes that are set aside on disk and read back by position.

    Read with `pread` into ordinary memory: a memory map would count as the process's own.
    """

    def __init__(self, path: Path) -> None:
        """Make an empty file at `path`."""
        self._file = path.open("w+b")
        self.size = 0

    def append(self, data: bytes) -> int:
        """Add bytes at the end; their position."""
        position = self.size
        self._file.write(data)
        self.size += len(data)
        return position

    def read(self, position: int, size: int) -> bytes:
        """The `size` bytes at `position`."""
        self._file.flush()
        return os.pread(self._file.fileno(), size, position)

    def close(self) -> None:
        """Close the file; the caller removes its folder."""
        self._file.close()
