"""What the training reports to: a small protocol, so that it knows no tracking store."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Recorder(Protocol):
    """Takes what a training run wants kept."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Keep metrics of one optimiser step, under their full names (`train/loss`)."""

    def checkpoint(self, folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Keep a complete checkpoint folder; called again for a step, it changes nothing."""

    def checkpoint_failed(self, step: int, reason: str) -> None:
        """Note, in one line, that no checkpoint of this step could be written."""

    def uploading(self) -> set[int]:
        """Steps whose checkpoint folders are still being read and may not be removed yet."""


class SilentRecorder:
    """Keeps nothing: for scripts that use the trainer without a tracking store."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Drop the metrics."""

    def checkpoint(self, folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Leave the folder where it is."""

    def checkpoint_failed(self, step: int, reason: str) -> None:
        """Leave a warning in the log."""
        logging.getLogger("steps").warning("%s", reason)

    def uploading(self) -> set[int]:
        """None: nothing is read in the background."""
        return set()
