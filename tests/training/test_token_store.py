"""Rows in arrays: to the last token those that tuples of each window's tokens give, but smaller."""

import tracemalloc
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.config.sections import Masking
from steps.models.layout import RowLayout
from steps.models.losses import IGNORED
from steps.models.token_spans import encode
from steps.papers.text import PaperText, Span
from steps.training.masking import MaskedPapers
from steps.training.packing import PaperRows, causal_windows, collate, pack
from steps.training.token_store import PAPERS_AT_ONCE
from tests.support.windows import masked_windows

BOS, EOS, UNKNOWN, MASK, PAD = range(5)
# A text of the made papers: words of letters, each letter a token. "?" is unknown.
TEXTS = st.text("abc?   ", max_size=60)


class Letters:
    """A tokenizer of one token a letter, which knows words, as a fast one does."""

    name_or_path = "letters"
    is_fast = True
    bos_token_id, eos_token_id, unk_token_id, mask_token_id, pad_token_id = BOS, EOS, UNKNOWN, 3, 4
    all_special_ids = (BOS, EOS, UNKNOWN, MASK, PAD)
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __len__(self) -> int:
        return 300

    def __call__(self, texts: str | list[str], *, add_special_tokens: bool = True, **_: Any) -> Any:
        if isinstance(texts, str):
            ids = letters(texts)
            return SimpleNamespace(input_ids=[BOS, *ids, EOS] if add_special_tokens else ids)
        return Batch(texts)


class Batch(dict[str, Any]):
    """What a fast tokenizer makes of several texts."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.input_ids = [letters(text) for text in texts]
        spans = [[(i, i + 1) for i, c in enumerate(text) if c != " "] for text in texts]
        super().__init__(input_ids=self.input_ids, offset_mapping=spans)

    def word_ids(self, number: int) -> list[int]:
        words = enumerate(self.texts[number].split(" "))
        return [place for place, word in words for _ in word]


def letters(text: str) -> list[int]:
    return [UNKNOWN if c == "?" else ord(c) for c in text if c != " "]


def papers_of(texts: Sequence[str], entities: Sequence[tuple[int, int]] = ()) -> list[PaperText]:
    """Papers, each with the same stretches as genes, as far as they reach into it."""
    return [
        PaperText(
            f"p{number}",
            text,
            (Span(0, len(text), "abstract"),),
            tuple(Span(start, end, "G") for start, end in entities if end <= len(text)),
        )
        for number, text in enumerate(texts)
    ]


# --- the plain reference ------------------------------------------------------------------------


def plain_rows(windows: list[Any], capacity: int, *, packed: bool) -> list[list[Any]]:
    """Best fit over tuples that begin with a window's tokens, longest first."""
    if not packed:
        return [[window] for window in windows]
    rows: list[list[Any]] = []
    room: list[tuple[int, int]] = []
    for i in sorted(range(len(windows)), key=lambda i: (-len(windows[i][0]), i)):
        length = len(windows[i][0])
        fit = bisect_left(room, (length, -1))
        if fit == len(room):
            rows.append([windows[i]])
            left, index = capacity - length, len(rows) - 1
        else:
            left, index = room.pop(fit)
            rows[index].append(windows[i])
            left -= length
        insort(room, (left, index))
    return rows


def plain_causal_windows(text: str, length: int, overlap: int) -> list[Any]:
    """Tokens and labels of each window of a paper."""
    tokens = [BOS, *letters(text), EOS]
    cuts = [(0, 1)]
    while cuts[-1][0] + length < len(tokens):
        done = cuts[-1][0] + length
        cuts.append((done - overlap, done))
    return [
        (
            tokens[start : start + length],
            [IGNORED] * (first - start) + tokens[first : start + length],
        )
        for start, first in cuts
    ]


