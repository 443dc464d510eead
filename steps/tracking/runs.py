"""One MLflow run a step: joined or started, its log kept, its end always stated.

    with step_run("preprocess", training, verbose=False) as run:
        run.client.log_metric(run.id, ...)

However the step ends, the run says so: FINISHED; FAILED with the error as a tag, for bad
input (exit 2) and for bugs (exit 1, traceback in the log); KILLED for a signal.
"""

import logging
import os
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps import config
from steps.errors import UserError
from steps.tracking.store import connect

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.tracking import MlflowClient

# Libraries that talk on the terminal about matters of their own. Their words go to the run's
# log; `--verbose` (or FORGE_VERBOSE) lets them through. Our own words are click's and tqdm's.
NOISY_LOGGERS = (
    "mlflow",
    "alembic",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "DeepSpeed",
    "deepspeed",
    "bitsandbytes",
    "torch",
    "torchao",
    "huggingface_hub",
    "matplotlib",
    "urllib3",
    "evaluate",
    "py.warnings",
    "git",
    "traceback",
)
MAX_TAG = 4000
MAX_PARAM = 6000


@dataclass(frozen=True)
class StepRun:
    """The run of a step that is under way.

    Attributes:
        id: Run id.
        experiment_id: Id of its experiment.
        client: Client of its store.
        scratch: A folder for this step's files, gone when the step ends.
    """

    id: str
    experiment_id: str
    client: "MlflowClient"
    scratch: Path

    def tag(self, **tags: str | None) -> None:
        """Set `forge.*` tags; a None is left out."""
        for name, value in tags.items():
            if value is not None:
                self.client.set_tag(self.id, f"forge.{name}", str(value)[:MAX_TAG])

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, each on its own terms: none is lost for another's clash or length."""
        from mlflow.entities import Param

        taken = self.client.get_run(self.id).data.params
        params = [
            Param(key, str(value)[:MAX_PARAM])
            for key, value in values.items()
            if key not in taken and value is not None
        ]
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
        """Log a file, or a folder with its content, below `folder`."""
        if path.is_dir():
            self.client.log_artifacts(self.id, str(path), folder or path.name)
        else:
            self.client.log_artifact(self.id, str(path), folder)


@contextmanager
def step_run(
    step: str, training: config.Training, *, verbose: bool, run_name: str | None = None
) -> Iterator[StepRun]:
    """Open the MLflow run of a step: the one that `mlflow run` made, or a new one.

    Args:
        step: Name of the entry point; becomes the tag `forge.step`.
        training: The configuration (store, experiment).
        verbose: Let the libraries' own messages through to the terminal.
        run_name: Name of a new run.
    """
    import mlflow

    with tempfile.TemporaryDirectory(prefix=f"forge-{step}-") as scratch:
        log_file = Path(scratch) / f"{step}.log"
        with _logging_to(log_file, verbose):
            client = connect(training)
            parent = mlflow.active_run()
            # start_run() takes MLFLOW_RUN_ID from the environment, joins that run and deletes
            # the variable, so that no child process of ours writes into this run by accident.
            joined = os.environ.get("MLFLOW_RUN_ID")
            active = mlflow.start_run(
                run_name=None if joined else (run_name or step), nested=parent is not None
            )
            run = StepRun(
                active.info.run_id, active.info.experiment_id, client, Path(scratch) / "files"
            )
            run.scratch.mkdir()
            run.tag(step=step)
            status = "FAILED"
            try:
                yield run
                status = "FINISHED"
            except UserError as error:
                run.tag(error=str(error), exit_code=str(error.exit_code))
                raise
            except (KeyboardInterrupt, SystemExit) as error:
                code = error.code if isinstance(error, SystemExit) else 130
                status = "FINISHED" if code in (0, None) else "KILLED"
                run.tag(exit_code=str(code or 0))
                raise
            except BaseException as error:
                # The terminal gets it from Python; this is the copy for the run.
                logging.getLogger("traceback").error("%s", traceback.format_exc())
                run.tag(error=f"{type(error).__name__}: {error}", exit_code="1")
                raise
            finally:
                _upload_log(run, log_file)
                mlflow.end_run(status)


def tag_failure(run_id: str, error: str, exit_code: int) -> None:
    """Say in a run why its step ended, where the step could not open the run itself."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    try:
        client.set_tag(run_id, "forge.error", error[:MAX_TAG])
        client.set_tag(run_id, "forge.exit_code", str(exit_code))
    except MlflowException:
        # The store itself may be what is wrong; the error is on the terminal either way.
        logging.getLogger("steps").warning("run %s could not be tagged", run_id)


def _upload_log(run: StepRun, log_file: Path) -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()
    run.artifact(log_file, "logs")


@contextmanager
def _logging_to(log_file: Path, verbose: bool) -> Iterator[None]:
    """Send every library's messages to a file, and only a verbose step's to the terminal."""
    root = logging.getLogger()
    to_file = logging.FileHandler(log_file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    to_terminal = logging.StreamHandler()
    to_terminal.addFilter(lambda record: verbose or not _is_noise(record.name))
    to_terminal.setLevel(logging.WARNING)
    before = root.level
    root.setLevel(logging.INFO)
    root.addHandler(to_file)
    root.addHandler(to_terminal)
    logging.captureWarnings(True)
    quieten_handlers()
    quieten_progress_bars()
    # DeepSpeed installs its handler and warns in one go, when it is imported.
    deepspeed = logging.getLogger("DeepSpeed")

    def divert(record: logging.LogRecord) -> bool:
        to_file.handle(record)
        return verbose

    deepspeed.addFilter(divert)
    try:
        yield
    finally:
        deepspeed.removeFilter(divert)
        root.setLevel(before)
        root.removeHandler(to_file)
        root.removeHandler(to_terminal)
        to_file.close()


def quieten_handlers() -> None:
    """Take away the handlers that libraries put on their own loggers; the root's remain.

    Called again after a heavy import: a library installs its handler when it is imported.
    """
    for name in NOISY_LOGGERS:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and not isinstance(
                handler, logging.FileHandler
            ):
                logger.removeHandler(handler)
        logger.propagate = True


def quieten_progress_bars() -> None:
    """Switch off the bars of libraries; the steps show their own."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def _is_noise(name: str) -> bool:
    return any(name == noisy or name.startswith(f"{noisy}.") for noisy in NOISY_LOGGERS)
