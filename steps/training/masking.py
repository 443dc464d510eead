"""Masked training: papers as windows of words, some of which are hidden and restored.

    rows = MaskedPapers(papers, tokenizer, max_length, overlap, rule, seed, packed=True)
    rows.begin_epoch(1)                       # other words are hidden in each epoch
    batch = collate_masked([rows[0], rows[1]], pad_id, first_position=0, packed=True)

Whole words are hidden, never single pieces of one, and a gene or variant mention is hidden
as a whole: with `##CA ##1` in sight, `BR` is no question about genes. What is hidden follows
from the seed, the epoch and the row alone, so it depends neither on the size of a batch nor
on what was drawn before: a resumed run asks the same questions as one that never stopped.

Windows are packed as those of causal models are (`steps.training.packing`), each attending
to itself only; models whose attention takes no borders get one window a row, padded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from steps.config.sections import Masking
from steps.errors import UserError
from steps.models.attention import (
    PER_DOCUMENT_SDPA,
    document_borders,
    per_document_attention,
    register_per_document_attention,
    rounding_tolerance,
    supports_packing,
)
from steps.models.losses import IGNORED, use_masked_loss
from steps.models.tokenizer import with_special_tokens
from steps.papers.text import PaperText
from steps.training.packing import pack

# Lengths of the two documents on which packing is tried; the second is longer than the
# window of a model with local attention (64 tokens to each side in ModernBERT).
_PROBE_LENGTHS = (24, 96)


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
        tokenizer: A fast tokenizer, which knows the words that its tokens are from.
        max_length: Longest window with its special tokens, in tokens.
        overlap: Most tokens of context that a later window repeats from the one before.

    Returns:
        Windows in order; each word can be hidden in exactly one of them. Words are cut only
        where one alone is longer than a window can take.

    Raises:
        UserError: The tokenizer does not tell words apart.
    """
    encoded = tokenizer(
        paper.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ids: list[int] = encoded["input_ids"]
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
    paper: PaperText, encoded: Any, tokenizer: Any, longest: int
) -> tuple["npt.NDArray[np.bool_]", "npt.NDArray[np.bool_]"]:
    """Which tokens begin a unit, and which belong to a gene or variant; bool `[tokens]`."""
    words = encoded.word_ids()
    if len(words) > 1 and len(set(words)) == 1 and " " in paper.text.strip():
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r} takes a whole text for one word: whole words "
            "cannot be masked with it; name a masked model whose tokenizer splits at blanks"
        )
    starts_unit = np.array([True, *(left != right for left, right in pairwise(words))])
    offsets = np.array(encoded["offset_mapping"])
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
        papers: Sequence[PaperText],
        tokenizer: Any,
        max_length: int,
        overlap: int,
        rule: Masking,
        seed: int,
        *,
        packed: bool,
    ) -> None:
        """Tokenise, find the words, and lay the windows into rows.

        Args:
            papers: The papers.
            tokenizer: A fast tokenizer with a mask token.
            max_length: Tokens in a row, and in the longest window.
            overlap: Most context tokens that a later window of a long paper repeats.
            rule: How often words and entities are hidden, and what by.
            seed: Seed of all draws, together with epoch and row.
            packed: Several windows a row; False: one.

        Raises:
            UserError: The tokenizer has no mask token, is not a fast one, or knows no words.
        """
        _check_tokenizer(tokenizer)
        windows = [w for p in papers for w in word_windows(p, tokenizer, max_length, overlap)]
        self.rows = pack(windows, max_length) if packed else [[window] for window in windows]
        self.tokens = sum(len(window.tokens) for window in windows)
        self.epoch = 0
        self._rule = rule
        self._seed = seed
        special = set(tokenizer.all_special_ids)
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


def _check_tokenizer(tokenizer: Any) -> None:
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r} has no mask token: expected that of a masked "
            "model; set training.model.objective to causal, or name a masked model"
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"tokenizer {type(tokenizer).__name__} does not tell which word a token is from: "
            "expected a fast tokenizer; add its tokenizer.json to the model's folder"
        )


