"""Every way of training, on a causal and on a masked model: trained, stored, loaded, the same."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.config.sections import (
    Hardware,
    Hyperparameters,
    Logging,
    MemoryOptimization,
    Model,
    Qlora,
    Quantization,
    Training,
)
from steps.errors import UserError
from steps.models.adapted import (
    AdaptedModel,
    describe,
    load_adapted,
    probe_difference,
    save_adapted,
)
from steps.models.adapters import add_adapter, trainable_parameters
from steps.models.devices import Placement, dtype_name
from steps.models.loading import load_model, new_modules
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from steps.papers.text import PaperText, Span
from steps.training.context import TrainingContext
from steps.training.trainer import ModelTrainer
from tests.support.architectures import ARCHITECTURES, Architecture
from tests.support.model_folders import quantised
from tests.support.project import demo_texts

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "qlora": {"method": "qlora"},
    "lora_8bit": {"method": "lora_8bit"},
    "dora": {"method": "dora"},
    "dora on 4 bits": {"method": "dora", "quantization": {"load_in_4bit": True}},
    "rslora": {"method": "rslora"},
    "full": {"method": "full"},
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def headless_bert_folder(tiny_bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT as a sentence encoder: without the head of a masked model."""
    from transformers import AutoModelForMaskedLM

    folder = tmp_path_factory.mktemp("models") / "headless-bert"
    AutoModelForMaskedLM.from_pretrained(tiny_bert_folder).bert.save_pretrained(folder)
    load_tokenizer(tiny_bert_folder).save_pretrained(folder)
    return folder


def settings(folder: Path, **qlora: Any) -> Training:
    whole = {"load_in_4bit": False, "load_in_8bit": False, **qlora.pop("quantization", {})}
    adapter = {"r": 4, "lora_dropout": 0.0, "quantization": Quantization(**whole), **qlora}
    return Training(
        model=Model(name=str(folder), max_length=64),
        qlora=Qlora(**adapter),
        hyperparameters=Hyperparameters(
            batch_size=2, gradient_accumulation_steps=1, max_steps=2, learning_rate=1e-2
        ),
        logging=Logging(log_steps=1, eval_strategy="no", save_steps=2),
        memory_optimization=MemoryOptimization(gradient_checkpointing=False),
    )


def papers(count: int) -> list[PaperText]:
    return [
        PaperText(f"p{i}", text[:200], (Span(0, 200, "abstract"),))
        for i, text in enumerate(demo_texts()[:count])
    ]


def trained(training: Training, folder: Path, dtype: torch.dtype) -> AdaptedModel:
    """Train for two steps and store the result in `folder / "adapter"`."""
    base = resolve_base(training.model)
    torch.manual_seed(0)
    model = load_model(base, training.qlora.quantization, training.qlora.bits, dtype, "cpu")
    model = add_adapter(model, training.qlora, base.objective)
    tokenizer = load_tokenizer(base.folder)
    context = TrainingContext(placement=Placement("cpu", dtype_name(dtype)))
    trainer = ModelTrainer(training, model, tokenizer, papers(4), [], folder, context=context)
    trainer.train()
    adapted = AdaptedModel(
        model, tokenizer, base.objective, dtype, "cpu", describe(training, base, dtype)
    )
    save_adapted(folder / "adapter", model, tokenizer, adapted.description, adapted)
    return adapted


# What differs with the number format: plain weights, quantised ones, and master copies of all.
IN_BOTH_FORMATS = ("lora", "qlora", "full")
CASES = [(method, torch.bfloat16) for method in METHODS] + [
    (method, torch.float32) for method in IN_BOTH_FORMATS
]


