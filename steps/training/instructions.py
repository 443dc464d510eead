"""From instruction items to training rows: conversations, of which the answers are learned.

An item is one window. One that is too long loses its earliest turns, then the beginning of its
last question, where the context stands; never a word of the answer. Windows are packed like those
of papers, and read nothing of one another.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steps.errors import UserError
from steps.models.chat import CannotRender, Chat, fit
from steps.models.losses import IGNORED
from steps.papers.instructions import InstructionItem
from steps.training.token_store import (
    Column,
    Columns,
    Cut,
    RowIndex,
    TokenIds,
    in_place,
)


@dataclass(frozen=True, eq=False)
class ItemWindow:
    """One conversation.

    Attributes:
        tokens: Token ids.
        learned: Which of them are targets, bool `[tokens]`.
    """

    tokens: TokenIds
    learned: npt.NDArray[np.bool_]

    @property
    def labels(self) -> TokenIds:
        """The tokens where they are learned, `IGNORED` elsewhere; the model shifts them."""
        return np.where(self.learned, self.tokens, np.int32(IGNORED))


@dataclass(frozen=True)
class ItemWindows:
    """The windows of all items that can be learned from.

    Attributes:
        store: The ids of the tokens of all of them.
        learned: Which of these are targets, 0 or 1 in uint8 `[tokens]`.
        starts: The first token of each window in the store, int64 `[windows]`.
        lengths: Tokens of each, int32 `[windows]`.
        target_counts: Target tokens of each, int32 `[windows]`.
        cut: How many lost some of their context.
        left_out: How many could not be used, by the reason.
        packed: The rows that they are packed into, where these are known already.
    """

    store: Column
    learned: Column
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    target_counts: npt.NDArray[np.int32]
    cut: int
    left_out: Counter[str]
    packed: RowIndex | None = None

    @classmethod
    def of(cls, columns: Columns) -> "ItemWindows":
        """The windows of what `cut_items` has cut."""
        tokens, windows = columns.tokens, columns.windows
        return cls(
            tokens["ids"],
            tokens["learned"],
            **windows,
            cut=columns.shortened,
            left_out=columns.left_out,
            packed=columns.packed,
        )

    @property
    def targets(self) -> int:
        """Target tokens of all windows."""
        return int(self.target_counts.sum(dtype=np.int64))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of a run has to know about them."""
        said = []
        if self.cut:
            said.append(
                f"{self.cut} of {len(self)} items are longer than model.max_length and lose the "
                "beginning of their context; their answers are whole"
            )
        for reason, number in self.left_out.most_common():
            said.append(f"{number} items are left out: {reason}")
        return tuple(said)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.starts)

    def __getitem__(self, number: int) -> ItemWindow:
        """One window."""
        start = int(self.starts[number])
        end = start + int(self.lengths[number])
        return ItemWindow(self.store[start:end], self.learned[start:end].view(np.bool_))


def cut_items(items: Sequence[InstructionItem], chat: Chat, max_length: int) -> Cut:
    """Write some items as conversations of tokens, and cut those that are too long.

    Args:
        items: Some of what is learned from.
        chat: The model's template.
        max_length: Longest window, in tokens.
    """
    ids, learned = array("i"), array("B")
    starts, lengths, targets = array("q"), array("i"), array("i")
    made = Cut({}, {}, len(items))
    for item in items:
        try:
            fitted = fit(item.messages, chat, max_length)
        except CannotRender as error:
            if "special token" in str(error):
                made.left_out[str(error)] += 1
            else:
                made.refused.append((item.item_id, str(error)))
            continue
        if fitted is None:
            why = f"their answer alone is longer than model.max_length ({max_length})"
            made.left_out[why] += 1
            continue
        tokens, was_cut = fitted
        made.shortened += was_cut
        # Nothing predicts the first token.
        own = [0, *tokens.learned[1:].tolist()]
        starts.append(len(ids))
        lengths.append(len(tokens.ids))
        targets.append(sum(own))
        ids.extend(tokens.ids)
        learned.extend(own)
    made.tokens = {"ids": in_place(ids), "learned": in_place(learned)}
    windows = {"starts": starts, "lengths": lengths, "target_counts": targets}
    made.windows = {name: in_place(numbers) for name, numbers in windows.items()}
    return made


def check_items(
    items: int, refused: list[tuple[str, str]], left_out: Counter[str], windows: int
) -> None:
    """Refuse items that cannot be learned from.

    Args:
        items: How many there are.
        refused: Those that the template refuses, with what it says.
        left_out: How many could not be used, by the reason.
        windows: How many could.

    Raises:
        UserError: The template refuses some, or none is left.
    """
    if refused:
        first, reason = refused[0]
        raise UserError(
            f"the chat template refuses {len(refused)} of {items} items, such as {first} "
            f"({reason}): mend them, or name another template by "
            "training.instructions.chat_template"
        )
    if not windows:
        why = "; ".join(f"{number} {reason}" for reason, number in left_out.most_common())
        raise UserError(
            f"none of the {items} items can be learned from"
            f"{f' ({why})' if why else ''}: raise training.model.max_length, or give other items"
        )
