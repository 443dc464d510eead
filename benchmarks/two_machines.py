"""Two network namespaces as two machines, for measurements and tests of training across both.

    with two_machines() as (first, second):
        process = first.start(["torchrun", ...], folder)
        second.kill()

Each has an address of its own, a wire to the other, a host name, and a home folder that the other
does not use; they share the disk below all else. Needs root, as every network namespace does.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOSTS = Path("/etc/netns")


@dataclass(frozen=True)
class Machine:
    """One of the two.

    Attributes:
        name: Its host name, and that of its namespace.
        address: On the wire to the other.
        interface: Its end of the wire.
    """

    name: str
    address: str
    interface: str

    def start(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        output: Path,
    ) -> "subprocess.Popen[bytes]":
        """Start a program on this machine.

        Args:
            command: The program and its arguments.
            folder: Its working folder.
            environment: Variables besides those of this process.
            output: Where all that it says is appended.
        """
        # The network namespace, then a host name of its own in it.
        inside = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c"]
        naming = f'hostname {self.name}; exec "$@"'
        network = {"GLOO_SOCKET_IFNAME": self.interface, "NCCL_SOCKET_IFNAME": self.interface}
        with output.open("ab") as file:
            return subprocess.Popen(
                [*inside, naming, "sh", *command],
                cwd=folder,
                env={**os.environ, **network, **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def processes(self) -> list[int]:
        """Ids of all processes that run on this machine."""
        listed = _run("ip", "netns", "pids", self.name)
        return [int(line) for line in listed.split()]

    def kill(self) -> None:
        """Take the power away."""
        for process in self.processes():
            os.kill(process, signal.SIGKILL)

    def bytes_sent(self) -> int:
        """Bytes that have left this machine on the wire."""
        counter = f"/sys/class/net/{self.interface}/statistics/tx_bytes"
        return int(_run("ip", "netns", "exec", self.name, "cat", counter))


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines and the wire between them, until the block ends."""
    # Several such pairs may stand side by side.
    tag, net = os.getpid() % 100000, os.getpid() % 200
    first, second = (
        Machine(f"forge-{letter}-{tag}", f"10.213.{net}.{number}", f"fg{letter}{tag}")
        for number, letter in ((1, "a"), (2, "b"))
    )
    hosts = "127.0.0.1 localhost\n" + "".join(
        f"{machine.address} {machine.name}\n" for machine in (first, second)
    )
    try:
        for machine in (first, second):
            # `ip netns exec` lays this file over /etc/hosts: each knows its own name and the
            # other's, as machines do.
            file = HOSTS / machine.name / "hosts"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(hosts, encoding="utf-8")
            _run("ip", "netns", "add", machine.name)
        _run("ip", "link", "add", first.interface, "type", "veth", "peer", second.interface)
        for machine in (first, second):
            _run("ip", "link", "set", machine.interface, "netns", machine.name)
            address = f"{machine.address}/24"
            _inside(machine, "ip", "addr", "add", address, "dev", machine.interface)
            _inside(machine, "ip", "link", "set", machine.interface, "up")
            _inside(machine, "ip", "link", "set", "lo", "up")
        yield first, second
    finally:
        for machine in (first, second):
            machine.kill()
            subprocess.run(["ip", "netns", "del", machine.name], check=False)
            shutil.rmtree(HOSTS / machine.name, ignore_errors=True)


def _inside(machine: Machine, *command: str) -> None:
    _run("ip", "netns", "exec", machine.name, *command)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
