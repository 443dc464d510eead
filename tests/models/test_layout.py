"""A document has the same hidden states alone, in any batch and after any other, or is refused."""

from typing import Any

import pytest
import torch

from steps.errors import UserError
from steps.models.attention import PER_DOCUMENT_SDPA, per_document_attention
from steps.models.layout import RowLayout, find_layout, packed_batch, padded_batch
from steps.planning.skeleton import declared_layout
from tests.support.architectures import ARCHITECTURES, Architecture

PAD, MASK = 2, 4

# What a model bears where it does not pack.
PADDED = {
    *("gemma2", "stablelm", "falcon", "bloom", "gptj", "nemotron", "mpt", "gpt_neo", "gpt_oss"),
    *("mamba", "mamba2", "falcon_h1", "jamba", "bamba", "lfm2", "qwen3_next"),
    *("deberta", "deberta-v2", "mpnet", "esm", "longformer", "luke", "megatron-bert"),
    *("mobilebert", "squeezebert"),
}
SINGLE = {"phi3-longrope", "convbert", "funnel", "fnet"}
REFUSED = {"big_bird": "reads a document of 150", "nystromformer": "cannot read a document of 150"}


def by_name(name: str) -> Architecture:
    return next(one for one in ARCHITECTURES if str(one) == name)


def documents(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(len(lengths))
    return [torch.randint(5, 395, (n,), generator=generator).tolist() for n in lengths]


def layout_of(architecture: Architecture, model: Any, texts: list[list[int]]) -> Any:
    mask = MASK if architecture.objective == "masked" else None
    return find_layout(model, texts, PAD, mask)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_layout_of_a_class_keeps_its_documents_apart(architecture: Architecture) -> None:
    model = architecture.build()
    texts = documents(150, 90, 24, 61)
    if str(architecture) in REFUSED:
        with pytest.raises(UserError, match=REFUSED[str(architecture)]) as refusal:
            layout_of(architecture, model, texts)
        assert type(model).__name__ in str(refusal.value)
        return
    layout = layout_of(architecture, model, texts)
    name = str(architecture)
    expected = "padded" if name in PADDED else "single" if name in SINGLE else "packed"
    assert layout.kind == expected
    assert bool(layout.reason) == (layout.kind != "packed")
    # Not those that the trial was made with, and masks in some of them only.
    texts = documents(140, 30, 77)
    if architecture.objective == "masked":
        texts[1][3:20] = [MASK] * 17
    alone = [hidden(model, padded_batch([text], PAD))[0] for text in texts]
    if layout.kind == "single":
        return
    if layout.kind == "padded":
        rows = hidden(model, padded_batch(texts, PAD))
        found = [row[: len(text)] for row, text in zip(rows, texts, strict=True)]
    else:
        with per_document_attention(model):
            row = hidden(model, packed_batch(texts, layout.first_position))[0]
        found = list(row.split([len(text) for text in texts]))
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_plan_takes_a_class_for_what_the_trial_finds(architecture: Architecture) -> None:
    name = str(architecture)
    expected = "padded" if name in PADDED else "single" if name in SINGLE else "packed"
    if name not in REFUSED and name != "phi3-longrope":
        assert declared_layout(architecture.build()) == expected


def hidden(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = model.base_model(**batch)[0]
    return states


def test_long_rope_packs_what_stays_on_one_side_of_its_switch() -> None:
    model = by_name("phi3-longrope").build()
    assert find_layout(model, documents(60, 20), PAD).kind == "packed"
    assert find_layout(model, documents(70, 20), PAD).kind == "single"


def test_bigbird_reads_what_is_below_its_switch_and_says_where_that_is() -> None:
    model = by_name("big_bird").build()
    with pytest.raises(UserError, match=r"max_length and evaluation\.context to 112 or less"):
        find_layout(model, documents(150, 20), PAD, MASK)
    assert find_layout(by_name("big_bird").build(), documents(112, 20), PAD, MASK).kind == "padded"


def test_the_cost_of_one_by_one_follows_from_the_two_passes_that_were_timed() -> None:
    # A pass takes 1 s and 0.01 s a token: 100 tokens 2 s, 900 tokens 10 s.
    layout = RowLayout("single", timed=((100, 2.0), (900, 10.0)))
    assert layout.slower_one_by_one([900] * 3) == pytest.approx(0)
    # Nine documents of 100 tokens take 18 s in place of one row of 10 s.
    assert layout.slower_one_by_one([100] * 9) == pytest.approx(0.8)
    timed = find_layout(by_name("fnet").build(), documents(60, 20), PAD, MASK).timed
    assert timed is not None
    assert [tokens for tokens, _ in timed] == [20, 60]
    assert all(seconds > 0 for _, seconds in timed)


def test_a_model_that_loses_the_borders_is_found_out() -> None:
    model = by_name("llama").build()
    for layer in model.model.layers:
        forward = layer.self_attn.forward

        def without_borders(*args: Any, forward: Any = forward, **kwargs: Any) -> Any:
            kwargs.pop("cu_seq_lens_q", None)
            kwargs.pop("position_ids", None)
            return forward(*args, **kwargs)

        layer.self_attn.forward = without_borders
    assert find_layout(model, documents(60, 20), PAD).kind == "padded"


def test_a_cap_of_the_scores_is_named_as_the_reason() -> None:
    layout = find_layout(by_name("gemma2").build(), documents(60, 20), PAD)
    assert layout.reason == "its attention caps its scores"


def test_the_trial_leaves_the_model_as_it_was_and_is_made_once() -> None:
    model = by_name("llama").build().train()
    before = model.config._attn_implementation
    layout = find_layout(model, documents(60, 20), PAD)
    assert model.training
    assert model.config._attn_implementation == before != PER_DOCUMENT_SDPA
    # Shorter documents need no trial of their own.
    model.model.forward = None
    assert find_layout(model, documents(59, 3), PAD) is layout
