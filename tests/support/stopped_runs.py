"""Runs as the finetune step leaves them, for a launch that looks for one to go on from."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow

from steps.checkpoints.format import writing_checkpoint
from steps.checkpoints.trainer_state import Progress, Report, write_progress
from steps.tracking import heartbeat as heartbeats
from steps.tracking.checkpoints.resume import (
    Found,
    find_resume_point,
    metadata,
    resumable_tags,
)
from steps.tracking.checkpoints.uploads import CheckpointUploads
from steps.tracking.runs import StepRun
from steps.tracking.spool import Spool

EXPECTED = {"dataset": "sha256:d", "qlora.r": 4, "logging.load_best_model_at_end": True}


class Store:
    """Runs as the finetune step leaves them, on a real store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = mlflow.MlflowClient()
        self.experiment = self.client.create_experiment("resumption")
        self.said: list[str] = []
        self.known: dict[str, StepRun] = {}

    def run(self, status: str = "RUNNING", **tags: str) -> StepRun:
        run = self.client.create_run(self.experiment)
        scratch = self.folder / f"scratch-{run.info.run_id}"
        scratch.mkdir()
        step_run = StepRun(
            run.info.run_id,
            self.experiment,
            self.client,
            scratch,
            Spool(scratch / "spool", run.info.run_id),
            1.0,
        )
        step_run.tag(
            **{"step": "finetune", **resumable_tags(self.local(step_run), EXPECTED), **tags}
        )
        self.known[step_run.id] = step_run
        if status != "RUNNING":
            self.client.set_terminated(step_run.id, status)
        return step_run

    def killed(self, **tags: str) -> StepRun:
        """A run whose process is gone and which the store still calls RUNNING."""
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        sign = {
            **json.loads(heartbeats.sign_of_this_process()),
            "pid": gone.pid,
            "process_started": 1.0,
        }
        return self.run(**{"heartbeat": json.dumps(sign), **tags})

    def local(self, run: StepRun) -> Path:
        return self.folder / "local" / run.id

    def save(self, run: StepRun, step: int, best: int | None = None, **changes: Any) -> Path:
        stated = metadata(run.id, "sha256:d", {**EXPECTED, **changes})
        with writing_checkpoint(self.local(run), step, stated) as folder:
            (folder / "adapter_model.safetensors").write_bytes(b"weights of %d" % step)
            (folder / "optimizer.pt").write_bytes(b"moments of %d" % step)
            (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": best}))
            reports = [Report(s, 1000 * s, {"train/loss": 1.0 / s}) for s in range(1, step + 1)]
            write_progress(folder, Progress(reports=reports))
        return self.local(run) / f"checkpoint-{step}"

    def upload(self, run: StepRun, *folders: Path) -> None:
        with CheckpointUploads(run) as uploads:
            for folder in folders:
                uploads.submit(folder, int(folder.name.rpartition("-")[2]), {})

    def find(self, reference: str, run: StepRun | None = None, **changes: Any) -> Found | None:
        expected = {**EXPECTED, **changes}
        return find_resume_point(run or self.run(), reference, expected, self.said.append)