def collate_masked(
    batch: Sequence[list[MaskedWindow]], pad_id: int, *, first_position: int, packed: bool
) -> dict[str, Tensor]:
    """Lay the rows of a micro-batch out for the model.

    Args:
        batch: Rows from `MaskedPapers`.
        pad_id: What fills the rows up where they are padded.
        first_position: The position id of a window's first token (see `packed_positions`).
        packed: End to end as one row; False: one row a window, padded.

    Returns:
        `input_ids` and `labels`, int64. Packed: `[1, tokens]`, with `position_ids` and
        `cu_seq_lens_q`. Padded: `[windows, longest]`, with `attention_mask`.
    """
    windows = [window for row in batch for window in row]
    if packed:
        lengths = [len(window.tokens) for window in windows]
        positions = [p for n in lengths for p in range(first_position, first_position + n)]
        return {
            "input_ids": torch.tensor([[t for w in windows for t in w.tokens]]),
            "position_ids": torch.tensor([positions]),
            "labels": torch.tensor([[t for w in windows for t in w.labels]]),
            **document_borders(lengths),
        }
    longest = max(len(window.tokens) for window in windows)

    def padded(rows: Iterator[Sequence[int]], filling: int) -> Tensor:
        return torch.tensor([[*row, *[filling] * (longest - len(row))] for row in rows])

    return {
        "input_ids": padded((w.tokens for w in windows), pad_id),
        "attention_mask": padded(([1] * len(w.tokens) for w in windows), 0),
        "labels": padded((w.labels for w in windows), IGNORED),
    }


def packed_positions(model: Any) -> int | None:
    """The position id with which a packed window begins, or None where packing is unsafe.

    BERT counts from 0, RoBERTa from one past its padding id. Found by trying: two packed
    documents have to get the hidden states that each has alone, as the model itself numbers
    and attends to them.

    Args:
        model: A masked `PreTrainedModel` on any device, not wrapped by peft.
    """
    if not supports_packing(model):
        return None
    padding = model.config.pad_token_id
    weight = model.get_input_embeddings().weight
    usable = [i for i in range(min(len(weight), sum(_PROBE_LENGTHS) + 1)) if i != padding]
    starts = (0, _PROBE_LENGTHS[0])
    documents = [
        torch.tensor([[usable[(start + i) % len(usable)] for i in range(length)]])
        for start, length in zip(starts, _PROBE_LENGTHS, strict=True)
    ]
    documents = [d.to(weight.device)[:, : _longest(model) // 2] for d in documents]
    lengths = [d.shape[1] for d in documents]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = torch.cat([_hidden(model, input_ids=d) for d in documents], dim=1)
            tolerance = rounding_tolerance(model, alone)
            with per_document_attention(model):
                for first in (0, 0 if padding is None else padding + 1):
                    positions = [torch.arange(first, first + n)[None] for n in lengths]
                    packed = _hidden(
                        model,
                        input_ids=torch.cat(documents, dim=1),
                        position_ids=torch.cat(positions, dim=1).to(weight.device),
                        **document_borders(lengths),
                    )
                    if (packed - alone).float().norm() <= tolerance * alone.float().norm():
                        return first
    finally:
        model.train(was_training)
    return None


def prepare_for_masked_training(model: Any) -> int | None:
    """Give a masked model the loss of its masks, and per-document attention where that is safe.

    Args:
        model: A masked `PreTrainedModel`, the one inside any adapter.

    Returns:
        The position id of a window's first token in a packed row; None: rows are not packed.
    """
    first_position = packed_positions(model)
    if first_position is not None:
        register_per_document_attention()
        model.set_attn_implementation(PER_DOCUMENT_SDPA)
    use_masked_loss(model)
    return first_position


def _hidden(model: Any, **inputs: Tensor) -> Tensor:
    hidden: Tensor = model.base_model(**inputs).last_hidden_state
    return hidden


def _longest(model: Any) -> int:
    longest: int = getattr(model.config, "max_position_embeddings", 512)
    return longest
