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
from steps.training.token_store import TokenIds, TokensInMemory, TokenStore, in_place


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
        store: The tokens of all of them.
        learned: Which of these are targets, bool `[tokens]`.
        starts: The first token of each window in the store, int64 `[windows]`.
        lengths: Tokens of each, int32 `[windows]`.
        cut: How many lost some of their context.
        left_out: How many could not be used, by the reason.
    """

    store: TokenStore
    learned: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    cut: int
    left_out: Counter[str]

    @property
    def target_counts(self) -> npt.NDArray[np.int32]:
        """Target tokens of each window, int32 `[windows]`."""
        return np.add.reduceat(self.learned.astype(np.int32), self.starts)

    @property
    def targets(self) -> int:
        """Target tokens of all windows."""
        return int(self.learned.sum(dtype=np.int64))

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
        return ItemWindow(self.store.tokens(start, end), self.learned[start:end])


def item_windows(items: Sequence[InstructionItem], chat: Chat, max_length: int) -> ItemWindows:
    """Write items as conversations of tokens, and cut those that are too long.

    Args:
        items: What is learned from.
        chat: The model's template.
        max_length: Longest window, in tokens.

    Raises:
        UserError: The template refuses items, or none is left.
    """
    ids, learned = array("i"), array("b")
    starts, lengths = array("q"), array("i")
    cut = 0
    left_out: Counter[str] = Counter()
    refused: list[tuple[str, str]] = []
    for item in items:
        try:
            fitted = fit(item.messages, chat, max_length)
        except CannotRender as error:
            if "special token" in str(error):
                left_out[str(error)] += 1
            else:
                refused.append((item.item_id, str(error)))
            continue
        if fitted is None:
            left_out[f"their answer alone is longer than model.max_length ({max_length})"] += 1
            continue
        tokens, was_cut = fitted
        cut += was_cut
        starts.append(len(ids))
        lengths.append(len(tokens.ids))
        ids.extend(tokens.ids)
        # Nothing predicts the first token.
        learned.extend([0, *tokens.learned[1:].tolist()])
    _check(items, refused, left_out, len(starts))
    return ItemWindows(
        TokensInMemory(ids),
        in_place(learned).astype(np.bool_),
        in_place(starts),
        in_place(lengths),
        cut,
        left_out,
    )


def _check(
    items: Sequence[InstructionItem],
    refused: list[tuple[str, str]],
    left_out: Counter[str],
    windows: int,
) -> None:
    if refused:
        first, reason = refused[0]
        raise UserError(
            f"the chat template refuses {len(refused)} of {len(items)} items, such as {first} "
            f"({reason}): mend them, or name another template by "
            "training.instructions.chat_template"
        )
    if not windows:
        why = "; ".join(f"{number} {reason}" for reason, number in left_out.most_common())
        raise UserError(
            f"none of the {len(items)} items can be learned from"
            f"{f' ({why})' if why else ''}: raise training.model.max_length, or give other items"
        )
