"""A head is taken apart by trying: what it gets, and what becomes of its logits."""

import copy
from typing import Any

import pytest
import torch

from steps.models import losses
from steps.models.heads import find_logit_head
from steps.models.losses import IGNORED, use_chunked_loss
from tests.support.architectures import CAUSAL, Architecture

# (follows the decoder, scale, soft cap, has a bias), for those whose head is not plain.
UNUSUAL: dict[str, tuple[bool, float, float | None, bool]] = {
    "gemma2": (True, 1.0, 30.0, False),
    "phi": (True, 1.0, None, True),
    "gptj": (True, 1.0, None, True),
    "ctrl": (True, 1.0, None, True),
    "granite": (True, 0.25, None, False),
    "cohere": (True, 0.25, None, False),
    "cohere2": (True, 0.25, None, False),
    "modernbert-decoder": (False, 1.0, None, True),
}


def by_name(name: str) -> Architecture:
    return next(one for one in CAUSAL if str(one) == name)


@pytest.mark.parametrize("architecture", CAUSAL, ids=str)
def test_a_head_is_found_to_be_what_the_class_computes(architecture: Architecture) -> None:
    head = find_logit_head(architecture.build())
    assert head is not None
    found = (head.follows_decoder, head.scale, head.soft_cap, head.bias is not None)
    assert found == UNUSUAL.get(str(architecture), (True, 1.0, None, False))


def test_the_lm_head_multiplier_of_falcon_h1_is_found() -> None:
    head = find_logit_head(by_name("falcon_h1").build(lm_head_multiplier=0.03125))
    assert head is not None
    assert head.scale == 0.03125


@pytest.mark.parametrize("architecture", CAUSAL, ids=str)
def test_the_chunked_loss_has_the_value_and_gradients_of_the_plain_one(
    architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK", 16)
    plain = architecture.build()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.endswith("bias"):
                # A fresh bias is 0, under which a lost one would not show.
                parameter.normal_(generator=generator)
    plain.config.use_cache = False
    chunked = copy.deepcopy(plain)
    assert use_chunked_loss(chunked)
    tokens = torch.randint(3, 395, (2, 30), generator=generator)
    labels = tokens.clone()
    labels[:, :5] = IGNORED
    logits = plain(input_ids=tokens).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())
    found = chunked(input_ids=tokens, labels=labels).loss
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    expected.backward()
    found.backward()
    for (name, one), other in zip(chunked.named_parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None and other.grad is not None:
            # Keys' biases have a gradient of nothing but rounding.
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_logits_that_are_more_than_scaled_are_not_taken_for_plain_ones() -> None:
    model = by_name("llama").build()
    plain_forward = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        outputs = plain_forward(*args, **kwargs)
        # As Chameleon keeps image tokens out of text.
        outputs.logits[..., 3] = torch.finfo(outputs.logits.dtype).min
        return outputs

    model.forward = forward
    assert find_logit_head(model) is None
    assert not use_chunked_loss(model)
    tokens = torch.arange(4, 30)[None]
    logits = forward(input_ids=tokens).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, tokens[0, 1:])
    torch.testing.assert_close(model(input_ids=tokens, labels=tokens).loss, expected)


def test_finding_a_head_leaves_the_model_as_it_was() -> None:
    model = by_name("modernbert-decoder").build().train()
    tokens = torch.arange(4, 30)[None]
    model.eval()
    before = model(input_ids=tokens).logits
    model.train()
    find_logit_head(model)
    assert model.training
    assert "forward" not in vars(model.get_output_embeddings())
    model.eval()
    assert torch.equal(model(input_ids=tokens).logits, before)
