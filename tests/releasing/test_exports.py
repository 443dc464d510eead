"""Good exports pass the gate: each way to train, each form, loaded as its users load it."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.support.project import demo_texts
from tests.support.released_models import CHAT, Gate, save_sentencepiece_llama, save_version

UNQUANTISED = {"quantization": {"load_in_4bit": False}}
# Ways to train, the form, and settings of the release.
EXPORTS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "adapter": ({}, "adapter", {}),
    "merged": ({}, "merged", {}),
    "merged rsLoRA": ({"method": "rslora", **UNQUANTISED}, "merged", {}),
    "merged DoRA": ({"method": "dora", **UNQUANTISED}, "merged", {}),
    "all weights": ({"enabled": False, "method": "full", **UNQUANTISED}, "merged", {}),
    "merged with biases": ({"bias": "all"}, "merged", {}),
    "head trained whole": ({"modules_to_save": ["lm_head"]}, "merged", {}),
    "new tokens": ({"new_tokens": ("BRCA1", "TP53")}, "merged", {}),
    "adapter of a 4-bit base": ({"method": "qlora"}, "adapter", {}),
    "merged onto a 4-bit base": ({"method": "qlora"}, "merged", {"merge_onto": "as_trained"}),
}
GGUF = ("gguf:f16", "gguf:q8_0", "gguf:q4_k_m")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sentencepiece_llama(tmp_path_factory.mktemp("base") / "tiny", demo_texts())


@pytest.fixture(scope="module")
def gate(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    folder = tmp_path_factory.mktemp("version")
    training, source = save_version(folder / "adapter", base)
    # So small a model loses more in 4 bits than a real one.
    limits = training.release.max_loss.model_copy(update={"four_bit": 0.05})
    release = training.release.model_copy(update={"max_loss": limits})
    training = training.model_copy(update={"release": release})
    return Gate.of(training, source, folder / "made")


@pytest.mark.parametrize("name", EXPORTS)
def test_a_good_export_passes(name: str, base: Path, tmp_path: Path) -> None:
    trained, form, release = EXPORTS[name]
    training, source = save_version(tmp_path / "version", base, **trained)
    settings = training.release.model_copy(update=release)
    gate = Gate.of(training.model_copy(update={"release": settings}), source, tmp_path / "made")
    folder = gate.make(form, **release)[form]
    result = gate.judge(form, folder)
    assert result.refusal == ""
    assert result.same_tokens == result.papers == 8
    assert result.interval is not None
    # Nothing of this machine travels along.
    for file in folder.glob("*.json"):
        assert str(tmp_path.parent) not in file.read_text()
        assert str(base) not in file.read_text()


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_a_masked_model_is_held_against_its_loss(
    form: str, tiny_bert_folder: Path, tmp_path: Path
) -> None:
    training, source = save_version(tmp_path / "version", tiny_bert_folder)
    gate = Gate.of(training, source, tmp_path / "made")
    result = gate.judge(form, gate.make(form)[form])
    assert (result.refusal, result.metric, result.prompts) == ("", "mlm_loss", 0)


def test_a_merged_model_has_16_bits_and_all_that_it_is_served_with(
    gate: Gate, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    folder = gate.make("merged")["merged"]
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype.itemsize for name in weights.keys()}  # noqa: SIM118 == {2}
    assert AutoTokenizer.from_pretrained(folder).chat_template == CHAT
    assert GenerationConfig.from_pretrained(folder).eos_token_id == 2
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True


def test_gguf_files_pass_and_come_with_a_modelfile(gate: Gate) -> None:
    """Converted once, quantised from 16 bits, read by llama.cpp with its own tokenizer."""
    made = gate.make(*GGUF)
    for name, folder in made.items():
        result = gate.judge(name, folder)
        assert result.refusal == "", name
        assert result.same_tokens == result.restored == result.papers
        lines = (folder / "Modelfile").read_text().splitlines()
        assert lines == ["FROM ./model.gguf", "PARAMETER temperature 0", 'PARAMETER stop "</s>"']
    sizes = [(made[name] / "model.gguf").stat().st_size for name in GGUF]
    assert sizes == sorted(sizes, reverse=True)
    _broken_ones_are_refused(gate, made["gguf:f16"] / "model.gguf")


def _broken_ones_are_refused(gate: Gate, file: Path) -> None:
    """A file cut short, and one that no longer says that BOS opens a text."""
    whole = file.read_bytes()
    file.write_bytes(whole[:-5000])
    assert gate.judge("gguf:f16", file.parent).refusal.startswith("cannot be loaded")
    key = b"tokenizer.ggml.add_bos_token"
    place = whole.index(key) + len(key) + 4
    assert whole[place] == 1
    file.write_bytes(whole[:place] + b"\0" + whole[place + 1 :])
    assert "puts the tokens" in gate.judge("gguf:f16", file.parent).refusal