@pytest.mark.parametrize(("method", "dtype"), CASES)
@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_each_method_trains_and_loads_back_with_equal_logits(
    method: str,
    objective: str,
    dtype: torch.dtype,
    tiny_llama_folder: Path,
    tiny_bert_folder: Path,
    tmp_path: Path,
) -> None:
    base = {"causal": tiny_llama_folder, "masked": tiny_bert_folder}[objective]
    adapted = trained(settings(base, **METHODS[method]), tmp_path, dtype)
    moving = [p for p in adapted.model.parameters() if p.requires_grad]
    assert all(parameter.dtype == torch.float32 for parameter in moving)
    loaded = load_adapted(tmp_path / "adapter", Hardware(device="cpu"))
    assert loaded.objective == objective
    assert probe_difference(loaded, tmp_path / "adapter") == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("method", "bits"), [("qlora", 4), ("dora on 4 bits", 4), ("lora_8bit", 8)]
)
def test_a_base_that_is_quantised_already_trains_and_loads_back_with_equal_logits(
    method: str, bits: int, dtype: torch.dtype, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    base = quantised(tiny_llama_folder, tmp_path / "base", bits)
    adapted = trained(settings(base, **METHODS[method]), tmp_path, dtype)
    assert adapted.description["bits"] == bits
    loaded = load_adapted(tmp_path / "adapter", Hardware(device="cpu"))
    assert probe_difference(loaded, tmp_path / "adapter") == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_a_missing_head_is_trained_stored_and_restored(
    method: str, dtype: torch.dtype, headless_bert_folder: Path, tmp_path: Path
) -> None:
    training = settings(headless_bert_folder, **METHODS[method])
    base = resolve_base(training.model)
    assert base.objective == "masked"
    fresh = load_model(base, training.qlora.quantization, 16, dtype, "cpu")
    head = ("cls.predictions.transform.LayerNorm", "cls.predictions.transform.dense")
    assert new_modules(fresh) == head

    adapted = trained(training, tmp_path, dtype)
    learned = [name for name, p in adapted.model.named_parameters() if p.requires_grad]
    for name in head:
        inside = [n for n in learned if f"{name}." in n]
        assert inside
        assert not any("lora" in n for n in inside)
    inner = getattr(adapted.model, "get_base_model", lambda: adapted.model)()
    before = fresh.cls.predictions.transform.dense.weight.detach()
    after = dict(inner.named_parameters())
    moved = [
        p
        for name, p in after.items()
        if "transform.dense" in name and name.endswith("weight") and p.requires_grad
    ]
    assert len(moved) == 1
    assert not torch.equal(moved[0].detach(), before.float())
    loaded = load_adapted(tmp_path / "adapter", Hardware(device="cpu"))
    assert probe_difference(loaded, tmp_path / "adapter") == 0.0


def test_a_new_head_is_drawn_the_same_each_time_and_draws_nothing_from_the_caller(
    headless_bert_folder: Path,
) -> None:
    base = resolve_base(Model(name=str(headless_bert_folder)))
    heads = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = torch.rand(1, generator=torch.Generator().manual_seed(seed))
        model = load_model(base, Quantization(), 16, torch.float32, "cpu")
        heads.append(model.cls.predictions.transform.dense.weight.detach())
        assert torch.equal(torch.rand(1), expected)
    assert torch.equal(*heads)


def test_modules_to_save_are_trained_and_stored_in_float32(
    tiny_bert_folder: Path, tmp_path: Path
) -> None:
    training = settings(tiny_bert_folder, method="lora", modules_to_save=("transform.dense",))
    adapted = trained(training, tmp_path, torch.bfloat16)
    saved = [n for n, p in adapted.model.named_parameters() if "modules_to_save" in n]
    assert saved == [
        f"base_model.model.cls.predictions.transform.dense.modules_to_save.default.{part}"
        for part in ("weight", "bias")
    ]
    loaded = load_adapted(tmp_path / "adapter", Hardware(device="cpu"))
    assert probe_difference(loaded, tmp_path / "adapter") == 0.0


@pytest.mark.parametrize(("method", "tied"), [("lora", True), ("lora", False), ("qlora", False)])
def test_the_head_of_a_causal_model_is_trained_whole_and_loads_back_with_equal_logits(
    method: str, tied: bool, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    base = tiny_llama_folder
    if tied:
        from transformers import LlamaForCausalLM

        base = tmp_path / "tied"
        LlamaForCausalLM.from_pretrained(
            tiny_llama_folder, tie_word_embeddings=True
        ).save_pretrained(base)
        load_tokenizer(tiny_llama_folder).save_pretrained(base)
    changes = {**METHODS[method], "modules_to_save": ("lm_head",)}
    adapted = trained(settings(base, **changes), tmp_path, torch.bfloat16)
    inner = adapted.model.get_base_model()
    head, before = inner.lm_head.modules_to_save["default"], inner.lm_head.original_module
    assert head.weight.dtype == torch.float32
    assert not torch.equal(head.weight, before.weight)
    # What the layers compute in is not changed by it.
    assert inner.get_input_embeddings().weight.dtype == torch.bfloat16
    loaded = load_adapted(tmp_path / "adapter", Hardware(device="cpu"))
    assert probe_difference(loaded, tmp_path / "adapter") == 0.0


def test_full_fine_tuning_trains_every_weight(tiny_bert_folder: Path) -> None:
    training = settings(tiny_bert_folder, method="full")
    base = resolve_base(training.model)
    model = load_model(base, training.qlora.quantization, 16, torch.bfloat16, "cpu")
    model = add_adapter(model, training.qlora, "masked")
    assert trainable_parameters(model) == sum(p.numel() for p in model.parameters())


# Classes whose experts are 3-D parameters that all-linear takes too.
EXPERTS = ("qwen3_next", "mixtral", "qwen3_moe", "deepseek_v3")


def assert_all_that_is_trained_gets_a_gradient(model: Any) -> None:
    """After a backward pass; of an untrained adapter the first factor's gradient is 0."""
    length = getattr(model.config, "segment_means_seq_len", 24)
    ids = torch.arange(5, 5 + length)[None]
    logits = model.train()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0 or "lora_A" in name, name


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_every_method_trains_every_class_or_is_refused_with_what_works(
    architecture: Architecture,
) -> None:
    plain = Quantization(load_in_4bit=False)
    for method, dropout in (("lora", 0.1), ("rslora", 0.0), ("dora", 0.0), ("full", 0.0)):
        qlora = Qlora(method=method, r=4, lora_dropout=dropout, quantization=plain)
        model = architecture.build()
        if architecture.model_type in EXPERTS and (method == "dora" or dropout):
            with pytest.raises(UserError, match="holds its experts as 3-D parameters") as refused:
                add_adapter(model, qlora, architecture.objective)
            assert "training.qlora.lora_dropout=0" in str(refused.value)
            # The other way out that is named.
            (named,) = re.findall(r"target_modules=\[(.*)\]", str(refused.value))
            qlora = qlora.model_copy(update={"target_modules": tuple(named.split(","))})
            model = architecture.build()
        model = add_adapter(model, qlora, architecture.objective)
        assert_all_that_is_trained_gets_a_gradient(model)


@pytest.mark.parametrize("name", ["gpt2", "mamba", "gemma3", "mixtral", "jamba", "bert", "mpt"])
@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_adapters_on_a_quantised_base_get_gradients(method: str, name: str, tmp_path: Path) -> None:
    (architecture,) = [one for one in ARCHITECTURES if str(one) == name]
    architecture.build().save_pretrained(tmp_path)
    base = resolve_base(Model(name=str(tmp_path)))
    assert base.objective == architecture.objective
    qlora = Qlora(method=method, r=4, lora_dropout=0.0)
    model = load_model(base, qlora.quantization, qlora.bits, torch.float32, "cpu")
    assert_all_that_is_trained_gets_a_gradient(add_adapter(model, qlora, base.objective))


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "gpt2", "gemma3", "falcon_h1"])
def test_an_adapter_of_an_unusual_class_loads_back_with_equal_logits(
    name: str, byte_level_tokenizer: Any, tmp_path: Path
) -> None:
    (architecture,) = [one for one in ARCHITECTURES if str(one) == name]
    folder = tmp_path / "base"
    architecture.build().save_pretrained(folder)
    byte_level_tokenizer.save_pretrained(folder)
    training = settings(folder, method="lora")
    base = resolve_base(training.model)
    model = load_model(base, training.qlora.quantization, 16, torch.float32, "cpu")
    model = add_adapter(model, training.qlora, base.objective)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    tokenizer = load_tokenizer(folder)
    described = describe(training, base, torch.float32)
    adapted = AdaptedModel(model, tokenizer, base.objective, torch.float32, "cpu", described)
    save_adapted(tmp_path / "adapter", model, tokenizer, described, adapted)
    loaded = load_adapted(tmp_path / "adapter", Hardware(device="cpu"))
    assert probe_difference(loaded, tmp_path / "adapter") < 1e-5


