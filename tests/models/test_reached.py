"""Which parts of a model a text passes through."""

from pathlib import Path

import pytest
import torch

from steps.config.sections import Model, Quantization
from steps.errors import UserError
from steps.models.loading import load_model
from steps.models.reached import TOKENS, linear_layers, reached_layers, reached_parameters
from steps.models.sources import resolve_base
from tests.support.architectures import ARCHITECTURES, Architecture

BY_NAME = {str(architecture): architecture for architecture in ARCHITECTURES}


@pytest.mark.parametrize(
    ("name", "unreached"),
    [
        ("llama", set()),
        ("gpt2", set()),
        ("gemma3", {"model.vision_tower"}),
        ("jamba", {"model.layers.0.mamba.dt_proj"}),
        ("esm", {"esm.contact_head.regression"}),
        # Called, but nothing comes of it.
        ("big_bird", {"bert.pooler"}),
        ("fnet", {"fnet.pooler.dense"}),
        ("mobilebert", {"cls.predictions.dense", "cls.predictions.decoder"}),
    ],
)
def test_layers_that_no_text_passes_through_are_told_apart(name: str, unreached: set[str]) -> None:
    model = BY_NAME[name].build()
    layers = linear_layers(model)
    left = layers.keys() - reached_layers(model, torch.float32)
    assert all(any(layer.startswith(part) for part in unreached) for layer in left)
    assert all(any(layer.startswith(part) for layer in left) for part in unreached)


@pytest.mark.parametrize("name", ["llama", "gemma3", "jamba", "esm", "mixtral", "bert", "gpt2"])
def test_a_backward_pass_leaves_a_gradient_in_the_reached_parameters_and_in_no_other(
    name: str,
) -> None:
    model = BY_NAME[name].build()
    reached = {id(parameter) for parameter in reached_parameters(model, torch.float32)}
    ids = (torch.arange(TOKENS) % TOKENS)[None]
    model.train()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None) == (id(parameter) in reached)


def test_finding_out_leaves_no_trace() -> None:
    model = BY_NAME["bert"].build()
    torch.manual_seed(1)
    expected = torch.rand(1, generator=torch.Generator().manual_seed(1))
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        before = model(ids).logits
        reached_layers(model, torch.bfloat16)
        assert torch.equal(model(ids).logits, before)
    assert torch.equal(torch.rand(1), expected)
    assert not model.training


@pytest.mark.parametrize("name", ["deberta", "fnet"])
def test_a_class_that_does_not_compute_in_a_format_is_refused_with_the_setting(
    name: str, tmp_path: Path
) -> None:
    BY_NAME[name].build().save_pretrained(tmp_path)
    base = resolve_base(Model(name=str(tmp_path)))
    model = load_model(base, Quantization(), 16, torch.bfloat16, "cpu")
    with pytest.raises(UserError, match=r"set training.hardware.bf16=false") as refused:
        reached_layers(model, torch.bfloat16)
    assert type(model).__name__ in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_most_layers_of_every_class_are_reached(architecture: Architecture) -> None:
    model = architecture.build()
    layers = linear_layers(model)
    reached = reached_layers(model, torch.float32)
    assert reached <= layers.keys()
    assert len(reached) >= len(layers) / 2
