"""The run that `mlflow run` has made, before its step has opened it.

run = waiting_run(client, "preprocess", rejoins=False)
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from steps.errors import UserError
from steps.tracking.after_launcher import spawn
from steps.tracking.experiment import is_unplaced
from steps.tracking.names import ERROR_TAG, EXIT_CODE_TAG, MAX_TAG, STEP_TAG
from steps.tracking.store import few_retries, find_run, reason, store_errors, writing_to_store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


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


def waiting_run(client: "MlflowClient", step: str, rejoins: bool) -> "Run | None":
    """The run that MLFLOW_RUN_ID names, which waits for this step to begin; None: it names none.

    Args:
        client: Client of the store.
        step: This step.
        rejoins: One that this step has begun before will do.

    Raises:
        UserError: It is gone, has ended, or a step has begun it already.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return None
    with few_retries(), writing_to_store():
        run = find_run(client, run_id)
    state = why_stale(run)
    if run is not None and (not state or (rejoins and _has_begun(run, step))):
        return run
    # Nobody is to write the refusal into that run.
    del os.environ["MLFLOW_RUN_ID"]
    raise UserError(
        f"MLFLOW_RUN_ID names run {run_id}, {state}: unset it, and the step makes a run of its own"
    )


def join(client: "MlflowClient", found: "Run", begun: Mapping[str, str]) -> "Run":
    """Make a run that was found the active one, with the tags that a run has when it begins."""
    import mlflow
    from mlflow.entities import RunTag

    # No child process of ours is to write into this run by accident.
    os.environ.pop("MLFLOW_RUN_ID", None)
    nested = mlflow.active_run() is not None
    mlflow.start_run(found.info.run_id, nested=nested, log_system_metrics=False)
    client.log_batch(found.info.run_id, tags=[RunTag(key, value) for key, value in begun.items()])
    return found


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


@contextmanager
def without_a_run(step: str) -> Iterator[str]:
    """Do something that is to leave no run; the one that `mlflow run` has made for it goes.

    Args:
        step: Name of the entry point, by which the run is known until it is gone.

    Yields:
        The id of that run; "" where there is none.
    """
    run_id, launcher = os.environ.pop("MLFLOW_RUN_ID", ""), os.getppid()
    if not run_id or not _is_ours(run_id, step):
        yield ""
        return
    try:
        yield run_id
    finally:
        spawn("delete", run_id, launcher)


def _is_ours(run_id: str, step: str) -> bool:
    """Whether a run waits for a step to begin; if so it is tagged as this one's."""
    import mlflow

    client = mlflow.MlflowClient()
    with few_retries(), suppress(*store_errors()):
        # A variable that was left over may name any other run.
        run = find_run(client, run_id)
        if run is not None and not why_stale(run):
            client.set_tag(run_id, STEP_TAG, step)
            if is_unplaced(client, run):
                # The configuration names the experiment, as for a step that makes a run.
                os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
            return True
    return False
