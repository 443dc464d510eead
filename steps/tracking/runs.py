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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps import outcome
from steps.cache_folder import cache_folder, make_cache_folder
from steps.config.sections import Training
from steps.errors import UserError
from steps.terminal import logging_to, say
from steps.tracking.after_launcher import spawn
from steps.tracking.artifacts import Sent, remember, repository_of
from steps.tracking.credentials import without_credentials
from steps.tracking.experiment import (
    PARENT_RUN_TAG,
    label_of,
    leave_default,
    take_over,
    waits_in_default,
)
from steps.tracking.heartbeat import heartbeat, sign_of_this_process
from steps.tracking.leftovers import scratch_folder, tidy
from steps.tracking.names import (
    CACHE_PARTS_TAG,
    ERROR_TAG,
    HEARTBEAT_TAG,
    MAX_TAG,
    STEP_TAG,
)
from steps.tracking.registry.naming import check_names
from steps.tracking.spool import Spool, StoreAway
from steps.tracking.store import (
    StoreUnusable,
    connect,
    few_retries,
    reason,
    store_errors,
    writing_to_store,
)
from steps.tracking.together import Waiting
from steps.tracking.waiting_runs import join, waiting_run

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


MAX_PARAM = 6000
# By it the UI finds the tables that it can show; MLflow names it.
LOGGED_TABLES_TAG = "mlflow.loggedArtifacts"
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
        moved_from: The run that it made in "Default", and that the step has left; or None.
        label: What its name begins with; "": its user has named it, and the name stays.
        may_be_rejoined: Whether a process of this step may have begun the run before this one.
        taken_params: Parameters that it had when it was opened; None: they are not known.
    """

    id: str
    experiment_id: str
    client: "MlflowClient"
    scratch: Path
    spool: Spool
    patience: float
    launcher: int | None = None
    moved_from: str | None = None
    label: str = ""
    may_be_rejoined: bool = True
    taken_params: frozenset[str] | None = None
    _waiting: Waiting = field(default_factory=Waiting)

    def present(self, subject: str, lines: Iterable[str]) -> None:
        """Name the run for people, unless its user has done so, and describe it.

        Args:
            subject: What the run is about: "52 papers".
            lines: Of the description, in Markdown.
        """
        from mlflow.entities import RunTag

        text = "\n".join(f"- {line}" for line in lines)
        name = [RunTag("mlflow.runName", f"{self.label} · {subject}")] if self.label else []
        self._write(tags=[*name, RunTag("mlflow.note.content", text[:MAX_TAG])])

    def tag(self, **tags: str | None) -> None:
        """Set `forge.*` tags in one request; a None or an empty text is left out."""
        from mlflow.entities import RunTag

        given = [RunTag(f"forge.{k}", str(v)[:MAX_TAG]) for k, v in tags.items() if v]
        self._write(tags=given)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the parameters that the run does not have yet; a text too long for the store is cut.

        A value that is no text is written as JSON (null, true, [1, 2]), so that two runs that
        differ in it can be compared. One that `mlflow run` has logged already stays as it is.
        """
        from mlflow.entities import Param

        taken = self.taken_params
        if taken is None:
            taken = frozenset(self.client.get_run(self.id).data.params)
        params = [Param(key, _as_text(v)) for key, v in values.items() if key not in taken]
        self._write(params=params)

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
        self._write(metrics=batch)

    def tables(self, frames: "Mapping[str, pd.DataFrame]") -> None:
        """Log all tables of a run, by their paths, as JSON that the UI shows; none without rows.

        As `log_table` does, which asks the store seven times for each.
        """
        from mlflow.entities import RunTag

        shown = {name: frame for name, frame in frames.items() if len(frame)}
        for name, frame in shown.items():
            file = self.scratch / name
            file.parent.mkdir(parents=True, exist_ok=True)
            frame.to_json(file, orient="split", index=False, date_format="iso")
        self.artifacts([(self.scratch / name, os.path.dirname(name) or None) for name in shown])
        paths = [{"path": name, "type": "table"} for name in shown]
        self._write(tags=[RunTag(LOGGED_TABLES_TAG, json.dumps(paths))])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or a folder with its content, below `folder`.

        Raises:
            StoreUnusable: The artifact store cannot be written.
        """
        self.artifacts([(path, folder or path.name if path.is_dir() else folder)])

    def artifacts(self, given: "Sequence[Sent]") -> None:
        """Log files and the content of folders, several at a time.

        Args:
            given: Each with the folder of the run that it goes to; None: the root.

        Raises:
            StoreUnusable: The artifact store cannot be written.
        """
        self._waiting.files += given
        self._write()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what a block logs into the run at its end, in few requests.

        What it had logged before an error is written too.
        """
        self._waiting.depth += 1
        try:
            yield
        finally:
            self._waiting.depth -= 1
            self._write()

    def _write(self, **given: Any) -> None:
        self._waiting.add(**given)
        if not self._waiting.depth:
            with writing_to_store() if self._waiting.files else nullcontext():
                self._waiting.write(self.client, self.id)


