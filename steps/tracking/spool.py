"""What a run still has to write, kept on the local disk until the tracking store takes it.

    spool = Spool(folder, run_id)
    spool.metrics({"train/loss": 2.1}, step=5)     # a line in a file: never waits
    spool.flush(600)                               # True once the store has everything

    python -m steps.tracking.spool FOLDER          # sends what a step had to leave behind

Entries are lines of `journal.jsonl`; one background thread sends them in order, metrics in
batches with the times and steps at which they were measured, and notes in `sent` how far it
came. A line may be sent twice (the store took it and its answer was lost): the store knows a
metric by key, time, step and value, so that each still stands there once.

MLflow's own asynchronous logging holds its queue in memory, sends from ten threads in any
order, and drops a batch whose retries are used up with no more than a line in the log.
"""

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from steps.errors import UserError
from steps.terminal import show_error
from steps.tracking.artifacts import send
from steps.tracking.credentials import login_in_environment, without_credentials
from steps.tracking.store import (
    StoreUnusable,
    few_retries,
    reason,
    store_errors,
)

JOURNAL = "journal.jsonl"
SENT = "sent"
RUN = "run.json"
FILES = "files"
# MLflow's limits for one request.
MAX_METRICS = 1000
MAX_PAIRS = 100
# Seconds between requests while the store answers, so that metrics travel in batches.
PAUSE = 2.0
# Longest wait between two attempts while it does not.
LONGEST_PAUSE = 15.0


class StoreAway(StoreUnusable):
    """The tracking store did not come back in time; a spool holds what it lacks."""


class Spool:
    """Entries for one run, on their way to the store.

    Attributes:
        folder: Where they lie; made with the first entry, gone when all are sent.
        run_id: The run they belong to.
        last_error: Why the last attempt failed, in one line, or "".
        deadline: When waiting ends for all who wait (`time.monotonic`), so that several waits for
            one outage are not added up; None: each `flush` waits as long as it says. Gone with
            the outage.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        """Look at a folder; nothing is written or sent yet.

        Args:
            folder: One folder a run. What an earlier process left in it is sent too.
            run_id: The run that the entries belong to.
        """
        self.folder = folder
        self.run_id = run_id
        self.last_error = ""
        self.deadline: float | None = None
        self._refused: Exception | None = None
        self._journal: Any = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._hurry = False
        self._size = _size(folder / JOURNAL)
        self._sent = _read_offset(folder)
        self._changed = threading.Condition()

    @property
    def pending(self) -> bool:
        """Whether anything has not been sent yet."""
        return self._sent < self._size

    @property
    def command(self) -> str:
        """What to type to send the rest later."""
        import mlflow

        uri = without_credentials(mlflow.get_tracking_uri())
        return f"python -m steps.tracking.spool {self.folder} --tracking-uri {uri}"

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Add metrics of one step, measured now."""
        named = {key: float(value) for key, value in values.items()}
        if named:
            self._append({"metrics": named, "step": step, "time": int(time.time() * 1000)})

    def tags(self, values: Mapping[str, str]) -> None:
        """Add tags, under their full names."""
        if values:
            self._append({"tags": dict(values)})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Add a file, or the content of a folder, as it is now.

        It is linked into the spool (or copied, from another file system), so that the caller
        may delete it at once.

        Args:
            path: The file or folder.
            folder: Where it goes in the run; None: the root for a file, its name for a folder.
        """
        payload = f"{FILES}/{time.time_ns()}"
        target = self._made_folder() / payload / path.name
        if path.is_dir():
            shutil.copytree(path, target, copy_function=_link_or_copy)
        else:
            target.parent.mkdir(parents=True)
            _link_or_copy(str(path), str(target))
        where = folder if folder is not None or path.is_file() else path.name
        self._append({"artifact": f"{payload}/{path.name}", "folder": where})

    def status(self, status: str) -> None:
        """Add the end of the run: "FINISHED", "FAILED" or "KILLED", as of now."""
        self._append({"status": status, "time": int(time.time() * 1000)})

    def flush(self, seconds: float) -> bool:
        """Wait until everything is sent.

        Args:
            seconds: Longest wait.

        Returns:
            Whether it is.

        Raises:
            MlflowException: The store refused an entry as wrong (a bug of the caller's).
        """
        end = time.monotonic() + seconds
        if self.deadline is not None:
            end = min(end, self.deadline)
        with self._changed:
            self._hurry = True
            if self.pending:
                self._start()
            self._changed.notify_all()
            while self.pending and self._refused is None:
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._hurry = False
        if self._refused is not None:
            raise self._refused
        if not self.pending:
            self.deadline = None
        return not self.pending

    def close(self) -> None:
        """Stop sending; the folder goes if nothing is left in it."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            # A request under way may hang for minutes; the thread is a daemon and may be left.
            self._thread.join(timeout=5.0)
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if not self.pending:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        self._made_folder()
        with self._changed:
            if self._journal is None:
                self._journal = (self.folder / JOURNAL).open("ab")
                # Half a line of a process that was killed would spoil the next one.
                self._journal.truncate(self._size)
            self._journal.write(line)
            # Into the kernel's hands: a killed process loses nothing.
            self._journal.flush()
            self._size += len(line)
            self._start()

    def _made_folder(self) -> Path:
        if not (self.folder / RUN).is_file():
            # The entries are this user's own business.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / RUN).write_text(json.dumps({"run_id": self.run_id}), encoding="utf-8")
        return self.folder

    def _start(self) -> None:
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        pause = PAUSE
        while not self._stopping:
            try:
                if self.pending:
                    self._send_batch()
                pause = PAUSE
                self.last_error = ""
            except store_errors() as error:
                self.last_error = reason(error)
                if _is_refusal(error):
                    self._give_up(error)
                    return
                logging.getLogger(__name__).info("not sent: %s", self.last_error)
                pause = min(2 * pause, LONGEST_PAUSE)
            except Exception as bug:
                # Raised again by `flush`, in the thread that has somebody to see it.
                self._give_up(bug)
                return
            with self._changed:
                self._changed.notify_all()
                if not (self.pending and self._hurry and not self.last_error):
                    self._changed.wait(pause)

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._refused = error
            self._changed.notify_all()

    def _send_batch(self) -> None:
        entries, end = self._next_entries()
        _send(self.run_id, self.folder, entries)
        _write_offset(self.folder, end)
        with self._changed:
            self._sent = end
        for entry in entries:
            if "artifact" in entry:
                shutil.rmtree((self.folder / entry["artifact"]).parent, ignore_errors=True)

    def _next_entries(self) -> tuple[list[dict[str, Any]], int]:
        """The next entries of one kind that fit one request, and where they end."""
        entries: list[dict[str, Any]] = []
        count = 0
        end = self._sent
        for line in _complete_lines(self.folder / JOURNAL, self._sent):
            entry = json.loads(line)
            count += len(entry.get("metrics", ()))
            mixed = bool(entries) and not ("metrics" in entry and "metrics" in entries[0])
            if mixed or (entries and count > MAX_METRICS):
                break
            entries.append(entry)
            end += len(line)
        return entries, end


def _send(run_id: str, folder: Path, entries: list[dict[str, Any]]) -> None:
    """Send entries: any number of metrics, or one of another kind."""
    import mlflow
    from mlflow.entities import Metric, RunTag

    client = mlflow.MlflowClient()
    first = entries[0]
    if "metrics" in first:
        metrics = [
            Metric(key, value, entry["time"], entry["step"])
            for entry in entries
            for key, value in entry["metrics"].items()
        ]
        for start in range(0, len(metrics), MAX_METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])
    elif "tags" in first:
        tags = [RunTag(key, value) for key, value in first["tags"].items()]
        for start in range(0, len(tags), MAX_PAIRS):
            client.log_batch(run_id, tags=tags[start : start + MAX_PAIRS])
    elif "artifact" in first:
        path = folder / first["artifact"]
        if path.exists():
            send(client, run_id, [(path, first["folder"])])
        # Else a sender before this one had sent it, and was ended before it could note so.
    else:
        client.set_terminated(run_id, first["status"], first["time"])


