"""From papers to training rows: windows of tokens, packed without contamination.

Each paper is `BOS text EOS`. A paper longer than a window becomes several, each of which
begins with some tokens of the one before as context that is not trained on twice. Windows
are packed into rows of up to `max_length` tokens, best fit first, nothing dropped and
nothing padded; positions restart at each window, and the attention stays within it (see
`steps.models.attention`).
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from steps.models.attention import document_borders
from steps.models.losses import IGNORED
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


def windows_of(paper: PaperText, tokenizer: Any, max_length: int, overlap: int) -> list[Window]:
    """Cut one paper into windows.

    Args:
        paper: The paper.
        tokenizer: A fast tokenizer; its BOS (or EOS where it has none) opens the paper and
            its EOS closes it.
        max_length: Longest window, in tokens.
        overlap: Tokens of context that a later window repeats from the one before, at least 1
            (its first token is predicted by nothing).

    Returns:
        Windows in order; together each token but the first is a target exactly once.
    """
    opening = tokenizer.bos_token_id
    if opening is None:
        opening = tokenizer.eos_token_id
    body = tokenizer(paper.text, add_special_tokens=False, verbose=False).input_ids
    tokens = [opening, *body, tokenizer.eos_token_id]
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


class PackedPapers(Dataset[list[Window]]):
    """Papers as packed rows, for a causal model.

    Attributes:
        rows: The packed windows.
        tokens: Tokens in all rows.
        targets: Target tokens in all rows.
    """

    def __init__(
        self, papers: Sequence[PaperText], tokenizer: Any, max_length: int, overlap: int
    ) -> None:
        """Tokenise and pack.

        Args:
            papers: The papers.
            tokenizer: A fast tokenizer.
            max_length: Tokens in a row, and in the longest window.
            overlap: Context tokens that a later window of a long paper repeats.
        """
        windows = [w for paper in papers for w in windows_of(paper, tokenizer, max_length, overlap)]
        self.rows = pack(windows, max_length)
        self.tokens = sum(len(w.tokens) for w in windows)
        self.targets = sum(w.targets for w in windows)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Window]:
        """The windows of one row."""
        return self.rows[index]


def collate_packed(batch: Sequence[list[Window]]) -> dict[str, Tensor]:
    """Lay the rows of a micro-batch end to end, as one row without padding.

    Returns:
        `input_ids`, `position_ids`, `labels` of `[1, tokens]` int64, `cu_seq_lens_q` of
        `[windows + 1]` int32. Labels are aligned with `input_ids` (the model shifts them);
        the first token of each window is never one.
    """
    windows = [window for row in batch for window in row]
    tokens: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    for window in windows:
        tokens.extend(window.tokens)
        positions.extend(range(len(window.tokens)))
        labels.extend([IGNORED] * window.first_target)
        labels.extend(window.tokens[window.first_target :])
    return {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.tensor([positions]),
        "labels": torch.tensor([labels]),
        **document_borders([len(window.tokens) for window in windows]),
    }
