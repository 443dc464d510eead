"""What runs in the processes of a Ray cluster: pure functions from tables to tables.

They depend on nothing but their arguments and the files of this project, so that Ray may run any
of them again elsewhere when a machine is lost. Nothing here imports Ray.
"""

import pickle
import platform
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from steps.config.paper_sections import ScientificData
from steps.errors import UserError
from steps.papers.chunks import Chunk, chunks_of
from steps.papers.deduplication import bands_of, hash_rows, neighbours
from steps.papers.preparation import PreparedChunk, prepare_chunk
from steps.papers.versions import library_versions

# Kinds of keys by which papers are brought together. The bands of signatures are counted on.
PMID, DOI, OTHER, SAME_WORDS, SAME_TITLE, FIRST_BAND = range(6)
# The one key among these for which 0 is a value and does not mean that there is none.
ALWAYS_GIVEN = SAME_WORDS

KEYS = pa.schema(
    [("part", pa.int32()), ("kind", pa.uint16()), ("key", pa.uint64()), ("paper", pa.int64())]
)
PAIRS = pa.schema([("kind", pa.uint16()), ("first", pa.int64()), ("second", pa.int64())])


class ReadChunk(NamedTuple):
    """Records that were read one after the other.

    Attributes:
        chunk: The records.
        notes: How their files were read in another way than they stand.
        error: Why reading ends here for good, or "".
    """

    chunk: Chunk
    notes: list[str]
    error: str


def read_files(
    paths: Sequence[Path], first: int, settings: ScientificData, *, alone: bool
) -> Iterator[pa.Table]:
    """Read files that follow each other, a row a chunk of records.

    A row is never cut, so a chunk stays whole however Ray cuts and joins its blocks.

    Args:
        paths: The files.
        first: Number of the first of them among all.
        settings: The section `scientific_data`.
        alone: Whether there is one file in all.
    """
    notes: list[str] = []
    try:
        for chunk in chunks_of(paths, settings, notes.append, first=first, alone=alone):
            yield _row(ReadChunk(chunk, notes[:], ""))
            notes.clear()
    except UserError as error:
        yield _row(ReadChunk([], notes, str(error)))
    else:
        if notes:
            yield _row(ReadChunk([], notes, ""))


def _row(read: ReadChunk) -> pa.Table:
    return pa.table({"read": pa.array([pickle.dumps(read)], pa.large_binary())})


def prepare_rows(rows: pa.Table, settings: ScientificData, versions: Mapping[str, str]) -> pa.Table:
    """Prepare the chunks of some rows; each keeps its records and gains what they became.

    Args:
        rows: As `read_files` makes them.
        settings: The section `scientific_data`.
        versions: What the driver's libraries are; others could make another dataset.

    Raises:
        UserError: This machine has another version of a library.
    """
    _check_versions(tuple(versions.items()))
    prepared = []
    for value in rows["read"]:
        read: ReadChunk = pickle.loads(value.as_py())
        prepared.append(pickle.dumps(prepare_chunk([record for _, record in read.chunk], settings)))
    return rows.append_column("prepared", pa.array(prepared, pa.large_binary()))


@cache
def _check_versions(expected: tuple[tuple[str, str], ...]) -> None:
    here = library_versions()
    for name, version in expected:
        if here[name] != version:
            raise UserError(
                f"{platform.node()} of the Ray cluster has {name} {here[name]}, and this machine "
                f"{version}: install the same environment on all (requirements.lock)"
            )


def unpack(rows: pa.Table) -> Iterator[tuple[ReadChunk, PreparedChunk]]:
    """The chunks that `prepare_rows` made."""
    for read, prepared in zip(rows["read"], rows["prepared"], strict=True):
        yield pickle.loads(read.as_py()), pickle.loads(prepared.as_py())


def keys_of(papers: pa.Table, rows_per_band: int, parts: int) -> pa.Table:
    """The keys by which papers are brought together, a row each.

    Args:
        papers: Column paper: the numbers of papers. Columns named by the number of a kind: its
            keys. Column signature, where there is one: MinHash signatures as bytes.
        rows_per_band: Values of a signature that make one band.
        parts: Over how many parts the keys are spread.
    """
    numbers = papers["paper"].to_numpy()
    found: list[tuple[int, np.ndarray]] = [
        (int(name), papers[name].to_numpy()) for name in papers.column_names if name.isdigit()
    ]
    if "signature" in papers.column_names and len(numbers):
        whole = b"".join(value.as_py() for value in papers["signature"])
        rows = np.frombuffer(whole, np.uint32).reshape(len(numbers), -1)
        found.extend(
            (kind, hash_rows(band))
            for kind, band in enumerate(bands_of(rows, rows_per_band), FIRST_BAND)
        )
    tables = []
    for kind, keys in found:
        given = keys != 0 if kind < FIRST_BAND and kind != ALWAYS_GIVEN else slice(None)
        part = (keys[given] % np.uint64(parts)).astype(np.int32)
        column = np.full(len(part), kind, np.uint16)
        tables.append(pa.table([part, column, keys[given], numbers[given]], schema=KEYS))
    return pa.concat_tables(tables) if tables else KEYS.empty_table()


def pairs_of(keys: pa.Table) -> pa.Table:
    """Pairs of papers that share a key, of a part that has all papers of each of its keys."""
    kinds = keys["kind"].to_numpy()
    values, papers = keys["key"].to_numpy(), keys["paper"].to_numpy()
    # By kind and then by paper: what comes from many machines comes in no order.
    order = np.lexsort((papers, kinds))
    kinds, values, papers = kinds[order], values[order], papers[order]
    if not len(kinds):
        return PAIRS.empty_table()
    starts = np.flatnonzero(np.r_[True, kinds[1:] != kinds[:-1]])
    tables = []
    for start, end in zip(starts, [*starts[1:], len(kinds)], strict=True):
        pairs = papers[start:end][neighbours(values[start:end])]
        column = np.full(len(pairs), kinds[start], np.uint16)
        tables.append(pa.table([column, pairs[:, 0], pairs[:, 1]], schema=PAIRS))
    return pa.concat_tables(tables)
