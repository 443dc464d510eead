"""Windows and rows: every token a target once, no paper sees another."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steps.models.attention import PER_DOCUMENT_SDPA, register_per_document_attention
from steps.models.layout import RowLayout
from steps.models.losses import IGNORED
from steps.papers.text import PaperText, Span
from steps.training.packing import PaperRows, Window, causal_windows, collate, pack, padding_share


class Letters:
    """A tokenizer of one token a letter."""

    bos_token_id = 1
    eos_token_id = 2

    def __call__(self, texts: str | list[str], **_: Any) -> SimpleNamespace:
        if isinstance(texts, str):
            return SimpleNamespace(input_ids=ids_of(texts))
        return SimpleNamespace(input_ids=[ids_of(text) for text in texts])


def ids_of(text: str) -> list[int]:
    return [3 + ord(c) % 50 for c in text]


def paper(length: int, name: str = "p") -> PaperText:
    return PaperText(
        name,
        "abcdefghij"[: length % 10] + "x" * (length - length % 10),
        (Span(0, length, "abstract"),),
    )


@given(st.integers(0, 300), st.integers(8, 64), st.data())
def test_every_token_but_the_first_is_a_target_exactly_once(
    length: int, max_length: int, data: Any
) -> None:
    overlap = data.draw(st.integers(1, max_length - 2))
    one = paper(length)
    windows = list(causal_windows([one], Letters(), max_length, overlap))
    targets = [t for w in windows for t in w.tokens[w.first_target :]]
    assert targets == [*ids_of(one.text), 2]
    assert windows[0].tokens[0] == 1
    assert all(len(w.tokens) <= max_length and w.first_target >= 1 for w in windows)


@given(st.lists(st.integers(1, 32), max_size=60))
def test_packing_keeps_every_window_whole_and_no_row_overflows(lengths: list[int]) -> None:
    rows = list(pack(np.array(lengths, dtype=np.int32), 32))
    assert sorted(window for row in rows for window in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[window] for window in row) <= 32 for row in rows)


def window(*tokens: int, first_target: int) -> Window:
    return Window(np.array(tokens, dtype=np.int32), first_target)


ROWS = [
    [window(1, 5, 6, first_target=1), window(1, 7, first_target=1)],
    [window(9, 8, 7, 2, first_target=2)],
]


def test_padded_windows_are_told_from_their_padding_and_learn_none_of_it() -> None:
    batch = collate(ROWS, RowLayout("padded"), 2)
    assert batch["input_ids"].tolist() == [[1, 5, 6, 2], [1, 7, 2, 2], [9, 8, 7, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [
        [IGNORED, 5, 6, IGNORED],
        [IGNORED, 7, IGNORED, IGNORED],
        [IGNORED, IGNORED, 7, 2],
    ]
    # Nothing is padded in a batch of one, so nothing has to be masked.
    assert collate([[ROWS[0][0]]], RowLayout("single"), 2).keys() == {"input_ids", "labels"}


def test_padding_is_counted_by_the_batches_that_are_computed() -> None:
    assert padding_share([7] * 12, 4) == 0
    assert padding_share([1, 9, 5], 1) == 0
    # One batch of both: 20 computed of 11.
    assert padding_share([1, 10], 2) == pytest.approx(20 / 11 - 1)


def test_positions_restart_and_no_window_predicts_the_next_ones_first_token() -> None:
    batch = collate(ROWS, RowLayout("packed"), 0)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[IGNORED, 5, 6, IGNORED, 7, IGNORED, IGNORED, 7, 2]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 9]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_papers_have_the_logits_of_single_ones(checkpointing: bool) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
        )
    )
    register_per_document_attention()
    model.set_attn_implementation(PER_DOCUMENT_SDPA)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
    papers = [paper(23, "a"), paper(70, "b"), paper(9, "c")]
    rows = PaperRows(causal_windows(papers, Letters(), 64, 8), 64, packed=True)
    batch = collate([rows[i] for i in range(len(rows))], RowLayout("packed"), 0)
    packed = model(**{k: v for k, v in batch.items() if k != "labels"}, use_cache=False).logits[0]
    borders = batch["cu_seq_lens_q"].tolist()
    windows = [w for row in rows for w in row]
    for each, start, end in zip(windows, borders, borders[1:], strict=False):
        alone = model(input_ids=torch.tensor(each.tokens)[None], use_cache=False).logits[0]
        torch.testing.assert_close(packed[start:end], alone, rtol=0, atol=1e-4)
    assert int((batch["labels"] != IGNORED).sum()) == rows.targets == 23 + 70 + 9 + 3
