"""From papers to training rows: windows of tokens, packed without contamination.

Each paper is `BOS text EOS` (see `steps.models.tokenizer`). A paper longer than a window becomes
several, each of which begins with some tokens of the one before as context that is not trained on
twice. Windows are packed into rows of up to `max_length` tokens, best fit first, nothing dropped
and nothing padded; positions restart at each window, and the attention stays within it (see
`steps.models.attention`). A model that bears no packing gets one window a row.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset

from steps.models.layout import RowLayout, end_to_end, filled_up, packed_batch, padded_batch
from steps.models.losses import IGNORED
from steps.models.tokenizer import end_token, start_token
from steps.papers.text import PaperText
from steps.training.instructions import ItemWindows
from steps.training.token_store import (
    Column,
    Columns,
    Cut,
    RowIndex,
    TokenIds,
    as_one,
    in_memory,
    in_place,
    some_at_once,
)


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of one paper's tokens.

    Attributes:
        tokens: Token ids, at most the window length.
        first_target: Position of the first token that is a target; those before it are
            context (the first token of all is never a target: nothing predicts it).
    """

    tokens: TokenIds
    first_target: int

    @property
    def labels(self) -> TokenIds:
        """The tokens where they are learned, `IGNORED` elsewhere; the model shifts them."""
        labels = self.tokens.copy()
        labels[: self.first_target] = IGNORED
        return labels


@dataclass(frozen=True)
class Windows:
    """The windows of all papers: where each stands in the store.

    Neighbours of one paper overlap there, so the context of a later window takes no memory.

    Attributes:
        store: The ids of the tokens of all papers.
        starts: The first token of each window in the store, int64 `[windows]`.
        lengths: Tokens of each, int32 `[windows]`.
        first_targets: `Window.first_target` of each, int32 `[windows]`.
        packed: The rows that they are packed into, where these are known already.
    """

    store: Column
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    first_targets: npt.NDArray[np.int32]
    packed: RowIndex | None = None

    @classmethod
    def of(cls, columns: Columns) -> "Windows":
        """The windows of what `cut_papers` has cut."""
        return cls(columns.tokens["ids"], **columns.windows, packed=columns.packed)

    @property
    def target_counts(self) -> npt.NDArray[np.int32]:
        """Target tokens of each window, int32 `[windows]`."""
        return self.lengths - self.first_targets

    @property
    def targets(self) -> int:
        """Target tokens of all windows."""
        return int(self.target_counts.sum(dtype=np.int64))

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.starts)

    def __getitem__(self, number: int) -> Window:
        """One window."""
        start = int(self.starts[number])
        tokens = self.store[start : start + int(self.lengths[number])]
        return Window(tokens, int(self.first_targets[number]))


def causal_windows(
    papers: Sequence[PaperText], tokenizer: Any, max_length: int, overlap: int
) -> Windows:
    """Tokenise papers in memory, and cut them into windows; see `cut_papers`."""
    cuts = (cut_papers(some, tokenizer, max_length, overlap) for some in some_at_once(papers))
    empty = cut_papers([], tokenizer, max_length, overlap)
    return Windows.of(in_memory(as_one(cuts, empty)))


def cut_papers(papers: Sequence[PaperText], tokenizer: Any, max_length: int, overlap: int) -> Cut:
    """Tokenise some papers, and cut them into windows.

    Args:
        papers: Some papers.
        tokenizer: From `load_tokenizer`; `start_token` opens each paper, `end_token` closes it.
        max_length: Longest window, in tokens.
        overlap: Tokens of context that a later window repeats from the one before, at least 1
            (its first token is predicted by nothing).

    Returns:
        Windows in order; together each token of a paper but its first is a target exactly once.

    Raises:
        UserError: The tokenizer has no token to open or close a paper with.
    """
    opening, closing = start_token(tokenizer), end_token(tokenizer)
    ids = array("i")
    starts, lengths, first_targets = array("q"), array("i"), array("i")
    texts = [paper.text for paper in papers]
    bodies = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids if texts else []
    for body in bodies:
        paper = len(ids)
        ids.append(opening)
        ids.extend(body)
        ids.append(closing)
        # The first token of all counts as done: nothing predicts it.
        start, done = paper, paper + 1
        while done < len(ids):
            end = min(start + max_length, len(ids))
            starts.append(start)
            lengths.append(end - start)
            first_targets.append(done - start)
            start, done = end - overlap, end
    windows = {"starts": starts, "lengths": lengths, "first_targets": first_targets}
    placed = {name: in_place(numbers) for name, numbers in windows.items()}
    return Cut({"ids": in_place(ids)}, placed, len(papers))


def one_a_row(windows: int) -> RowIndex:
    """Rows of one window each, in order."""
    return RowIndex(np.arange(windows), np.arange(windows + 1))


