"""What the artifact store itself says of one checkpoint: its files, bytes and manifest."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from steps.checkpoints.format import (
    MANIFEST,
    RESUME_ONLY,
    WEIGHTS,
    _Manifest,
    _read_manifest,
)
from steps.tracking.checkpoints.layout import CHECKPOINT_NAME
from steps.tracking.names import BYTES_TAG, CHECKPOINTS_FOLDER, RESUME_ONLY_TAG, SLIMMED_TAG

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


@dataclass(frozen=True)
class StoredCheckpoint:
    """What the store holds of one checkpoint.

    Attributes:
        bytes: What all files take up.
        resume_only: What those take up that only resuming needs.
        is_whole: Whether the manifest is there, which comes last and goes first.
        may_be_resumable: Whether the files that resuming needs seem to be there.
    """

    bytes: int = 0
    resume_only: int = 0
    is_whole: bool = False
    may_be_resumable: bool = False


def is_missing(error: Exception) -> bool:
    """Whether the store says that what was asked for does not exist."""
    return bool(getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST")


def artifact_repository(run: "Run") -> "ArtifactRepository":
    """Where the artifacts of a run lie."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(run.info.artifact_uri)


def stored_steps(repository: "ArtifactRepository") -> list[int]:
    """The steps of the checkpoint folders of a run, rising."""
    names = [
        CHECKPOINT_NAME.fullmatch(entry.path.rpartition("/")[2])
        for entry in repository.list_artifacts(CHECKPOINTS_FOLDER)
        if entry.is_dir
    ]
    return [int(name[1]) for name in names if name]


def stored_files(repository: "ArtifactRepository", path: str) -> dict[str, int]:
    """List a folder of artifacts: path inside it to bytes."""
    files: dict[str, int] = {}
    pending = [path]
    while pending:
        for entry in repository.list_artifacts(pending.pop()):
            if entry.is_dir:
                pending.append(entry.path)
            else:
                files[entry.path.removeprefix(f"{path}/")] = int(entry.file_size or 0)
    return files


def stated_in_tags(model: "LoggedModel") -> StoredCheckpoint | None:
    """What the tags of a checkpoint's LoggedModel say; None: nothing that counts.

    The LoggedModel is made after the upload, and the tag is spoilt before the first file goes.
    """
    tags = model.tags or {}
    total, resume_only = tags.get(BYTES_TAG, ""), tags.get(RESUME_ONLY_TAG, "")
    if not (total.isdigit() and resume_only.isdigit()):
        return None
    is_slimmed = SLIMMED_TAG in tags
    return StoredCheckpoint(
        int(total), int(resume_only), is_whole=True, may_be_resumable=not is_slimmed
    )


def listed_in_store(names: Mapping[str, int]) -> StoredCheckpoint:
    """What the files' names and sizes say; they let guess whether it can be resumed from."""
    resume_only = _resume_only(names)
    has_weights = any(_matches(name, WEIGHTS) for name in names)
    return StoredCheckpoint(
        bytes=sum(names.values()),
        resume_only=sum(names[name] for name in resume_only),
        is_whole=MANIFEST in names,
        may_be_resumable=MANIFEST in names and (bool(resume_only) or not has_weights),
    )


def _resume_only(names: Mapping[str, int]) -> list[str]:
    """The files that slimming takes, by the rule that the writer marks them by."""
    resume_only = [name for name in names if _matches(name, RESUME_ONLY)]
    has_weights = any(_matches(name, WEIGHTS) for name in names if name not in resume_only)
    return resume_only if has_weights else []


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def agrees_with_manifest(repository: "ArtifactRepository", path: str) -> bool:
    """Whether every file that a stored checkpoint's manifest names is there in full size."""
    names = stored_files(repository, path)
    manifest = stored_manifest(repository, path) if MANIFEST in names else None
    return manifest is not None and all(
        names.get(name) == entry.bytes for name, entry in manifest.files.items()
    )


def stored_manifest(repository: "ArtifactRepository", path: str) -> _Manifest | None:
    """Read a manifest from the store; None where it is broken."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(repository.download_artifacts(f"{path}/{MANIFEST}", scratch))
        manifest = _read_manifest(file.parent)
    return None if isinstance(manifest, str) else manifest