def plain_word_windows(paper: PaperText, length: int, overlap: int) -> list[Any]:
    """Tokens of each window of a paper, and the first, last and kind of what may be hidden."""
    encoded = encode(Letters(), paper.text)
    ids, words, room = encoded.ids, encoded.words, length - 2
    begins = [i == 0 or words[i] != words[i - 1] for i in range(len(ids))]
    entity = [False] * len(ids)
    for gene in paper.genes:
        inside = [i for i, (a, b) in enumerate(encoded.spans) if a < gene.end and b > gene.start]
        for i in inside:
            begins[i] = begins[i] and i == inside[0]
            entity[i] = True
    since = 0
    for i in range(len(ids)):
        since = 0 if begins[i] else since + 1
        begins[i] = begins[i] or since % (room - overlap) == 0
    borders = [i for i in range(len(ids)) if begins[i]] + [len(ids)]
    windows, done = [], 0
    while done < len(ids):
        start = min(border for border in borders if border >= done - overlap)
        end = max(border for border in borders if border <= start + room)
        units = [
            (first - start + 1, last - start + 1, any(entity[first:last]))
            for first, last in pairwise(borders)
            if done <= first < end and UNKNOWN not in ids[first:last]
        ]
        windows.append(([BOS, *ids[start:end], EOS], units))
        done = end
    return windows


def plain_hidden(window: Any, rule: Masking, generator: np.random.Generator) -> Any:
    """Tokens and labels of a window some of whose words are hidden."""
    tokens, labels = list(window[0]), [IGNORED] * len(window[0])
    units = window[1]
    if not units:
        return tokens, labels
    hidden = generator.random(len(units)) < [
        rule.entity_probability if entity else rule.probability for *_, entity in units
    ]
    if not hidden.any():
        hidden[generator.integers(len(units))] = True
    ordinary = np.arange(5, 300)
    for start, end, _ in (units[place] for place in np.flatnonzero(hidden)):
        labels[start:end] = tokens[start:end]
        fate = generator.random()
        if fate < rule.mask_share:
            tokens[start:end] = [MASK] * (end - start)
        elif fate < rule.mask_share + rule.random_share:
            tokens[start:end] = generator.choice(ordinary, end - start).tolist()
    return tokens, labels


def plain_batch(rows: list[list[Any]], layout: RowLayout) -> dict[str, torch.Tensor]:
    windows = [window for row in rows for window in row]
    lengths = [len(tokens) for tokens, _ in windows]
    if layout.kind == "packed":
        return {
            "input_ids": torch.tensor([[t for tokens, _ in windows for t in tokens]]),
            "labels": torch.tensor([[label for _, labels in windows for label in labels]]),
            "position_ids": torch.tensor(
                [[layout.first_position + i for length in lengths for i in range(length)]]
            ),
            "cu_seq_lens_q": torch.tensor(
                [sum(lengths[:n]) for n in range(len(lengths) + 1)], dtype=torch.int32
            ),
        }
    fill = [max(lengths) - length for length in lengths]
    batch = {
        "input_ids": torch.tensor([t + [PAD] * n for (t, _), n in zip(windows, fill, strict=True)]),
        "labels": torch.tensor(
            [labels + [IGNORED] * n for (_, labels), n in zip(windows, fill, strict=True)]
        ),
    }
    if len(windows) > 1:
        batch["attention_mask"] = torch.tensor(
            [[1] * length + [0] * n for length, n in zip(lengths, fill, strict=True)]
        )
    return batch


# --- the properties -----------------------------------------------------------------------------


def assert_same_batches(rows: Any, plain: list[list[Any]], layout: RowLayout, at_once: int) -> None:
    """The same batches in the same order, with the same shapes and types."""
    assert len(rows) == len(plain)
    for start in range(0, len(plain), at_once):
        places = range(start, min(start + at_once, len(plain)))
        batch = collate([rows[i] for i in places], layout, PAD)
        expected = plain_batch([plain[i] for i in places], layout)
        assert batch.keys() == expected.keys()
        for name, tensor in expected.items():
            assert batch[name].dtype == tensor.dtype
            assert torch.equal(batch[name], tensor)


LAYOUTS = st.sampled_from([RowLayout("packed"), RowLayout("packed", 3), RowLayout("padded")])