def pack(lengths: npt.NDArray[np.int32], capacity: int) -> RowIndex:
    """Put windows into rows by best fit, longest first.

    Args:
        lengths: Tokens of each window, 1 to `capacity`.
        capacity: Tokens a row holds.

    Returns:
        Rows; every window stands in exactly one. The same input gives the same rows.
    """
    order = np.argsort(-lengths, kind="stable")
    row_of = np.empty(len(lengths), dtype=np.int64)
    # There are many rows, but few sizes of room: a heap of rows for each, the first row on top.
    rows_with: dict[int, list[int]] = {}
    rooms: list[int] = []
    rows = 0
    for place, length in enumerate(lengths[order].tolist()):
        fit = bisect_left(rooms, length)
        if fit == len(rooms):
            row, left = rows, capacity - length
            rows += 1
        else:
            room = rooms[fit]
            row, left = heappop(rows_with[room]), room - length
            if not rows_with[room]:
                del rooms[fit], rows_with[room]
        row_of[place] = row
        if left and left not in rows_with:
            insort(rooms, left)
            rows_with[left] = []
        if left:
            heappush(rows_with[left], row)
    borders = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(row_of, minlength=rows), out=borders[1:])
    return RowIndex(order[np.argsort(row_of, kind="stable")], borders)


def rows_of(windows: Any, capacity: int, *, packed: bool) -> RowIndex:
    """The rows of windows of any kind.

    Args:
        windows: With their `lengths`; `packed` where they have been packed before.
        capacity: Tokens a row holds, the same as then.
        packed: Several windows a row; False: one.
    """
    if not packed:
        return one_a_row(len(windows))
    known: RowIndex | None = windows.packed
    return pack(windows.lengths, capacity) if known is None else known


class PaperRows(Dataset[list["HasLabels"]]):
    """Papers, or instruction items, as rows of windows, for a causal model.

    Attributes:
        windows: The windows of all of them.
        rows: Which of them stand in which row.
        tokens: Tokens in all rows.
        targets: Target tokens in all rows.
    """

    def __init__(self, windows: Windows | ItemWindows, capacity: int, *, packed: bool) -> None:
        """Lay windows into rows.

        Args:
            windows: Of papers or of items.
            capacity: Tokens in a row, and in the longest window.
            packed: Several windows a row; False: one.
        """
        self.windows = windows
        self.rows = rows_of(windows, capacity, packed=packed)
        self.tokens = int(windows.lengths.sum(dtype=np.int64))
        self.targets = windows.targets

    def begin_epoch(self, epoch: int) -> None:
        """Nothing: a causal model reads the same in each epoch."""

    @property
    def row_tokens(self) -> npt.NDArray[np.int64]:
        """Target tokens of each row, int64 `[rows]`."""
        return self.rows.sums(self.windows.target_counts)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> list["HasLabels"]:
        """The windows of one row."""
        return [self.windows[number] for number in self.rows[index]]


class HasLabels(Protocol):
    """A window that is learned from."""

    @property
    def tokens(self) -> TokenIds:
        """Token ids."""

    @property
    def labels(self) -> TokenIds:
        """What is to be predicted at each token, `IGNORED` where nothing is."""


def collate(
    batch: Sequence[Sequence[HasLabels]], layout: RowLayout, pad_id: int
) -> dict[str, Tensor]:
    """Lay the rows of a micro-batch out for the model.

    Args:
        batch: Rows of windows.
        layout: How the model bears them.
        pad_id: What padded rows are filled up with.

    Returns:
        `input_ids` and `labels`, int64. Packed: `[1, tokens]`, with `position_ids` and
        `cu_seq_lens_q`. Else `[windows, longest]`, with `attention_mask` where there is padding.
    """
    windows = [window for row in batch for window in row]
    tokens = [window.tokens for window in windows]
    labels = [window.labels for window in windows]
    if layout.kind == "packed":
        return {**packed_batch(tokens, layout.first_position), "labels": end_to_end(labels)}
    return {**padded_batch(tokens, pad_id), "labels": filled_up(labels, IGNORED)}


def longest_and_shortest(*sources: Any) -> list[TokenIds]:
    """The tokens of the longest window of all sources and of the shortest, each the first."""
    longest, shortest = (
        [windows[int(pick(windows.lengths))].tokens for windows in sources]
        for pick in (np.argmax, np.argmin)
    )
    return [max(longest, key=len), min(shortest, key=len)]


def padding_share(lengths: npt.ArrayLike, rows_at_once: int) -> float:
    """Padding by real tokens, for windows that come in a random order and are padded together.

    Args:
        lengths: Tokens of each window.
        rows_at_once: Windows of one forward pass.
    """
    shuffled = np.random.default_rng(0).permutation(np.asarray(lengths))
    starts = np.arange(0, len(shuffled), rows_at_once)
    longest = np.maximum.reduceat(shuffled, starts) if len(shuffled) else shuffled
    counts = np.diff(np.append(starts, len(shuffled)))
    computed = int((longest.astype(np.int64) * counts).sum())
    return computed / max(int(shuffled.sum()), 1) - 1
