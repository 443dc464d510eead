"""Which rank reads which rows: each row once an epoch, whatever the number of ranks.

Trainer's own sharing wraps around where the rows do not divide, so that some are trained on
twice. Here the order of the rows is followed by blank ones, which hold a token that nothing
predicts: they cost nothing in a loss that is normalised over the targets of all ranks.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler


class ShuffledRows(Sampler[int]):
    """Row numbers in an order of each epoch's own, filled up for a number of ranks.

    The order is that of accelerate's SeedableRandomSampler, and does not depend on the ranks.
    Numbers from `rows` on are blank rows.
    """

    def __init__(self, rows: int, multiple: int, seed: int) -> None:
        """Order `rows` rows.

        Args:
            rows: How many there are.
            multiple: Rows that all ranks take at once; the filled-up number is divisible by it.
            seed: Of the orders.
        """
        self.rows = rows
        self.filled = filled_up_to(rows, multiple)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch (counted from 0) from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Rows, the blank ones included."""
        return self.filled

    def __iter__(self) -> Iterator[int]:
        """Yield each row once, then the blank ones."""
        yield from numbers_of(shuffled(self.rows, self.seed, self.epoch))
        yield from range(self.rows, self.filled)


def shuffled(rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The numbers below `rows` in the order of an epoch (counted from 0), int64 `[rows]`."""
    generator = torch.Generator().manual_seed(seed + epoch)
    order: npt.NDArray[np.int64] = torch.randperm(rows, generator=generator).numpy()
    return order


def numbers_of(order: npt.NDArray[np.int64]) -> Iterator[int]:
    """The numbers of an array as Python's, a few at a time: all at once take five times as much."""
    for start in range(0, len(order), 4096):
        yield from order[start : start + 4096].tolist()


def filled_up_to(rows: int, multiple: int) -> int:
    """The smallest number of rows, from `rows` on, that `multiple` divides."""
    return -(-rows // multiple) * multiple


class WithBlankRows(Dataset[Any]):
    """Rows, and the same blank row for every number beyond them."""

    def __init__(self, rows: Any, blank: Any) -> None:
        """Add blank rows to `rows`, which keeps its own length."""
        self.rows = rows
        self.blank = blank

    def __len__(self) -> int:
        """Number of real rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        """The row, or the blank one."""
        return self.rows[index] if index < len(self.rows) else self.blank
