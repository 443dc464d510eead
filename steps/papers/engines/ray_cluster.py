"""The connection to a cluster of Ray, or a Ray on this machine for as long as it is needed.

    with ray_engine(settings) as (engine, machines):
        prepare_dataset(files, settings, folder, engine=engine)

The workers get the code that this process runs, and nothing else of the project: the rooms that
preprocessing consists of and the table of genes, uploaded as Ray's `working_dir`. So a cluster
needs the environment of the project and not its files, and cannot run another version of them.
"""

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from steps.config.paper_sections import ScientificData
from steps.config.paths import PROJECT_ROOT
from steps.errors import UserError, first_line
from steps.papers.chunks import cores_granted
from steps.papers.engines.engine import RAY_ADDRESS, cluster_address
from steps.papers.engines.ray_data import RayEngine
from steps.papers.genes import SHIPPED_LEXICON
from steps.progress import waiting
from steps.terminal import say

CONNECT_SECONDS = 10.0
# A Ray of our own: records pass through its object store and do not stay.
OBJECT_STORE_BYTES = 1 << 30
LEAST_OBJECT_STORE_BYTES = 100_000_000
# Its sockets lie some 65 characters below its folder, and Linux takes 107.
LONGEST_FOLDER = 40


@contextmanager
def ray_engine(settings: ScientificData) -> Iterator[tuple[RayEngine, str]]:
    """Connect to the cluster of `RAY_ADDRESS`, or start a Ray on this machine.

    Yields:
        The engine, and of how many machines and cores it is.

    Raises:
        UserError: There is no cluster at that address that this machine
            is part of.
    """
    address = cluster_address()
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with ExitStack() as stack:
        if not address:
            options |= _of_our_own(settings, stack)
        else:
            _check_address(address)
            options["address"] = address
        with waiting("joining the Ray cluster" if address else "starting Ray"):
            _join(options, address, stack)
        nodes = _living_nodes()
        yield RayEngine(), _described(nodes)
        lost = len(nodes - _living_nodes())
        if lost:
            say(
                f"note: {lost} of {_counted(len(nodes), 'node')} of the cluster went away; the "
                "others did again what was lost with it"
            )


def _join(options: dict[str, Any], address: str, stack: ExitStack) -> None:
    # Read when Ray is imported: no statistics go out, and where `uv run` has started this process,
    # Ray does not copy the folder that it was started in.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    stack.callback(ray.shutdown)
    with tempfile.TemporaryDirectory(prefix="forge-code-") as code:
        _copy_code(Path(code))
        try:
            ray.init(**options, runtime_env={"working_dir": code})
        except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
            where = f"at {RAY_ADDRESS} {address!r}" if address else "on this machine"
            raise UserError(
                f"no Ray can be joined {where} ({first_line(error)}): run `ray start` on this "
                "machine too, of the same version and with the same token (docs/clusters.md)"
            ) from error


def _living_nodes() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _described(nodes: set[str]) -> str:
    import ray

    return (
        f"{_counted(len(nodes), 'node')}, {_counted(int(ray.cluster_resources()['CPU']), 'core')}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _copy_code(folder: Path) -> None:
    """The source of preprocessing, laid out as in the project."""
    without = shutil.ignore_patterns("__pycache__", "*.pyc")
    steps = PROJECT_ROOT / "steps"
    for room in ("config", "papers"):
        shutil.copytree(steps / room, folder / "steps" / room, ignore=without)
    for module in steps.glob("*.py"):
        shutil.copy(module, folder / "steps")
    (folder / "data").mkdir()
    shutil.copy(SHIPPED_LEXICON, folder / "data")


def _of_our_own(settings: ScientificData, stack: ExitStack) -> dict[str, Any]:
    """Options for a Ray on this machine, whose files are removed when `stack` is left."""
    folder = tempfile.mkdtemp(prefix="ray-")
    if len(folder) > LONGEST_FOLDER:
        shutil.rmtree(folder)
        folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    stack.callback(_remove, Path(folder))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return {
        "address": "local",
        "num_cpus": settings.num_workers or cores_granted(),
        "include_dashboard": False,
        "object_store_memory": max(LEAST_OBJECT_STORE_BYTES, min(OBJECT_STORE_BYTES, memory // 4)),
        "_temp_dir": folder,
    }


def _remove(folder: Path) -> None:
    """Remove the files of a Ray that is ending: its processes write to the last."""
    until = time.monotonic() + CONNECT_SECONDS
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


def _check_address(address: str) -> None:
    """Refuse an address at which nobody answers: Ray itself tries for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UserError(
            f"{RAY_ADDRESS} {address!r}: expected HOST:PORT of the cluster's first node, such as "
            "10.0.0.1:6379, or auto"
        )
    fix = (
        f"start Ray there with `ray start --head --port {port}`, or unset {RAY_ADDRESS} for a Ray "
        "on this machine"
    )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as connection:
            if not os.environ.get("RAY_USE_TLS") and not _speaks_http2(connection):
                raise UserError(f"{RAY_ADDRESS} {address!r}: what answers there is no Ray: {fix}")
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{RAY_ADDRESS} {address!r}: nobody answers there ({error}): {fix}"
        ) from error


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether the other side answers as a gRPC server does: a frame of settings (RFC 9113, 3.4)."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    head = b""
    while len(head) < 9 and (data := connection.recv(9 - len(head))):
        head += data
    return len(head) == 9 and head[3] == 4