def test_a_class_without_layers_to_quantise_is_refused(tmp_path: Path) -> None:
    (architecture,) = [one for one in ARCHITECTURES if one.model_type == "falcon"]
    architecture.build().save_pretrained(tmp_path)
    base = resolve_base(Model(name=str(tmp_path)))
    with pytest.raises(UserError, match="holds no layer that bitsandbytes quantises"):
        load_model(base, Quantization(), 4, torch.float32, "cpu")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"target_modules": ("q_prj",)},
            "'q_prj', which this model does not have; nearest: q_proj",
        ),
        ({"modules_to_save": ("lm_haed",)}, "qlora.modules_to_save names 'lm_haed'"),
        ({"modules_to_save": ("lm_haed",)}, "nearest: lm_head"),
        ({"target_modules": ("input_layernorm",)}, "use all-linear, or names of its linear layers"),
        (
            {"target_modules": "nothing.*like.*this"},
            "use all-linear, or names of its linear layers",
        ),
    ],
)
def test_a_module_that_cannot_be_trained_is_named(
    change: dict[str, Any], words: str, tiny_llama_folder: Path
) -> None:
    training = settings(tiny_llama_folder, method="lora", **change)
    base = resolve_base(training.model)
    model = load_model(base, training.qlora.quantization, 16, torch.float32, "cpu")
    with pytest.raises(UserError) as refused:
        add_adapter(model, training.qlora, base.objective)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_adapter_folder_names_no_path(tiny_bert_folder: Path, tmp_path: Path) -> None:
    trained(settings(tiny_bert_folder, method="lora"), tmp_path, torch.float32)
    for file in (tmp_path / "adapter").glob("*.json"):
        assert str(tiny_bert_folder.parent) not in file.read_text(encoding="utf-8"), file.name
    stated = json.loads((tmp_path / "adapter" / "base.json").read_text(encoding="utf-8"))
    assert stated["base"]["objective"] == "masked"
