"""Finetune runs of several ranks: a configuration to be killed in, and what such a run leaves."""

from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from safetensors.torch import load_file

# Short enough to be gone through twice, long enough to be killed in.
OVERRIDES = {
    "hyperparameters.max_steps": "120",
    "logging.save_steps": "20",
    "logging.eval_strategy": "no",
    "logging.log_steps": "1",
    "qlora.lora_dropout": "0.1",
    "mlflow.log_model": "false",
    "mlflow.system_metrics_seconds": "0",
}


def adapter(run: Run, folder: Path) -> dict[str, Any]:
    """The adapter's tensors."""
    fetched = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="adapter", dst_path=str(folder)
    )
    weights: dict[str, Any] = load_file(Path(fetched) / "adapter_model.safetensors")
    return weights


def losses(run: Run) -> list[tuple[int, float]]:
    """Step and training loss of each report."""
    points = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    return [(point.step, point.value) for point in points]


def newest_run() -> Run:
    """The newest finetune run, whatever became of it."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    return client.search_runs(
        [experiment.experiment_id],
        "tags.`forge.step` = 'finetune'",
        order_by=["attributes.start_time DESC"],
    )[0]
