"""Tokens, windows and rows in memory-mapped Arrow files, made once for all that train on them.

    with entry_lock(folder):
        columns = open_rows(folder)
        if columns is None:
            write_rows(folder, cuts, length, describes)
            finish_rows(folder)

A folder is an entry of the cache: `tokens.arrow` (batches of tokens, end to end), `windows.arrow`
(one number a window), `rows.arrow` and `borders.arrow` (the windows packed into rows), and
`entry.json`, which states the digest of each. It is written under another name and renamed when it
is complete, and what does not agree with its `entry.json` is no entry: a launch that is killed, or
a disk that loses something, costs the work again and nothing else.
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steps.cache_folder import CACHE_VARIABLE, cache_folder, make_cache_folder
from steps.digests import file_sha256
from steps.errors import writing_to
from steps.progress import waiting
from steps.training.packing import pack
from steps.training.token_store import Arrays, Column, Columns, Cut, Joiner, RowIndex

FOLDER = "tokens"
ENTRY = "entry.json"
TOKENS, WINDOWS, ROWS, BORDERS = (
    f"{name}.arrow" for name in ("tokens", "windows", "rows", "borders")
)
# While windows come in; one array each in the end.
_ARRIVING = "windows.arriving"
# Tokens of a batch: few enough to hold, and enough that there are few batches.
BATCH_TOKENS = 1 << 20
# Entries that nobody has used for so long are removed, and of younger ones all but the newest.
KEPT_SECONDS, KEPT_AT_LEAST_SECONDS = 30 * 86_400, 86_400
KEPT_ENTRIES = 8


class MappedColumn:
    """One number a token in the batches of a mapped file; a slice is a view of it."""

    def __init__(self, batches: list[npt.NDArray[Any]]) -> None:
        """Take the batches, which stand end to end."""
        self._batches = batches
        self._starts = np.cumsum([0, *(len(batch) for batch in batches)])

    def __len__(self) -> int:
        """Tokens of all papers together."""
        return int(self._starts[-1])

    def __getitem__(self, places: slice, /) -> npt.NDArray[Any]:
        """The numbers from a place up to another; a window never lies in two batches."""
        start, end, _ = places.indices(len(self))
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        if number < len(self._batches) and end <= self._starts[number + 1]:
            first = int(self._starts[number])
            return self._batches[number][start - first : end - first]
        parts = [
            batch[max(start - first, 0) : max(end - first, 0)]
            for batch, first in zip(self._batches, self._starts[:-1].tolist(), strict=True)
        ]
        whole: npt.NDArray[Any] = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
        return whole


@contextmanager
def entry_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time look for an entry and write it; the others of a machine wait.

    Raises:
        UserError: The cache folder cannot be written.
    """
    from filelock import FileLock, Timeout

    make_cache_folder(folder.parent)
    with _writing(folder):
        lock = FileLock(f"{folder}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with waiting("waiting for another process that tokenises the same papers"):
                lock.acquire()
    unfinished = _unfinished(folder)
    try:
        # What a process that was killed has left.
        shutil.rmtree(unfinished, ignore_errors=True)
        yield
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        lock.release()


def _unfinished(folder: Path) -> Path:
    """Where an entry is written, until it is complete."""
    return folder.with_suffix(".part")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    fix = f"make room there, or set {CACHE_VARIABLE} to a folder on another disk"
    with writing_to(f"the cache of tokens, {folder.parent},", fix):
        yield


def write_rows(
    folder: Path, cuts: Iterable[Cut], length: int, describes: Mapping[str, Any]
) -> Joiner:
    """Write what is cut into a new folder beside the entry's; `finish_rows` makes it the entry.

    Args:
        folder: The entry, whose lock is held.
        cuts: In the order of the texts; the first may be of no text.
        length: Tokens that a row holds.
        describes: What the entry is made of, for its reader.

    Returns:
        The counts of what was cut.

    Raises:
        UserError: The disk is full or cannot be written.
    """
    unfinished, joiner = _unfinished(folder), Joiner()
    with _writing(folder):
        unfinished.mkdir()
        with _Batches(unfinished / TOKENS) as tokens, _Batches(unfinished / _ARRIVING) as some:
            for cut in cuts:
                some.add(joiner.take(cut))
                tokens.add(cut.tokens)
        facts = {
            "describes": describes,
            "length": length,
            "texts": joiner.texts,
            "tokens": joiner.tokens,
            "windows": joiner.windows,
            "shortened": joiner.shortened,
            "left_out": joiner.left_out,
        }
        (unfinished / ENTRY).write_text(json.dumps(facts), encoding="utf-8")
    return joiner


def finish_rows(folder: Path) -> None:
    """Pack the windows, state the digests of all files, and give the folder its name.

    It may run in a process of its own, which then takes the memory that packing takes.
    """
    unfinished = _unfinished(folder)
    with _writing(folder):
        with pa.OSFile(str(unfinished / _ARRIVING)) as source, pa.ipc.open_file(source) as reader:
            windows = reader.read_all().combine_chunks().to_batches()
            names = reader.schema.names
        arrays: dict[str, npt.NDArray[Any]] = {
            name: windows[0].column(name).to_numpy() if windows else np.zeros(0, dtype=np.int64)
            for name in names
        }
        facts = json.loads((unfinished / ENTRY).read_text(encoding="utf-8"))
        packed = pack(arrays["lengths"], facts["length"])
        for file, content in (
            (WINDOWS, arrays),
            (ROWS, {"windows": packed.windows}),
            (BORDERS, {"borders": packed.borders}),
        ):
            with _Batches(unfinished / file) as batches:
                batches.add(content)
        (unfinished / _ARRIVING).unlink()
        facts["files"] = {
            file: [(unfinished / file).stat().st_size, file_sha256(unfinished / file)]
            for file in (TOKENS, WINDOWS, ROWS, BORDERS)
        }
        (unfinished / ENTRY).write_text(json.dumps(facts), encoding="utf-8")
        # What does not agree with its entry.json.
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)


