"""What an evaluation found, beside the settings that led to it: in the run that trained the model.

So MLflow's own columns and charts show settings and results together.
"""

import logging
from typing import TYPE_CHECKING

from steps.comparison.many_runs import headline_names
from steps.tracking.names import (
    DATASET_DIGEST_TAG,
    MODEL_VERSION_TAG,
    OBJECTIVE_TAG,
    SPLIT_TAG,
    STEP_TAG,
)
from steps.tracking.store import find_run, reason, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

# Of a finetune run: the evaluation that its `test/...` figures are from, and on which dataset.
TESTED_BY_TAG = "forge.tested_by"
TESTED_DATASET_TAG = "forge.tested_dataset_digest"


def headline_figures(metrics: dict[str, float], objective: str) -> dict[str, float]:
    """Those of an evaluation's metrics that are shown with the training run, by full name."""
    # Intervals and counts would fill the charts.
    shown = [f"test/{name}" for name in headline_names(objective)]
    return {name: metrics[name] for name in shown if name in metrics}


def log_with_training(client: "MlflowClient", evaluation_id: str) -> bool:
    """Log an evaluation's main figures to the finetune run that made the version.

    The newest evaluation on `test` counts, of whichever dataset: tags say which it is. An
    evaluation is no worse for a run that is gone or takes no writes, so that is noted in the log.

    Args:
        client: Client of the store.
        evaluation_id: The evaluation's run, its metrics logged.

    Returns:
        Whether anything was written.
    """
    try:
        return _log(client, evaluation_id)
    except store_errors() as error:
        logging.getLogger(__name__).info(
            "figures of evaluation %s not logged to the run that trained: %s",
            evaluation_id,
            reason(error),
        )
        return False


def _log(client: "MlflowClient", evaluation_id: str) -> bool:
    from mlflow.entities import Metric, RunTag

    evaluation = client.get_run(evaluation_id)
    trained = _trained_run(client, evaluation)
    if trained is None or trained.data.tags.get(TESTED_BY_TAG) == evaluation_id:
        return False
    tags = evaluation.data.tags
    figures = headline_figures(evaluation.data.metrics, tags[OBJECTIVE_TAG])
    # The time of the measurement: an older one that is looked up again changes no figure. Step 0,
    # as a chart of steps would set one point beside the training's.
    measured = evaluation.info.start_time
    if measured < _measured_before(client, trained):
        return False
    client.log_batch(
        trained.info.run_id,
        metrics=[Metric(name, value, measured, 0) for name, value in figures.items()],
        tags=[
            RunTag(TESTED_BY_TAG, evaluation_id),
            RunTag(TESTED_DATASET_TAG, tags.get(DATASET_DIGEST_TAG, "")),
        ],
    )
    return True


def _trained_run(client: "MlflowClient", evaluation: "Run") -> "Run | None":
    """The finetune run that made what was evaluated on `test`; None: there is none to write to."""
    tags = evaluation.data.tags
    run_id = tags.get("forge.model_run")
    if not run_id or tags.get(SPLIT_TAG) != "test":
        return None
    run = find_run(client, run_id)
    if run is None or run.info.lifecycle_stage != "active":
        return None
    # Neither a released form, whose run is a release, nor an adapter that was registered anew.
    own = run.data.tags.get(MODEL_VERSION_TAG)
    is_own = own is not None and own == tags.get("forge.model_uri")
    return run if run.data.tags.get(STEP_TAG) == "finetune" and is_own else None


def _measured_before(client: "MlflowClient", trained: "Run") -> int:
    """When the evaluation began whose figures the run has; 0 where it has none."""
    earlier = trained.data.tags.get(TESTED_BY_TAG)
    run = find_run(client, earlier) if earlier else None
    return int(run.info.start_time) if run is not None else 0
