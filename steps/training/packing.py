"""From papers to training rows: windows of tokens, packed without contamination.

Each paper is `BOS text EOS` (see `steps.models.tokenizer`). A paper longer than a window becomes
several, each of which begins with some tokens of the one before as context that is not trained on
twice. Windows are packed into rows of up to `max_length` tokens, best fit first, nothing dropped
and nothing padded; positions restart at each window, and the attention stays within it (see
`steps.models.attention`). A model that bears no packing gets one window a row.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from steps.models.layout import RowLayout, filled_up, packed_batch, padded_batch
from steps.models.losses import IGNORED
from steps.models.tokenizer import end_token, start_token
from steps.papers.text import PaperText


@dataclass(frozen=True)
class Window:
    """A stretch of one paper's tokens.

    Attributes:
        paper_id: The paper it is from.
        tokens: Token ids, at most the window length.
        first_target: Position of the first token that is a target; those before it are
            context (the first token of all is never a target: nothing predicts it).
    """

    paper_id: str
    tokens: tuple[int, ...]
    first_target: int

    @property
    def targets(self) -> int:
        """How many tokens are learned from this window."""
        return len(self.tokens) - self.first_target

    @property
    def labels(self) -> tuple[int, ...]:
        """The tokens where they are learned, `IGNORED` elsewhere; the model shifts them."""
        return (IGNORED,) * self.first_target + self.tokens[self.first_target :]


def windows_of(paper: PaperText, tokenizer: Any, max_length: int, overlap: int) -> list[Window]:
    """Cut one paper into windows.

    Args:
        paper: The paper.
        tokenizer: From `load_tokenizer`; `start_token` opens the paper, `end_token` closes it.
        max_length: Longest window, in tokens.
        overlap: Tokens of context that a later window repeats from the one before, at least 1
            (its first token is predicted by nothing).

    Returns:
        Windows in order; together each token but the first is a target exactly once.

    Raises:
        UserError: The tokenizer has no token to open or close a paper with.
    """
    body = tokenizer(paper.text, add_special_tokens=False, verbose=False).input_ids
    tokens = [start_token(tokenizer), *body, end_token(tokenizer)]
    windows = [Window(paper.paper_id, tuple(tokens[:max_length]), 1)]
    done = max_length
    while done < len(tokens):
        start = done - overlap
        end = min(start + max_length, len(tokens))
        windows.append(Window(paper.paper_id, tuple(tokens[start:end]), done - start))
        done = end
    return windows


class HasTokens(Protocol):
    """What can be packed: anything with tokens."""

    @property
    def tokens(self) -> Sequence[int]:
        """Token ids."""


AnyWindow = TypeVar("AnyWindow", bound=HasTokens)


def pack(windows: Sequence[AnyWindow], capacity: int) -> list[list[AnyWindow]]:
    """Put windows into rows by best fit, longest first.

    Args:
        windows: Windows of at most `capacity` tokens.
        capacity: Tokens a row holds.

    Returns:
        Rows; every window stands in exactly one. The same input gives the same rows.
    """
    rows: list[list[AnyWindow]] = []
    # Rows that have room, as (room, index), smallest room first.
    room: list[tuple[int, int]] = []
    order = sorted(range(len(windows)), key=lambda i: (-len(windows[i].tokens), i))
    for i in order:
        window = windows[i]
        length = len(window.tokens)
        fit = bisect_left(room, (length, -1))
        if fit == len(room):
            rows.append([window])
            left, index = capacity - length, len(rows) - 1
        else:
            left, index = room.pop(fit)
            rows[index].append(window)
            left -= length
        insort(room, (left, index))
    return rows


class PaperRows(Dataset[list[Window]]):
    """Papers as rows of windows, for a causal model.

    Attributes:
        rows: The windows of each row.
        tokens: Tokens in all rows.
        targets: Target tokens in all rows.
    """

    def __init__(self, windows: Sequence[Window], capacity: int, *, packed: bool) -> None:
        """Lay windows into rows.

        Args:
            windows: From `windows_of`, of all papers.
            capacity: Tokens in a row, and in the longest window.
            packed: Several windows a row; False: one.
        """
        self.rows = pack(windows, capacity) if packed else [[window] for window in windows]
        self.tokens = sum(len(w.tokens) for w in windows)
        self.targets = sum(w.targets for w in windows)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Window]:
        """The windows of one row."""
        return self.rows[index]


class HasLabels(HasTokens, Protocol):
    """A window that is learned from."""

    @property
    def labels(self) -> Sequence[int]:
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
        joined = [label for each in labels for label in each]
        return {**packed_batch(tokens, layout.first_position), "labels": torch.tensor([joined])}
    return {**padded_batch(tokens, pad_id), "labels": filled_up(labels, IGNORED)}


def padding_share(lengths: Sequence[int], rows_at_once: int) -> float:
    """Padding by real tokens, for windows that come in a random order and are padded together.

    Args:
        lengths: Tokens of each window.
        rows_at_once: Windows of one forward pass.
    """
    shuffled = np.random.default_rng(0).permutation(np.asarray(lengths))
    batches = [
        shuffled[start : start + rows_at_once] for start in range(0, len(shuffled), rows_at_once)
    ]
    computed = sum(int(batch.max()) * len(batch) for batch in batches)
    return computed / max(int(shuffled.sum()), 1) - 1
