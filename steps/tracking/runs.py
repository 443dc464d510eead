"""One MLflow run a step: joined or started, its log kept, its end always stated.

    with step_run("preprocess", training, verbose=False) as run:
        run.client.log_metric(run.id, ...)

However the step ends, the run says so: FINISHED; FAILED with the error as a tag, for bad
input (exit 2) and for bugs (exit 1, traceback in the log); KILLED for a signal. If the
store is away at the end, what it lacks stays in a spool on the local disk (see
`steps.tracking.spool`), and the step says how to send it.
"""

import json
import logging
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.errors import UserError
from steps.terminal import logging_to
from steps.tracking.credentials import without_credentials
from steps.tracking.heartbeat import heartbeat
from steps.tracking.keep_killed import spawn_status_keeper
from steps.tracking.leftovers import scratch_folder, tidy
from steps.tracking.names import ERROR_TAG, EXIT_CODE_TAG, STEP_TAG
from steps.tracking.registry.naming import check_names
from steps.tracking.spool import Spool, StoreAway
from steps.tracking.store import (
    StoreUnusable,
    connect,
    few_retries,
    find_run,
    reason,
    store_errors,
    writing_to_store,
)

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


MAX_TAG = 4000
MAX_PARAM = 6000
CUT_OFF = "… (whole in config.yaml)"

# Marks the spool of a process that joins a run and does not end it.
PART = "-part"

# A step that was told to end has no minutes to wait for the store.
SECONDS_WHEN_INTERRUPTED = 5.0


@dataclass(frozen=True)
class StepRun:
    """The run of a step that is under way.

    Attributes:
        id: Run id.
        experiment_id: Id of its experiment.
        client: Client of its store.
        scratch: A folder for this step's files, gone when the step ends.
        spool: What the store has not taken yet.
        patience: Seconds to wait for a store that is away.
        launcher: Process id of the `mlflow run` that started the step; None: none did.
    """

    id: str
    experiment_id: str
    client: "MlflowClient"
    scratch: Path
    spool: Spool
    patience: float
    launcher: int | None = None

    def tag(self, **tags: str | None) -> None:
        """Set `forge.*` tags in one request; a None or an empty text is left out."""
        from mlflow.entities import RunTag

        given = [RunTag(f"forge.{k}", str(v)[:MAX_TAG]) for k, v in tags.items() if v]
        if given:
            self.client.log_batch(self.id, tags=given)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the parameters that the run does not have yet; a text too long for the store is cut.

        A value that is no text is written as JSON (null, true, [1, 2]), so that two runs that
        differ in it can be compared. One that `mlflow run` has logged already stays as it is.
        """
        from mlflow.entities import Param

        taken = self.client.get_run(self.id).data.params
        params = [Param(key, _as_text(v)) for key, v in values.items() if key not in taken]
        for start in range(0, len(params), 100):
            self.client.log_batch(self.id, params=params[start : start + 100])

    def metrics(self, values: Mapping[str, float], step: int = 0, **where: str) -> None:
        """Log metrics that are finite numbers, in one batch.

        Args:
            values: By full name.
            step: Optimiser step they belong to.
            **where: `model_id`, `dataset_name`, `dataset_digest` as MLflow knows them.
        """
        import math
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [
            Metric(key, float(value), now, step, **where)
            for key, value in values.items()
            if math.isfinite(value)
        ]
        for start in range(0, len(batch), 1000):
            self.client.log_batch(self.id, metrics=batch[start : start + 1000])

    def table(self, name: str, frame: "pd.DataFrame") -> None:
        """Log a table as JSON that the UI shows; one without rows is left out."""
        if len(frame):
            self.client.log_table(self.id, frame, name)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or a folder with its content, below `folder`.

        Raises:
            StoreUnusable: The artifact store cannot be written.
        """
        with writing_to_store():
            if path.is_dir():
                self.client.log_artifacts(self.id, str(path), folder or path.name)
            else:
                self.client.log_artifact(self.id, str(path), folder)


class ReadingRun(StepRun):
    """The run of a step as all of its processes but one see it: they read, and write nothing."""

    def tag(self, **tags: str | None) -> None:
        """Leave it to the first process."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Leave it to the first process."""

    def metrics(self, values: Mapping[str, float], step: int = 0, **where: str) -> None:
        """Leave it to the first process."""

    def table(self, name: str, frame: "pd.DataFrame") -> None:
        """Leave it to the first process."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Leave it to the first process."""


@contextmanager
def reading_run(
    step: str, training: Training, run_id: str, experiment_id: str, *, verbose: bool
) -> Iterator[ReadingRun]:
    """Take part in a run that another process of the same step has opened.

    Args:
        step: Name of the entry point.
        training: The configuration (store).
        run_id: The run.
        experiment_id: Its experiment.
        verbose: Let the libraries' own messages through to the terminal.
    """
    with (
        scratch_folder(step) as scratch,
        logging_to(scratch / f"{step}.log", verbose),
    ):
        os.environ["MLFLOW_EXPERIMENT_ID"] = experiment_id
        # As mlflow does with a run that is joined: no child of ours is to write into it.
        os.environ.pop("MLFLOW_RUN_ID", None)
        client = connect(training)
        files = scratch / "files"
        files.mkdir()
        spool = Spool(files / "spool", run_id)
        yield ReadingRun(run_id, experiment_id, client, files, spool, 0.0)


