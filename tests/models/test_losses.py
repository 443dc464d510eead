"""The chunked loss is the plain one, in value and gradient."""

import copy
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from steps.config.sections import Qlora
from steps.models import losses
from steps.models.adapters import add_adapter
from steps.models.losses import (
    IGNORED,
    linear_cross_entropy_sum,
    use_chunked_loss,
)


@pytest.mark.parametrize("positions", [1, 7, 64, 65])
def test_value_and_gradients_equal_the_plain_loss(
    positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK", 16)
    torch.manual_seed(0)
    hidden = torch.randn(positions, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (positions,))
    targets[::3] = IGNORED
    if positions == 1:
        targets[0] = 4

    plain = cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORED, reduction="sum")
    expected = torch.autograd.grad(plain * 0.5, (hidden, weight))
    chunked = linear_cross_entropy_sum(hidden, weight, targets)
    found = torch.autograd.grad(chunked * 0.5, (hidden, weight))

    assert chunked.item() == pytest.approx(plain.item(), rel=1e-6)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_gradcheck_holds_for_a_frozen_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK", 4)
    torch.manual_seed(1)
    weight = torch.randn(11, 5, dtype=torch.float64)
    targets = torch.tensor([0, 3, IGNORED, 10, 2, 7])
    hidden = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    # Logits are float32 inside, so the numeric gradient is only that exact.
    assert torch.autograd.gradcheck(
        lambda h: linear_cross_entropy_sum(h, weight, targets), hidden, eps=1e-2, atol=1e-2
    )


def test_all_positions_ignored_cost_nothing_and_pull_nothing() -> None:
    hidden = torch.randn(3, 4, requires_grad=True)
    loss = linear_cross_entropy_sum(hidden, torch.randn(9, 4), torch.full((3,), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def tiny_llama(**settings: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            **settings,
        )
    )


def labelled_tokens() -> dict[str, torch.Tensor]:
    tokens = torch.randint(0, 97, (1, 40))
    labels = tokens.clone()
    labels[0, :5] = IGNORED
    return {"input_ids": tokens, "labels": labels}


def assert_same_loss_and_gradients(chunked: Any, plain: Any) -> None:
    batch = labelled_tokens()
    expected, found = plain(**batch).loss, chunked(**batch).loss
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    expected.backward()
    found.backward()
    for (name, one), other in zip(chunked.named_parameters(), plain.parameters(), strict=True):
        assert one.requires_grad == (one.grad is not None), name
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert chunked(input_ids=batch["input_ids"]).logits.shape == (1, 40, 97)


def test_a_model_with_the_chunked_loss_gives_its_own_loss_and_gradients() -> None:
    plain = tiny_llama()
    chunked = copy.deepcopy(plain)
    use_chunked_loss(chunked)
    assert_same_loss_and_gradients(chunked, plain)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_head_trained_whole_beside_adapters_gets_the_gradients_of_the_plain_loss(
    tied: bool,
) -> None:
    qlora = Qlora(method="lora", r=4, lora_dropout=0.0, modules_to_save=("lm_head",))
    plain = add_adapter(tiny_llama(tie_word_embeddings=tied), qlora, "causal")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.requires_grad:
                # Away from the start, where the copy of the head equals the head.
                parameter.add_(0.1 * torch.randn_like(parameter))
    chunked = copy.deepcopy(plain)
    assert use_chunked_loss(chunked.get_base_model())
    trained = [name for name, p in chunked.named_parameters() if p.requires_grad]
    assert [n for n in trained if "lora" not in n] == [
        "base_model.model.lm_head.modules_to_save.default.weight"
    ]
    assert_same_loss_and_gradients(chunked, plain)


def test_a_head_with_an_adapter_falls_back_to_all_logits_at_once() -> None:
    qlora = Qlora(method="lora", r=4, lora_dropout=0.0, target_modules=("q_proj", "lm_head"))
    plain = add_adapter(tiny_llama(), qlora, "causal")
    other = copy.deepcopy(plain)
    assert not use_chunked_loss(other.get_base_model())
    assert_same_loss_and_gradients(other, plain)
