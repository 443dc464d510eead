"""The view of trainings in MLflow's own pages: saved once, and shown by them."""

import json
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from steps.metrics import PRIMARY
from steps.tracking.saved_view import SETTINGS, VIEW_TAG, save_view, view_address
from tests.support.browser import open_page
from tests.support.server import Server

# The most that MLflow's databases take as the value of an experiment's tag.
MOST_CHARACTERS = 5000


@pytest.mark.parametrize("objective", PRIMARY)
def test_the_view_is_of_trainings_by_the_figure_that_decides(
    client: mlflow.MlflowClient, experiment: str, objective: str
) -> None:
    save_view(client, experiment, objective)
    saved = client.get_experiment(experiment).tags[VIEW_TAG]
    assert len(saved) < MOST_CHARACTERS
    state = json.loads(json.loads(saved)["state"])
    assert state["orderByKey"] == f"metrics.`test/{PRIMARY[objective]}`"
    assert state["orderByAsc"]
    charts = [chart["metricKey"] for chart in state["compareRunCharts"]]
    assert charts[:2] == ["train/loss", f"validation/{PRIMARY[objective]}"]


def test_a_view_that_its_user_has_changed_stays(
    client: mlflow.MlflowClient, experiment: str
) -> None:
    client.set_experiment_tag(experiment, VIEW_TAG, "mine")
    save_view(client, experiment, "causal")
    assert client.get_experiment(experiment).tags[VIEW_TAG] == "mine"


def test_a_store_that_refuses_the_tag_stops_nothing(
    client: mlflow.MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("no permission")

    monkeypatch.setattr(client, "set_experiment_tag", refuse)
    save_view(client, experiment, "causal")
    assert VIEW_TAG not in client.get_experiment(experiment).tags


@pytest.mark.slow
def test_mlflows_pages_show_the_charts_of_the_view(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    for step, name in (("finetune", "the training"), ("evaluate", "the other")):
        run = client.create_run(experiment, tags={"forge.step": step}, run_name=name)
        client.log_param(run.info.run_id, SETTINGS[0], "lora")
        for point, loss in enumerate((3.0, 2.5)):
            client.log_metric(run.info.run_id, "train/loss", loss, step=point)
    save_view(client, experiment, "causal")
    server = Server(tmp_path, tmp_path / "mlflow.db")
    server.start()
    try:
        page = open_page(f"{server.uri}/{view_address(experiment)}", tmp_path).stdout
    finally:
        server.kill()
    assert "the training" in page
    assert "the other" not in page
    # The title of the chart, in the first section of the view.
    assert 0 < page.index(">Training") < page.index(">train/loss")
    assert "share key" not in page, "the page could not read the view"