@contextmanager
def step_run(
    step: str,
    training: Training,
    *,
    verbose: bool,
    run_name: str | None = None,
    log_name: str | None = None,
    ends: bool = True,
    rejoins: bool = False,
) -> Iterator[StepRun]:
    """Open the MLflow run of a step: the one that `mlflow run` made, or a new one.

    Args:
        step: Name of the entry point; becomes the tag `forge.step`.
        training: The configuration (store, experiment).
        verbose: Let the libraries' own messages through to the terminal.
        run_name: Name of a new run.
        log_name: Name of its log in the run; None: that of the step.
        ends: False leaves the run open: another process states its end and calls `send_rest`.
        rejoins: The run may be one that this step has begun before, as a rank does.

    Raises:
        UserError: A name in the configuration that no store takes, or a run that cannot be joined.
        StoreUnusable: The store cannot be reached or written.
        StoreAway: The step went well, but the store did not take all of it in time.
    """
    check_names(training)
    with scratch_folder(step) as scratch:
        log_file = scratch / f"{log_name or step}.log"
        with logging_to(log_file, verbose):
            client = connect(training)
            refuse_stale_run(client, step, rejoins)
            files = scratch / "files"
            run = _open_run(step, training, client, files, run_name, "" if ends else PART)
            status, tags, patience = "FAILED", {}, run.patience
            try:
                with heartbeat(client, run.id) if ends else nullcontext():
                    if ends:
                        tidy(client, run.id, run.experiment_id)
                    yield run
                status = "FINISHED"
            except UserError as error:
                tags = {
                    "error": without_credentials(str(error)),
                    "exit_code": str(error.exit_code),
                }
                if isinstance(error, StoreUnusable):
                    patience = 0.0
                raise
            except (KeyboardInterrupt, SystemExit) as error:
                code = error.code if isinstance(error, SystemExit) else 130
                status = "FINISHED" if code in (0, None) else "KILLED"
                tags = {"exit_code": str(code or 0)}
                patience = SECONDS_WHEN_INTERRUPTED
                raise
            except BaseException as error:
                # The terminal gets it from Python; this is the copy for the run.
                logging.getLogger("traceback").error("%s", traceback.format_exc())
                tags = {
                    "error": without_credentials(f"{type(error).__name__}: {error}"),
                    "exit_code": "1",
                }
                raise
            finally:
                if not ends:
                    # What is left in its spool then is sent by the process that ends the run.
                    status, tags, patience = "RUNNING", {}, SECONDS_WHEN_INTERRUPTED
                _close_run(run, log_file, status, tags, patience)


def why_stale(run: "Run | None") -> str:
    """Why a run that MLFLOW_RUN_ID names does not wait for a step; "" where it does.

    `mlflow run` makes a run and hands it on by that variable. One that was left in the environment
    names a run that has ended or is another step's.
    """
    if run is None:
        return "which is not in this tracking store"
    if run.info.lifecycle_stage != "active":
        return "which was deleted"
    if run.info.status not in ("RUNNING", "SCHEDULED"):
        return f"which is {run.info.status}"
    begun = run.data.tags.get(STEP_TAG)
    return f"which the step {begun} has begun already" if begun else ""


def _has_begun(run: "Run", step: str) -> bool:
    active = run.info.lifecycle_stage == "active"
    return active and run.data.tags.get(STEP_TAG) in (None, step)


