"""Datasets as MLflow knows them: logged as inputs under our own digest, and downloads."""

from pathlib import Path
from typing import Any

from steps.errors import UserError
from steps.tracking.store import one_line

# MLflow's limit for a digest.
DIGEST_LENGTH = 36


def log_dataset_input(run_id: str, name: str, digest: str, *, context: str) -> None:
    """Log a dataset as an input of the active run, under our digest.

    MLflow's own digest of a Hugging Face dataset ignores list columns and reads only the
    first 10,000 rows.

    Args:
        run_id: The preprocess run that holds the dataset.
        name: Name to show.
        digest: Digest of all columns of all rows, "sha256:…".
        context: What for: "output", "training", "evaluation".
    """
    import mlflow

    mlflow.log_input(as_mlflow_dataset(run_id, name, digest), context=context)


def as_mlflow_dataset(run_id: str, name: str, digest: str) -> Any:
    """Describe the dataset of a run for MLflow."""
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset

    uri = mlflow.get_run(run_id).info.artifact_uri
    # MLflow knows no source for artifacts that its own server hands out.
    if uri.startswith("mlflow-artifacts:"):
        source = CodeDatasetSource(tags={"uri": f"runs:/{run_id}/dataset"})
    else:
        source = resolve_dataset_source(f"{uri}/dataset")
    return MetaDataset(source, name=name, digest=digest.removeprefix("sha256:")[:DIGEST_LENGTH])


def download(uri: str, target: Path, what: str) -> Path:
    """Download an artifact.

    Args:
        uri: What to download.
        target: Folder for it, made where missing.
        what: What an error calls it.

    Raises:
        UserError: It is not there.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    if uri.startswith(("http://", "https://")) and "/mlflow-artifacts/artifacts/" not in uri:
        raise UserError(
            f"{what} {uri!r} is no artifact of an MLflow server: download it and name the file"
        )
    target.mkdir(parents=True, exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(target)))
    # An unknown run, a server that is away, a library that s3: needs.
    except (MlflowException, OSError, ImportError) as error:
        raise UserError(
            f"{what} {uri!r} cannot be downloaded ({one_line(error)}): check the URI and "
            "MLFLOW_TRACKING_URI"
        ) from None
