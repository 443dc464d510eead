"""A store to which runs are added as the steps leave them, and the overview of it."""

from pathlib import Path

import mlflow

from steps.config.sections import Mlflow, Training
from steps.papers.retractions import Retractions
from steps.tracking.overview import Overview, take_overview
from steps.tracking.reading import open_to_read
from tests.support.stored_runs import finetune_run

TRAINING = Training(mlflow=Mlflow(experiment_name="seen", registered_model_name="lab"))


class SeenStore:
    """A store with an experiment, to which runs are added."""

    def __init__(self, client: mlflow.MlflowClient, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.experiment = client.create_experiment("seen")
        self.clock = 1_700_000_000_000

    def run(
        self,
        step: str | None,
        status: str = "FINISHED",
        metrics: dict[str, float] | None = None,
        **tags: str,
    ) -> str:
        self.clock += 60_000
        named = {f"forge.{name}": value for name, value in tags.items()}
        if step is not None:
            named["forge.step"] = step
        run = self.client.create_run(self.experiment, start_time=self.clock, tags=named)
        run_id = str(run.info.run_id)
        for name, value in (metrics or {}).items():
            self.client.log_metric(run_id, name, value)
        if status != "RUNNING":
            self.client.set_terminated(run_id, status, end_time=self.clock + 1000)
        return run_id

    def training_run(self, *steps: int, status: str = "KILLED", **changes: str) -> str:
        """A training with stored checkpoints, which began as resumable ones do."""
        run_id = finetune_run(
            self.client,
            self.experiment,
            dict.fromkeys(steps, 1.0),
            self.folder / "scratch",
            status=status,
            resumed_from=changes.get("resumed_from"),
        )
        self.client.set_tag(run_id, "forge.resume_key", "key")
        return run_id

    def overview(self, retractions: Retractions | None = None) -> Overview:
        opened = open_to_read(TRAINING)
        return take_overview(opened, TRAINING, self.folder / "scratch", retractions)
