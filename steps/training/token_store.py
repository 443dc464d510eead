"""The tokens of all papers, end to end: 4 bytes each, which windows and rows only point into."""

from array import array
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

# Ids of tokens in memory. A tensor of a batch holds int64.
TokenIds = npt.NDArray[np.int32]


class TokenStore(Protocol):
    """Token ids by their place among those of all papers, wherever they are kept."""

    def __len__(self) -> int:
        """Tokens of all papers together."""

    def tokens(self, start: int, end: int) -> TokenIds:
        """The ids from `start` up to `end`, int32 `[end - start]`; nobody may change them."""


class TokensInMemory:
    """A store in one array, without a copy of what it is made of."""

    def __init__(self, ids: "array[int]") -> None:
        """Take over the ids of all papers, an `array("i")` that grows no more."""
        self._ids = in_place(ids)

    def __len__(self) -> int:
        """Tokens of all papers together."""
        return len(self._ids)

    def tokens(self, start: int, end: int) -> TokenIds:
        """A view of the ids from `start` up to `end`."""
        return self._ids[start:end]


def in_place(numbers: "array[int]") -> npt.NDArray[Any]:
    """The numbers as a numpy array that shares their memory and cannot be written to."""
    view = np.frombuffer(numbers, dtype=numbers.typecode)
    view.setflags(write=False)
    return view
