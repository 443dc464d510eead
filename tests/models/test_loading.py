"""A damaged model is named with what is wrong."""

import shutil
from pathlib import Path

import pytest

from steps.config.sections import Model, Quantization
from steps.errors import UserError
from steps.models.loading import load_model
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from tests.support.model_folders import edited


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("truncated", "the weights of {name} are damaged"),
        ("another shape", "do not have the shapes that its config.json states"),
        ("incomplete", "of the weights that its config.json calls for (such as model.layers.1"),
        ("no tokenizer", "the tokenizer of model {name} cannot be loaded"),
        ("broken config", "its config.json is not JSON"),
        ("empty", "has no config.json"),
    ],
)
def test_a_damaged_model_is_named_with_what_is_wrong(
    damage: str, words: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_folder, folder)
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "another shape":
        folder = edited(tiny_llama_folder, tmp_path / "other", intermediate_size=96)
    elif damage == "incomplete":
        tensors = load_file(weights)
        kept = {k: v for k, v in tensors.items() if not k.startswith("model.layers.1.mlp")}
        save_file(kept, weights, metadata={"format": "pt"})
    elif damage == "no tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()
    elif damage == "broken config":
        (folder / "config.json").write_text('{"architectures": [', encoding="utf-8")
    else:
        (folder / "config.json").unlink()
    with pytest.raises(UserError) as refused:
        base = resolve_base(Model(name=str(folder)))
        load_tokenizer(base.folder)
        load_model(base, Quantization(), 16, torch.float32, "cpu")
    assert words.format(name=folder.name) in str(refused.value)
    assert "\n" not in str(refused.value)
