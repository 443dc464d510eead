"""The recorder that writes a training run into its MLflow run, and never makes it wait.

    with MlflowRecorder(run, uploads, system_metrics_seconds=10) as recorder:
        ModelTrainer(..., context=TrainingContext(recorder=recorder)).train()
        recorder.artifact(adapter)
    # the store has everything now, or StoreAway said where it lies

Checkpoints go by way of their uploads, all else through the run's spool
(`steps.tracking.spool`). While the recorder is open, requests are given up in seconds: only
threads that try again talk to the store then.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from steps.cache_folder import cache_folder
from steps.tracking.checkpoints.uploads import CheckpointUploads
from steps.tracking.runs import SECONDS_WHEN_INTERRUPTED, StepRun, store_away
from steps.tracking.spool import Spool
from steps.tracking.store import few_retries


class MlflowRecorder:
    """Writes metrics, checkpoints and artifacts into the run of a step, by way of its spool."""

    def __init__(
        self,
        run: StepRun,
        uploads: CheckpointUploads,
        *,
        system_metrics_seconds: float = 0.0,
        machine: str = "",
        already: Mapping[str, int] | None = None,
    ) -> None:
        """Record into `run`.

        Args:
            run: The run of the step.
            uploads: The way of its checkpoints.
            system_metrics_seconds: Seconds between samples of the machine; 0: none.
            machine: Its name, where several machines take part.
            already: The last step of each metric that an earlier attempt has reported.
        """
        self.run = run
        self.uploads = uploads
        self._seconds = system_metrics_seconds
        self._machine = machine
        self._already = dict(already or {})
        self._open = ExitStack()

    def __enter__(self) -> "MlflowRecorder":
        """Start sampling the machine."""
        self._open.enter_context(few_retries())
        if self._seconds:
            system = [step for name, step in self._already.items() if name.startswith("system/")]
            first = max(system, default=-1) + 1
            sampler = _SystemMetrics(self.run.spool, self._seconds, self._machine, first)
            self._open.callback(sampler.stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait until the store has everything; after an error the end of the run does so.

        Raises:
            StoreAway: It has not, within the run's patience.
        """
        with self._open:
            if kind is None and not self.run.spool.flush(self.run.patience):
                raise store_away(self.run.spool, "training is done and the adapter is safe")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Keep metrics of one optimiser step; takes microseconds, whatever the store does."""
        new = {name: v for name, v in values.items() if step > self._already.get(name, -1)}
        self.run.spool.metrics(new, step)

    def checkpoint(self, folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Store a complete checkpoint folder under `checkpoints/checkpoint-N`, soon."""
        self.uploads.submit(folder, step, metrics)

    def checkpoint_failed(self, step: int, reason: str) -> None:
        """Warn, and say so in the run."""
        self.uploads.warn(reason)

    def uploading(self) -> set[int]:
        """Steps whose folders the upload still reads."""
        return self.uploads.under_way()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder with its content, below `folder`."""
        self.run.spool.artifact(path, folder)


@contextmanager
def sampling_machine(run: StepRun, seconds: float, machine: str, first_step: int) -> Iterator[None]:
    """Report the machine of a rank that reports nothing else, by way of a spool of its own.

    Args:
        run: The run.
        seconds: Between samples; 0: none.
        machine: Its name.
        first_step: Of the first sample: an earlier attempt may have taken some.
    """
    if not seconds:
        yield
        return
    spool = Spool(cache_folder() / "spool" / f"{run.id}-{machine}", run.id)
    sampler = _SystemMetrics(spool, seconds, machine, first_step)
    try:
        yield
    finally:
        sampler.stop()
        spool.flush(SECONDS_WHEN_INTERRUPTED)
        spool.close()


class _SystemMetrics:
    """Samples the machine into a spool, under the names that MLflow's page groups.

    The samples are MLflow's; its own thread would end for good on the first lost request.
    """

    def __init__(self, spool: Spool, seconds: float, machine: str, first_step: int) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._spool = spool
        self._seconds = seconds
        self._prefix = f"system/{machine}/" if machine else "system/"
        self._first_step = first_step
        self._monitor: Any = SystemMetricsMonitor(spool.run_id)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sampling."""
        self._ended.set()
        self._thread.join(timeout=self._seconds)

    def _work(self) -> None:
        step = self._first_step
        while not self._ended.is_set():
            self._monitor.collect_metrics()
            values = self._monitor.aggregate_metrics()
            for source in self._monitor.monitors:
                source.clear_metrics()
            self._spool.metrics(
                {f"{self._prefix}{name}": value for name, value in values.items()}, step
            )
            step += 1
            self._ended.wait(self._seconds)
