"""Datasets of a server that this machine has had in its hands, kept by their digests.

Each step fetches the dataset whole, of a server a file at a time, and holds its rows against the
digest that its run states. What has that digest is that dataset: a copy on this disk will do, as
long as the store still has it. A store on this machine needs no copy.
"""

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from steps.cache_folder import cache_folder
from steps.tracking.artifacts import list_files, place_of
from steps.tracking.names import DATASET_FOLDER

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

# The newest ones; each is as large as its papers' texts.
MOST_KEPT = 3
UNFINISHED = "new-"


def keep_dataset(client: "MlflowClient", run_id: str, folder: Path, digest: str) -> None:
    """Keep a dataset whose digest has been checked; nothing for a store on this machine.

    Args:
        client: Client of the store.
        run_id: The run that holds it.
        folder: Where it is now.
        digest: Of its rows.
    """
    kept = _place(run_id, digest)
    if is_near(client, run_id) or kept.is_dir():
        return
    # It is a convenience: a full disk, or a step that keeps another one now, is no reason to fail.
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=UNFINISHED) as scratch:
            Path(shutil.copytree(folder, Path(scratch) / DATASET_FOLDER)).rename(kept)
        _remove_old(kept.parent)


def forget_dataset(run_id: str, digest: str) -> None:
    """Remove a kept dataset that turned out to be damaged."""
    shutil.rmtree(_place(run_id, digest), ignore_errors=True)


def kept_dataset(
    client: "MlflowClient", run_id: str, digest: str | None, scratch: Path
) -> Path | None:
    """A copy of a dataset that was kept, if the store still has its files; else None.

    Args:
        client: Client of the store.
        run_id: The run that holds it.
        digest: That the run states.
        scratch: Folder for the copy.

    Raises:
        MlflowException: The store does not answer; `store_errors` has what else is raised.
    """
    if digest is None or is_near(client, run_id):
        return None
    kept = _place(run_id, digest)
    if not kept.is_dir():
        return None
    stored = {Path(entry.path).name for entry in list_files(client, run_id, DATASET_FOLDER)}
    try:
        if stored != {path.name for path in kept.iterdir()}:
            forget_dataset(run_id, digest)
            return None
        copied = Path(shutil.copytree(kept, scratch / DATASET_FOLDER))
        os.utime(kept)
    except OSError:
        # It went in this moment, as one of the older ones.
        shutil.rmtree(scratch / DATASET_FOLDER, ignore_errors=True)
        return None
    return copied


def _remove_old(folder: Path) -> None:
    """Remove all but the newest, and what a killed step has left half copied."""
    newest_first = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    whole = [path for path in newest_first if not path.name.startswith(UNFINISHED)]
    yesterday = time.time() - 24 * 3600
    left = [
        path
        for path in newest_first
        if path.name.startswith(UNFINISHED) and path.stat().st_mtime < yesterday
    ]
    for old in (*whole[MOST_KEPT:], *left):
        shutil.rmtree(old, ignore_errors=True)


def _place(run_id: str, digest: str) -> Path:
    # Two runs may make the same rows, and their manifests say other things of them.
    return cache_folder() / "datasets" / f"{run_id}-{digest.removeprefix('sha256:')[:16]}"


def is_near(client: "MlflowClient", run_id: str) -> bool:
    """Whether the artifacts of a run lie on a disk of this machine."""
    return urlsplit(place_of(client, run_id)).scheme in ("", "file")
