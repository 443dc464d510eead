"""Signs of life: by them a killed run, RUNNING in the store for ever, is known from a living one.

with heartbeat(client, run_id):
    train()
sign_of_life(client.get_run(run_id))     # "" or why the run counts as living
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from steps.tracking.names import HEARTBEAT_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

BEAT_SECONDS = 30.0
# Several beats: a store that was slow for a minute kills nobody.
STALE_SECONDS = 150.0
DEAD_SECONDS = 24 * 3600.0
POLL_SECONDS = 2.0


@contextmanager
def heartbeat(
    client: "MlflowClient", run_id: str, seconds: float = BEAT_SECONDS, *, begun: bool = False
) -> Iterator[None]:
    """Keep writing `forge.heartbeat` into a run, from a thread, until the block ends.

    Args:
        client: Client of the store.
        run_id: The run.
        seconds: Between two signs.
        begun: The first one stands there already.
    """
    ended = threading.Event()

    def beat() -> None:
        from mlflow.exceptions import MlflowException

        while not ended.wait(seconds):
            try:
                client.set_tag(run_id, HEARTBEAT_TAG, sign_of_this_process())
            except (MlflowException, OSError) as error:
                # The store is away; the next beat may reach it.
                logging.getLogger("steps").info("heartbeat missed: %s", error)

    if not begun:
        client.set_tag(run_id, HEARTBEAT_TAG, sign_of_this_process())
    threading.Thread(target=beat, daemon=True, name="heartbeat").start()
    try:
        yield
    finally:
        ended.set()


def sign_of_life(run: "Run") -> str:
    """Say why a run counts as living, or "" where it does not.

    The one definition: resuming and pruning both go by it. On the machine that it ran on, its
    process tells; elsewhere, how old the last sign is.
    """
    if run.info.status not in ("RUNNING", "SCHEDULED"):
        return ""
    sign = _sign_in(run)
    if sign is not None and _is_of_this_machine(sign):
        if _process_started(sign.pid) != sign.process_started:
            return ""
        return f"its process {sign.pid} is alive on this machine"
    age = time.time() - last_sign(run)
    if age >= STALE_SECONDS:
        return ""
    if sign is None:
        return f"it was started {age:.0f} s ago"
    return f"it gave a sign of life {age:.0f} s ago, from {sign.host}"


def process_of(run: "Run") -> int | None:
    """The process of a running run, if it is one of this machine; the launcher's, of several."""
    sign = _sign_in(run)
    if run.info.status != "RUNNING" or sign is None or not _is_of_this_machine(sign):
        return None
    return sign.pid if _process_started(sign.pid) == sign.process_started else None


def is_provably_dead(run: "Run") -> bool:
    """Whether a run's process is gone: on this machine by its number, elsewhere after a day.

    A training whose store is away for hours gives no sign either, and is not dead.
    """
    sign = _sign_in(run)
    if sign is None or sign_of_life(run):
        return False
    return _is_of_this_machine(sign) or time.time() - last_sign(run) >= DEAD_SECONDS


def sign_of_life_awaited(client: "MlflowClient", run: "Run", say: Callable[[str], None]) -> str:
    """Like `sign_of_life`, but where only its age speaks for a run, wait for the next one.

    A run that was killed elsewhere a moment ago looks alive for `STALE_SECONDS`: whoever asks
    so soon (a scheduler that has requeued the job on another machine) would take it for living,
    and begin from nothing.

    Args:
        client: Client of the store.
        run: The run, as the store had it a moment ago.
        say: Told, in one line, where it takes a wait.
    """
    first, life = last_sign(run), sign_of_life(run)
    sign = _sign_in(run)
    if not life or sign is None or _is_of_this_machine(sign):
        return life
    say(f"run {run.info.run_id}: {life}: waiting for another, or until {STALE_SECONDS:.0f} s pass")
    while life and last_sign(run) == first:
        time.sleep(POLL_SECONDS)
        run = client.get_run(run.info.run_id)
        life = sign_of_life(run)
    return life


def last_sign(run: "Run") -> float:
    """When a run last gave a sign of life: its heartbeat, start or end, in Unix seconds."""
    sign = _sign_in(run)
    first = sign.time if sign else (run.info.start_time or 0) / 1000
    return max(first, (run.info.end_time or 0) / 1000)


class _Sign(msgspec.Struct, frozen=True):
    """What the tag holds: when, and by which process of which machine."""

    time: float
    host: str
    pid: int
    process_started: float
    # Containers on the host's network share its name and not its processes.
    process_space: int | None = None


def _sign_in(run: "Run") -> _Sign | None:
    """The sign that a run's tag holds; None: there is none, or somebody has spoilt it."""
    try:
        return msgspec.json.decode(run.data.tags.get(HEARTBEAT_TAG, ""), type=_Sign)
    except msgspec.MsgspecError:
        return None


def _is_of_this_machine(sign: _Sign) -> bool:
    return sign.host == socket.gethostname() and sign.process_space == _process_space()


def sign_of_this_process() -> str:
    """A sign of life, as the tag holds it."""
    pid = os.getpid()
    started = _process_started(pid)
    assert started is not None, pid
    now = round(time.time(), 1)
    sign = _Sign(now, socket.gethostname(), pid, started, _process_space())
    return msgspec.json.encode(sign).decode()


def _process_space() -> int | None:
    """Which processes this one sees: the same number, the same ones; None: it cannot be told."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def _process_started(pid: int) -> float | None:
    """When a process began, so that a later one of the same number is not taken for it.

    In seconds after the machine's boot: the time of day of it moves when the clock is set.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(round(process.create_time() - psutil.boot_time(), 2))
    except psutil.NoSuchProcess:
        return None
