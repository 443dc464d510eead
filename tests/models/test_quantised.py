"""Bases whose files hold quantised weights: taken as they are, or refused before they are read."""

from pathlib import Path
from typing import Any

import pytest
import torch

from steps.config.sections import Distributed, Model, Qlora, Quantization, Training
from steps.errors import UserError
from steps.models.checks import check_base
from steps.models.loading import load_model
from steps.models.quantised import stored_quantisation
from steps.models.sources import resolve_base
from tests.support.model_folders import edited, quantised

PLAIN = {"load_in_4bit": False, "load_in_8bit": False}
IN_8_BITS = {"load_in_4bit": False, "load_in_8bit": True}


@pytest.fixture(scope="module")
def folders(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The tiny LLaMA in 4 and in 8 bits."""
    parent = tmp_path_factory.mktemp("quantised")
    return {bits: quantised(tiny_llama_folder, parent / str(bits), bits) for bits in (4, 8)}


def checked(folder: Path, **qlora: Any) -> None:
    quantization = Quantization(**qlora.pop("quantization", {}))
    distributed = qlora.pop("distributed", Distributed())
    training = Training(
        model=Model(name=str(folder), max_length=64),
        qlora=Qlora(quantization=quantization, **qlora),
        distributed=distributed,
    )
    check_base(resolve_base(training.model), training, "cpu")


def refused(folder: Path, **qlora: Any) -> str:
    with pytest.raises(UserError) as error:
        checked(folder, **qlora)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("bits", "qlora"),
    [
        (4, {"method": "qlora"}),
        (4, {}),
        (4, {"method": "dora"}),
        (4, {"method": "rslora"}),
        (8, {"method": "lora_8bit"}),
        (8, {"method": "rslora", "quantization": IN_8_BITS}),
    ],
)
def test_the_fitting_method_is_taken(
    bits: int, qlora: dict[str, Any], folders: dict[int, Path]
) -> None:
    checked(folders[bits], **qlora)


@pytest.mark.parametrize(
    ("bits", "qlora", "fix"),
    [
        (4, {"method": "lora"}, "training.qlora.method=qlora"),
        (4, {"method": "lora_8bit"}, "training.qlora.method=qlora"),
        (4, {"method": "full", "quantization": PLAIN}, "training.qlora.method=qlora"),
        (4, {"enabled": False}, "training.qlora.enabled=true"),
        (4, {"method": "dora", "quantization": PLAIN}, "quantization.load_in_4bit=true"),
        (4, {"quantization": IN_8_BITS}, "quantization.load_in_8bit=false"),
        (4, {"quantization": {"bnb_4bit_quant_type": "fp4"}}, "bnb_4bit_quant_type=nf4"),
        (4, {"quantization": {"bnb_4bit_use_double_quant": False}}, "use_double_quant=true"),
        (8, {"method": "qlora"}, "training.qlora.method=lora_8bit"),
        (8, {"method": "lora"}, "training.qlora.method=lora_8bit"),
        (8, {"method": "full", "quantization": PLAIN}, "training.qlora.method=lora_8bit"),
    ],
)
def test_what_contradicts_the_stored_weights_is_refused_with_what_fits(
    bits: int, qlora: dict[str, Any], fix: str, folders: dict[int, Path]
) -> None:
    said = refused(folders[bits], **qlora)
    assert f"is stored in {bits} bits (bitsandbytes)" in said and fix in said


def test_dora_on_stored_8_bit_weights_is_refused_on_a_cpu(folders: dict[int, Path]) -> None:
    said = refused(folders[8], method="dora", quantization=IN_8_BITS)
    assert "dora on 8-bit weights does not run on a CPU" in said


def test_deepspeed_does_not_share_out_stored_bytes(folders: dict[int, Path]) -> None:
    deepspeed = Distributed(enabled=True, backend="deepspeed", deepspeed_config="x.json")
    assert "backend=ddp" in refused(folders[4], method="qlora", distributed=deepspeed)


@pytest.mark.parametrize(
    "method", ["gptq", "awq", "fp8", "compressed-tensors", "mxfp4", "aqlm", "torchao", "new"]
)
def test_what_cannot_be_trained_on_is_refused_by_its_name(
    method: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    stated = {"quant_method": method, "bits": 4}
    folder = edited(tiny_llama_folder, tmp_path / "base", quantization_config=stated)
    for qlora in ({"method": "qlora"}, {"method": "lora"}):
        said = refused(folder, **qlora)
        assert f'is quantised already, by "{method}"' in said and "name the unquantised" in said
    base = resolve_base(Model(name=str(folder)))
    with pytest.raises(UserError, match="is quantised already"):
        load_model(base, Quantization(), 16, torch.float32, "cpu")


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_stored_4_bit_weights_are_those_that_are_made_when_loading(
    name: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    dtype = getattr(torch, name)
    ids = torch.arange(5, 30)[None]
    plain = resolve_base(Model(name=str(tiny_llama_folder)))
    folder = quantised(tiny_llama_folder, tmp_path / "base", 4, name)
    stored = resolve_base(Model(name=str(folder)))
    with torch.no_grad():
        expected = load_model(plain, Quantization(), 4, dtype, "cpu")(ids).logits
        # A base alone is scored as it is stored, whatever bits are asked for.
        for bits in (4, 16):
            logits = load_model(stored, Quantization(), bits, dtype, "cpu")(ids).logits
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_quantised_base_computes_in_the_format_that_is_asked_for(
    bits: int, dtype: torch.dtype, folders: dict[int, Path]
) -> None:
    """Whatever its maker computed in."""
    base = resolve_base(Model(name=str(folders[bits])))
    model = load_model(base, Quantization(), bits, dtype, "cpu")
    assert model(torch.arange(5, 30)[None]).logits.dtype == dtype
    if bits == 4:
        assert model.model.layers[0].mlp.up_proj.compute_dtype == dtype


def test_an_unquantised_folder_has_no_stored_quantisation(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    assert stored_quantisation(tiny_llama_folder, "tiny") is None
    older = {"load_in_8bit": True}
    folder = edited(tiny_llama_folder, tmp_path / "older", quantization_config=older)
    stored = stored_quantisation(folder, "tiny")
    assert stored is not None and stored.bits == 8
