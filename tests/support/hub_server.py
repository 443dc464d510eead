"""A server that answers as the hub does, to the calls that a push makes."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

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


@contextmanager
def hub_server() -> Iterator[Hub]:
    """The server, as the hub that huggingface_hub talks to."""
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

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setattr(constants, "ENDPOINT", state.address)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield state
    server.shutdown()
    server.server_close()