def refuse_stale_run(client: "MlflowClient", step: str, rejoins: bool) -> None:
    """Refuse a run that MLFLOW_RUN_ID names, unless it waits for this step to begin.

    Args:
        client: Client of the store.
        step: This step.
        rejoins: One that this step has begun before will do.

    Raises:
        UserError: It is gone, has ended, or a step has begun it already.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return
    with few_retries(), writing_to_store():
        run = find_run(client, run_id)
    state = why_stale(run)
    if not state or (rejoins and run is not None and _has_begun(run, step)):
        return
    # Nobody is to write the refusal into that run.
    del os.environ["MLFLOW_RUN_ID"]
    raise UserError(
        f"MLFLOW_RUN_ID names run {run_id}, {state}: unset it, and the step makes a run of its own"
    )


def _open_run(
    step: str,
    training: Training,
    client: "MlflowClient",
    scratch: Path,
    name: str | None,
    part: str,
) -> StepRun:
    import mlflow

    from steps.cache_folder import cache_folder

    nested = mlflow.active_run() is not None
    # start_run() takes MLFLOW_RUN_ID from the environment, joins that run and deletes
    # the variable, so that no child process of ours writes into this run by accident.
    joined = os.environ.get("MLFLOW_RUN_ID")
    with few_retries(), writing_to_store():
        # System metrics are the recorder's: MLflow's own end for good when the store is away once.
        active = mlflow.start_run(
            run_name=None if joined else (name or step), nested=nested, log_system_metrics=False
        )
        run_id = active.info.run_id
        spool = Spool(cache_folder() / "spool" / f"{run_id}{part}", run_id)
        patience = 60 * training.mlflow.spool_minutes
        launcher = os.getppid() if joined else None
        experiment_id = active.info.experiment_id
        run = StepRun(run_id, experiment_id, client, scratch, spool, patience, launcher)
        run.tag(step=step)
    run.scratch.mkdir()
    return run


def send_rest(run: StepRun, patience: float) -> None:
    """Send what a process that had joined a run without ending it has left unsent.

    Args:
        run: The run.
        patience: Seconds to wait for a store that is away.
    """
    rest = Spool(run.spool.folder.with_name(f"{run.id}{PART}"), run.id)
    with few_retries(), suppress(*store_errors()):
        if rest.pending and not rest.flush(patience):
            logging.getLogger("steps").warning("%s", store_away(rest, "the ranks have ended"))
    rest.close()


def _close_run(
    run: StepRun, log_file: Path, status: str, tags: dict[str, str], patience: float
) -> None:
    """Write the end of a step into its run, or into its spool while the store is away.

    Raises:
        StoreAway: The step went well, and the store does not know so.
    """
    import mlflow

    for handler in logging.getLogger().handlers:
        handler.flush()
    spool = run.spool
    with few_retries():
        away: tuple[type[Exception], ...] = (UserError, *store_errors())
        try:
            if not spool.pending:
                run.tag(**tags)
                run.artifact(log_file, "logs")
                mlflow.end_run(status)
                spool.close()
                if status == "KILLED" and run.launcher is not None:
                    spawn_status_keeper(run.id, run.launcher)
                return
        except away as error:
            logging.getLogger(__name__).info("the run's end goes to the spool: %s", reason(error))
        spool.tags({f"forge.{name}": value[:MAX_TAG] for name, value in tags.items()})
        spool.artifact(log_file, "logs")
        if status != "RUNNING":
            spool.status(status)
        sent = spool.flush(patience)
        spool.close()
        # Takes the run off MLflow's stack even where the store does not hear of it.
        with suppress(*store_errors()):
            mlflow.end_run(status)
    if sent:
        return
    if status == "FINISHED":
        raise store_away(spool, "the step is done")
    logging.getLogger("steps").warning("%s", store_away(spool, "the step ended"))


def store_away(spool: Spool, state: str) -> StoreAway:
    """The one line about a store that did not come back: where things are, and what to do."""
    import mlflow

    uri = without_credentials(mlflow.get_tracking_uri())
    why = spool.last_error or "no answer yet"
    return StoreAway(
        f"{state}, but the tracking store {uri} is away ({why}): what it lacks of run "
        f"{spool.run_id} lies in {spool.folder}; send it later with `{spool.command}`"
    )


def _as_text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_PARAM else text[: MAX_PARAM - len(CUT_OFF)] + CUT_OFF


def first_error(run: StepRun) -> tuple[str, int] | None:
    """The error and the exit code that a process of this run has left in it, or None."""
    tags = run.client.get_run(run.id).data.tags
    error = tags.get(ERROR_TAG)
    return None if error is None else (error, int(tags.get(EXIT_CODE_TAG, "1")))


def forget_error(run: StepRun) -> None:
    """Take an earlier attempt's error out of the run."""
    tags = run.client.get_run(run.id).data.tags
    for name in (ERROR_TAG, EXIT_CODE_TAG):
        if name in tags:
            run.client.delete_tag(run.id, name)


def delete_waiting_run(run_id: str) -> str:
    """Delete a run that holds what must not be stored; says so, and how to remove the rest.

    Only one that `mlflow run` has just made: a variable that was left over may name any other.
    """
    import mlflow

    client = mlflow.MlflowClient()
    try:
        with few_retries():
            if why_stale(find_run(client, run_id)):
                return ""
            client.delete_run(run_id)
    except store_errors() as error:
        return f"; run {run_id} holds it and could not be deleted ({reason(error)})"
    return (
        f"; run {run_id}, which held it, is deleted, and `mlflow gc --run-ids {run_id}` takes it "
        "off the disk"
    )


def tag_waiting_run(run_id: str, error: str, exit_code: int) -> None:
    """Say in the run that `mlflow run` has made why its step ended before it joined it."""
    import mlflow

    with suppress(*store_errors()), few_retries():
        if not why_stale(find_run(mlflow.MlflowClient(), run_id)):
            tag_failure(run_id, error, exit_code)


def tag_failure(run_id: str, error: str, exit_code: int) -> None:
    """Say in a run why its step ended, where the step could not open the run itself."""
    import mlflow

    client = mlflow.MlflowClient()
    try:
        with few_retries():
            client.set_tag(run_id, ERROR_TAG, error[:MAX_TAG])
            client.set_tag(run_id, EXIT_CODE_TAG, str(exit_code))
    except store_errors():
        # The store itself may be what is wrong; the error is on the terminal either way.
        logging.getLogger("steps").warning("run %s could not be tagged", run_id)
