"""Checkpoints on the local disk: written whole or not at all, checked before they are read.

    with writing_checkpoint(root, step=50, facts={"dataset_digest": "sha256:..."}) as folder:
        model.save_pretrained(folder)
    checkpoint = validate_checkpoint(root / "checkpoint-50")     # or the reason why it is none

A checkpoint is a folder `checkpoint-N` (N: optimiser steps) with a `manifest.json` that lists
the size and SHA-256 of every other file. It is written into a hidden folder beside its final
name and renamed at the end, so a process killed at any moment leaves either no checkpoint-N or
a whole one. A folder without a valid manifest is no checkpoint for any reader here.

Files that only resuming needs (optimiser, scheduler, random state) are marked in the manifest.
Pruning may remove them: a checkpoint without them is still valid, and no longer resumable.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import msgspec

from steps.digests import file_sha256
from steps.errors import UserError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

# What Trainer, Accelerate, DeepSpeed and FSDP write for resuming and for nothing else.
RESUME_ONLY = (
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "global_step*/*",
    "latest",
    "optimizer_*/*",
)

# `global_step*/` may hold the only copy of the weights (ZeRO-3): it is resume-only beside these.
WEIGHTS = ("*.safetensors", "adapter_model.bin", "pytorch_model*.bin")
_CHECKPOINT_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
_LEFTOVER_NAME = re.compile(r"\.checkpoint-[0-9]+\.(?:partial|trash)-([0-9]+)")


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a checkpoint, as its manifest lists it."""

    bytes: int
    sha256: str
    resume_only: bool


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format_version: int
    step: int
    created: datetime
    facts: dict[str, Any]
    files: dict[str, FileEntry]
    # SHA-256 of this manifest with an empty digest: a flipped byte in here is noticed too.
    digest: str


class _Versioned(msgspec.Struct, frozen=True):
    """The one field that manifests of every format share."""

    format_version: int


@dataclass(frozen=True)
class CheckpointInfo:
    """A valid checkpoint.

    Attributes:
        folder: Where it lies.
        step: Optimiser steps done when it was written.
        created: When it was written, in UTC.
        facts: What the writer said it belongs to, such as dataset and configuration digests.
        files: Every file but the manifest, by its path inside the folder (with `/`), the
            ones that pruning has removed included.
        digest: SHA-256 of the manifest, which identifies the whole content.
        resumable: Whether all the files that resuming needs are still there.
    """

    folder: Path
    step: int
    created: datetime
    facts: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    digest: str
    resumable: bool


