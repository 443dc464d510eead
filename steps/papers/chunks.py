"""Records in chunks, prepared by several processes and given back in their order."""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TypeVar

from steps.config.paper_sections import ScientificData
from steps.errors import UserError
from steps.papers.formats.reading import Columns, Say, read_papers
from steps.papers.preparation import PreparedChunk
from steps.papers.records import RawRecord

Task = TypeVar("Task")
Result = TypeVar("Result")
Chunk = list[tuple[int, RawRecord]]  # input file number and record

CHUNK_RECORDS = 256
CHUNK_BYTES = 1 << 20
# Below this a second process costs more than it saves.
MIN_BYTES_FOR_PROCESSES = 8_000_000
CHUNKS_IN_FLIGHT = 3


def chunks_of(
    inputs: Sequence[Path],
    settings: ScientificData,
    say: Say,
    *,
    first: int = 0,
    alone: bool | None = None,
) -> Iterator[Chunk]:
    """Records in chunks of at most `CHUNK_RECORDS` and about `CHUNK_BYTES`.

    Args:
        inputs: The files, or some that follow each other among all.
        settings: The section `scientific_data`.
        say: Takes a line about how a file is read.
        first: Number of the first of them among all.
        alone: Whether there is one file in all; None: as `inputs` says.

    Raises:
        UserError: The only file cannot be read.
    """
    alone = len(inputs) == 1 if alone is None else alone
    columns = settings.columns.model_dump(exclude_none=True) or None
    chunk: Chunk = []
    size = 0
    for number, path in enumerate(inputs, first):
        for record in _records(path, settings, columns, say, alone=alone):
            chunk.append((number, record))
            size += len(record.data)
            if len(chunk) >= CHUNK_RECORDS or size >= CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def _records(
    path: Path, settings: ScientificData, columns: Columns | None, say: Say, *, alone: bool
) -> Iterator[RawRecord]:
    """The records of a file; where it cannot be read, and is not the only one, it costs itself."""
    number = 0
    try:
        for record in read_papers(path, settings.limits, columns, say):
            number = record.number + 1
            yield record
    except UserError as error:
        if alone:
            raise
        yield RawRecord(number, 0, b"", problem=("unreadable_file", str(error)))


def processes_for(inputs: Sequence[Path], settings: ScientificData) -> int:
    """How many processes prepare papers: what the configuration says, or one a core."""
    if settings.num_workers:
        return settings.num_workers
    if sum(path.stat().st_size for path in inputs) < MIN_BYTES_FOR_PROCESSES:
        return 1
    return cores_granted()


def cores_granted() -> int:
    """The processor cores that this process may use."""
    # Where a batch system grants some of the cores, only Linux says which.
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def prepared_in_order(
    chunks: Iterator[Chunk],
    prepare: Callable[[Sequence[RawRecord]], PreparedChunk],
    num_processes: int,
) -> Iterator[tuple[Chunk, PreparedChunk]]:
    """Prepare chunks in several processes and give them back in their order."""
    if num_processes == 1:
        for chunk in chunks:
            yield chunk, prepare([record for _, record in chunk])
        return
    # Spawned, not forked: a fork of a process with threads (Arrow, MLflow) can hang.
    with ProcessPoolExecutor(
        num_processes, mp_context=get_context("spawn"), initializer=follow_the_main_process
    ) as pool:
        submitted = (
            (chunk, pool.submit(prepare, [record for _, record in chunk])) for chunk in chunks
        )
        yield from in_order(submitted, CHUNKS_IN_FLIGHT * num_processes)


def in_order(
    submitted: Iterator[tuple[Task, "Future[Result]"]], most: int
) -> Iterator[tuple[Task, Result]]:
    """Give back tasks with their results in their order, with so many of them under way.

    Args:
        submitted: Submits each task when it is asked for it.
        most: Tasks that wait or are worked on while one is given back.
    """
    waiting: deque[tuple[Task, Future[Result]]] = deque()
    try:
        for one in submitted:
            waiting.append(one)
            if len(waiting) > most:
                task, future = waiting.popleft()
                yield task, future.result()
        while waiting:
            task, future = waiting.popleft()
            yield task, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def follow_the_main_process() -> None:
    """Leave Ctrl-C to the main process, and end when it has been killed.

    Otherwise a worker waits for its next chunk for ever: it holds both ends of the queue.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = parent_process()

    def wait_and_leave() -> None:
        if main is not None:
            main.join()
            os._exit(1)

    threading.Thread(target=wait_and_leave, daemon=True).start()
