"""Checkpoints on their way to the tracking store, while the training goes on.

    with CheckpointUploads(run) as uploads:
        uploads.submit(folder, step=50, metrics={"validation/bits_per_byte": 1.2})

One thread uploads, one checkpoint after the other, the manifest last: a folder of the store
without it is no checkpoint. An upload that fails costs no training: it is tried again at the
end, and what is still missing then is named in a warning and in the tag
`forge.checkpoint_error`. Each checkpoint becomes a LoggedModel, so that the UI ranks them by
their metrics; the bytes stand once, in the run. Its tags state what they take up, because a
store lists a folder only by a request of its own.
"""

import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from steps.checkpoints.format import MANIFEST, validate_checkpoint
from steps.signals import StoppedAtOnce
from steps.tracking.artifacts import Sent, send
from steps.tracking.names import BYTES_TAG, CHECKPOINT_URI_TAG, CHECKPOINTS_FOLDER, RESUME_ONLY_TAG
from steps.tracking.store import few_retries

if TYPE_CHECKING:
    from steps.tracking.runs import StepRun


# A store that is slower than the saves: more would only wait, and hold local disk.
MAX_WAITING = 4


@dataclass(frozen=True)
class _Upload:
    folder: Path
    step: int
    metrics: Mapping[str, float]


def checkpoint_tags(run_id: str, folder: Path) -> dict[str, str]:
    """The tags of a checkpoint's LoggedModel: where its bytes lie in the store, and how many.

    Raises:
        OSError: The folder is not a whole checkpoint.
    """
    info = validate_checkpoint(folder, hashes=False)
    if isinstance(info, str):
        raise OSError(f"{folder}: {info}")
    listed = sum(entry.bytes for entry in info.files.values())
    resume_only = sum(entry.bytes for entry in info.files.values() if entry.resume_only)
    return {
        CHECKPOINT_URI_TAG: f"runs:/{run_id}/{CHECKPOINTS_FOLDER}/{folder.name}",
        BYTES_TAG: str(listed + (folder / MANIFEST).stat().st_size),
        RESUME_ONLY_TAG: str(resume_only),
    }


class StoreStaysAway(Exception):
    """The store did not come back while an upload waited for it."""


class NoUploads:
    """Stands in for `CheckpointUploads` on a rank that uploads nothing."""

    complete = True

    def __enter__(self) -> "NoUploads":
        """Start nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for nothing."""


