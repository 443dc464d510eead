"""The trials of a sweep in the store: found again, watched while they train, and ended early.

A trial is a finetune run nested under the sweep's. One that has finished is found by its cache
key, as `main` finds a step's result. One that was stopped, or that would fail in the same way
again, carries that key in a tag of its own.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from steps.tracking.heartbeat import process_of
from steps.tracking.names import (
    ERROR_TYPE_TAG,
    STEP_TAG,
    STOPPED,
    TRIAL_KEY_TAG,
    TRIAL_STATE_TAG,
)
from steps.tracking.runs import StepRun
from steps.tracking.store import metric_by_step, reason, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

# Between two looks at a trial's validations: a fraction of what a validation takes.
POLL_SECONDS = 2.0

# Errors that the same values would meet again.
SAME_AGAIN = ("TrainingDiverged", "OutOfMemory")


def validation_history(client: "MlflowClient", run_id: str, metric: str) -> list[float]:
    """A metric of a run at each of its validations, in their order.

    Of that before the first step nothing depends.
    """
    points = metric_by_step(client, run_id, metric)
    return [value for step, value in points.items() if step > 0]


def find_ended(client: "MlflowClient", experiment_id: str, key: str) -> "Run | None":
    """The newest trial with this key that did not reach its end and is not tried again."""
    # Both were set by a sweep of this version, so the quotes are ours.
    query = f"tags.`{STEP_TAG}` = 'finetune' and tags.`{TRIAL_KEY_TAG}` = '{key}'"
    runs = client.search_runs(
        [experiment_id], query, order_by=["attributes.start_time DESC"], max_results=10
    )
    over = [run for run in runs if run.info.status in ("KILLED", "FAILED")]
    return over[0] if over else None


def fails_again(run: "Run") -> bool:
    """Whether a run has met an error that the same values would meet again."""
    return run.data.tags.get(ERROR_TYPE_TAG, "") in SAME_AGAIN


def mark_ended(client: "MlflowClient", run_id: str, key: str, state: str) -> None:
    """Say in a trial's run that it did not reach its end, so that it is not tried again."""
    _tag(client, run_id, {TRIAL_KEY_TAG: key, TRIAL_STATE_TAG: state})


def _tag(client: "MlflowClient", run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags in one request, all or none."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


class TrialWatch:
    """Follows a nested run from a thread, while another waits for its process.

    with TrialWatch(run, "trial 3", tags, "validation/bits_per_byte", key, judge):
        run_nested_step(...)
    """

    def __init__(
        self,
        run: StepRun,
        name: str,
        tags: Mapping[str, str],
        metric: str,
        key: str,
        judge: Callable[[float], bool],
    ) -> None:
        """Watch for a run of this name below another.

        Args:
            run: The sweep's run.
            name: What the trial's run is called.
            tags: What that run is tagged with as soon as it is there.
            metric: Which of its metrics is judged.
            key: The cache key that it would get.
            judge: Asked of each new value; True: end the trial.
        """
        self._run, self._name, self._tags = run, name, tags
        self._metric, self._key, self._judge = metric, key, judge
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"watch of {name}", daemon=True)
        self._judged = 0
        self._condemned = False
        self.run_id: str | None = None

    def __enter__(self) -> "TrialWatch":
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Look no more."""
        self._ended.set()
        if kind is None or issubclass(kind, Exception):
            self._thread.join()
            # A trial may be over before the first look.
            if self.run_id is None:
                with suppress(*store_errors()):
                    self._find()

    def _work(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            try:
                self._look()
            except store_errors() as error:
                # The next look may reach it.
                logging.getLogger("steps").info("no look at %s: %s", self._name, reason(error))

    def _look(self) -> None:
        if self.run_id is None:
            self._find()
            return
        history = validation_history(self._run.client, self.run_id, self._metric)
        for value in history[self._judged :]:
            self._judged += 1
            self._condemned = self._judge(value) or self._condemned
        if self._condemned:
            self._stop()

    def _find(self) -> None:
        client, parent = self._run.client, self._run.id
        query = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.run_name = '{self._name}'"
        for found in client.search_runs([self._run.experiment_id], query, max_results=1):
            _tag(client, found.info.run_id, self._tags)
            self.run_id = found.info.run_id

    def _stop(self) -> None:
        """End the trial as a scheduler would: it finishes its step, saves, and leaves."""
        assert self.run_id is not None
        run = self._run.client.get_run(self.run_id)
        process = process_of(run)
        # With its steps behind it, what is left is cheaper than what it took.
        if process is None or "train/steps" in run.data.metrics:
            return
        # Before the signal: a sweep that is killed in between has said what it did.
        if TRIAL_STATE_TAG not in run.data.tags:
            mark_ended(self._run.client, self.run_id, self._key, STOPPED)
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
