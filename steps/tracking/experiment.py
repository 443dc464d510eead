"""The experiment that a run lands in, however its step was started.

`mlflow run` makes a run before the step begins, in the experiment "Default" where nobody has named
one, and a step that is started alone makes its own in the experiment that the configuration names:
one step would not find what the other has left. So a run that waits in "Default" is taken for one
that nobody has placed: the step opens its run in the configured experiment, with all that
`mlflow run` has noted. The empty one says where its step went, and is deleted once `mlflow run` has
written its end (`steps.tracking.after_launcher`), or by a later step.
"""

import os
import re
import time
from typing import TYPE_CHECKING

from steps.config.sections import Training
from steps.tracking.names import MOVED_TAG, STEP_TAG
from steps.tracking.store import find_run

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

DEFAULT = "Default"
# `mlflow run` writes the end of a run at once when its step has exited.
SECONDS_OF_A_LAUNCHER = 60.0
MOST_RUNS = 50
NAME_TAG = "mlflow.runName"
PARENT_RUN_TAG = "mlflow.parentRunId"
# What MLflow calls a run that nobody has named: two words and a number.
RANDOM_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")


def is_named_by_user(run: "Run") -> bool:
    """Whether somebody has given a run its name."""
    return RANDOM_NAME.fullmatch(run.info.run_name or "") is None


def label_of(run: "Run", step: str, given: str | None) -> str:
    """What the name of a run begins with; "" where its user has named it.

    Args:
        run: The run.
        step: Its step.
        given: What the step itself calls it.
    """
    if PARENT_RUN_TAG in run.data.tags:
        # Its parent has named it: "finetune lora".
        return run.info.run_name or step
    ours = run.info.run_name in (step, given) or not is_named_by_user(run)
    return step if ours else ""


def is_unplaced(client: "MlflowClient", run: "Run") -> bool:
    """Whether `mlflow run` has made a run in "Default" because nobody named an experiment.

    It hands the id of its experiment on, named or not; a name only the user sets.
    """
    if os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        return False
    return bool(client.get_experiment(run.info.experiment_id).name == DEFAULT)


def waits_in_default(client: "MlflowClient", run: "Run", training: Training) -> bool:
    """Whether `mlflow run` has made a run in an experiment that nobody has named."""
    if training.mlflow.experiment_name == DEFAULT:
        return False
    # A step has begun it before, or has started this one: this one joins it where it is.
    is_placed = STEP_TAG in run.data.tags or PARENT_RUN_TAG in run.data.tags
    return not is_placed and is_unplaced(client, run)


def leave_default(waiting: "Run", training: Training) -> str | None:
    """Make the configured experiment the one that this process works in.

    Args:
        waiting: The run that waits in "Default".
        training: The configuration, which names the experiment.

    Returns:
        The name that its user has given that run, if any.
    """
    import mlflow

    # The next run that this process opens is a new one, in the experiment that is set here.
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        os.environ.pop(name, None)
    # It hands the experiment on to child processes too.
    mlflow.set_experiment(training.mlflow.experiment_name)
    return waiting.info.run_name if is_named_by_user(waiting) else None


def take_over(client: "MlflowClient", waiting: "Run", run: "Run") -> None:
    """Move what `mlflow run` has noted into the run of this step.

    Args:
        client: Client of the store.
        waiting: The run that `mlflow run` has made.
        run: The run of this step.
    """
    from mlflow.entities import Param, RunTag

    here = run.info
    params = [Param(name, value) for name, value in waiting.data.params.items()]
    tags = [RunTag(name, value) for name, value in waiting.data.tags.items() if name != NAME_TAG]
    client.log_batch(here.run_id, params=params, tags=tags)
    place = f"#/experiments/{here.experiment_id}/runs/{here.run_id}"
    client.log_batch(
        waiting.info.run_id,
        tags=[
            RunTag(MOVED_TAG, here.run_id),
            RunTag("mlflow.note.content", f"empty: [the run of this step]({place})"),
        ],
    )
    _delete_earlier(client, waiting)


def _delete_earlier(client: "MlflowClient", waiting: "Run") -> None:
    """Delete what earlier steps have left in "Default", and nobody was there to delete."""
    left = client.search_runs(
        [waiting.info.experiment_id], f"tags.`{MOVED_TAG}` != ''", max_results=MOST_RUNS
    )
    for run in left:
        ended = run.info.status != "RUNNING" or _is_over(client, run.data.tags[MOVED_TAG])
        if run.info.run_id != waiting.info.run_id and ended:
            client.delete_run(run.info.run_id)


def _is_over(client: "MlflowClient", run_id: str) -> bool:
    """Whether a run ended so long ago that `mlflow run` writes nothing more."""
    run = find_run(client, run_id)
    if run is None:
        return True
    end = run.info.end_time
    return end is not None and time.time() - end / 1000 > SECONDS_OF_A_LAUNCHER
