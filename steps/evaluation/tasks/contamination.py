"""Which items of a task stand in the papers that a model was trained on.

An item is contaminated where it has a run of 13 words in common with a training text, as in
Brown et al. (2020), appendix C. One that has no 13 words cannot be told.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steps.papers.deduplication import hash_words, ngram_hashes
from steps.papers.leakage import NGRAM_WORDS, ngrams_seen

# Of an item, what is no text of it.
IDENTIFIERS = {"item_id", "pmid", "module"}
TEXTS_AT_A_TIME = 256


@dataclass(frozen=True)
class Contamination:
    """What is known of an item.

    Attributes:
        contaminated: It has 13 words in a row in common with a training text.
        too_short: It has no 13 words.
    """

    contaminated: bool
    too_short: bool


def text_of(item: Mapping[str, Any]) -> str:
    """All text of an item: question, choices, context."""
    return "\n".join(
        text for key, value in item.items() if key not in IDENTIFIERS for text in _strings(value)
    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _strings(one)


def find_contaminated(items: Sequence[str], learned: Iterable[str]) -> list[Contamination]:
    """Look items up in training texts.

    Args:
        items: Their texts, from `text_of`.
        learned: The training texts, which are read once.
    """
    words = hash_words(items)
    of_items = [
        ngram_hashes(one, NGRAM_WORDS) if len(one) >= NGRAM_WORDS else None for one in words
    ]
    known = [one for one in of_items if one is not None]
    if not known:
        return [Contamination(False, True) for _ in items]
    wanted = np.unique(np.concatenate(known))
    seen = wanted[ngrams_seen(wanted, _hashed(learned))]
    return [
        Contamination(False, True)
        if one is None
        else Contamination(bool(np.isin(one, seen).any()), False)
        for one in of_items
    ]


def _hashed(texts: Iterable[str]) -> "Iterator[Any]":
    block: list[str] = []
    for text in texts:
        block.append(text)
        if len(block) == TEXTS_AT_A_TIME:
            yield from hash_words(block)
            block = []
    yield from hash_words(block)
