"""A release is served by the commands of the manual, on the CPU."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.project import ROOT, demo_texts
from tests.support.released_models import save_sentencepiece_llama
from tests.support.trained_store import Trained, trained_store

pytestmark = pytest.mark.slow
# A row of the manual's table: with what, the command, and whether it is run here.
ROW = re.compile(r"^\| (?P<name>[^|]+) \| `(?P<command>[^`]+)` \| (?P<said>[^|]+) \|$", re.M)
WAIT_SECONDS = 240


def commands() -> dict[str, str]:
    """The commands that the manual says are tested, by what they serve with."""
    table = (ROOT / "docs" / "release.md").read_text(encoding="utf-8")
    return {row["name"]: row["command"] for row in ROW.finditer(table) if row["said"] == "tested"}


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, _migrated_database: Path
) -> Iterator[Trained]:
    """A released champion of a base whose vocabulary llama.cpp knows, in the folder `out`."""
    folder = tmp_path_factory.mktemp("served")
    base = save_sentencepiece_llama(folder / "base", demo_texts())
    with trained_store(folder, _migrated_database, base) as made:
        made.client.set_registered_model_alias("tiny", "champion", "1")
        # So small a model loses more in 8 bits than a real one.
        limits = ("--overrides", "training.release.max_loss.near_lossless=0.02")
        formats = ("--formats", "adapter,merged,gguf:q8_0")
        made.step("release", *formats, "--push-to", f"folder:{folder / 'out'}", *limits)
        yield made


def words(name: str) -> list[str]:
    """A command of the manual, for the model of this store, with the programs of this one."""
    found = shlex.split(commands()[name].replace("scientificllm-forge", "tiny"))
    programs = {"python": [sys.executable], "mlflow": [sys.executable, "-m", "mlflow"]}
    programs["cyllama"] = [sys.executable, "-m", "cyllama"]
    return programs[found[0]] + found[1:]


@contextmanager
def serving(command: list[str], folder: Path, ready: str) -> Iterator[str]:
    """A server started by a command, and the address that it answers at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            env={**os.environ, "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + WAIT_SECONDS
    try:
        while not answers(f"{address}{ready}"):
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < end, (folder / "server.log").read_text()
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)


def answers(address: str) -> bool:
    """Whether something answers there with success."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def posted(address: str, content: dict[str, object]) -> object:
    """The answer to a request."""
    body, kind = json.dumps(content).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, body, kind), timeout=120) as said:
        return json.load(said)


def test_the_manual_names_these_commands() -> None:
    """Whoever adds one adds its test."""
    assert list(commands()) == [
        *("llama.cpp, one text", "llama.cpp, a server", "transformers", "transformers and peft"),
        "MLflow",
    ]


@pytest.mark.parametrize("name", ["transformers", "transformers and peft", "llama.cpp, one text"])
def test_a_command_writes_a_text(name: str, trained: Trained) -> None:
    done = subprocess.run(words(name), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    if "transformers" in name:
        # A warning on the same terminal is no text.
        assert said.startswith("[{'generated_text': 'Loss of BRCA1")
    assert len(said.replace("Loss of BRCA1", "").strip()) > 10


def test_the_server_of_llama_cpp_completes(trained: Trained, tmp_path: Path) -> None:
    with serving(words("llama.cpp, a server"), tmp_path, "/health") as address:
        asked = {"messages": [{"role": "user", "content": "Loss of BRCA1"}], "max_tokens": 8}
        answer = posted(f"{address}/v1/chat/completions", asked)
    assert isinstance(answer, dict)
    assert answer["choices"][0]["message"]["content"]


def test_the_server_of_mlflow_completes(trained: Trained, tmp_path: Path) -> None:
    with serving(words("MLflow"), tmp_path, "/ping") as address:
        answer = posted(f"{address}/invocations", {"inputs": ["Loss of BRCA1"]})
    assert isinstance(answer, dict)
    assert len(answer["predictions"]) == 1
