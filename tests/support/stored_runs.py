"""Finetune runs with checkpoints, written and stored as a training run writes and stores them."""

import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import mlflow

from steps.checkpoints.format import MANIFEST, writing_checkpoint
from steps.tracking.checkpoints.uploads import checkpoint_tags

METRIC = "validation/bits_per_byte"
WEIGHTS = 4_000
RESUME_ONLY = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def sign_of_life(time: float, **changes: object) -> str:
    """What a run writes into its heartbeat tag, by default on another machine."""
    sign = {"time": time, "host": f"not-{socket.gethostname()}", "pid": 1, "process_started": 1.0}
    return json.dumps({**sign, **changes})


def write_checkpoint(root: Path, step: int, best_step: int | None = None) -> Path:
    """Write a small checkpoint with everything that one holds."""
    with writing_checkpoint(root, step, {"dataset_digest": "sha256:0"}) as folder:
        (folder / "adapter_model.safetensors").write_bytes(os.urandom(WEIGHTS))
        for name in RESUME_ONLY:
            (folder / name).write_bytes(os.urandom(1_000))
        state = json.dumps({"global_step": step, "best_global_step": best_step})
        (folder / "trainer_state.json").write_text(state, encoding="utf-8")
    return root / f"checkpoint-{step}"


def upload(client: mlflow.MlflowClient, run_id: str, folder: Path) -> None:
    """Upload a checkpoint, its manifest last, and make its LoggedModel."""
    path = f"checkpoints/{folder.name}"
    for file in sorted(folder.iterdir(), key=lambda file: file.name == MANIFEST):
        client.log_artifact(run_id, str(file), path)
    run = client.get_run(run_id)
    client.create_logged_model(
        experiment_id=run.info.experiment_id,
        name=folder.name,
        source_run_id=run_id,
        tags=checkpoint_tags(run_id, folder),
    )


def finetune_run(
    client: mlflow.MlflowClient,
    experiment_id: str,
    steps: Mapping[int, float],
    scratch: Path,
    *,
    status: str = "FINISHED",
    heartbeat: float | None = None,
    resumed_from: str | None = None,
    step: str = "finetune",
) -> str:
    """Make a run with a checkpoint at each step, measured as given."""
    tags = {"forge.step": step}
    if heartbeat is not None:
        tags["forge.heartbeat"] = sign_of_life(heartbeat)
    if resumed_from is not None:
        tags["forge.resumed_from"] = resumed_from
    # Long ago: what a run has left unfinished within minutes may still be under way.
    started = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
    run = client.create_run(experiment_id, start_time=started, tags=tags)
    run_id: str = run.info.run_id
    for number, metric in steps.items():
        upload(client, run_id, write_checkpoint(scratch / run_id, number))
        client.log_metric(run_id, METRIC, metric, step=number)
    if status != "RUNNING":
        client.set_terminated(run_id, status, end_time=started + 1000)
    return run_id


def stored_steps(client: mlflow.MlflowClient, run_id: str) -> list[int]:
    """Steps of the checkpoints that any file of is stored."""
    folders = client.list_artifacts(run_id, "checkpoints")
    return sorted(int(folder.path.rpartition("-")[2]) for folder in folders)


def files_of(client: mlflow.MlflowClient, run_id: str, step: int) -> set[str]:
    """Names of the stored files of one checkpoint."""
    files = client.list_artifacts(run_id, f"checkpoints/checkpoint-{step}")
    return {file.path.rpartition("/")[2] for file in files}
