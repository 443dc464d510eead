"""Texts as windows and rows of tokens: made in memory, or once for a dataset and kept on the disk.

    source = Source(papers, Recipe("papers", tokenizer, 512, 64))
    columns = columns_of(source)                    # mapped where `papers.digest` names a dataset

Papers of a dataset of the store are tokenised by several processes and kept in the cache folder,
under a digest of all that decides about their tokens: the dataset, the split and its sections, the
tokenizer, the lengths, and the code that cuts. Any other texts (those of a script, of replay) are
tokenised in memory by the same functions.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from steps.cache_folder import cache_folder
from steps.config.sections import StudyKind
from steps.digests import folder_sha256
from steps.errors import UserError
from steps.models.chat import Chat
from steps.models.tokenizer import tokenizer_digest
from steps.papers.chunks import cores_granted, follow_the_main_process, in_order
from steps.papers.study_texts import as_item, as_paper_text, study_texts
from steps.progress import ProgressLine
from steps.training.instructions import check_items, cut_items
from steps.training.masking import cut_words
from steps.training.packing import cut_papers
from steps.training.row_files import (
    FOLDER,
    KEPT_SECONDS,
    entry_bytes,
    entry_lock,
    finish_rows,
    open_rows,
    remove_old_entries,
    write_rows,
)
from steps.training.token_store import Columns, Cut, as_one, in_memory, some_at_once

# Texts that a worker is given at once.
TASK_TEXTS = 128
# Fewer are tokenised before a second process has begun.
MIN_TEXTS_FOR_PROCESSES = 5_000
MOST_PROCESSES = 16
TASKS_IN_FLIGHT = 2

Kind = Literal["papers", "words", "items"]


@dataclass(frozen=True)
class Recipe:
    """How texts become windows.

    Attributes:
        kind: `papers` for a causal model, `words` for a masked one, `items` for conversations.
        tokenizer: From `load_tokenizer`, with its chat template for items.
        length: Longest window, and what a row holds, in tokens.
        overlap: Context that a later window repeats, in tokens.
        study: The texts are papers, and these kinds of exercises are made of them; None: as they
            are.
    """

    kind: Kind
    tokenizer: Any
    length: int
    overlap: int
    study: tuple[StudyKind, ...] | None = None

    def cut(self, texts: Sequence[Any]) -> Cut:
        """Some texts as tokens and windows."""
        if self.study is not None:
            made = as_item if self.kind == "items" else as_paper_text
            texts = [made(exercise) for exercise in study_texts(texts, self.study)]
        if self.kind == "items":
            return cut_items(texts, Chat(self.tokenizer), self.length)
        how = cut_papers if self.kind == "papers" else cut_words
        return how(texts, self.tokenizer, self.length, self.overlap)

    def cut_all(self, texts: Sequence[Any]) -> Cut:
        """The same of any number of texts, a few at a time."""
        return as_one(map(self.cut, some_at_once(texts)), self.cut([]))


@dataclass(frozen=True)
class Source:
    """What becomes rows.

    Attributes:
        texts: Papers or items. Those of a dataset in the store have its `digest`.
        recipe: How.
    """

    texts: Sequence[Any]
    recipe: Recipe

    @cached_property
    def folder(self) -> Path | None:
        """Where the rows are kept; None: nowhere."""
        if not getattr(self.texts, "digest", ""):
            return None
        encoded = json.dumps(self.facts, sort_keys=True).encode()
        return cache_folder() / FOLDER / hashlib.sha256(encoded).hexdigest()[:32]

    @property
    def facts(self) -> dict[str, Any]:
        """All that decides about the tokens, as JSON values."""
        recipe = self.recipe
        return {
            "texts": self.texts.identity,  # type: ignore[attr-defined]
            "kind": recipe.kind,
            "length": recipe.length,
            "overlap": recipe.overlap,
            "study": recipe.study,
            "tokenizer": tokenizer_digest(recipe.tokenizer),
            "chat_template": recipe.tokenizer.chat_template if recipe.kind == "items" else None,
            "code": _code_digest(),
            **{name: version(name) for name in ("tokenizers", "transformers")},
        }


@cache
def _code_digest() -> str:
    """A digest of the rooms whose code decides what a text's tokens are."""
    steps = Path(__file__).resolve().parent.parent
    rooms = (folder_sha256(steps / room, "*.py") for room in ("papers", "models", "training"))
    return hashlib.sha256("".join(rooms).encode()).hexdigest()


