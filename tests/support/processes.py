"""Steps as processes of their own, and what can be seen of them from outside."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.support.project import ROOT


def step(name: str, folder: Path, *arguments: str, code: int = 0) -> str:
    """Run a step as a process of its own, in a working folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    finished = subprocess.run(
        [sys.executable, "-m", f"steps.{name}", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == code, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stdout + finished.stderr


def newest(client: mlflow.MlflowClient, name: str) -> Any:
    """The newest run of a step."""
    experiment = client.get_experiment_by_name("tiny")
    return client.search_runs(
        [experiment.experiment_id], f"tags.`forge.step` = '{name}'", max_results=1
    )[0]


def wait_for(condition: object, seconds: float = 600.0) -> None:
    """Wait until a callable is true, or fail."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.2)
    pytest.fail("waited in vain")


def processes_of(marker: str) -> list[int]:
    """Ids of living processes whose environment holds a marker."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def listening(pids: list[int]) -> set[str]:
    """Addresses at which processes listen, as /proc/net writes them (hexadecimal)."""
    inodes = set()
    for pid in pids:
        for file in (Path("/proc") / str(pid) / "fd").glob("*"):
            with suppress(OSError):
                link = os.readlink(file)
                if link.startswith("socket:["):
                    inodes.add(link[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in (Path("/proc/net") / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found
