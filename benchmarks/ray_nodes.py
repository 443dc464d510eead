"""Two machines of one core each as one Ray cluster, for measurements and tests on it.

    with two_ray_nodes(folder, environment) as nodes:
        driver = nodes.start(["python", "-m", "steps.preprocess", ...], folder / "driver.txt")
        nodes.second.kill()

The machines are network namespaces with addresses of their own, see `benchmarks.two_machines`.
"""

import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.two_machines import Machine, two_machines

PORT = 6379
OBJECT_STORE_BYTES = 300_000_000
SECONDS_TO_START = 400.0
UP = "Ray runtime started"
# Given ports need not be waited for: on a busy machine that takes longer than Ray allows.
PORTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent")
RAY = (sys.executable, "-m", "ray.scripts.scripts")


@dataclass(frozen=True)
class RayNodes:
    """The cluster.

    Attributes:
        first: Where the cluster is headed, and where the driver runs.
        second: The other machine.
        environment: Variables that its programs need.
        folder: Where they write.
    """

    first: Machine
    second: Machine
    environment: Mapping[str, str]
    folder: Path

    @property
    def address(self) -> str:
        """What `RAY_ADDRESS` is to be."""
        return f"{self.first.address}:{PORT}"

    def start(self, command: Sequence[str], output: Path) -> "subprocess.Popen[bytes]":
        """Start a program on the first machine that finds the cluster."""
        environment = {**self.environment, "RAY_ADDRESS": self.address}
        return self.first.start(command, self.folder, environment, output)


@contextmanager
def two_ray_nodes(
    folder: Path, environment: Mapping[str, str], *, both: bool = True
) -> Iterator[RayNodes]:
    """A cluster of two machines, until the block ends.

    Args:
        folder: Where the machines write what they say.
        environment: Variables for all programs, `PYTHONPATH` with Ray among them.
        both: Whether the second machine joins.

    Raises:
        TimeoutError: One of them has not started in `SECONDS_TO_START`.
    """
    token = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A dozen processes: each would compile Ray anew where they may not keep what they compile.
        "PYTHONDONTWRITEBYTECODE": "",
    }
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as session, two_machines() as pair:
        nodes = RayNodes(*pair, environment={**environment, **token}, folder=folder)
        size = ["--num-cpus", "1", "--object-store-memory", str(OBJECT_STORE_BYTES), "--block"]
        size += ["--include-log-monitor", "false"]
        size += [f"--{name}-port={PORT + n}" for n, name in enumerate(PORTS, 1)]
        head = ["--head", "--port", str(PORT), "--include-dashboard", "false"]
        head += ["--temp-dir", session, "--disable-usage-stats", "--no-monitor"]
        first, second = pair
        _start(first, [*head, *size], nodes)
        if both:
            _start(second, ["--address", nodes.address, *size], nodes)
        yield nodes


def _start(machine: Machine, options: Sequence[str], nodes: RayNodes) -> None:
    """Start a node, again where its parts took longer to find each other than Ray allows."""
    # A session of its own, to which Linux gives its share of the cores as to a machine.
    command = ["setsid", *RAY, "start", "--node-ip-address", machine.address, *options]
    output = nodes.folder / f"{machine.name}.txt"
    until = time.monotonic() + SECONDS_TO_START
    before = output.stat().st_size if output.exists() else 0
    process = machine.start(command, nodes.folder, nodes.environment, output)
    while UP not in output.read_text(encoding="utf-8")[before:]:
        if time.monotonic() > until:
            raise TimeoutError(f"no Ray node comes up:\n{output.read_text()[-2000:]}")
        if process.poll() is not None:
            machine.kill()
            before = output.stat().st_size
            process = machine.start(command, nodes.folder, nodes.environment, output)
        time.sleep(0.5)
