"""The view of trainings that MLflow's pages of an experiment offer by name, under "Views".

As MLflow orders its charts by name, those that one looks for come after dozens of others. A saved
view is a tag of the experiment (MLflow 3.17): which runs, sorted by what, with which columns and
charts. One that is there stays as it is: its user may have changed it.
"""

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from steps.comparison.many_runs import headline_names
from steps.metrics import PRIMARY
from steps.tracking.names import STEP_TAG
from steps.tracking.store import store_errors

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

VIEW = "trainings"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
SETTINGS = (
    *("qlora.method", "qlora.r", "hyperparameters.learning_rate"),
    *("hyperparameters.num_epochs", "model.name"),
)


def view_address(experiment_id: str) -> str:
    """The part of the address behind the server's: charts of an experiment's trainings."""
    return (
        f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        f"&compareRunsMode=CHART&viewStateShareKey={VIEW}"
    )


def save_view(client: "MlflowClient", experiment_id: str, objective: str) -> None:
    """Offer the view, unless there is one; a store that refuses the tag does without.

    Args:
        client: Client of the store.
        experiment_id: The experiment.
        objective: That of the trainings; sets by which figure they are sorted.
    """
    with suppress(*store_errors()):
        if VIEW_TAG not in client.get_experiment(experiment_id).tags:
            client.set_experiment_tag(experiment_id, VIEW_TAG, _view(objective))


def _view(objective: str) -> str:
    """A view as MLflow's pages write it: JSON, and in it the state as JSON once more."""
    primary = PRIMARY[objective]
    tests = [f"test/{name}" for name in headline_names(objective)]
    curves = ("train/loss", f"validation/{primary}")
    sections = {
        "Training": curves,
        "Held-out papers": tests[:4],
        "Speed and memory": ("train/tokens_per_second", "train/memory_gb"),
    }
    state = {
        "searchFilter": f"tags.`{STEP_TAG}` = 'finetune'",
        "orderByKey": f"metrics.`test/{primary}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in (f"test/{primary}", curves[1], "train/seconds")),
            *(f"params.`{name}`" for name in SETTINGS),
        ],
        "compareRunCharts": [
            _chart(section, name) for section, names in sections.items() for name in names
        ],
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True} for name in sections
        ],
        "isAccordionReordered": True,
    }
    now = int(1000 * time.time())
    content = {"name": VIEW, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    return json.dumps(content)


def _chart(section: str, metric: str) -> dict[str, Any]:
    chart: dict[str, Any] = {
        "type": "BAR" if metric.startswith("test/") else "LINE",
        "uuid": metric,
        "metricSectionId": section,
        "displayName": metric,
        "metricKey": metric,
        "runsCountToCompare": 10,
    }
    if chart["type"] == "LINE":
        by_step = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear"}
        # Of six steps a smoothed curve would show something else.
        as_it_is = {"lineSmoothness": 0, "useGlobalLineSmoothing": False, "displayPoints": True}
        chart |= {"selectedMetricKeys": [metric], "range": {}, **by_step, **as_it_is}
    return chart
