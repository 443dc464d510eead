"""Datasets as MLflow knows them: logged as inputs under our own digest, and downloads."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.errors import UserError
from steps.terminal import say
from steps.tracking.artifacts import fetch_file, fetch_folder, list_files, place_of, remember
from steps.tracking.kept_datasets import forget_dataset, keep_dataset, kept_dataset
from steps.tracking.names import DATASET_DIGEST_TAG, DATASET_FOLDER, STEP_TAG
from steps.tracking.store import all_pages, experiment_id, newest_run, one_line

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from steps.papers.ledger import LedgerEntry


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


def fetch_dataset(
    client: "MlflowClient", reference: str, scratch: Path, *, names_papers: bool = True
) -> StoredDataset:
    """Fetch a dataset by `latest`, a run id, or a `runs:/ID/dataset` URI.

    Args:
        client: Client of the store.
        reference: Which.
        scratch: Folder for the download.
        names_papers: Keep the manifest's lists of identifiers, which take memory by the paper.

    Raises:
        UserError: There is none, or its bytes are gone or not those that were logged.
    """
    run_id = _dataset_run(client, reference)
    with _readable(reference, run_id):
        run = client.get_run(run_id)
        remember(client, run)
        tagged = run.data.tags.get(DATASET_DIGEST_TAG)
        kept = kept_dataset(client, run_id, tagged, scratch)
    stored = None
    if kept is not None and tagged is not None:
        try:
            stored = _checked(reference, run_id, kept, tagged, names_papers=names_papers)
        except UserError:
            # The copy was cut short; the store has the dataset.
            forget_dataset(run_id, tagged)
            shutil.rmtree(kept)
    if stored is None:
        with _readable(reference, run_id):
            folder = fetch_folder(client, run_id, DATASET_FOLDER, scratch)
        stored = _checked(reference, run_id, folder, tagged, names_papers=names_papers)
        if tagged is not None:
            keep_dataset(client, run_id, folder, stored.digest)
    here = experiment_id()
    if run.info.experiment_id != here:
        other = client.get_experiment(run.info.experiment_id).name
        say(f"dataset {stored.digest[:19]}… is of experiment {other!r}, not of this one")
    return stored


@contextmanager
def _readable(reference: str, run_id: str) -> Iterator[None]:
    """Say in one line why a run has no dataset that can be read."""
    from mlflow.exceptions import MlflowException
    from msgspec import MsgspecError

    try:
        yield
    except (
        *(MlflowException, MsgspecError),
        *(OSError, ValueError, KeyError, TypeError, RecursionError),
    ) as error:
        raise UserError(
            f"dataset {reference!r}: run {run_id} has no dataset that can be read "
            f"({one_line(error)}): give a finished preprocess run, or run preprocess again"
        ) from None


def _checked(
    reference: str, run_id: str, folder: Path, tagged: str | None, *, names_papers: bool
) -> StoredDataset:
    """A dataset whose rows, manifest and run agree.

    Raises:
        UserError: They do not, or cannot be read.
    """
    with _readable(reference, run_id):
        manifest = _read_manifest(folder / "manifest.json", names_papers=names_papers)
        digest = manifest["dataset_digest"]
    _refuse_changed_rows(reference, run_id, folder, digest)
    if tagged is not None and tagged != digest:
        raise UserError(
            f"dataset {reference!r}: its manifest says {digest}, its run {run_id} says {tagged}: "
            "the artifact was changed after it was logged; run preprocess again"
        )
    return StoredDataset(run_id, digest, folder, manifest)


def _read_manifest(file: Path, *, names_papers: bool) -> dict[str, Any]:
    """The manifest of a dataset, with or without the identifiers of its papers."""
    import msgspec

    parts = msgspec.json.decode(file.read_bytes(), type=dict[str, msgspec.Raw])
    splits = msgspec.json.decode(parts.pop("splits"), type=dict[str, dict[str, msgspec.Raw]])
    for split in ("train", "validation", "test"):
        # What is not decoded takes no more than its bytes in the file.
        ids = splits[split].pop("paper_ids")
        if names_papers:
            splits[split]["paper_ids"] = ids
    read = {
        name: {key: msgspec.json.decode(value) for key, value in facts.items()}
        for name, facts in splits.items()
    }
    return {name: msgspec.json.decode(value) for name, value in parts.items()} | {"splits": read}


def fetch_ledger(client: "MlflowClient", run_id: str, scratch: Path) -> "list[LedgerEntry]":
    """The papers of a dataset and their licences, without its texts.

    Args:
        client: Client of the store.
        run_id: The preprocess run that made it.
        scratch: Folder for the download.

    Raises:
        UserError: The store has neither its ledger nor its manifest.
    """
    from mlflow.exceptions import MlflowException

    from steps.papers.ledger import LEDGER_FILE, read_ledger

    folder = scratch / "ledgers" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    try:
        stored = {Path(file.path).name for file in list_files(client, run_id, DATASET_FOLDER)}
        # Datasets that were made before there were ledgers have a manifest alone.
        name = LEDGER_FILE if LEDGER_FILE in stored else "manifest.json"
        file = fetch_file(client, run_id, f"{DATASET_FOLDER}/{name}", folder)
        return read_ledger(file.parent)
    except (MlflowException, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"dataset of run {run_id}: neither its ledger nor its manifest can be read "
            f"({one_line(error)})"
        ) from None


def _refuse_changed_rows(reference: str, run_id: str, folder: Path, digest: str) -> None:
    from pyarrow.lib import ArrowException

    from steps.papers.dataset import digest_of_dataset

    try:
        found = digest_of_dataset(folder)
    except (ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"dataset {reference!r}: the files of run {run_id} cannot be read "
            f"({one_line(error)}): they were changed or cut short; run preprocess again"
        ) from None
    if found != digest:
        raise UserError(
            f"dataset {reference!r}: its manifest says {digest}, the rows of run {run_id} give "
            f"{found}: the artifact was changed after it was logged; run preprocess again"
        )


def _dataset_run(client: "MlflowClient", reference: str) -> str:
    if reference == "latest":
        run = newest_run(client, f"tags.`{STEP_TAG}` = 'preprocess'")
        if run is None:
            raise UserError(
                "dataset 'latest': this experiment has no finished preprocess run; run "
                f"`mlflow run . -e preprocess` first, or name a run id{_elsewhere(client)}"
            )
        return str(run.info.run_id)
    if reference.startswith("runs:/"):
        return reference.removeprefix("runs:/").split("/")[0]
    if "/" in reference or not reference:
        raise UserError(
            f"dataset {reference!r} is neither latest, nor a run id, nor a runs:/ID/dataset URI"
        )
    return reference


def _elsewhere(client: "MlflowClient") -> str:
    """Where there is a dataset, for somebody whose configuration or environment names another."""
    found = dataset_elsewhere(client, experiment_id())
    if found is None:
        return ""
    name, run_id = found
    return f" (experiment {name!r} has {run_id}; to work there, set MLFLOW_EXPERIMENT_NAME={name})"


def dataset_elsewhere(client: "MlflowClient", here: str | None) -> tuple[str, str] | None:
    """Another experiment that has a dataset, the newest of all: its name, and the run."""
    names = {one.experiment_id: str(one.name) for one in all_pages(client.search_experiments)}
    others = [key for key in names if key != here]
    made = f"attributes.status = 'FINISHED' and tags.`{STEP_TAG}` = 'preprocess'"
    newest = client.search_runs(others, made, max_results=1) if others else []
    return (names[newest[0].info.experiment_id], newest[0].info.run_id) if newest else None


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

    uri = place_of(mlflow.MlflowClient(), run_id)
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
