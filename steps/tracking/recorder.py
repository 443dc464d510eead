"""The recorder that writes a training run into its MLflow run."""

from collections.abc import Mapping
from pathlib import Path

from steps.tracking.runs import StepRun


class MlflowRecorder:
    """Writes metrics and checkpoints into the run of a step."""

    def __init__(self, run: StepRun) -> None:
        """Record into `run`."""
        self.run = run

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Write metrics in one batch, so that a step's figures appear together."""
        self.run.metrics(values, step)

    def checkpoint(self, folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Store a complete checkpoint folder under `checkpoints/checkpoint-N`."""
        self.run.client.log_artifacts(self.run.id, str(folder), f"checkpoints/{folder.name}")
