"""Code that comes with a model is never run, though standard input says yes to everything."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.config.sections import Training
from steps.models.adapted import AdaptedModel, describe, load_adapted, save_adapted
from steps.models.adapters import add_adapter
from steps.models.loading import load_model
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from tests.support.project import ROOT
from tests.support.tiny_runs import small_training as settings

LOAD_BASE = """
import sys
from pathlib import Path
from steps.config.sections import Model, Qlora, Quantization, Training
from steps.errors import UserError
from steps.models.checks import check_base
from steps.models.loading import load_model
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
import torch
training = Training(model=Model(name=sys.argv[1], objective="causal", max_length=64),
                    qlora=Qlora(method="lora"))
def load():
    base = resolve_base(training.model)
    load_model(base, Quantization(), 16, torch.float32, "cpu")
for one in (lambda: check_base(resolve_base(training.model), training, "cpu"),
            lambda: load_tokenizer(Path(sys.argv[1])), load):
    try:
        one()
    except UserError as error:
        assert "\\n" not in str(error)
        print("refused:", error)
"""
LOAD_ADAPTED = """
import sys
from pathlib import Path
from steps.config.sections import Hardware
from steps.errors import UserError
from steps.models.adapted import load_adapted
try:
    load_adapted(Path(sys.argv[1]), Hardware(bf16=False))
except UserError as error:
    print("refused:", error)
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))


class Touches:
    """A pickle that makes a file when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str, str]]:
        return (os.symlink, ("/", str(self.marker)))


def plant(folder: Path, marker: Path) -> None:
    """Modules that make a file when they are imported."""
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
    for name in ("configuration_evil", "modeling_evil", "tokenization_evil", "evil"):
        (folder / f"{name}.py").write_text(code + "class Evil: pass\n")
    (folder / "custom_generate").mkdir(exist_ok=True)
    (folder / "custom_generate" / "generate.py").write_text(code + "def generate(*a, **k): pass\n")


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def run(program: str, folder: Path, marker: Path) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        input="y\nyes\n" * 100,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert not os.path.lexists(marker), "code of the model's folder was run"
    assert "custom code" not in finished.stdout or "refused" in finished.stdout
    return finished.stdout


AUTO_MAP = {
    "AutoConfig": "configuration_evil.Evil",
    "AutoModelForCausalLM": "modeling_evil.Evil",
    "AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"],
}


@pytest.mark.parametrize("model_type", ["llama", "evil"])
def test_a_bases_own_code_is_not_run(
    tiny_llama_folder: Path, tmp_path: Path, model_type: str
) -> None:
    folder, marker = tmp_path / "base", tmp_path / "marker"
    shutil.copytree(tiny_llama_folder, folder)
    plant(folder, marker)
    change(folder / "config.json", auto_map=AUTO_MAP, model_type=model_type)
    change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": AUTO_MAP["AutoTokenizer"]},
        tokenizer_class="Evil",
    )
    said = run(LOAD_BASE, folder, marker)
    assert ("refused" in said) or model_type == "llama"


@pytest.fixture
def adapter(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    """An adapter folder as finetune writes it."""
    training: Training = settings(tiny_llama_folder)
    base = resolve_base(training.model)
    import torch

    model = load_model(base, training.qlora.quantization, 16, torch.float32, "cpu")
    model = add_adapter(model, training.qlora, base.objective)
    description = describe(training, base, torch.float32)
    tokenizer = load_tokenizer(base.folder)
    adapted = AdaptedModel(model, tokenizer, base.objective, torch.float32, "cpu", description)
    folder = tmp_path / "adapter"
    save_adapted(folder, model, tokenizer, description, adapted)
    load_adapted(folder)
    return folder


def test_an_adapters_own_code_is_not_run(adapter: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    plant(adapter, marker)
    change(
        adapter / "tokenizer_config.json",
        auto_map={"AutoTokenizer": AUTO_MAP["AutoTokenizer"]},
    )
    mapping = {"base_model_class": "Evil", "parent_library": "evil"}
    change(adapter / "adapter_config.json", auto_mapping=mapping)
    run(LOAD_ADAPTED, adapter, marker)


def test_pickled_weights_of_an_adapter_are_refused(adapter: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Touches(marker)))
    assert "pickled weights are not opened" in run(LOAD_ADAPTED, adapter, marker)


@pytest.mark.parametrize("file", ["base.json", "adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\x80\x04x"])
def test_a_broken_file_of_an_adapter_is_one_line(adapter: Path, file: str, content: bytes) -> None:
    from steps.errors import UserError

    (adapter / file).write_bytes(content)
    with pytest.raises(UserError) as refused:
        load_adapted(adapter)
    assert "\n" not in str(refused.value)
