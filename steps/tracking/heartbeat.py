"""Signs of life: how a killed run, still RUNNING in the store, is told from a living one.

with heartbeat(run):
    train()
sign_of_life(client.get_run(run_id))     # "" or why the run counts as living
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run

    from steps.tracking.runs import StepRun

TAG = "forge.heartbeat"
BEAT_SECONDS = 30.0
# Several beats: a store that was slow for a minute kills nobody.
STALE_SECONDS = 150.0


@contextmanager
def heartbeat(run: "StepRun", seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Keep writing `forge.heartbeat` into a run, from a thread, until the block ends."""
    ended = threading.Event()

    def beat() -> None:
        from mlflow.exceptions import MlflowException

        while not ended.wait(seconds):
            try:
                run.client.set_tag(run.id, TAG, _sign())
            except (MlflowException, OSError) as error:
                # The store is away; the next beat may reach it.
                logging.getLogger("steps").info("heartbeat missed: %s", error)

    run.client.set_tag(run.id, TAG, _sign())
    threading.Thread(target=beat, daemon=True, name="heartbeat").start()
    try:
        yield
    finally:
        ended.set()


def sign_of_life(run: "Run") -> str:
    """Say why a run counts as living, or "" where it does not.

    On the machine that it ran on, its process tells; elsewhere, how old the last sign is.
    """
    if run.info.status not in ("RUNNING", "SCHEDULED"):
        return ""
    content = run.data.tags.get(TAG)
    if content is None:
        age = time.time() - run.info.start_time / 1000
        return f"it was started {age:.0f} s ago" if age < STALE_SECONDS else ""
    sign = json.loads(content)
    age = time.time() - sign["time"]
    if sign["host"] == socket.gethostname():
        if _process_started(sign["pid"]) != sign["process_started"]:
            return ""
        return f"its process {sign['pid']} is alive on this machine"
    if age >= STALE_SECONDS:
        return ""
    return f"it gave a sign of life {age:.0f} s ago, from {sign['host']}"


def _sign() -> str:
    pid = os.getpid()
    sign = {
        "time": round(time.time(), 1),
        "host": socket.gethostname(),
        "pid": pid,
        "process_started": _process_started(pid),
    }
    return json.dumps(sign)


def _process_started(pid: int) -> float | None:
    """When a process began, so that a later one of the same number is not taken for it."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return None
