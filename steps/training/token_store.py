"""The tokens of all papers, end to end: 4 bytes each, which windows and rows only point into.

What is cut out of some texts is a `Cut`: numbers a token, and numbers a window. The cuts of all
texts in order are `Columns`: in memory (`in_memory`), or in mapped files
(`steps.training.row_files`). Windows and rows take either.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

# Enough for a fast tokenizer to share out, and few enough that full texts take no memory to speak
# of while they are cut: a tokenizer's own record of a token is some hundred bytes.
PAPERS_AT_ONCE = 32

Text = TypeVar("Text")
# Ids of tokens in memory. A tensor of a batch holds int64.
TokenIds = npt.NDArray[np.int32]
# Numbers of one type, by their name.
Arrays = Mapping[str, npt.NDArray[Any]]
# Python's names of the types in use (int64, int32, uint8), by their bytes.
_TYPECODES = {8: "q", 4: "i", 1: "B"}


class Column(Protocol):
    """A number of each token of all papers, wherever they are kept: an array, or a mapped file."""

    def __len__(self) -> int:
        """Tokens of all papers together."""

    def __getitem__(self, places: slice, /) -> npt.NDArray[Any]:
        """The numbers from a place up to another; nobody may change them."""


@dataclass(frozen=True)
class RowIndex:
    """Which windows stand in which row.

    Attributes:
        windows: The windows' numbers, row by row, int64 `[windows]`.
        borders: Where each row begins among them, and where the last ends, int64 `[rows + 1]`.
    """

    windows: npt.NDArray[np.int64]
    borders: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.borders) - 1

    def __getitem__(self, row: int) -> list[int]:
        """The numbers of the windows of one row."""
        row = range(len(self))[row]
        numbers: list[int] = self.windows[self.borders[row] : self.borders[row + 1]].tolist()
        return numbers

    def sums(self, values: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Sums over the windows of each row, int64 `[rows]`, of one value a window."""
        return np.add.reduceat(values[self.windows].astype(np.int64), self.borders[:-1])


@dataclass
class Cut:
    """Some texts as tokens and windows.

    Attributes:
        tokens: What is kept of each token, `ids` first.
        windows: What is kept of each window. Those of int64 are places of tokens, counted from
            the first token of these texts; `lengths` is int32.
        texts: How many texts there were.
        shortened: How many of them lost some of their context.
        left_out: How many could not be used, by the reason.
        refused: Names of those that must not be left out silently, and what is wrong with each.
    """

    tokens: Arrays
    windows: Arrays
    texts: int = 0
    shortened: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Columns:
    """The cuts of all texts, joined.

    Attributes:
        tokens: As in `Cut`.
        windows: As in `Cut`, places counted from the first token of all.
        texts: As in `Cut`.
        shortened: As in `Cut`.
        left_out: As in `Cut`.
        packed: The windows packed into rows, where that is known already.
    """

    tokens: Mapping[str, Column]
    windows: Arrays
    texts: int
    shortened: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    packed: RowIndex | None = None


class Joiner:
    """Counts what is common to cuts, and moves their places behind the tokens before.

    Attributes:
        tokens: Tokens so far.
        windows: Windows so far.
        texts: As in `Cut`, of all so far.
        shortened: The same.
        left_out: The same.
        refused: The same.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.tokens = self.windows = self.texts = self.shortened = 0
        self.left_out: Counter[str] = Counter()
        self.refused: list[tuple[str, str]] = []

    def take(self, cut: Cut) -> Arrays:
        """Count a cut; its windows, with their places moved."""
        moved = {
            name: values + self.tokens if values.dtype == np.int64 else values
            for name, values in cut.windows.items()
        }
        self.tokens += len(cut.tokens["ids"])
        self.windows += len(cut.windows["lengths"])
        self.texts += cut.texts
        self.shortened += cut.shortened
        self.left_out += cut.left_out
        self.refused += cut.refused
        return moved


def some_at_once(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """Papers or items in order, as many at once as a tokenizer is given."""
    remaining = iter(texts)
    while some := list(islice(remaining, PAPERS_AT_ONCE)):
        yield some


def as_one(cuts: Iterable[Cut], empty: Cut) -> Cut:
    """The cuts of texts, joined in memory.

    Args:
        cuts: In the order of the texts.
        empty: What no text at all gives; of its types all others are.
    """
    # Python's arrays grow in place: joining all pieces in the end would take twice the memory.
    tokens, windows = (
        {
            name: array(_TYPECODES[values.itemsize], values.tobytes())
            for name, values in each.items()
        }
        for each in (empty.tokens, empty.windows)
    )
    joiner = Joiner()
    for cut in cuts:
        moved = joiner.take(cut)
        for grown, values in ((tokens, cut.tokens), (windows, moved)):
            for name, numbers in grown.items():
                numbers.frombytes(values[name].tobytes())
    return Cut(
        {name: in_place(numbers) for name, numbers in tokens.items()},
        {name: in_place(numbers) for name, numbers in windows.items()},
        joiner.texts,
        joiner.shortened,
        joiner.left_out,
        joiner.refused,
    )


def in_memory(cut: Cut) -> Columns:
    """What `as_one` gives for all texts, to be trained on."""
    return Columns(cut.tokens, cut.windows, cut.texts, cut.shortened, cut.left_out)


def in_place(numbers: "array[int]") -> npt.NDArray[Any]:
    """The numbers as a numpy array that shares their memory and cannot be written to."""
    view = np.frombuffer(numbers, dtype=numbers.typecode)
    view.setflags(write=False)
    return view
