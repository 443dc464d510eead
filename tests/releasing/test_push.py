"""A release goes where it is sent, whole; the hub is a server here that answers as the hub does."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steps.errors import UserError
from steps.releasing.push import parse_target, push_to_folder, push_to_hub, repositories
from tests.support.hub_server import TOKEN, Hub, hub_server

# huggingface_hub uploads bytes by an argument that httpx is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as server:
        yield server


@pytest.fixture
def forms(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for name, large in (
        ("adapter", "adapter_model.safetensors"),
        ("merged", "model.safetensors"),
        ("gguf-f16", "model.gguf"),
        ("gguf-q8_0", "model.gguf"),
    ):
        folder = tmp_path / "release" / name
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(f"# {name}")
        (folder / large).write_bytes(hashlib.sha256(name.encode()).digest() * 40)
        made[name] = folder
    return made


def test_the_hub_gets_each_kind_of_form_in_a_private_repository(
    hub: Hub, forms: dict[str, Path]
) -> None:
    assert parse_target("hub:lab/papers") is not None
    assert push_to_hub("lab/papers", forms) == [
        "lab/papers-adapter",
        "lab/papers",
        "lab/papers-GGUF",
    ]
    assert hub.private == dict.fromkeys(hub.repositories, True)
    for repository, folders in repositories("lab/papers", forms).items():
        wanted = {
            f"{prefix}/{file.name}".lstrip("/"): file.read_bytes()
            for prefix, folder in folders.items()
            for file in folder.iterdir()
        }
        assert hub.repositories[repository] == wanted


def test_a_token_is_in_no_message_of_a_hub_that_refuses(
    hub: Hub, forms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refuses = True
    with pytest.raises(UserError, match="the hub does not take it") as refused:
        push_to_hub("lab/papers", forms)
    assert TOKEN not in str(refused.value)
    other = "hf_" + "b" * 34
    monkeypatch.setenv("HF_TOKEN", other)
    with pytest.raises(UserError, match="check that HF_TOKEN may write") as unknown:
        parse_target("hub:lab/papers")
    assert other not in str(unknown.value)


def test_a_folder_appears_when_it_is_complete(
    forms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "deep" / "out"
    push_to_folder(str(target), forms)
    assert {file.name for file in target.iterdir()} == forms.keys()
    with pytest.raises(UserError, match="nothing is overwritten"):
        parse_target(f"folder:{target}")

    def full(*_arguments: Any, **_settings: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(UserError, match="No space left"):
        push_to_folder(str(tmp_path / "second"), forms)
    assert not (tmp_path / "second").exists()
