"""Finetune steps in processes of their own, to be watched, stopped and killed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.processes import processes_of, wait_for
from tests.support.project import ROOT
from tests.support.rank_runs import OVERRIDES, losses, newest_run


class Launch:
    """A finetune step in processes of its own, which a marker tells from all others."""

    def __init__(
        self,
        config: Path,
        folder: Path,
        *options: str,
        place: dict[str, str] | None = None,
        **overrides: str,
    ) -> None:
        dotted = {**OVERRIDES, **{k.replace("__", "."): v for k, v in overrides.items()}}
        self.marker = f"FORGE_TEST_MARKER={folder.name}-{time.time_ns()}"
        name, _, value = self.marker.partition("=")
        self.output = folder / f"output-{time.time_ns()}.txt"
        command = [
            sys.executable,
            *(options or ("-m", "steps.finetune", "--num-processes", "2")),
            "--config",
            str(config),
            "--overrides",
            " ".join(f"training.{key}={value}" for key, value in dotted.items()),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), name: value, "OMP_NUM_THREADS": "1"}
        environment |= place or {}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
            )

    def wait(self, seconds: float = 240) -> int:
        """The exit code; no process may be left then."""
        code = self.process.wait(timeout=seconds)
        wait_for(lambda: not processes_of(self.marker), 30)
        return code

    @property
    def said(self) -> str:
        """All that stands on the terminal."""
        return self.output.read_text()

    def rank(self, index: int) -> int:
        """The process id of a rank."""
        return next(
            pid
            for pid in processes_of(self.marker)
            if f"\0RANK={index}\0".encode() in (Path("/proc") / str(pid) / "environ").read_bytes()
        )


def is_past(step: int) -> Callable[[], bool]:
    """Whether the newest run has reported a step."""

    def past() -> bool:
        try:
            return any(done >= step for done, _ in losses(newest_run()))
        except IndexError:
            return False

    return past