class _Batches:
    """An Arrow file that grows by batches of arrays of one length each."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._held: list[Arrays] = []
        self._size = 0

    def __enter__(self) -> "_Batches":
        return self

    def add(self, arrays: Arrays) -> None:
        """Take arrays in; they are written with others once there are enough."""
        self._held.append(arrays)
        self._size += len(next(iter(arrays.values())))
        if self._size >= BATCH_TOKENS:
            self._write()

    def _write(self) -> None:
        if not self._held:
            return
        names = list(self._held[0])
        columns = [pa.array(np.concatenate([each[n] for each in self._held])) for n in names]
        batch = pa.RecordBatch.from_arrays(columns, names)
        if self._writer is None:
            self._writer = pa.ipc.new_file(self._file, batch.schema)
        self._writer.write_batch(batch)
        self._held, self._size = [], 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._write()
                if self._writer is not None:
                    self._writer.close()
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()


def open_rows(folder: Path) -> Columns | None:
    """What an entry holds, mapped; None where there is no whole entry.

    Its files are compared with the digests in its `entry.json`, so that nothing is trained on that
    a disk has changed.
    """
    try:
        facts = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
        for file, (size, sha256) in facts["files"].items():
            if (folder / file).stat().st_size != size or file_sha256(folder / file) != sha256:
                return None
        tokens = _mapped(folder / TOKENS)
        windows, rows, borders = (
            {name: batches[0] for name, batches in _mapped(folder / file).items()}
            for file in (WINDOWS, ROWS, BORDERS)
        )
        # When it was last used.
        os.utime(folder / ENTRY)
    except (OSError, ValueError, KeyError, TypeError, pa.lib.ArrowException):
        return None
    mapped: Mapping[str, Column] = {name: MappedColumn(each) for name, each in tokens.items()}
    packed = RowIndex(rows["windows"], borders["borders"])
    left_out = Counter(facts["left_out"])
    return Columns(mapped, windows, facts["texts"], facts["shortened"], left_out, packed)


def _mapped(path: Path) -> dict[str, list[npt.NDArray[Any]]]:
    """The batches of each column of a file, as arrays that nobody can write to."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        names = reader.schema.names
    return {name: [batch.column(name).to_numpy() for batch in batches] for name in names}


def entry_bytes(folder: Path) -> int:
    """What an entry takes on the disk."""
    return sum(file.stat().st_size for file in folder.iterdir())


def remove_old_entries(but: Path) -> None:
    """Remove entries that nobody has used for long, and leftovers; called where one was written.

    A training that has mapped an entry goes on with it: its bytes go when nobody has them open.

    Args:
        but: The entry that was written.
    """
    from filelock import FileLock, Timeout

    now = time.time()
    root = cache_folder() / FOLDER
    used: list[tuple[float, Path]] = []
    for path in root.iterdir():
        with suppress(OSError):
            if path.is_dir() and path != but:
                mark = path / ENTRY
                used.append(((mark if mark.is_file() else path).stat().st_mtime, path))
    for place, (when, path) in enumerate(sorted(used, reverse=True), start=1):
        too_many = place >= KEPT_ENTRIES and now - when > KEPT_AT_LEAST_SECONDS
        leftover = path.suffix in (".part", ".gone")
        if not (leftover or too_many or now - when > KEPT_SECONDS):
            continue
        lock = FileLock(f"{path.with_suffix('')}.lock")
        with suppress(OSError, Timeout), lock.acquire(timeout=0):
            # Never half an entry under its own name.
            gone = path.rename(path.with_suffix(".gone")) if not leftover else path
            shutil.rmtree(gone, ignore_errors=True)
