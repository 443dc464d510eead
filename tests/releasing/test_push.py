"""A release goes where it is sent, whole; the hub is a server here that answers as the hub does."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from steps.errors import UserError
from steps.releasing.push import parse_target, push_to_folder, push_to_hub, repositories

# huggingface_hub uploads bytes by an argument that httpx is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")

TOKEN = "hf_" + "a" * 34


@dataclass
class Hub:
    """What a server of the hub's calls was asked, and holds.

    Attributes:
        address: Where it listens.
        repositories: Their files by name, private ones as they were made.
        private: Whether each was made so.
        uploads: Content of large files, by digest.
        calls: Method and path of each request.
        refuses: Answer 403 to commits.
    """

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    refuses: bool = False

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        """Answer a request as the hub does."""
        self.calls.append(f"{method} {path}")
        if method == "PUT":
            self.uploads[path.rpartition("/")[2]] = body
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials"}
        if path == "/api/whoami-v2":
            return 200, {"name": "lab", "type": "user", "orgs": []}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization', 'lab')}/{wanted['name']}"
            self.repositories.setdefault(name, {})
            self.private[name] = wanted.get("private", wanted.get("visibility") == "private")
            return 200, {"url": f"{self.address}/{name}", "name": name}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **one,
                    "actions": {"upload": {"href": f"{self.address}/upload/{one['oid']}"}},
                }
                for one in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        name = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                "lfs" if f["path"].endswith((".safetensors", ".gguf")) else "regular" for f in files
            ]
            return 200, {
                "files": [
                    {"path": f["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}
                    for f, mode in zip(files, modes, strict=True)
                ]
            }
        if "/commit/" in path:
            if self.refuses:
                return 403, {"error": "Forbidden"}
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    self.repositories[name][value["path"]] = base64.b64decode(value["content"])
                if entry["key"] == "lfsFile":
                    self.repositories[name][value["path"]] = self.uploads[value["oid"]]
            return 200, {
                "commitUrl": f"{self.address}/{name}/commit/{'0' * 40}",
                "commitOid": "0" * 40,
                "success": True,
            }
        return 200, {"id": name, "sha": "0" * 40, "siblings": [], "xetEnabled": False}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            token = self.headers.get("Authorization", "")
            status, content = state.answer(
                self.command, self.path.partition("?")[0], self.rfile.read(length), token
            )
            answer = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_HEAD = _serve

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", state.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield state
    server.shutdown()
    server.server_close()


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