def columns_of(source: Source) -> Columns:
    """The tokens, windows and rows of a source; of a kept one, made where they are not there.

    Raises:
        UserError: Its texts cannot be learned from, or the cache folder cannot be written.
    """
    folder = source.folder
    if folder is None:
        made = source.recipe.cut_all(source.texts)
        _check(source, made.texts, made.refused, made.left_out, len(made.windows["lengths"]))
        return in_memory(made)
    columns = open_rows(folder)
    if columns is None:
        with entry_lock(folder):
            # Somebody else may have written it in the meantime.
            columns = open_rows(folder)
            if columns is None:
                _write(source, folder)
                columns = open_rows(folder)
    assert columns is not None, folder
    return columns


def kept_rows_note(source: Source) -> str:
    """Where the rows of a source are kept, and what they take."""
    folder = source.folder
    assert folder is not None
    size = entry_bytes(folder) / 1e6
    days = KEPT_SECONDS // 86_400
    return (
        f"tokens of {len(source.texts):,} texts are kept for the next training in {folder} "
        f"({size:,.1f} MB; removed when unused for {days} days)"
    )


def _check(source: Source, texts: int, refused: Any, left_out: Any, windows: int) -> None:
    # Where no exercise could be made, whoever asked for a share of them says so.
    if source.recipe.kind == "items" and texts:
        check_items(texts, refused, left_out, windows)


def _write(source: Source, folder: Path) -> None:
    count = len(source.texts)
    processes = min(cores_granted(), MOST_PROCESSES)
    if count < MIN_TEXTS_FOR_PROCESSES:
        processes = 1
    with (
        ProgressLine("tokenising", "texts", total=count) as progress,
        _workers(source, processes) as pool,
    ):
        cuts = _cuts(source, pool, TASKS_IN_FLIGHT * processes, progress)
        made = write_rows(folder, cuts, source.recipe.length, source.facts)
        _check(source, made.texts, made.refused, made.left_out, made.windows)
        if pool is None:
            finish_rows(folder)
        else:
            pool.submit(finish_rows, folder).result()
    remove_old_entries(folder)


def _cuts(
    source: Source, pool: ProcessPoolExecutor | None, in_flight: int, progress: ProgressLine
) -> Iterator[Cut]:
    """The cuts of all texts in order, with at most a few tasks' worth of them in memory."""
    yield source.recipe.cut([])
    count = len(source.texts)
    tasks = [(start, min(start + TASK_TEXTS, count)) for start in range(0, count, TASK_TEXTS)]
    if pool is None:
        for start, end in tasks:
            yield source.recipe.cut_all(source.texts[start:end])
            progress.show(end)
        return
    submitted = ((end, pool.submit(_cut_in_worker, start, end)) for start, end in tasks)
    for end, cut in in_order(submitted, in_flight):
        yield cut
        progress.show(end)


@contextmanager
def _workers(source: Source, processes: int) -> Iterator[ProcessPoolExecutor | None]:
    if processes == 1:
        yield None
        return
    # Spawned, not forked: a fork of a process with threads (Arrow, MLflow, torch) can hang.
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, context, _begin_worker, (source,)) as pool:
            yield pool
    except BrokenProcessPool:
        raise UserError(
            "a process that tokenised papers was killed, probably for want of memory: give the "
            "job more memory, or fewer processor cores"
        ) from None


_source: Source | None = None


def _begin_worker(source: Source) -> None:
    """Keep what is tokenised, with the texts still on the disk; one thread a process."""
    global _source
    follow_the_main_process()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _source = source


def _cut_in_worker(start: int, end: int) -> Cut:
    assert _source is not None
    return _source.recipe.cut_all(_source.texts[start:end])
