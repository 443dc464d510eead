"""Which tracking store and experiment a step talks to, and what it finds there."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps import config
from steps.errors import UserError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"


def connect(training: config.Training) -> "MlflowClient":
    """Point mlflow at the store and the experiment, and check that they answer.

    What `mlflow run` or the environment set comes first, then the configuration file, then
    a SQLite file in the working folder.

    Raises:
        UserError: The store cannot be reached or used.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = os.environ.get("MLFLOW_TRACKING_URI") or training.mlflow.tracking_uri or DEFAULT_URI
    # A server that is not there must be noticed in seconds, not after minutes of retries.
    with _few_retries():
        try:
            mlflow.set_tracking_uri(uri)
            client = mlflow.MlflowClient()
            if mlflow.active_run() is None and not _environment_names_experiment():
                mlflow.set_experiment(training.mlflow.experiment_name)
            client.search_experiments(max_results=1)
        except (MlflowException, OSError, ImportError) as error:
            raise UserError(
                f"the tracking store {uri} cannot be used ({_one_line(error)}): start the server, "
                "or correct MLFLOW_TRACKING_URI or training.mlflow.tracking_uri"
            ) from None
    return client


def _environment_names_experiment() -> bool:
    names = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
    return any(os.environ.get(name) for name in names)


@contextmanager
def _few_retries() -> Iterator[None]:
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    if name in os.environ:
        yield
        return
    os.environ[name] = "2"
    try:
        yield
    finally:
        del os.environ[name]


def experiment_id() -> str:
    """Id of the experiment in use: the active run's, or the one that was set."""
    import mlflow

    run = mlflow.active_run()
    if run is not None:
        return str(run.info.experiment_id)
    given = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if given:
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    experiment = mlflow.get_experiment_by_name(name) if name else None
    if experiment is None:
        from mlflow.tracking.fluent import _get_experiment_id

        return str(_get_experiment_id())
    return str(experiment.experiment_id)


def newest_run(client: "MlflowClient", filters: str) -> "Run | None":
    """The newest finished run of this experiment that satisfies an mlflow filter."""
    runs = client.search_runs(
        [experiment_id()],
        f"attributes.status = 'FINISHED' and {filters}",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0] if runs else None


@dataclass(frozen=True)
class StoredDataset:
    """A dataset of the tracking store, brought to this machine.

    Attributes:
        run_id: The preprocess run that made it.
        digest: Its digest, as its manifest states it and its run is tagged.
        folder: Where it is on this machine now.
        manifest: The content of `manifest.json`.
    """

    run_id: str
    digest: str
    folder: Path
    manifest: Mapping[str, Any]


def fetch_dataset(client: "MlflowClient", reference: str, scratch: Path) -> StoredDataset:
    """Fetch a dataset by `latest`, a run id, or a `runs:/ID/dataset` URI.

    Raises:
        UserError: There is none, or its bytes are gone or not those that were logged.
    """
    import json

    import mlflow
    from mlflow.exceptions import MlflowException

    run_id = _dataset_run(client, reference)
    try:
        run = client.get_run(run_id)
        folder = Path(
            mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path="dataset", dst_path=str(scratch)
            )
        )
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"dataset {reference!r}: run {run_id} has no dataset that can be read "
            f"({_one_line(error)}): give a finished preprocess run, or run preprocess again"
        ) from None
    digest = manifest["dataset_digest"]
    tagged = run.data.tags.get("forge.dataset_digest")
    if tagged is not None and tagged != digest:
        raise UserError(
            f"dataset {reference!r}: its manifest says {digest}, its run {run_id} says {tagged}: "
            "the artifact was changed after it was logged; run preprocess again"
        )
    return StoredDataset(run_id, digest, folder, manifest)


def _dataset_run(client: "MlflowClient", reference: str) -> str:
    if reference == "latest":
        run = newest_run(client, "tags.`forge.step` = 'preprocess'")
        if run is None:
            raise UserError(
                "dataset 'latest': this experiment has no finished preprocess run; run "
                "`mlflow run . -e preprocess` first, or name a run id"
            )
        return str(run.info.run_id)
    if reference.startswith("runs:/"):
        return reference.removeprefix("runs:/").split("/")[0]
    if "/" in reference or not reference:
        raise UserError(
            f"dataset {reference!r} is neither latest, nor a run id, nor a runs:/ID/dataset URI"
        )
    return reference


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 200 else f"{text[:200]}…"