class ReadingRun(StepRun):
    """The run of a step as all of its processes but one see it: they read, and write nothing."""

    def present(self, subject: str, lines: Iterable[str]) -> None:
        """Leave it to the first process."""

    def tag(self, **tags: str | None) -> None:
        """Leave it to the first process."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Leave it to the first process."""

    def metrics(self, values: Mapping[str, float], step: int = 0, **where: str) -> None:
        """Leave it to the first process."""

    def tables(self, frames: "Mapping[str, pd.DataFrame]") -> None:
        """Leave it to the first process."""

    def artifacts(self, given: "Sequence[Sent]") -> None:
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
        UserError: A name in the configuration that no store takes, a run that cannot be joined,
            or a cache that cannot be written.
        StoreUnusable: The store cannot be reached or written.
        StoreAway: The step went well, but the store did not take all of it in time.
    """
    check_names(training)
    make_cache_folder(cache_folder())
    with scratch_folder(step) as scratch:
        log_file = scratch / f"{log_name or step}.log"
        with logging_to(log_file, verbose):
            client = connect(training)
            found = waiting_run(client, step, rejoins)
            files = scratch / "files"
            run = _open_run(step, training, client, files, run_name, "" if ends else PART, found)
            status, tags, patience = "FAILED", {}, run.patience
            try:
                # Before any work: what its files need has to be here.
                repository_of(client, run.id)
                with heartbeat(client, run.id, begun=True) if ends else nullcontext():
                    # Who has started this step did so a moment ago.
                    if ends and not (found and PARENT_RUN_TAG in found.data.tags):
                        tidy(client, run.id, run.experiment_id)
                    yield run
                status = "FINISHED"
            except UserError as error:
                tags = {
                    "error": without_credentials(str(error)),
                    "exit_code": str(error.exit_code),
                    "error_type": type(error).__name__,
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
                if outcome.is_wanted():
                    _note_outcome(run, step, status)


def _note_outcome(run: StepRun, step: str, status: str) -> None:
    """Put what the store knows of a run into the object that `--json` prints."""
    import mlflow

    uri = without_credentials(mlflow.get_tracking_uri())
    outcome.add(step=step, run_id=run.id, experiment_id=run.experiment_id, status=status)
    outcome.add(tracking_uri=uri)
    with few_retries(), suppress(*store_errors()):
        found = run.client.get_run(run.id)
        tags = {
            name.removeprefix("forge."): value
            for name, value in found.data.tags.items()
            if name.startswith("forge.") and name not in (CACHE_PARTS_TAG, ERROR_TAG)
        }
        outcome.add(name=found.info.run_name, artifacts=found.info.artifact_uri)
        outcome.add(tags=tags, metrics=dict(found.data.metrics))


def _open_run(
    step: str,
    training: Training,
    client: "MlflowClient",
    scratch: Path,
    name: str | None,
    part: str,
    found: "Run | None",
) -> StepRun:
    """Join the run that was found, or begin one, with its step and a first sign of life in it."""
    import mlflow

    nested = mlflow.active_run() is not None
    begun = {STEP_TAG: step} | ({} if part else {HEARTBEAT_TAG: sign_of_this_process()})
    waiting = None
    with few_retries(), writing_to_store():
        if found is not None and not part and waits_in_default(client, found, training):
            waiting, found = found, None
            name = leave_default(waiting, training) or name
        if found is not None:
            active = join(client, found, begun)
        else:
            # System metrics are the recorder's: MLflow's own end for good when the store is away
            # once.
            active = mlflow.start_run(
                run_name=name or step, nested=nested, log_system_metrics=False, tags=begun
            )
        remember(client, active)
        run_id, experiment_id = active.info.run_id, active.info.experiment_id
        params = frozenset((found or waiting or active).data.params)
        run = StepRun(
            run_id,
            experiment_id,
            client,
            scratch,
            Spool(cache_folder() / "spool" / f"{run_id}{part}", run_id),
            60 * training.mlflow.spool_minutes,
            launcher=os.getppid() if found or waiting else None,
            moved_from=waiting.info.run_id if waiting else None,
            label=label_of(waiting or active, step, None if waiting else name),
            may_be_rejoined=found is not None and STEP_TAG in found.data.tags,
            taken_params=params,
        )
        if waiting is not None:
            take_over(client, waiting, active)
            say(f"run {run_id} in experiment {training.mlflow.experiment_name!r}")
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
                if run.launcher is not None and run.moved_from is not None:
                    spawn("delete", run.moved_from, run.launcher)
                elif run.launcher is not None and status == "KILLED":
                    spawn("keep-killed", run.id, run.launcher)
                return
        except away as error:
            logging.getLogger(__name__).info("the run's end goes to the spool: %s", reason(error))
        spool.tags({f"forge.{name}": value[:MAX_TAG] for name, value in tags.items()})
        spool.artifact(log_file, "logs")
        if status != "RUNNING":
            spool.status(status)
        sent = False
        # What an artifact store needs here may be missing: the run has to end all the same.
        with suppress(UserError):
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
