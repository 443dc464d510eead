"""Masked training: papers as windows of words, some of which are hidden and restored.

    cut = cut_words(papers, tokenizer, max_length, overlap)
    windows = WordWindows.of(in_memory(cut), tokenizer)
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

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from steps.config.sections import Masking
from steps.errors import UserError
from steps.models.losses import IGNORED
from steps.models.token_spans import Encoded, encode_all
from steps.models.tokenizer import special_tokens
from steps.papers.text import PaperText
from steps.training.packing import rows_of
from steps.training.token_store import (
    Column,
    Columns,
    Cut,
    RowIndex,
    TokenIds,
    in_place,
)

# What is marked at the first token of a unit; all other tokens are marked 0.
_BEGINS_UNIT, _CAN_BE_HIDDEN, _IS_ENTITY = 1, 2, 4


class Unit(NamedTuple):
    """Tokens that are hidden together: a word, or the words of a gene or variant mention.

    Attributes:
        start: Its first token in the window.
        end: One past its last.
        entity: Whether it is a gene or variant mention.
    """

    start: int
    end: int
    entity: bool


@dataclass(frozen=True, eq=False)
class WordWindow:
    """A stretch of one paper between the special tokens of the model.

    Attributes:
        tokens: Token ids with the special tokens in place, at most the window length.
        units: What may be hidden: the words that no other window of the paper may hide.
            Special tokens, unknown tokens and context from the window before are in none.
    """

    tokens: TokenIds
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class WordWindows:
    """The windows of all papers: where each stands in the store, which has no special tokens.

    Neighbours of one paper may overlap there.

    Attributes:
        store: The tokens of all papers.
        marks: Where units begin and of which kind they are, uint8 `[tokens]`.
        starts: The first token of each window in the store, int64 `[windows]`.
        own_starts: The first that is no context from the window before, int64 `[windows]`.
        ends: One past the last, int64 `[windows]`.
        lengths: Tokens of each with its special ones, int32 `[windows]`.
        before: Special tokens that open each window.
        after: Special tokens that close it.
        packed: The rows that they are packed into, where these are known already.
    """

    store: Column
    marks: Column
    starts: npt.NDArray[np.int64]
    own_starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    before: TokenIds
    after: TokenIds
    packed: RowIndex | None = None

    @classmethod
    def of(cls, columns: Columns, tokenizer: Any) -> "WordWindows":
        """The windows of what `cut_words` has cut by this tokenizer."""
        before, after = (np.array(side, dtype=np.int32) for side in special_tokens(tokenizer))
        tokens, windows = columns.tokens, columns.windows
        return cls(
            tokens["ids"],
            tokens["marks"],
            **windows,
            before=before,
            after=after,
            packed=columns.packed,
        )

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.starts)

    def __getitem__(self, number: int) -> WordWindow:
        """One window."""
        start, own_start, end = (
            int(places[number]) for places in (self.starts, self.own_starts, self.ends)
        )
        tokens = np.concatenate([self.before, self.store[start:end], self.after])
        marks = self.marks[own_start:end]
        begins = np.flatnonzero(marks)
        kinds = marks[begins]
        places = own_start - start + len(self.before) + np.append(begins, len(marks))
        units = zip(places[:-1].tolist(), places[1:].tolist(), kinds.tolist(), strict=True)
        return WordWindow(
            tokens,
            tuple(
                Unit(first, end, bool(kind & _IS_ENTITY))
                for first, end, kind in units
                if kind & _CAN_BE_HIDDEN
            ),
        )


@dataclass(frozen=True, eq=False)
class MaskedWindow:
    """A window as the model sees it, and what it is to restore.

    Attributes:
        tokens: Token ids with replacements in place.
        labels: The original token where one is to be restored, `IGNORED` elsewhere.
    """

    tokens: TokenIds
    labels: TokenIds


@dataclass(frozen=True)
class Replacements:
    """What a hidden token is replaced by.

    Attributes:
        mask: The id of the mask token.
        ordinary: Ids of the tokens that may stand in at random: all but the special ones.
    """

    mask: int
    ordinary: npt.NDArray[np.int64]


def cut_words(papers: Sequence[PaperText], tokenizer: Any, max_length: int, overlap: int) -> Cut:
    """Tokenise some papers, and cut them into windows between words.

    Args:
        papers: Some papers, with their gene and variant mentions.
        tokenizer: From `load_tokenizer`, with a mask token.
        max_length: Longest window with its special tokens, in tokens.
        overlap: Most tokens of context that a later window repeats from the one before.

    Returns:
        Windows in order; each word can be hidden in exactly one of them. Words are cut only
        where one alone is longer than a window can take. A paper without a token has none.

    Raises:
        UserError: The tokenizer has no mask token, or does not tell words apart.
    """
    _check_tokenizer(tokenizer)
    added = sum(len(side) for side in special_tokens(tokenizer))
    room = max_length - added
    ids, marks = array("i"), array("B")
    starts, own_starts, ends = array("q"), array("q"), array("q")
    every = encode_all(tokenizer, [paper.text for paper in papers]) if papers else []
    for paper, encoded in zip(papers, every, strict=True):
        if not encoded.ids:
            continue
        units = _marks(paper, encoded, tokenizer, longest=room - overlap)
        for start, own_start, end in _cuts(units, room, overlap):
            starts.append(len(ids) + start)
            own_starts.append(len(ids) + own_start)
            ends.append(len(ids) + end)
        ids.extend(encoded.ids)
        marks.frombytes(units.tobytes())
    places = {"starts": starts, "own_starts": own_starts, "ends": ends}
    windows = {name: in_place(numbers) for name, numbers in places.items()}
    windows["lengths"] = (windows["ends"] - windows["starts"] + added).astype(np.int32)
    return Cut({"ids": in_place(ids), "marks": in_place(marks)}, windows, len(papers))


def _cuts(marks: npt.NDArray[np.uint8], room: int, overlap: int) -> Iterator[tuple[int, int, int]]:
    """Where the windows of a paper begin, where their own tokens do, and where they end.

    Context and windows begin and end with whole units.
    """
    borders = np.append(np.flatnonzero(marks), len(marks))
    done = 0
    while done < len(marks):
        start = int(borders[np.searchsorted(borders, done - overlap)])
        end = int(borders[np.searchsorted(borders, start + room, side="right") - 1])
        yield start, done, end
        done = end


def _marks(
    paper: PaperText, encoded: Encoded, tokenizer: Any, longest: int
) -> npt.NDArray[np.uint8]:
    """Which tokens of a paper begin a unit, and of which kind it is; uint8 `[tokens]`."""
    starts_unit, entity = _units(paper, encoded, tokenizer, longest)
    begins = np.flatnonzero(starts_unit)
    unknown = np.array(encoded.ids) == (
        -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    )
    marks = np.zeros(len(encoded.ids), dtype=np.uint8)
    marks[begins] = (
        _BEGINS_UNIT
        + _CAN_BE_HIDDEN * ~np.logical_or.reduceat(unknown, begins)
        + _IS_ENTITY * np.logical_or.reduceat(entity, begins)
    )
    return marks


def _units(
    paper: PaperText, encoded: Encoded, tokenizer: Any, longest: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
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
    tokens = window.tokens.copy()
    labels = np.full_like(tokens, IGNORED)
    if not window.units:
        return MaskedWindow(tokens, labels)
    chances = [rule.entity_probability if u.entity else rule.probability for u in window.units]
    hidden = generator.random(len(chances)) < chances
    if not hidden.any():
        hidden[generator.integers(len(chances))] = True
    for unit in (window.units[place] for place in np.flatnonzero(hidden)):
        here = slice(unit.start, unit.end)
        labels[here] = tokens[here]
        fate = generator.random()
        if fate < rule.mask_share:
            tokens[here] = replacements.mask
        elif fate < rule.mask_share + rule.random_share:
            tokens[here] = generator.choice(replacements.ordinary, unit.end - unit.start)
    return MaskedWindow(tokens, labels)


class MaskedPapers(Dataset[list[MaskedWindow]]):
    """Papers as rows of windows, for a masked model.

    Attributes:
        windows: The windows of all papers, nothing hidden.
        rows: Which of them stand in which row.
        tokens: Tokens in all rows, special ones included.
        epoch: Which epoch's words are hidden.
    """

    def __init__(
        self,
        windows: WordWindows,
        tokenizer: Any,
        capacity: int,
        rule: Masking,
        seed: int,
        *,
        packed: bool,
    ) -> None:
        """Lay the windows into rows.

        Args:
            windows: From `cut_words`.
            tokenizer: From `load_tokenizer`, with a mask token.
            capacity: Tokens in a row, and in the longest window.
            rule: How often words and entities are hidden, and what by.
            seed: Seed of all draws, together with epoch and row.
            packed: Several windows a row; False: one.
        """
        lengths = windows.lengths
        self.windows = windows
        self.rows = rows_of(windows, capacity, packed=packed)
        self.tokens = int(lengths.sum(dtype=np.int64))
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

    @property
    def row_tokens(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, special ones included, int64 `[rows]`."""
        return self.rows.sums(self.windows.lengths)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> list[MaskedWindow]:
        """The windows of one row, as this epoch hides their words."""
        # Seeded by the place of the row, never by what ran before it.
        generator = np.random.default_rng([self._seed, self.epoch, index])
        windows = (self.windows[number] for number in self.rows[index])
        return [hide(w, self._rule, self._replacements, generator) for w in windows]


def _check_tokenizer(tokenizer: Any) -> None:
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r} has no mask token: expected that of a masked "
            "model; set training.model.objective to causal, or name a masked model"
        )
