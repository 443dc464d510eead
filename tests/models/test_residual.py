"""What an adapter has learned of papers is added to the instruct model, exactly."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.config.sections import Merge, Model, Qlora, Training
from steps.errors import UserError
from steps.models.adapted import AdaptedModel, describe, load_adapted, save_adapted
from steps.models.adapters import add_adapter
from steps.models.loading import load_model
from steps.models.residual import onto_instruct, resolve_instruct
from steps.models.sources import Base, resolve_base
from steps.models.tokenizer import load_tokenizer
from tests.support.model_folders import edited


@pytest.fixture
def instruct_folder(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    """The tiny LLaMA with weights moved a little, as further training would."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "instruct"
    shutil.copytree(tiny_llama_folder, folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_folder)
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder


def training_of(base: Path, instruct: Path, **qlora: Any) -> Training:
    return Training(
        model=Model(name=str(base), max_length=64),
        qlora=Qlora(**{"method": "lora", "r": 4, "lora_dropout": 0.0, **qlora}),
        merge=Merge(instruct_residual=str(instruct)),
    )


def trained(training: Training, base: Base) -> AdaptedModel:
    """An adapter away from its beginning."""
    bits = training.qlora.bits
    model = load_model(base, training.qlora.quantization, bits, torch.float32, "cpu")
    model = add_adapter(model, training.qlora, "causal")
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    tokenizer, description = load_tokenizer(base.folder), describe(training, base, torch.float32)
    return AdaptedModel(model.eval(), tokenizer, "causal", torch.float32, "cpu", description)


@pytest.mark.parametrize(
    "qlora",
    [
        {"method": "lora"},
        {"method": "rslora"},
        {"method": "qlora"},
        {"method": "lora", "initialization": "pissa"},
    ],
    ids=lambda qlora: "-".join(qlora.values()),
)
def test_the_instruct_model_gets_the_difference_that_was_trained(
    qlora: dict[str, Any], tiny_llama_folder: Path, instruct_folder: Path, tmp_path: Path
) -> None:
    """Merged, its weights are the instruct model's and what training has added to the base's."""
    training = training_of(tiny_llama_folder, instruct_folder, **qlora)
    base = resolve_base(training.model)
    instruct = resolve_instruct(training, base)
    assert instruct is not None and instruct.folder == instruct_folder
    adapted = trained(training, base)
    moved = onto_instruct(training, instruct, adapted)
    for name, layer in adapted.model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            other = moved.model.get_submodule(name)
            delta, expected = other.get_delta_weight("default"), layer.get_delta_weight("default")
            assert torch.equal(delta, expected), name

    folder = tmp_path / "adapter"
    save_adapted(folder, moved.model, moved.tokenizer, moved.description, moved)
    again = load_adapted(folder)
    assert again.description["base"]["sha256"] == instruct.sha256
    assert again.description["trained_on"]["sha256"] == base.sha256
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        logits = again.model(input_ids=ids).logits
        assert torch.equal(logits, moved.model(input_ids=ids).logits)
        assert not torch.equal(logits, adapted.model(input_ids=ids).logits)


def test_in_float32_the_sum_of_weights_gives_the_same_logits(
    tiny_llama_folder: Path, instruct_folder: Path
) -> None:
    training = training_of(tiny_llama_folder, instruct_folder)
    base = resolve_base(training.model)
    instruct = resolve_instruct(training, base)
    assert instruct is not None
    adapted = trained(training, base)
    moved = onto_instruct(training, instruct, adapted)
    plain = {
        model: load_model(one, training.qlora.quantization, 16, torch.float32, "cpu")
        for model, one in (("base", base), ("instruct", instruct))
    }
    merged = adapted.model.merge_and_unload()
    before = dict(plain["base"].named_parameters())
    after = dict(merged.named_parameters())
    with torch.no_grad():
        for name, weight in plain["instruct"].named_parameters():
            weight.add_(after[name] - before[name])
        ids = torch.arange(5, 40)[None]
        expected = plain["instruct"].eval()(input_ids=ids).logits
        found = moved.model.eval()(input_ids=ids).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "dora"}, "DoRA"),
        ({"method": "full", "quantization": {"load_in_4bit": False}}, "qlora.method full"),
        ({"modules_to_save": ("lm_head",)}, "modules_to_save"),
        ({"bias": "all"}, "qlora.bias all"),
        ({"method": "qlora", "initialization": "loftq"}, "qlora.initialization loftq"),
    ],
)
def test_what_is_no_plain_adapter_is_refused(
    changes: dict[str, Any], reason: str, tiny_llama_folder: Path, instruct_folder: Path
) -> None:
    training = training_of(tiny_llama_folder, instruct_folder, **changes)
    with pytest.raises(UserError, match=reason):
        resolve_instruct(training, resolve_base(training.model))


def test_a_model_that_is_not_made_of_the_base_is_refused(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    other = edited(tiny_llama_folder, tmp_path / "other", intermediate_size=96)
    settings = AutoConfig.from_pretrained(other)
    AutoModelForCausalLM.from_config(settings).save_pretrained(other)
    training = training_of(tiny_llama_folder, other)
    base = resolve_base(training.model)
    with pytest.raises(UserError, match="is not made of tiny-llama: model.layers.0.mlp"):
        resolve_instruct(training, base)
    with pytest.raises(UserError, match="names the base itself"):
        resolve_instruct(training_of(tiny_llama_folder, tiny_llama_folder), base)
