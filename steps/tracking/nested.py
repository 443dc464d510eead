"""Steps that another step starts: each an MLflow project run, nested under the caller's."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow

from steps.config.paths import PROJECT_ROOT
from steps.errors import UserError
from steps.tracking.artifacts import fetch_file
from steps.tracking.credentials import without_credentials
from steps.tracking.names import ERROR_TAG, EXIT_CODE_TAG
from steps.tracking.new_store import from_every_folder
from steps.tracking.runs import StepRun

if TYPE_CHECKING:
    from mlflow.entities import Run


class StepFailed(UserError):
    """A step ended badly: what it said, its exit code, and its run, if it had one."""

    def __init__(self, message: str, exit_code: int, run_id: str | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.run_id = run_id


def run_nested_step(run: StepRun, step: str, name: str, parameters: Mapping[str, str]) -> "Run":
    """Start a step in this environment, and wait for it.

    Args:
        run: The run that it is nested under.
        step: Its entry point in `MLproject`.
        name: What its run is called.
        parameters: Of the entry point.

    Raises:
        StepFailed: It ended with another exit code than 0.
    """
    from mlflow.exceptions import ExecutionException

    if Path.cwd() != PROJECT_ROOT:
        # Where the step runs, `mlflow.db` is another file.
        mlflow.set_tracking_uri(from_every_folder(mlflow.get_tracking_uri()))
    try:
        submitted = mlflow.projects.run(
            uri=str(PROJECT_ROOT),
            entry_point=step,
            parameters=dict(parameters),
            experiment_id=run.experiment_id,
            env_manager="local",
            run_name=name,
        )
    except ExecutionException as error:
        raise _failure(run, name, str(error)) from None
    return run.client.get_run(submitted.run_id)


def _failure(run: StepRun, name: str, message: str) -> StepFailed:
    match = re.search(r"ID '(\w+)'", message)
    if match is None:
        return StepFailed(f"{name} failed: {message}", 1)
    tags = run.client.get_run(match[1]).data.tags
    reason = tags.get(ERROR_TAG, "it left no error message; see its log")
    return StepFailed(
        f"{name} failed (run {match[1]}): {reason}", int(tags.get(EXIT_CODE_TAG, "1")), match[1]
    )


def read_json(run: StepRun, run_id: str, name: str) -> dict[str, Any]:
    """Read a JSON object that another run has left among its artifacts."""
    file = fetch_file(run.client, run_id, name, run.scratch)
    content = json.loads(file.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def tracking_uri() -> str:
    """The store that this process talks to, without user and password."""
    return without_credentials(str(mlflow.get_tracking_uri()))
