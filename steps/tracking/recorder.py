"""The recorder that writes a training run into its MLflow run."""

from collections.abc import Mapping
from pathlib import Path

from steps.tracking.checkpoint_uploads import CheckpointUploads
from steps.tracking.runs import StepRun


class MlflowRecorder:
    """Writes metrics and checkpoints into the run of a step."""

    def __init__(self, run: StepRun, uploads: CheckpointUploads) -> None:
        """Record into `run`, checkpoints by way of `uploads`."""
        self.run = run
        self.uploads = uploads

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Write metrics in one batch, so that a step's figures appear together."""
        self.run.metrics(values, step)

    def checkpoint(self, folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Store a complete checkpoint folder under `checkpoints/checkpoint-N`, soon."""
        self.uploads.submit(folder, step, metrics)

    def checkpoint_failed(self, step: int, reason: str) -> None:
        """Warn, and say so in the run."""
        self.uploads.warn(reason)

    def uploading(self) -> set[int]:
        """Steps whose folders the upload still reads."""
        return self.uploads.under_way()
