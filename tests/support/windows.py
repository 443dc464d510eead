"""The windows of texts that no dataset holds, made in memory."""

from collections.abc import Sequence
from typing import Any

from steps.models.chat import Chat
from steps.papers.instructions import InstructionItem
from steps.papers.text import PaperText
from steps.training.instructions import ItemWindows, check_items, cut_items
from steps.training.masking import WordWindows, cut_words
from steps.training.token_store import as_one, in_memory, some_at_once


def masked_windows(
    papers: Sequence[PaperText], tokenizer: Any, max_length: int, overlap: int
) -> WordWindows:
    """Tokenise papers in memory, and cut them into windows between words; see `cut_words`."""
    cuts = (cut_words(some, tokenizer, max_length, overlap) for some in some_at_once(papers))
    empty = cut_words([], tokenizer, max_length, overlap)
    return WordWindows.of(in_memory(as_one(cuts, empty)), tokenizer)


def item_windows(items: Sequence[InstructionItem], chat: Chat, max_length: int) -> ItemWindows:
    """Write items as conversations of tokens, in memory; see `cut_items`.

    Raises:
        UserError: The template refuses items, or none is left.
    """
    cuts = (cut_items(some, chat, max_length) for some in some_at_once(items))
    made = as_one(cuts, cut_items([], chat, max_length))
    check_items(made.texts, made.refused, made.left_out, len(made.windows["lengths"]))
    return ItemWindows.of(in_memory(made))
