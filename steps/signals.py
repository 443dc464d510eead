"""What a training run does when it is asked to end: finish the step, save, then leave.

    with stop_on_signals() as stop:      # a signal raises SystemExit at once
        with stop.deferred():            # here it is noted: stop.requested tells
            with stop.at_once():         # and here, in the midst, it raises StopRequested
                validate()

SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (what SLURM's `--signal=USR1@120` sends ahead of the time
limit) all ask for the same. A second one ends the process without waiting for anything.

A launcher passes signals on: Ctrl-C reaches `mlflow run` as well as the step, and it then
terminates the step; and the kernel tells the step when the launcher has ended (see
`steps.cli.leave_with_the_launcher`). Such echoes are one request, not two.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

# How long after Ctrl-C a SIGTERM may come that is the launcher's way of passing it on.
ECHO_SECONDS = 10.0


class StopRequested(BaseException):
    """Raised inside `StopSignals.at_once` when the run is to end.

    Not an `Exception`: what handles errors on the way must not take it for one.
    """


class StoppedAtOnce(SystemExit):
    """The second signal came: leave without waiting for uploads."""


def exit_code(number: int) -> int:
    """130 for SIGINT (Ctrl-C), 143 for SIGTERM and for SIGUSR1 as well."""
    return 130 if number == signal.SIGINT else 143


@dataclass
class StopSignals:
    """What has been asked of this process.

    Attributes:
        requested: The first signal that came, or None.
    """

    requested: int | None = None
    _requested_at: float = 0.0
    _parent: int = field(default_factory=os.getppid)
    _deferred: bool = False
    _at_once: bool = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note a first signal that comes in this block."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `StopRequested` in this block, now or when a signal comes."""
        if self.requested is not None:
            raise StopRequested
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def receive(self, number: int, _frame: Any = None) -> None:
        """Handle a signal."""
        if self.requested is None:
            self.requested = number
            self._requested_at = time.monotonic()
            self._parent_has_ended()
            if self._at_once:
                raise StopRequested
            if not self._deferred:
                raise SystemExit(exit_code(number))
            return
        if number == signal.SIGTERM and (self._parent_has_ended() or self._echoes_interrupt()):
            return
        if number == self.requested and self._is_recent() and _has_launcher():
            # SLURM and control groups tell every process, and the launcher tells its ranks.
            return
        # A third signal meets the kernel's own handling.
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        raise StoppedAtOnce(exit_code(number))

    def _parent_has_ended(self) -> bool:
        parent = os.getppid()
        ended = parent != self._parent
        self._parent = parent
        return ended

    def _echoes_interrupt(self) -> bool:
        return self.requested == signal.SIGINT and self._is_recent()

    def _is_recent(self) -> bool:
        return time.monotonic() - self._requested_at < ECHO_SECONDS


def _has_launcher() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def stop_on_signals() -> Iterator[StopSignals]:
    """Handle the stop signals until the block ends.

    Outside the main thread, where Python allows no handlers, nothing is ever requested.
    """
    stop = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.receive) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # None: a handler that was not installed from Python.
            signal.signal(number, handler or signal.SIG_DFL)
