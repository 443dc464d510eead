"""Files of evaluations that passed through this machine, kept by the digests that their runs state.

A pipeline asks for the same few files of results again and again: the base's beside each version,
both models' in a comparison, all of them on the page of runs. Of a server each is a request.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from steps.cache_folder import cache_folder
from steps.digests import file_sha256
from steps.tracking.artifacts import fetch_files, repository_of
from steps.tracking.kept_datasets import is_near

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

# The newest files; an evaluation has two to four.
MOST_KEPT = 100


def keep_results(client: "MlflowClient", run_id: str, files: Mapping[Path, str]) -> None:
    """Keep files whose digests are known; nothing for a store on this machine.

    Args:
        client: Client of the store.
        run_id: The evaluation run that holds them.
        files: Their SHA-256 by where they are now.
    """
    if is_near(client, run_id):
        return
    folder = _folder()
    # It is a convenience: a full disk is no reason to fail.
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for file, sha256 in files.items():
            if (folder / sha256).exists():
                continue
            half = folder / f"new-{sha256}-{os.getpid()}"
            shutil.copyfile(file, half)
            half.rename(folder / sha256)
        kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in kept[:-MOST_KEPT]:
            old.unlink(missing_ok=True)


def fetch_results(
    client: "MlflowClient", run_id: str, names: Mapping[str, str | None], target: Path
) -> dict[str, Path]:
    """Bring files of an evaluation into a folder: kept ones, the others from the store.

    Args:
        client: Client of the store.
        run_id: The evaluation run.
        names: The digest of each that its run states, or None.
        target: Folder for them.

    Raises:
        MlflowException: The store does not have them, or does not answer.
        OSError: The same, of other clients than MLflow's.
    """
    there = {name: target / name for name, sha256 in names.items() if _copy(sha256, target / name)}
    missing = [name for name in names if name not in there]
    fetched = fetch_files(repository_of(client, run_id), missing, target) if missing else []
    return there | dict(zip(missing, fetched, strict=True))


def _copy(sha256: str | None, target: Path) -> bool:
    """Copy a kept file, if there is one and it is whole."""
    if sha256 is None:
        return False
    try:
        shutil.copyfile(_folder() / sha256, target)
        # The oldest go first, by when they were last of use.
        os.utime(_folder() / sha256)
    except OSError:
        return False
    return file_sha256(target) == sha256


def _folder() -> Path:
    return cache_folder() / "results"
