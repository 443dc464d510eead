"""What the stages of preprocessing ask of an engine, and the one that this machine is.

    for chunk, prepared in engine.prepare(table):    # record by record
    labels = engine.clusters(table)                  # over all papers at once

All engines call the same functions on the same records and give their results back in the order of
the records, so that dataset and rejected records are the same to the byte whichever it was.
"""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from steps.papers.chunks import Chunk, chunks_of, prepared_in_order, processes_for
from steps.papers.deduplication import find_clusters, neighbours
from steps.papers.preparation import PreparedChunk, prepare_chunk

if TYPE_CHECKING:
    from steps.papers.paper_table import PaperTable

# The variable that says where a Ray cluster is, and how messages call the key that asks for Ray.
RAY_ADDRESS = "RAY_ADDRESS"
WANTED_BY = "scientific_data.engine: ray"
IDENTIFIER_KEYS = ("pmid_key", "doi_key", "other_key")


def cluster_address() -> str:
    """Where the Ray cluster is that the environment names; "" for none, and for one of our own."""
    address = os.environ.get(RAY_ADDRESS, "")
    return "" if address == "local" else address


class Engine(Protocol):
    """What the stages cannot do paper by paper themselves."""

    def prepare(self, table: "PaperTable") -> Iterator[tuple[Chunk, PreparedChunk]]:
        """Read the table's files and prepare their records, in their order."""

    def same_identifiers(self, table: "PaperTable") -> Iterable[npt.NDArray[np.int64]]:
        """Pairs of rows, `[pairs, 2]`, by whose chains all rows with one identifier are joined."""

    def clusters(self, table: "PaperTable") -> list[int]:
        """For each kept paper the smallest place in `table.kept` of those that it duplicates."""


class LocalEngine:
    """The processes of this machine, and one process's memory for the hashes of all papers."""

    def prepare(self, table: "PaperTable") -> Iterator[tuple[Chunk, PreparedChunk]]:
        """Read the table's files and prepare their records, in their order."""
        return prepared_in_order(
            chunks_of(table.inputs, table.settings, table.say),
            partial(prepare_chunk, settings=table.settings),
            processes_for(table.inputs, table.settings),
        )

    def same_identifiers(self, table: "PaperTable") -> Iterable[npt.NDArray[np.int64]]:
        """Pairs of rows, `[pairs, 2]`, by whose chains all rows with one identifier are joined."""
        return (neighbours(table.rows[key], ignore=0) for key in IDENTIFIER_KEYS)

    def clusters(self, table: "PaperTable") -> list[int]:
        """For each kept paper the smallest place in `table.kept` of those that it duplicates."""
        rule = table.settings.deduplication
        signature_rows = np.frombuffer(
            table.signature_spool.read(0, table.signature_spool.size), dtype=np.uint32
        ).reshape(-1, rule.num_permutations)
        labels: list[int] = find_clusters(
            signature_rows[table.kept],
            table.rows["content_hash"][table.kept],
            table.rows["title_hash"][table.kept],
            lambda place: table.words(table.kept[place]),
            rule.threshold,
            rule.shingle_words,
        ).tolist()
        return labels