@contextmanager
def writing_checkpoint(root: Path, step: int, facts: Mapping[str, Any]) -> Iterator[Path]:
    """Write checkpoint-`step` under `root`, whole or not at all.

    Yields a folder to write into. When the block ends, its files are flushed to the disk, the
    manifest is added, and the folder is renamed to its final name; the rename is what makes
    the checkpoint exist. A valid checkpoint-`step` of the same facts is left as it is (the
    new files are dropped), an invalid one is replaced. Whatever goes wrong inside the block or
    after it (a full disk, Ctrl-C), the folder is removed and other checkpoints are intact.

    In a distributed run one process enters this, and the others write into the folder that it
    was given; they must have finished before the block ends.

    Args:
        root: Folder of the run's checkpoints; made where it is missing.
        step: Optimiser steps done.
        facts: What the checkpoint belongs to (dataset digest, configuration digest), as JSON
            values. Keep measurements out: the facts of a repeated save must be the same.

    Raises:
        UserError: A valid checkpoint-`step` of other facts is there, from another run.
        OSError: The disk is full or not writable.
    """
    final = root / f"checkpoint-{step}"
    _refuse_other_facts(final, facts)
    root.mkdir(parents=True, exist_ok=True)
    staging = root / f".checkpoint-{step}.partial-{os.getpid()}"
    # A crashed process of the same number (every container has its own process 1) left this.
    _delete(staging)
    staging.mkdir()
    try:
        yield staging
        _seal(staging, step, facts)
        _publish(staging, final)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def validate_checkpoint(folder: Path, *, hashes: bool = True) -> CheckpointInfo | str:
    """Check a checkpoint before any of its files is opened by a loader.

    Every file must be listed in the manifest and have the size and SHA-256 that stand there.
    A file that is not listed makes the checkpoint invalid, because a loader might open it
    (a stray `optimizer.pt` is a pickle); hidden files such as `.DS_Store` are overlooked. Of
    the listed files only the resume-only ones may be missing.

    Args:
        folder: The checkpoint. One named checkpoint-N must hold step N.
        hashes: False compares names and sizes only, which costs no reading of the files.

    Returns:
        The checkpoint, or in one line why the folder is not a valid one.
    """
    try:
        manifest = _read_manifest(folder)
        if isinstance(manifest, str):
            return manifest
        name = _CHECKPOINT_NAME.fullmatch(folder.name)
        if name and int(name[1]) != manifest.step:
            return f"its manifest is that of step {manifest.step}"
        found = {path.relative_to(folder).as_posix(): path for path in _plain_files(folder)}
        found.pop(MANIFEST, None)
        for relative in sorted(found.keys() - manifest.files.keys()):
            return f"{relative} is not listed in its manifest"
        missing = sorted(manifest.files.keys() - found.keys())
        for relative in missing:
            if not manifest.files[relative].resume_only:
                return f"{relative} is missing"
        # Sizes first, over all files: they betray most broken checkpoints without reading one.
        for relative, path in found.items():
            size, listed = path.stat().st_size, manifest.files[relative].bytes
            if size != listed:
                return f"{relative} has {size} bytes, its manifest says {listed}"
        if hashes:
            for relative, path in found.items():
                if file_sha256(path) != manifest.files[relative].sha256:
                    return f"{relative} does not have the SHA-256 that its manifest says"
    except NotADirectoryError:
        return "it is not a folder"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    return CheckpointInfo(
        folder=folder,
        step=manifest.step,
        created=manifest.created,
        facts=manifest.facts,
        files=manifest.files,
        digest=manifest.digest,
        resumable=not missing,
    )


def list_checkpoints(root: Path, *, hashes: bool = False) -> list[CheckpointInfo]:
    """List the valid checkpoints under `root` by ascending step.

    Args:
        root: Folder of a run's checkpoints; need not exist.
        hashes: True also compares every file's SHA-256.
    """
    checked = [validate_checkpoint(folder, hashes=hashes) for folder in _folders(root)]
    return [checkpoint for checkpoint in checked if isinstance(checkpoint, CheckpointInfo)]


def list_names(root: Path) -> list[tuple[int, Path]]:
    """List what is named checkpoint-N under `root`, valid or not, by ascending N."""
    return [(int(folder.name.rpartition("-")[2]), folder) for folder in _folders(root)]


def remove_leftovers(root: Path) -> list[Path]:
    """Remove what crashed saves and rotations left, but not what a living process works on.

    Call it when a run starts and between saves: this process's own leftovers count as dead.

    Returns:
        The folders that were removed.
    """
    removed = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        name = _LEFTOVER_NAME.fullmatch(path.name)
        if name and not _is_another_living_process(int(name[1])):
            _delete(path)
            removed.append(path)
    return removed


