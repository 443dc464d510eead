"""Masked training: papers as windows of words, some of which are hidden and restored.

    windows = masked_windows(papers, tokenizer, max_length, overlap)
    rows = MaskedPapers(windows, tokenizer, max_length, rule, seed, packed=True)
    rows.begin_epoch(1)                       # other words are hidden in each epoch
    batch = collate([rows[0], rows[1]], layout, pad_id)

Whole words are hidden, never single pieces of one, and a gene or variant mention is hidden
as a whole: with `##CA ##1` in sight, `BR` is no question about genes. What is hidden follows
from the seed, the epoch and the row alone, so it depends neither on the size of a batch nor
on what was drawn before: a resumed run asks the same questions as one that never stopped.

Windows are packed as those of causal models are (`steps.training.packing`), each attending
to itself only, where the model bears that (`steps.models.layout`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from steps.config.sections import Masking
from steps.errors import UserError
from steps.models.losses import IGNORED
from steps.models.token_spans import Encoded, encode
from steps.models.tokenizer import with_special_tokens
from steps.papers.text import PaperText
from steps.training.packing import pack


@dataclass(frozen=True)
class Unit:
    """Tokens that are hidden together: a word, or the words of a gene or variant mention.

    Attributes:
        start: Its first token in the window.
        end: One past its last.
        entity: Whether it is a gene or variant mention.
    """

    start: int
    end: int
    entity: bool


@dataclass(frozen=True)
class WordWindow:
    """A stretch of one paper between the special tokens of the model.

    Attributes:
        paper_id: The paper it is from.
        tokens: Token ids with the special tokens in place, at most the window length.
        units: What may be hidden: the words that no other window of the paper may hide.
            Special tokens, unknown tokens and context from the window before are in none.
    """

    paper_id: str
    tokens: tuple[int, ...]
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class MaskedWindow:
    """A window as the model sees it, and what it is to restore.

    Attributes:
        tokens: Token ids with replacements in place.
        labels: The original token where one is to be restored, `IGNORED` elsewhere.
    """

    tokens: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Replacements:
    """What a hidden token is replaced by.

    Attributes:
        mask: The id of the mask token.
        ordinary: Ids of the tokens that may stand in at random: all but the special ones.
    """

    mask: int
    ordinary: "npt.NDArray[np.int64]"


def word_windows(
    paper: PaperText, tokenizer: Any, max_length: int, overlap: int
) -> list[WordWindow]:
    """Cut one paper into windows between words.

    Args:
        paper: The paper, with its gene and variant mentions.
        tokenizer: From `load_tokenizer`.
        max_length: Longest window with its special tokens, in tokens.
        overlap: Most tokens of context that a later window repeats from the one before.

    Returns:
        Windows in order; each word can be hidden in exactly one of them. Words are cut only
        where one alone is longer than a window can take.

    Raises:
        UserError: The tokenizer does not tell words apart.
    """
    encoded = encode(tokenizer, paper.text)
    ids = encoded.ids
    if not ids:
        return []
    opening = with_special_tokens(tokenizer, [])[0]
    room = max_length - len(opening)
    starts_unit, entity = _units(paper, encoded, tokenizer, longest=room - overlap)
    unknown = np.array(ids) == (-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)
    borders = [*np.flatnonzero(starts_unit).tolist(), len(ids)]

    windows = []
    done = 0
    while done < len(ids):
        # Context and windows begin and end with whole words.
        start = next(border for border in borders if border >= done - overlap)
        end = next(border for border in reversed(borders) if border <= start + room)
        tokens, offset = with_special_tokens(tokenizer, ids[start:end])
        units = tuple(
            Unit(first - start + offset, last - start + offset, bool(entity[first:last].any()))
            for first, last in pairwise(borders)
            if done <= first < end and not unknown[first:last].any()
        )
        windows.append(WordWindow(paper.paper_id, tuple(tokens), units))
        done = end
    return windows


def _units(
    paper: PaperText, encoded: Encoded, tokenizer: Any, longest: int
) -> tuple["npt.NDArray[np.bool_]", "npt.NDArray[np.bool_]"]:
    """Which tokens begin a unit, and which belong to a gene or variant; bool `[tokens]`."""
    words = encoded.words
    if len(words) > 1 and len(set(words)) == 1 and " " in paper.text.strip():
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r} takes a whole text for one word: whole words "
            "cannot be masked with it; name a masked model whose tokenizer splits at blanks"
        )
    starts_unit = np.array([True, *(left != right for left, right in pairwise(words))])
    offsets = np.array(encoded.spans)
    entity = np.zeros(len(words), dtype=np.bool_)
    for span in (*paper.genes, *paper.variants):
        first = int(np.searchsorted(offsets[:, 1], span.start, side="right"))
        last = int(np.searchsorted(offsets[:, 0], span.end, side="left"))
        # A mention is one unit, together with the rest of a word that it begins in.
        starts_unit[first + 1 : last] = False
        entity[first:last] = True
    begins = np.maximum.accumulate(np.where(starts_unit, np.arange(len(words)), 0))
    starts_unit |= (np.arange(len(words)) - begins) % longest == 0
    return starts_unit, entity


def hide(
    window: WordWindow,
    rule: Masking,
    replacements: Replacements,
    generator: np.random.Generator,
) -> MaskedWindow:
    """Hide some words of a window, at least one.

    A hidden word is replaced by mask tokens, by random tokens, or left as it is (Devlin et
    al. 2019), all its tokens alike (Joshi et al. 2020): one visible piece gives a word away.

    Args:
        window: The window.
        rule: How often words and entities are hidden, and what by.
        replacements: What a hidden token is replaced by.
        generator: What the draws come from.
    """
    tokens = list(window.tokens)
    labels = [IGNORED] * len(tokens)
    if not window.units:
        return MaskedWindow(window.tokens, tuple(labels))
    chances = [rule.entity_probability if u.entity else rule.probability for u in window.units]
    hidden = generator.random(len(chances)) < chances
    if not hidden.any():
        hidden[generator.integers(len(chances))] = True
    for unit in (window.units[place] for place in np.flatnonzero(hidden)):
        here = slice(unit.start, unit.end)
        labels[here] = tokens[here]
        fate = generator.random()
        if fate < rule.mask_share:
            tokens[here] = [replacements.mask] * (unit.end - unit.start)
        elif fate < rule.mask_share + rule.random_share:
            tokens[here] = generator.choice(replacements.ordinary, unit.end - unit.start).tolist()
    return MaskedWindow(tuple(tokens), tuple(labels))


class MaskedPapers(Dataset[list[MaskedWindow]]):
    """Papers as rows of windows, for a masked model.

    Attributes:
        rows: The windows of each row, nothing hidden.
        tokens: Tokens in all rows, special ones included.
        epoch: Which epoch's words are hidden.
    """

    def __init__(
        self,
        windows: Sequence[WordWindow],
        tokenizer: Any,
        capacity: int,
        rule: Masking,
        seed: int,
        *,
        packed: bool,
    ) -> None:
        """Lay the windows into rows.

        Args:
            windows: From `masked_windows`.
            tokenizer: From `load_tokenizer`, with a mask token.
            capacity: Tokens in a row, and in the longest window.
            rule: How often words and entities are hidden, and what by.
            seed: Seed of all draws, together with epoch and row.
            packed: Several windows a row; False: one.
        """
        self.rows = pack(windows, capacity) if packed else [[window] for window in windows]
        self.tokens = sum(len(window.tokens) for window in windows)
        self.epoch = 0
        self._rule = rule
        self._seed = seed
        added = tokenizer.added_tokens_decoder.items()
        # Not all special tokens have names, and the model may lack those without.
        special = {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}
        self._replacements = Replacements(
            tokenizer.mask_token_id,
            np.array([i for i in range(len(tokenizer)) if i not in special], dtype=np.int64),
        )

    def begin_epoch(self, epoch: int) -> None:
        """Hide the words of this epoch (counted from 0) from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> list[MaskedWindow]:
        """The windows of one row, as this epoch hides their words."""
        # Seeded by the place of the row, never by what ran before it.
        generator = np.random.default_rng([self._seed, self.epoch, index])
        return [hide(w, self._rule, self._replacements, generator) for w in self.rows[index]]


def masked_windows(
    papers: Sequence[PaperText], tokenizer: Any, max_length: int, overlap: int
) -> list[WordWindow]:
    """The windows of all papers.

    Args:
        papers: The papers.
        tokenizer: From `load_tokenizer`, with a mask token.
        max_length: Longest window with its special tokens, in tokens.
        overlap: Most context tokens that a later window of a long paper repeats.

    Raises:
        UserError: The tokenizer has no mask token, or knows no words.
    """
    _check_tokenizer(tokenizer)
    return [w for paper in papers for w in word_windows(paper, tokenizer, max_length, overlap)]


def _check_tokenizer(tokenizer: Any) -> None:
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r} has no mask token: expected that of a masked "
            "model; set training.model.objective to causal, or name a masked model"
        )
