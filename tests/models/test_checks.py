"""What cannot be trained is refused before weights are loaded."""

from pathlib import Path
from typing import Any

import pytest

from steps.config.sections import Model, Qlora, Quantization, Training
from steps.errors import UserError
from steps.models.checks import check_base
from steps.models.sources import resolve_base
from tests.support.architectures import ARCHITECTURES, Architecture
from tests.support.model_folders import edited

WITH_EXPERTS_AS_PARAMETERS = ("qwen3_next", "mixtral", "qwen3_moe", "deepseek_v3")


def refused_base(change: dict[str, Any], folder: Path, device: str = "cpu") -> str:
    """What `check_base` says about a folder under a configuration."""
    model = {"name": str(folder), "max_length": 64, **change.pop("model", {})}
    training = Training(model=Model(**model), qlora=Qlora(**change))
    with pytest.raises(UserError) as refused:
        check_base(resolve_base(training.model), training, device)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_an_objective_that_the_architecture_cannot_have_is_refused(
    tiny_llama_folder: Path, tiny_bert_folder: Path
) -> None:
    lora: dict[str, Any] = {"method": "lora"}
    said = refused_base({**lora, "model": {"objective": "masked"}}, tiny_llama_folder)
    assert "(llama) is no masked language model: set training.model.objective to causal" in said
    # BERT can be built as a decoder, but sees the token that it is asked for.
    said = refused_base({**lora, "model": {"objective": "causal"}}, tiny_bert_folder)
    assert "(bert) is no causal language model: set training.model.objective to masked" in said


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_every_listed_class_passes(architecture: Architecture, tmp_path: Path) -> None:
    model = architecture.build()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    for method in ("qlora", "dora", "full"):
        plain = Quantization(load_in_4bit=False)
        qlora = Qlora(method=method, lora_dropout=0.0, quantization=plain)
        training = Training(model=Model(name=str(tmp_path), max_length=64), qlora=qlora)
        base = resolve_base(training.model)
        if method == "dora" and architecture.model_type in WITH_EXPERTS_AS_PARAMETERS:
            with pytest.raises(UserError, match="set training.qlora.method=lora"):
                check_base(base, training, "cpu")
        else:
            check_base(base, training, "cpu")


def test_an_adapter_that_does_not_fit_is_refused_without_weights(tiny_llama_folder: Path) -> None:
    said = refused_base({"target_modules": ("q_prj",)}, tiny_llama_folder)
    assert "'q_prj', which this model does not have; nearest: q_proj" in said
    said = refused_base({"target_modules": ("input_layernorm",)}, tiny_llama_folder)
    assert "does not fit LlamaForCausalLM" in said


def test_an_encoder_with_a_decoder_is_refused(tiny_bert_folder: Path, tmp_path: Path) -> None:
    content = {"model_type": "bart", "architectures": ["BartForConditionalGeneration"]}
    said = refused_base({}, edited(tiny_bert_folder, tmp_path / "bart", **content))
    assert "(bart) is an encoder with a decoder" in said


def test_windows_longer_than_the_model_are_refused(
    tiny_llama_folder: Path, tiny_bert_folder: Path, tmp_path: Path
) -> None:
    for folder in (tiny_llama_folder, tiny_bert_folder):
        said = refused_base({"model": {"max_length": 513}}, folder)
        assert "max_length is 513, but" in said
        assert "built for 512 tokens: set it to 512 or less" in said
    # 514 positions of which 2 come before the first token.
    roberta = {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}
    shape = {"max_position_embeddings": 514, "pad_token_id": 1}
    folder = edited(tiny_bert_folder, tmp_path / "roberta", **roberta, **shape)
    assert "built for 512 tokens" in refused_base({"model": {"max_length": 514}}, folder)


def test_an_unknown_architecture_and_code_of_a_models_own_are_refused(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    folder = edited(tiny_llama_folder, tmp_path / "new", model_type="llama9")
    said = refused_base({}, folder)
    assert "has the architecture 'llama9', which transformers cannot build" in said
    own = {"AutoModelForCausalLM": "modeling_llama9.Llama9ForCausalLM"}
    folder = edited(tiny_llama_folder, tmp_path / "own", model_type="llama9", auto_map=own)
    assert "brings code of its own (auto_map in its config.json), which is never run" in (
        refused_base({}, folder)
    )


def test_dora_on_8_bit_weights_is_refused_on_a_cpu(tiny_llama_folder: Path) -> None:
    bits = Quantization(load_in_4bit=False, load_in_8bit=True)
    said = refused_base({"method": "dora", "quantization": bits}, tiny_llama_folder)
    assert "dora on 8-bit weights does not run on a CPU" in said


def test_quantised_training_without_kernels_for_the_gpu_is_refused(
    tiny_llama_folder: Path,
) -> None:
    import bitsandbytes.cextension

    if bitsandbytes.cextension.lib.compiled_with_cuda:
        training = Training(model=Model(name=str(tiny_llama_folder), max_length=64))
        check_base(resolve_base(training.model), training, "cuda")
    else:
        said = refused_base({"method": "qlora"}, tiny_llama_folder, device="cuda")
        assert "has no CUDA kernels for this machine" in said