@given(st.lists(TEXTS, max_size=8), st.integers(4, 24), LAYOUTS, st.integers(1, 3), st.data())
def test_rows_of_a_causal_model_are_those_of_tuples(
    texts: list[str], length: int, layout: RowLayout, at_once: int, data: Any
) -> None:
    overlap = data.draw(st.integers(1, length - 2))
    packed = layout.kind == "packed"
    windows = causal_windows(papers_of(texts), Letters(), length, overlap)
    plain = [w for text in texts for w in plain_causal_windows(text, length, overlap)]
    rows = PaperRows(windows, length, packed=packed)
    assert_same_batches(rows, plain_rows(plain, length, packed=packed), layout, at_once)
    assert rows.tokens == sum(len(tokens) for tokens, _ in plain)
    assert rows.targets == sum(label != IGNORED for _, labels in plain for label in labels)


@settings(deadline=None)
@given(
    st.lists(TEXTS, max_size=8),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)), max_size=3),
    st.integers(8, 24),
    LAYOUTS,
    st.data(),
)
def test_rows_of_a_masked_model_are_those_of_tuples(
    texts: list[str], genes: list[tuple[int, int]], length: int, layout: RowLayout, data: Any
) -> None:
    # A text of one word is a text without words to tokenizers that know none.
    papers = papers_of([f"ab {text} c" for text in texts], [(a, a + n) for a, n in genes])
    overlap = data.draw(st.integers(0, (length - 2) // 2))
    packed = layout.kind == "packed"
    rule = Masking(probability=0.3, entity_probability=0.5, mask_share=0.5, random_share=0.3)
    windows = masked_windows(papers, Letters(), length, overlap)
    plain = [w for paper in papers for w in plain_word_windows(paper, length, overlap)]
    rows = MaskedPapers(windows, Letters(), length, rule, 7, packed=packed)
    assert rows.tokens == sum(len(tokens) for tokens, _ in plain)
    for epoch in range(2):
        rows.begin_epoch(epoch)
        hidden = []
        for number, row in enumerate(plain_rows(plain, length, packed=packed)):
            generator = np.random.default_rng([7, epoch, number])
            hidden.append([plain_hidden(window, rule, generator) for window in row])
        assert_same_batches(rows, hidden, layout, 2)


@given(st.lists(st.integers(1, 30), max_size=200))
def test_windows_are_packed_as_by_a_search_of_all_rows(lengths: list[int]) -> None:
    plain = plain_rows([([0] * length, i) for i, length in enumerate(lengths)], 30, packed=True)
    rows = pack(np.array(lengths, dtype=np.int32), 30)
    assert list(rows) == [[number for _, number in row] for row in plain]


def test_papers_that_are_tokenised_together_are_told_apart() -> None:
    texts = [f"a{'b' * (number % 7)}" for number in range(2 * PAPERS_AT_ONCE + 3)]
    windows = causal_windows(papers_of(texts), Letters(), 16, 2)
    assert [w.tokens.tolist() for w in windows] == [[BOS, *letters(t), EOS] for t in texts]


def test_nobody_can_change_the_tokens_of_another_window() -> None:
    windows = causal_windows(papers_of(["abc" * 20]), Letters(), 16, 4)
    with pytest.raises(ValueError, match="read-only"):
        windows[0].tokens[-1] = 0


# 300 tokens each, as typical abstracts have, in words of 3 or 4.
ABSTRACTS = papers_of(["abc abcc " * 43] * 1_000)


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_rows_take_about_four_bytes_a_token(objective: str) -> None:
    made: PaperRows | MaskedPapers
    tracemalloc.start()
    try:
        if objective == "causal":
            made = PaperRows(causal_windows(ABSTRACTS, Letters(), 512, 64), 512, packed=True)
        else:
            windows = masked_windows(ABSTRACTS, Letters(), 512, 64)
            made = MaskedPapers(windows, Letters(), 512, Masking(), 0, packed=True)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.tokens > 290_000
    # A masked model's tokens are marked by a byte each.
    assert held / made.tokens < (4.8 if objective == "causal" else 5.9)
    # The encodings of all papers at once would take more than 36 a token.
    assert peak / made.tokens < 14
