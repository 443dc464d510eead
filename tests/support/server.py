"""A real `mlflow server` in a process of its own, which a test may kill and start again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path


class Server:
    """One server on one database and one port, whatever happens to its process."""

    def __init__(
        self,
        folder: Path,
        database: Path | str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a server.

        Args:
            folder: For its log, and for artifacts where no argument says otherwise.
            database: A SQLite file, or the URI of another database.
            *arguments: Further ones of `mlflow server`.
            environment: Variables of its process, besides those of this one.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        backend = database if isinstance(database, str) else f"sqlite:///{database}"
        self._arguments = ["--backend-store-uri", backend, *arguments]
        if not any("artifact" in argument for argument in arguments):
            self._arguments += ["--artifacts-destination", str(folder / "artifacts")]
        self._environment = dict(environment or {})
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")}
        environment |= self._environment
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                    *("--host", "127.0.0.1", "--port", str(self.port)),
                    *self._arguments,
                ],
                cwd=self.folder,
                env=environment,
                start_new_session=True,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 300
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text(encoding="utf-8")[-2000:])

    def kill(self) -> None:
        """SIGKILL it with all its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
