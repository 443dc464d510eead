"""The papers of a dataset where they lie on the disk: read one after another, or by their number.

    papers = StoredPapers(Path("dataset"), "train", ("title", "abstract"))
    len(papers), papers[7].text, papers[0::2]       # a slice reads nothing yet
    for paper in papers: ...                        # some hundred papers in memory at a time

What is held for a paper is where its rows begin and end, 16 bytes, so that a corpus may be larger
than the memory. Rows are read into ordinary memory, not mapped: a mapped file counts as the
process's own, page by page as it is read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from steps.errors import UserError
from steps.papers.text import PART_SEPARATOR, PaperText, assemble_papers

PAPERS_READ_AT_ONCE = 256
# What a paper's text is made of; datasets of earlier versions lack some.
_OF_TEXTS = ("paper_id", "section", "text", "genes", "variants", "score", "publication_date")


def stored_batches(folder: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a split in order, batch by batch, each in memory of its own.

    Args:
        folder: The folder of the split, as `datasets` lays it out.

    Raises:
        OSError, ValueError, KeyError, pyarrow.lib.ArrowException: It cannot be read.
    """
    for file in _arrow_files(folder):
        with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as reader:
            yield from reader


def _arrow_files(folder: Path) -> list[Path]:
    """The files that hold the rows of a split, in order."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return [folder / entry["filename"] for entry in state["_data_files"]]


@dataclass(frozen=True)
class _Index:
    """Where the rows of a split stand.

    Attributes:
        files: The files that hold them.
        file_of: The file of each batch, by its number, int64 `[batches]`.
        offset_of: Where in it the batch begins, in bytes, int64 `[batches]`.
        first_rows: The first row of each batch, and the number of all rows, int64 `[batches + 1]`.
        starts: The first row of each paper, int64 `[papers]`.
        ends: One past its last, int64 `[papers]`.
    """

    files: list[Path]
    file_of: npt.NDArray[np.int64]
    offset_of: npt.NDArray[np.int64]
    first_rows: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


class StoredPapers(Sequence[PaperText]):
    """The papers of a split that have any of some sections, in the order of the dataset.

    It can be given to another process, with what is known of its files.

    Attributes:
        dataset: The folder of the dataset.
        split: "train", "validation" or "test".
        sections: Names of the sections in use; None: all.
    """

    def __init__(
        self,
        dataset: Path,
        split: str,
        sections: tuple[str, ...] | None = None,
        digest: str = "",
    ) -> None:
        """Name a split; it is opened when something of it is asked for.

        Args:
            dataset: A folder written by `steps.papers.pipeline.prepare_dataset`.
            split: "train", "validation" or "test".
            sections: Names of the sections to use; None takes all.
            digest: Of the dataset, where it is known to be that of its rows.

        Raises:
            UserError: There is no such split.
        """
        self.dataset, self.split, self.sections = dataset, split, sections
        self.digest = digest
        self._chosen: range | None = None
        if not self.folder.is_dir():
            known = sorted(path.name for path in dataset.iterdir() if path.is_dir())
            raise UserError(f"split {split!r} is not in the dataset; it has {', '.join(known)}")

    @property
    def folder(self) -> Path:
        """The folder of the split."""
        return self.dataset / self.split

    @property
    def identity(self) -> list[Any]:
        """What these papers are, wherever they lie, as JSON values."""
        places = self._places
        which = None if self._chosen is None else [places.start, places.stop, places.step]
        return [self.digest, self.split, self.sections, which]

    @cached_property
    def _index(self) -> _Index:
        return _index_of(self.folder, self.sections)

    @cached_property
    def _places(self) -> range:
        """The papers of the split that this sequence has, by their number there."""
        return range(len(self._index.starts)) if self._chosen is None else self._chosen

    def __len__(self) -> int:
        """Number of papers."""
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> PaperText: ...

    @overload
    def __getitem__(self, place: slice) -> "StoredPapers": ...

    def __getitem__(self, place: int | slice) -> "PaperText | StoredPapers":
        """One paper, read now; or some of them, which are not read yet."""
        if isinstance(place, slice):
            return self._some(self._places[place])
        number = self._places[place]
        (paper,) = self._read(number, number + 1)
        return paper

    def _some(self, places: range) -> "StoredPapers":
        some = StoredPapers(self.dataset, self.split, self.sections, self.digest)
        some._chosen = places
        some.__dict__["_index"] = self._index
        return some

    def __iter__(self) -> Iterator[PaperText]:
        """The papers in order, some read at a time."""
        if self._places.step != 1:
            yield from (self[place] for place in range(len(self)))
            return
        for first in range(self._places.start, self._places.stop, PAPERS_READ_AT_ONCE):
            yield from self._read(first, min(first + PAPERS_READ_AT_ONCE, self._places.stop))

    def _read(self, first: int, last: int) -> list[PaperText]:
        """The papers from number `first` of the split up to `last`."""
        start, end = int(self._index.starts[first]), int(self._index.ends[last - 1])
        return list(assemble_papers(self._rows(start, end), self.sections))

    def _rows(self, start: int, end: int) -> Iterator[Mapping[str, Any]]:
        index = self._index
        number = int(np.searchsorted(index.first_rows, start, side="right")) - 1
        while number < len(index.offset_of) and index.first_rows[number] < end:
            first = int(index.first_rows[number])
            batch = _batch_at(index.files[index.file_of[number]], int(index.offset_of[number]))
            here = batch.slice(max(start - first, 0), end - max(start, first))
            yield from here.select([n for n in _OF_TEXTS if n in here.schema.names]).to_pylist()
            number += 1

    @cached_property
    def characters(self) -> int:
        """Characters of all texts, separators included, without making the texts."""
        if self._chosen is not None:
            return sum(len(paper.text) for paper in self)
        parts = total = 0
        for batch in stored_batches(self.folder):
            texts, sections = batch.column("text"), batch.column("section")
            if self.sections is not None:
                texts = texts.filter(pc.is_in(sections, pa.array(self.sections, sections.type)))
            parts += len(texts)
            total += pc.sum(pc.utf8_length(texts)).as_py() or 0
        return total + len(PART_SEPARATOR) * (parts - len(self))


def open_papers(
    dataset: Path, split: str, sections: tuple[str, ...] | None = None, digest: str = ""
) -> StoredPapers:
    """The papers of a split, which stay on the disk.

    Args:
        dataset: A folder written by `steps.papers.pipeline.prepare_dataset`.
        split: "train", "validation" or "test".
        sections: Names of the sections to use; None takes all.
        digest: Of the dataset, where it is known to be that of its rows.

    Raises:
        UserError: There is no such split, or no paper of it has any of the sections.
    """
    papers = StoredPapers(dataset, split, sections, digest)
    if not papers and sections is not None:
        raise UserError(
            f"split {split!r} has no paper with any of the sections {', '.join(sections)}: "
            "change training.scientific_data.sections"
        )
    return papers


def read_papers(
    dataset: Path, split: str, sections: tuple[str, ...] | None = None
) -> list[PaperText]:
    """Read one split as papers, all of them into memory.

    Args:
        dataset: A folder written by `steps.papers.pipeline.prepare_dataset`.
        split: "train", "validation" or "test".
        sections: Names of the sections to use; None takes all.

    Raises:
        UserError: There is no such split, or no paper of it has any of the sections.
    """
    return list(open_papers(dataset, split, sections))


def _batch_at(file: Path, offset: int) -> pa.RecordBatch:
    """The batch that begins at a place of an Arrow stream."""
    with pa.OSFile(str(file)) as source:
        schema = pa.ipc.read_schema(source)
        source.seek(offset)
        return pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)


def _index_of(folder: Path, sections: tuple[str, ...] | None) -> _Index:
    """Find the papers of a split: a run of rows with one identifier, some of them of use."""
    files = _arrow_files(folder)
    file_of, offsets, first_rows = [], [], [0]
    borders, used = [], []
    last: str | None = None
    for number, file in enumerate(files):
        with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as reader:
            place = source.tell()
            while (batch := _next(reader)) is not None:
                ids, names = batch.column("paper_id"), batch.column("section")
                file_of.append(number)
                offsets.append(place)
                place = source.tell()
                if len(ids):
                    changes = np.ones(len(ids), dtype=np.bool_)
                    changes[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
                    changes[0] = ids[0].as_py() != last
                    last = ids[-1].as_py()
                    borders.append(first_rows[-1] + np.flatnonzero(changes))
                    if sections is not None:
                        used.append(_used(names, sections))
                first_rows.append(first_rows[-1] + len(ids))
    starts = np.concatenate(borders) if borders else np.zeros(0, dtype=np.int64)
    ends = np.append(starts[1:], first_rows[-1]).astype(np.int64)[: len(starts)]
    if sections is not None and len(starts):
        some = np.logical_or.reduceat(np.concatenate(used), starts)
        starts, ends = starts[some], ends[some]
    of_batches, places, firsts = (
        np.array(each, dtype=np.int64) for each in (file_of, offsets, first_rows)
    )
    return _Index(files, of_batches, places, firsts, starts, ends)


def _next(reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None


def _used(names: pa.Array, sections: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Which rows are of one of the sections, bool `[rows]`."""
    found = pc.is_in(names, pa.array(sections, names.type))
    mask: npt.NDArray[np.bool_] = found.to_numpy(zero_copy_only=False)
    return mask
