"""How far a piece of work is: bars on a terminal, elsewhere a plain line now and then."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Self

import click
from tqdm import tqdm

from steps.terminal import is_plain, is_speaking, note_in_log

# What is done within this time is not worth a line of its own.
SECONDS_WORTH_A_LINE = 2.0
SECONDS_BETWEEN_LINES = 15.0

_subject: ContextVar[str] = ContextVar("subject", default="")


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Let the bars within say what they are about: the base, or which model."""
    token = _subject.set(subject)
    try:
        yield
    finally:
        _subject.reset(token)


def _of_subject(what: str) -> str:
    subject = _subject.get()
    return f"{subject}: {what}" if subject else what


class ProgressLine:
    """A piece of work that is under way; of several ranks the first shows it.

    Attributes:
        done: Units that are done.
        total: Units in all; None where that is not known.
    """

    def __init__(self, what: str, unit: str, *, total: int | None = None, done: int = 0) -> None:
        """Begin.

        Args:
            what: What is being done, such as "scoring papers".
            unit: What is counted, such as "tokens"; "B" for bytes.
            total: Units in all, where that is known yet.
            done: Units that an earlier process has done.
        """
        self.what = _of_subject(what)
        self.done, self.total, self._first = done, total, done
        # Of thousands of tokens nobody reads the last digits.
        scaled = unit in ("tokens", "B")
        self._format = {"unit": unit if unit == "B" else f" {unit}", "unit_scale": scaled}
        self._note = ""
        self._began = time.monotonic()
        self._said_at = self._began
        self._is_shown = is_speaking()
        self._bar: tqdm[None] | None = None
        if self._is_shown and not is_plain():
            self._bar = tqdm(desc=self.what, total=total, initial=done, **self._format)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End; where an error ends the work, its line says enough."""
        if error is None:
            self.close()
            return
        if self._bar is not None:
            self._bar.leave = False
            self._bar.close()
        self._is_shown = False

    def show(self, done: int, total: int | None = None, *, note: str = "", what: str = "") -> None:
        """Say how far it is.

        Args:
            done: Units that are done.
            total: Units in all; None: as before.
            note: What else is worth knowing now.
            what: Another name for what is being done.
        """
        self.total = self.total if total is None else total
        self.what = _of_subject(what) if what else self.what
        self._note = note or self._note
        bar = self._bar
        if bar is not None:
            bar.total = self.total
            bar.set_description_str(self.what, refresh=False)
            bar.set_postfix_str(self._note, refresh=False)
            bar.update(done - self.done)
        self.done = done
        waited = time.monotonic() - self._said_at
        if self._is_shown and bar is None and waited >= SECONDS_BETWEEN_LINES:
            self._said_at = time.monotonic()
            _say(str(self))

    def stage(self, what: str, done: int) -> None:
        """Say how far a stage of the work is.

        Args:
            what: The stage.
            done: Its units that are done.
        """
        self.show(done, what=what)

    def close(self) -> None:
        """End: the last state stays on the terminal, and goes to the log of the run."""
        if not self._is_shown:
            return
        if self._bar is not None:
            self._bar.close()
            note_in_log(str(self))
        elif time.monotonic() - self._began >= SECONDS_WORTH_A_LINE:
            _say(str(self))
        self._is_shown = False

    def __str__(self) -> str:
        """The state as one line: what is done of how much, the time so far and what is left."""
        return str(
            tqdm.format_meter(
                self.done,
                self.total,
                time.monotonic() - self._began,
                # No bar.
                ncols=0,
                prefix=self.what,
                postfix=self._note,
                initial=self._first,
                **self._format,
            )
        )


def _say(line: str) -> None:
    click.echo(line, err=True)
    note_in_log(line)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Count the seconds of a wait whose length nobody knows; an error says enough by itself."""
    began, over = time.monotonic(), threading.Event()
    line = _of_subject(what)

    def count() -> None:
        with tqdm(desc=line, bar_format="{desc}: {elapsed}", leave=False) as bar:
            while not over.wait(0.5):
                bar.refresh()

    counting = threading.Thread(target=count, daemon=True)
    shown = is_speaking() and not is_plain()
    if shown:
        counting.start()
    try:
        yield
    finally:
        over.set()
        if shown:
            counting.join()
    seconds = time.monotonic() - began
    if is_speaking() and seconds >= SECONDS_WORTH_A_LINE:
        _say(f"{line}: {seconds:.0f} s")