class CheckpointUploads:
    """Uploads complete checkpoint folders in the background."""

    def __init__(self, run: "StepRun") -> None:
        """Upload into `run`, once the block is entered."""
        self.run = run
        self._queue: queue.Queue[_Upload | None] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._under_way: set[int] = set()
        self._missed: dict[int, _Upload] = {}
        self._models: dict[int, str] = {}
        self._crash: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="checkpoint-uploads")

    def __enter__(self) -> "CheckpointUploads":
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait until everything is uploaded, unless the run was told to leave at once.

        For a store that is away all waits together take the run's patience, once.
        """
        if isinstance(error, StoppedAtOnce):
            return
        self.run.spool.deadline = time.monotonic() + self.run.patience
        self._queue.put(None)
        self._thread.join()
        for upload in list(self._missed.values()):
            # The local copy may have been rotated away by newer ones.
            if upload.folder.is_dir():
                self._try(upload)
        for here in (True, False):
            missed = [step for step in sorted(self._missed) if self._is_here(step) == here]
            if missed:
                steps = ", ".join(f"checkpoint-{step}" for step in missed)
                where = "on the local disk only" if here else "rotated away by newer ones"
                self.warn(f"{steps}: not in the store, {where}")
        if self._crash is not None and error is None:
            raise self._crash

    def _is_here(self, step: int) -> bool:
        return self._missed[step].folder.is_dir()

    def submit(self, folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Upload a checkpoint soon; given again for a step, only its metrics are added."""
        upload = _Upload(folder, step, dict(metrics))
        with self._lock:
            self._under_way.add(step)
        try:
            self._queue.put_nowait(upload)
        except queue.Full:
            with self._lock:
                self._under_way.discard(step)
            self._missed[step] = upload
            logging.getLogger("steps").warning(
                "checkpoint-%d stays on the local disk for now: %d uploads are waiting already",
                step,
                MAX_WAITING,
            )

    @property
    def complete(self) -> bool:
        """Whether the store has all that was submitted, once the block has ended."""
        return not self._missed

    def under_way(self) -> set[int]:
        """Steps whose folders are still being read."""
        with self._lock:
            return set(self._under_way)

    def warn(self, reason: str) -> None:
        """Warn, and leave the reason in the run, where the store can be reached."""
        from mlflow.exceptions import MlflowException

        logging.getLogger("steps").warning("%s", reason)
        try:
            with few_retries():
                self.run.tag(checkpoint_error=reason)
        except (MlflowException, OSError) as error:
            logging.getLogger("steps").info("the run could not be tagged: %s", error)

    def _work(self) -> None:
        while (upload := self._queue.get()) is not None:
            try:
                self._try(upload)
            except BaseException as error:
                # A bug: raised where the run ends, because a thread has nobody to tell.
                self._crash = error
                self._missed[upload.step] = upload
            with self._lock:
                self._under_way.discard(upload.step)

    def _try(self, upload: _Upload) -> None:
        from mlflow.exceptions import MlflowException

        try:
            # While the store is away, a checkpoint waits on the local disk like all the rest; and
            # the metrics that rank it have to be there first.
            if not self.run.spool.flush(self.run.patience):
                raise StoreStaysAway(self.run.spool.last_error or "no answer")
            if upload.step not in self._models:
                tags = checkpoint_tags(self.run.id, upload.folder)
                self._upload_files(upload)
                self._models[upload.step] = self._log_model(upload, tags)
            self._rank(upload)
            # A later submission of the same step may have found the queue full.
            if self._missed.get(upload.step) is upload:
                del self._missed[upload.step]
        except StoreStaysAway as error:
            self._missed[upload.step] = upload
            # No tag: it would wait for the same store.
            logging.getLogger("steps").warning(
                "checkpoint-%d waits for the store, which is away (%s)", upload.step, error
            )
        except (MlflowException, OSError) as error:
            self._missed[upload.step] = upload
            self.warn(f"checkpoint-{upload.step} could not be uploaded: {error}")

    def _upload_files(self, upload: _Upload) -> None:
        files = [p for p in sorted(upload.folder.rglob("*")) if p.is_file() and p.name != MANIFEST]
        # The manifest last: a folder of the store without it is no checkpoint.
        for together in (files, [upload.folder / MANIFEST]):
            given: list[Sent] = []
            for file in together:
                inside = file.parent.relative_to(upload.folder.parent).as_posix()
                given.append((file, f"{CHECKPOINTS_FOLDER}/{inside}"))
            send(self.run.client, self.run.id, given)

    def _log_model(self, upload: _Upload, tags: Mapping[str, str]) -> str:
        from mlflow.entities import LoggedModelOutput

        model = self.run.client.create_logged_model(
            self.run.experiment_id,
            name=f"checkpoint-{upload.step}",
            source_run_id=self.run.id,
            tags={**tags, "mlflow.model.isExternal": "true"},
            params={"step": str(upload.step)},
            model_type="checkpoint",
        )
        self.run.client.finalize_logged_model(model.model_id, "READY")
        self.run.client.log_outputs(self.run.id, [LoggedModelOutput(model.model_id, upload.step)])
        return str(model.model_id)

    def _rank(self, upload: _Upload) -> None:
        """Give the LoggedModel its metrics, as the very points that the run has.

        The store takes a point of the same name, step, time and value for the same one, so the
        run's charts show no step twice.
        """
        from mlflow.entities import Metric

        points: list[Metric] = []
        for name, value in upload.metrics.items():
            history = self.run.client.get_metric_history(self.run.id, name)
            points.extend(
                Metric(name, p.value, p.timestamp, p.step, model_id=self._models[upload.step])
                for p in history
                if p.step == upload.step and p.value == value
            )
        if points:
            self.run.client.log_batch(self.run.id, metrics=points)