def rotate(root: Path, keep: int, protect: set[int] | frozenset[int] = frozenset()) -> list[int]:
    """Remove all but the newest `keep` valid checkpoints, and never those of `protect`.

    Invalid folders neither count nor are touched: what this module has not written is not its
    to delete. Each checkpoint is renamed before it is deleted, so no reader sees half of one.

    Args:
        root: Folder of a run's checkpoints.
        keep: How many of the newest stay, at least 1.
        protect: Steps that stay in any case, such as the best one's.

    Returns:
        The steps that were removed, ascending.

    Raises:
        OSError: A folder cannot be renamed or deleted.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}, expected at least 1: it would delete every checkpoint")
    older = list(list_checkpoints(root)[:-keep])
    dispensable = [checkpoint for checkpoint in older if checkpoint.step not in protect]
    for checkpoint in dispensable:
        _delete(_move_to_trash(checkpoint.folder))
    return [checkpoint.step for checkpoint in dispensable]


def _refuse_other_facts(final: Path, facts: Mapping[str, Any]) -> None:
    present = validate_checkpoint(final) if final.exists() else None
    if isinstance(present, CheckpointInfo) and present.facts != _as_json(facts):
        raise UserError(
            f"{final}: holds a checkpoint of another run "
            f"({_difference(present.facts, _as_json(facts))}): "
            "give a fresh output folder or remove that checkpoint"
        )


def _seal(staging: Path, step: int, facts: Mapping[str, Any]) -> None:
    """Bring everything to the disk, the manifest last."""
    files = {path.relative_to(staging).as_posix(): path for path in _plain_files(staging)}
    if MANIFEST in files:
        raise ValueError(f"{files[MANIFEST]}: the name belongs to the checkpoint's own manifest")
    has_weights = any(_matches(name, WEIGHTS) for name in files if not _matches(name, RESUME_ONLY))
    entries = {}
    for name, path in sorted(files.items()):
        _fsync(path)
        entries[name] = FileEntry(
            bytes=path.stat().st_size,
            sha256=file_sha256(path),
            resume_only=has_weights and _matches(name, RESUME_ONLY),
        )
    for folder in {path.parent for path in files.values()} - {staging}:
        _fsync(folder)
    manifest = _Manifest(
        format_version=FORMAT_VERSION,
        step=step,
        created=datetime.now(UTC),
        facts=_as_json(facts),
        files=entries,
        digest="",
    )
    manifest = msgspec.structs.replace(manifest, digest=_digest(manifest))
    with open(staging / MANIFEST, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    _fsync(staging)


def _publish(staging: Path, final: Path) -> None:
    if os.path.lexists(final):
        if isinstance(validate_checkpoint(final), CheckpointInfo):
            _delete(staging)
            return
        trash = _move_to_trash(final)
        os.rename(staging, final)
        _fsync(final.parent)
        _delete(trash)
        return
    os.rename(staging, final)
    # Only with the parent on the disk does the new name survive a power failure.
    _fsync(final.parent)


def _move_to_trash(folder: Path) -> Path:
    trash = folder.with_name(f".{folder.name}.trash-{os.getpid()}")
    _delete(trash)
    os.rename(folder, trash)
    return trash


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_manifest(folder: Path) -> _Manifest | str:
    path = folder / MANIFEST
    if path.is_symlink():
        return f"{MANIFEST} is a link"
    content = path.read_bytes()
    try:
        version = msgspec.json.decode(content, type=_Versioned).format_version
        if version != FORMAT_VERSION:
            return f"{MANIFEST} has format version {version}, this program reads {FORMAT_VERSION}"
        manifest = msgspec.json.decode(content, type=_Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return f"{MANIFEST} is broken: {error}"
    if _digest(manifest) != manifest.digest:
        return f"{MANIFEST} does not have the digest that it says"
    return manifest


def _digest(manifest: _Manifest) -> str:
    bare = msgspec.structs.replace(manifest, digest="")
    return "sha256:" + hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()


def _plain_files(folder: Path) -> Iterator[Path]:
    """Yield every file below the folder but hidden ones.

    Raises:
        ValueError: A link or device, through which a reader would leave the folder.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _plain_files(path)
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                raise ValueError(f"{path} is neither a file nor a folder")


def _folders(root: Path) -> list[Path]:
    """Everything named checkpoint-N, by ascending N."""
    named = [
        (int(name[1]), path)
        for path in (root.iterdir() if root.is_dir() else [])
        if (name := _CHECKPOINT_NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(named)]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _as_json(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Give the facts as they look when they are read back (tuples become lists)."""
    return msgspec.json.decode(msgspec.json.encode(facts), type=dict[str, Any])


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    keys = sorted(found.keys() | expected.keys())
    key = next(key for key in keys if _fact(found, key) != _fact(expected, key))
    return f"its {key} is {_fact(found, key)}, expected {_fact(expected, key)}"


def _fact(facts: Mapping[str, Any], key: str) -> str:
    return repr(facts[key]) if key in facts else "not given"


def _is_another_living_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it lives, and belongs to another user
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
