"""Deleting checkpoints, and parts of them, from the store."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from steps.cache_folder import cache_folder
from steps.checkpoints.format import MANIFEST, CheckpointInfo, validate_checkpoint
from steps.errors import UserError
from steps.pruning.records import Action
from steps.tracking.checkpoints.inventory import Inventory
from steps.tracking.checkpoints.layout import CHECKPOINT_NAME, LEFTOVER_NAME
from steps.tracking.checkpoints.stored import (
    artifact_repository,
    is_missing,
    stored_files,
    stored_manifest,
)
from steps.tracking.names import BYTES_TAG, CHECKPOINTS_FOLDER, RESUME_ONLY_TAG, SLIMMED_TAG
from steps.tracking.store import few_retries, reason

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient


LOCK_SECONDS = 1800


@contextmanager
def explain_store_errors() -> Iterator[None]:
    """Turn a store that does not answer, or refuses to delete, into one line.

    Raises:
        UserError: The server is gone, or files cannot be read or deleted.
    """
    import requests
    from mlflow.exceptions import MlflowException

    with few_retries():
        try:
            yield
        except OSError as error:
            if isinstance(error, requests.exceptions.RequestException):
                raise _store_gone(error) from None
            raise UserError(
                f"{error.filename or 'a checkpoint'} cannot be read or deleted "
                f"({error.strerror or reason(error)}): mend its permissions and run "
                "prune_checkpoints again, which finishes what was begun"
            ) from None
        except MlflowException as error:
            raise _store_gone(error) from None


def _store_gone(error: BaseException) -> UserError:
    return UserError(
        f"the tracking store failed in the middle ({reason(error)}): start the server again "
        "and rerun prune_checkpoints, which finishes what was begun"
    )


def journal_file(client: "MlflowClient", experiment_id: str) -> Path:
    """Where this host notes what it removes from an experiment.

    The experiment's number alone would be shared by every store that this host knows, and one
    store is known by several addresses: its time of creation tells it from the others.
    """
    experiment = client.get_experiment(experiment_id)
    name = f"experiment-{experiment_id}-{experiment.creation_time}.jsonl"
    return cache_folder() / "pruning" / name


@contextmanager
def pruning_lock(journal: Path) -> Iterator[None]:
    """One pruning of an experiment at a time on this host; another one waits.

    Raises:
        UserError: The other one takes too long.
    """
    from filelock import FileLock, Timeout

    journal.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(journal.with_suffix(".lock"))
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise UserError(
            f"another prune_checkpoints has held {lock.lock_file} for {LOCK_SECONDS} s: wait for it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def remove(client: "MlflowClient", inventory: Inventory, action: Action) -> None:
    """Delete or slim one checkpoint, its copy on this host and its LoggedModel.

    The manifest goes first, so that a checkpoint that is half gone is none for any reader, and
    the LoggedModel last, by which the rest is found. What is gone already is no error.
    """
    folder = Path(action.folder) if action.folder else None
    if folder is not None:
        _remove_folder(folder, action.what)
        if LEFTOVER_NAME.fullmatch(folder.name):
            return
    repository = _repository_of(client, action.run_id)
    if repository is None:
        return
    path = f"{CHECKPOINTS_FOLDER}/checkpoint-{action.step}"
    model = inventory.models.get(action.key)
    if model is not None:
        # No plan may go by it from here on, wherever this ends.
        client.set_logged_model_tags(model.model_id, {BYTES_TAG: "being pruned"})
    if action.what == "slim":
        for name in _resume_only_of(repository, path):
            repository.delete_artifacts(f"{path}/{name}")
        if model is not None:
            left = str(sum(stored_files(repository, path).values()))
            tags = {SLIMMED_TAG: "true", BYTES_TAG: left, RESUME_ONLY_TAG: "0"}
            client.set_logged_model_tags(model.model_id, tags)
        return
    if MANIFEST in stored_files(repository, path):
        repository.delete_artifacts(f"{path}/{MANIFEST}")
    repository.delete_artifacts(path)
    if model is not None:
        client.delete_logged_model(model.model_id)


def _repository_of(client: "MlflowClient", run_id: str) -> "ArtifactRepository | None":
    """The artifacts of a run, or None where the run was deleted for good."""
    from mlflow.exceptions import MlflowException

    try:
        return artifact_repository(client.get_run(run_id))
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None


def _resume_only_of(repository: "ArtifactRepository", path: str) -> list[str]:
    """The files of a stored checkpoint that its manifest says only resuming needs."""
    names = stored_files(repository, path)
    manifest = stored_manifest(repository, path) if MANIFEST in names else None
    if manifest is None:
        return []
    return [name for name, entry in manifest.files.items() if entry.resume_only and name in names]


def _remove_folder(folder: Path, what: str) -> None:
    """Delete or slim a checkpoint on the disk; it is renamed first, so nobody reads a half."""
    is_leftover = LEFTOVER_NAME.fullmatch(folder.name)
    assert is_leftover or CHECKPOINT_NAME.fullmatch(folder.name), folder
    if not folder.is_dir():
        return
    if what == "slim":
        info = validate_checkpoint(folder, hashes=False)
        for name, entry in info.files.items() if isinstance(info, CheckpointInfo) else ():
            if entry.resume_only:
                (folder / name).unlink(missing_ok=True)
        return
    if not is_leftover:
        trash = folder.with_name(f".{folder.name}.trash-0")
        if trash.exists():
            shutil.rmtree(trash)
        folder = folder.rename(trash)
    shutil.rmtree(folder)
