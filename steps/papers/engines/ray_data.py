"""Preprocessing on Ray Data: records by tasks on all machines, duplicates by a shuffle on hashes.

The driver reads nothing into its memory but what the table of papers holds: the records stream
through the cluster and come back in their order. What needs all papers at once is brought together
by hash: each identifier, each hash of a text or title and each band of a MinHash signature is a
key, the cluster shuffles papers by key, and every part names the pairs of papers in it that share
one. Only these pairs come back, to be compared exactly and joined.

All of this is tasks and no actors: where a machine is lost, Ray runs again what it held.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steps.config.paper_sections import ScientificData
from steps.errors import UserError
from steps.papers.chunks import Chunk, cores_granted
from steps.papers.deduplication import Pairs, Proposals, Words, join_proposed, rows_per_band
from steps.papers.engines import ray_tasks
from steps.papers.engines.engine import IDENTIFIER_KEYS
from steps.papers.preparation import PreparedChunk
from steps.papers.versions import library_versions

if TYPE_CHECKING:
    from ray.data import Dataset

    from steps.papers.paper_table import PaperTable

# Files are read in groups of about this size, several at a time.
GROUP_BYTES = 64_000_000
# A task prepares about this much: a fifth of a second and more, beside some ms that a task costs.
BLOCK_BYTES = 2_000_000
# Papers whose keys are sent at once: 17 MB of signatures.
PAPERS_A_BLOCK = 32_768
# Keys that one part of a shuffle holds, 18 bytes each.
KEYS_A_PART = 2_000_000
MAX_PARTS = 512


class RayEngine:
    """The machines of the Ray cluster that this process is connected to."""

    def prepare(self, table: "PaperTable") -> Iterator[tuple[Chunk, PreparedChunk]]:
        """Read the table's files on this machine, and prepare their records on all.

        Raises:
            UserError: The only file cannot be read, or a machine has other libraries.
        """
        if not table.inputs:
            return
        prepare = partial(
            ray_tasks.prepare_rows, settings=table.settings, versions=library_versions()
        )
        with _clear_errors():
            _set_context(BLOCK_BYTES)
            rows = _read(table.inputs, table.settings).map_batches(
                prepare, batch_size=1, batch_format="pyarrow", zero_copy_batch=True
            )
            for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
                for read, prepared in ray_tasks.unpack(batch):
                    for note in read.notes:
                        table.say(note)
                    if read.error:
                        raise UserError(read.error)
                    if read.chunk:
                        yield read.chunk, prepared

    def same_identifiers(self, table: "PaperTable") -> Iterable[npt.NDArray[np.int64]]:
        """Pairs of rows, `[pairs, 2]`, by whose chains all rows with one identifier are joined."""
        kinds = (ray_tasks.PMID, ray_tasks.DOI, ray_tasks.OTHER)
        keys = {kind: table.rows[name] for kind, name in zip(kinds, IDENTIFIER_KEYS, strict=True)}
        papers = np.arange(len(table.rows))
        return _pairs(papers, keys, table, with_signatures=False).values()

    def clusters(self, table: "PaperTable") -> list[int]:
        """For each kept paper the smallest place in `table.kept` of those that it duplicates."""
        rule = table.settings.deduplication
        kept = np.asarray(table.kept, dtype=np.int64)
        keys = {
            ray_tasks.SAME_WORDS: table.rows["content_hash"],
            ray_tasks.SAME_TITLE: table.rows["title_hash"],
        }
        found = {
            kind: np.searchsorted(kept, pairs)
            for kind, pairs in _pairs(kept, keys, table, with_signatures=True).items()
        }
        none = np.empty((0, 2), np.int64)
        bands = [pairs for kind, pairs in found.items() if kind >= ray_tasks.FIRST_BAND]
        size = 4 * rule.num_permutations

        def signature_of(place: int) -> Words:
            row = int(kept[place])
            return np.frombuffer(table.signature_spool.read(size * row, size), np.uint32)

        union = join_proposed(
            len(kept),
            Proposals(
                same_words=found.get(ray_tasks.SAME_WORDS, none),
                bands=np.concatenate([none, *bands]),
                same_title=found.get(ray_tasks.SAME_TITLE, none),
            ),
            signature_of,
            lambda place: table.words(int(kept[place])),
            rule.threshold,
            rule.shingle_words,
        )
        return [union.find(place) for place in range(len(kept))]


def _read(inputs: list[Path], settings: ScientificData) -> "Dataset":
    """The files' records, a row a chunk, read on this machine: others may not have the files."""
    import ray
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class PaperFiles(Datasource):  # type: ignore[misc, unused-ignore]
        """Groups of files, each one stream of chunks."""

        def estimate_inmemory_data_size(self) -> int:
            return sum(path.stat().st_size for path in inputs)

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            return [
                ReadTask(
                    partial(ray_tasks.read_files, paths, first, settings, alone=len(inputs) == 1),
                    BlockMetadata(None, None, None, None),
                )
                for first, paths in _groups(inputs)
            ]

    # It waits more than it works: a core of its own would be taken from those that prepare.
    return ray.data.read_datasource(
        PaperFiles(),
        num_cpus=0,
        concurrency=max(1, cores_granted() // 4),
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
    )


def _groups(inputs: list[Path]) -> Iterator[tuple[int, list[Path]]]:
    """Files that follow each other, with the number of the first of them."""
    first, size = 0, 0
    for number, path in enumerate(inputs):
        size += path.stat().st_size
        if size >= GROUP_BYTES or number == len(inputs) - 1:
            yield first, inputs[first : number + 1]
            first, size = number + 1, 0


def _pairs(
    papers: npt.NDArray[np.int64],
    keys: dict[int, npt.NDArray[np.uint64]],
    table: "PaperTable",
    *,
    with_signatures: bool,
) -> dict[int, Pairs]:
    """Pairs of papers that share a key, by kind of key, found by a shuffle.

    Args:
        papers: Rows of the table, ascending.
        keys: The keys of all rows by kind.
        table: The papers.
        with_signatures: Whether the bands of signatures are keys too.
    """
    import ray

    rule = table.settings.deduplication
    rows = rows_per_band(rule.threshold, rule.num_permutations) if with_signatures else 1
    kinds = len(keys) + (rule.num_permutations // rows if with_signatures else 0)
    cores = int(ray.cluster_resources().get("CPU", 1))
    parts = min(MAX_PARTS, max(2, cores, -(-len(papers) * kinds // KEYS_A_PART)))
    with _clear_errors():
        # All papers of a key have to stand in one block.
        _set_context(None)
        blocks = [
            ray.put(_block(papers[start : start + PAPERS_A_BLOCK], keys, table, with_signatures))
            for start in range(0, len(papers), PAPERS_A_BLOCK)
        ]
        shuffled = (
            ray.data.from_arrow_refs(blocks)
            .map_batches(
                partial(ray_tasks.keys_of, rows_per_band=rows, parts=parts),
                batch_size=None,
                batch_format="pyarrow",
            )
            .sort("part", boundaries=list(range(1, parts)))
            .map_batches(ray_tasks.pairs_of, batch_size=None, batch_format="pyarrow")
        )
        found = pa.concat_tables(
            [
                ray_tasks.PAIRS.empty_table(),
                *shuffled.iter_batches(batch_size=None, batch_format="pyarrow"),
            ]
        )
    kind = found["kind"].to_numpy()
    pairs = np.stack([found["first"].to_numpy(), found["second"].to_numpy()], axis=1)
    return {int(one): pairs[kind == one] for one in np.unique(kind)}


def _block(
    papers: npt.NDArray[np.int64],
    keys: dict[int, npt.NDArray[np.uint64]],
    table: "PaperTable",
    with_signatures: bool,
) -> pa.Table:
    columns: dict[str, Any] = {"paper": papers} | {
        str(kind): values[papers] for kind, values in keys.items()
    }
    if with_signatures:
        size = 4 * table.settings.deduplication.num_permutations
        first = int(papers[0])
        read = table.signature_spool.read(size * first, size * (int(papers[-1]) - first + 1))
        rows = np.frombuffer(read, np.uint8).reshape(-1, size)[papers - first]
        columns["signature"] = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(size), len(papers), [None, pa.py_buffer(rows.tobytes())]
        )
    return pa.table(columns)


def _set_context(block_bytes: int | None) -> None:
    """Let the datasets that are made next keep their order, and blocks of about this size."""
    import ray
    from ray.data.context import ShuffleStrategy

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = block_bytes
    context.execution_options.preserve_order = True
    # By tasks: its hash shuffles keep parts in actors or in files, which end with their machine, or
    # start two more kinds of worker processes on each, which costs more than the shuffle itself.
    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Raise what the user can mend as the worker raised it, without Ray's tracebacks around it."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        if isinstance(cause, ModuleNotFoundError):
            raise UserError(
                f"a machine of the Ray cluster lacks the module {cause.name!r}: install the "
                "project's environment there (requirements.lock and extras/ray.txt)"
            ) from None
        raise