def _is_refusal(error: Exception) -> bool:
    """Whether the store called an entry itself wrong, so that no later attempt can succeed."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def _complete_lines(file: Path, start: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            # A process that is killed while it writes leaves half a line.
            if line.endswith(b"\n"):
                yield line


def _size(file: Path) -> int:
    """Bytes of the complete lines of a file."""
    return sum(map(len, _complete_lines(file, 0))) if file.is_file() else 0


def _read_offset(folder: Path) -> int:
    file = folder / SENT
    return int(file.read_text(encoding="ascii")) if file.is_file() else 0


def _write_offset(folder: Path, offset: int) -> None:
    staging = folder / f"{SENT}.new"
    staging.write_text(str(offset), encoding="ascii")
    staging.replace(folder / SENT)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def open_spool(folder: Path) -> Spool:
    """Open the spool that a step left behind.

    Raises:
        UserError: The folder is none.
    """
    if not (folder / RUN).is_file():
        raise UserError(
            f"{folder} is not a spool (it has no {RUN}): give the folder that the step named"
        )
    content = json.loads((folder / RUN).read_text(encoding="utf-8"))
    return Spool(folder, content["run_id"])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--tracking-uri", default=None, help="Store; else MLFLOW_TRACKING_URI.")
@click.option("--minutes", default=1.0, show_default=True, help="Longest wait for the store.")
def main(folder: Path, tracking_uri: str | None, minutes: float) -> None:
    """Send what a step had to leave behind in FOLDER, and remove the folder."""
    try:
        spool = open_spool(folder)
        import mlflow

        if tracking_uri:
            mlflow.set_tracking_uri(login_in_environment(tracking_uri))
        with few_retries():
            sent = spool.flush(60 * minutes)
            spool.close()
        if not sent:
            raise StoreAway(
                f"the tracking store {without_credentials(mlflow.get_tracking_uri())} did not take "
                f"the rest of {folder} "
                f"within {minutes:g} minutes ({spool.last_error}): try again later"
            )
    except UserError as error:
        show_error(str(error))
        sys.exit(error.exit_code)
    click.echo(f"run {spool.run_id} is complete in the store; {folder} is gone")


if __name__ == "__main__":
    main()
