"""Checkpoints as the artifact store and this host's disk hold them: listed, and removed.

    runs = finetune_runs(client, experiment_id, "all")
    inventory = take_inventory(client, experiment_id, runs, metric, output_folder, pending)
    remove(client, inventory, action)

A checkpoint is one record, wherever it lies: in its run's artifacts, in the run's folder on
this host, or both. A living run's folder on the disk is its own (it uploads from there and
rotates it), so only its artifacts are looked at.

Which checkpoints there are is always asked of the store. What each takes up stands in the tags of
its LoggedModel as well: a plan reads it there, which saves a request for each checkpoint; whoever
deletes has every folder listed (`list_all`).
"""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from steps.checkpoints.format import (
    MANIFEST,
    CheckpointInfo,
    validate_checkpoint,
)
from steps.errors import UserError
from steps.pruning.records import CheckpointKey, CheckpointRecord, PendingAction, RunState
from steps.tracking.checkpoints.best_steps import best_steps_needed
from steps.tracking.checkpoints.layout import (
    CHECKPOINT_NAME,
    LEFTOVER_NAME,
    THREADS,
    checkpoint_of_model,
    is_pinned,
    model_is_pinned,
    resumed_from,
    run_state,
)
from steps.tracking.checkpoints.stored import (
    StoredCheckpoint,
    agrees_with_manifest,
    artifact_repository,
    is_missing,
    listed_in_store,
    stated_in_tags,
    stored_files,
    stored_manifest,
    stored_steps,
)
from steps.tracking.heartbeat import STALE_SECONDS, last_sign
from steps.tracking.names import CHECKPOINTS_FOLDER, LOCAL_TAG, RESUMED_TAG, STEP_TAG
from steps.tracking.store import all_pages, metric_by_step

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class Inventory:
    """All that is known of an experiment's checkpoints.

    Attributes:
        runs: The finetune runs that were looked at, by id.
        records: Their checkpoints.
        models: The LoggedModel of each checkpoint that has one.
        resumed: Runs of any experiment that say they resumed from a checkpoint.
        best_needed: The best checkpoint of each run that may be resumed, which holds the best
            weights so far: it is needed beside the one to resume from.
        can_resume: Ids of the runs, those that took over from one of these included, that have
            a checkpoint of their own to resume from.
        found: Records of `runs` and `heirs`, before a run that a later one has replaced counts
            as finished.
        heirs: Runs outside `runs` that resumed from one of them, by id.
        registered: LoggedModels of registered versions that have been looked up already.
    """

    runs: "Mapping[str, Run]"
    heirs: "Mapping[str, Run]"
    found: list[CheckpointRecord]
    records: list[CheckpointRecord]
    models: "Mapping[CheckpointKey, LoggedModel]"
    resumed: "list[Run]"
    best_needed: Mapping[CheckpointKey, str]
    can_resume: frozenset[str]
    registered: "dict[str, LoggedModel | None]" = field(default_factory=dict)


def finetune_runs(client: "MlflowClient", experiment_id: str, which: str) -> "list[Run]":
    """The finetune runs to look at: one, or `all` of the experiment.

    Raises:
        UserError: There is no such run, it is another experiment's, deleted, or no finetune run.
    """
    from mlflow.exceptions import MlflowException

    if which == "all":
        return _search_runs(client, [experiment_id], f"tags.`{STEP_TAG}` = 'finetune'")
    try:
        found = client.get_run(which)
    except MlflowException as error:
        if not is_missing(error) and error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise UserError(
            f"run {which!r} is not in this tracking store: give the id of a finetune run, or all"
        ) from None
    if found.info.experiment_id != experiment_id:
        raise UserError(
            f"run {which!r} belongs to experiment {found.info.experiment_id}, not to "
            f"{experiment_id}: prune it from there"
        )
    if found.info.lifecycle_stage == "deleted":
        raise UserError(
            f"run {which!r} is deleted: restore it first (mlflow runs restore --run-id {which}), "
            "or let mlflow gc collect it"
        )
    step = found.data.tags.get(STEP_TAG)
    if step != "finetune":
        raise UserError(
            f"run {which!r} is a run of {step or 'something else'}, which keeps no checkpoints: "
            "give the id of a finetune run, or all"
        )
    return [found]


def take_inventory(
    client: "MlflowClient",
    experiment_id: str,
    runs: "Sequence[Run]",
    metric: str,
    output_folder: Path | None,
    pending: Sequence[PendingAction] = (),
    *,
    list_all: bool,
    models: "Mapping[CheckpointKey, LoggedModel] | None" = None,
) -> Inventory:
    """Describe every checkpoint of these runs, in the store and on this host.

    Args:
        client: Client of the store.
        experiment_id: The experiment of these runs.
        runs: From `finetune_runs`.
        metric: What checkpoints are ranked by; its value is the one of the checkpoint's step.
        output_folder: `output.output_dir`, which holds a folder a run; None: none is kept.
        pending: What an interrupted pruning left: a checkpoint whose manifest it has already
            removed keeps the creation time that is noted there.
        list_all: Ask the store for the files of every checkpoint, whatever tags say of them.
        models: From `checkpoint_models`, where they are at hand; None: all are looked up. Of a
            checkpoint without one the store is asked for its files.
    """
    if models is None:
        models = checkpoint_models(client, experiment_id)
    resumed = _resumed_runs(client)
    begun = {entry.action.key: entry.action.created for entry in pending if entry.begun}
    described = _describe(client, runs, models, metric, output_folder, begun, list_all)
    known = {run.info.run_id for run in runs}
    # A run that took over from one of these may be none of these.
    heirs = [
        run
        for run in resumed
        if run.info.run_id not in known and (key := resumed_from(run)) and key[0] in known
    ]
    others = _describe(client, heirs, models, metric, None, begun, list_all)
    inventory = Inventory(
        runs={run.info.run_id: run for run in runs},
        heirs={run.info.run_id: run for run in heirs},
        found=described + others,
        records=described,
        models=models,
        resumed=resumed,
        best_needed={},
        can_resume=frozenset(),
    )
    return related(inventory)


def related(inventory: Inventory) -> Inventory:
    """Work out which runs still need what, from the records as they were found."""
    found = inventory.found
    can_resume = frozenset(record.run_id for record in found if record.resumable)
    outgrown = {
        key[0]
        for run in inventory.resumed
        if (key := resumed_from(run))
        and (run.info.status == "FINISHED" or run.info.run_id in can_resume)
    }
    records = [
        replace(record, run_state="finished")
        if record.run_id in outgrown and record.run_state == "unfinished"
        else record
        for record in found
        if record.run_id in inventory.runs
    ]
    others = [record for record in found if record.run_id in inventory.heirs]
    runs = [*inventory.runs.values(), *inventory.heirs.values()]
    best = best_steps_needed(runs, inventory.resumed, records + others)
    return replace(inventory, records=records, can_resume=can_resume, best_needed=best)


def _describe(
    client: "MlflowClient",
    runs: "Sequence[Run]",
    models: "Mapping[CheckpointKey, LoggedModel]",
    metric: str,
    output_folder: Path | None,
    begun: Mapping[CheckpointKey, datetime],
    list_all: bool,
) -> list[CheckpointRecord]:
    """Look at the artifacts and folders of these runs, with several requests under way."""
    described: list[CheckpointRecord] = []
    with ThreadPoolExecutor(THREADS) as pool:
        repositories = {run.info.run_id: artifact_repository(run) for run in runs}
        listed = pool.map(lambda run: stored_steps(repositories[run.info.run_id]), runs)
        stored = [(run, step) for run, steps in zip(runs, listed, strict=True) for step in steps]

        def content_of(entry: "tuple[Run, int]") -> StoredCheckpoint:
            run_id, step = entry[0].info.run_id, entry[1]
            model = models.get((run_id, step))
            stated = None if list_all or model is None else stated_in_tags(model)
            return stated or listed_in_store(
                stored_files(repositories[run_id], f"{CHECKPOINTS_FOLDER}/checkpoint-{step}")
            )

        files = pool.map(content_of, stored)
        with_some = list({run.info.run_id for run, _ in stored})
        histories = pool.map(lambda run_id: metric_by_step(client, run_id, metric), with_some)
        contents: dict[str, dict[int, StoredCheckpoint]] = {}
        for (run, step), content in zip(stored, files, strict=True):
            contents.setdefault(run.info.run_id, {})[step] = content
        values = dict(zip(with_some, histories, strict=True))

        def describe(run: "Run") -> list[CheckpointRecord]:
            run_id = run.info.run_id
            folder = _local_folder(run, output_folder)
            return _records(
                run,
                repositories[run_id],
                contents.get(run_id, {}),
                folder,
                values.get(run_id) or {},
                models,
                begun,
            )

        for records in pool.map(describe, runs):
            described.extend(records)
    return described


def _records(
    run: "Run",
    repository: "ArtifactRepository",
    stored: Mapping[int, StoredCheckpoint],
    folder: Path | None,
    values: Mapping[int, float],
    models: "Mapping[CheckpointKey, LoggedModel]",
    begun: Mapping[CheckpointKey, datetime],
) -> list[CheckpointRecord]:
    """Describe one run's checkpoints.

    Args:
        run: The run.
        repository: Its artifacts.
        stored: What they hold of each checkpoint, by step.
        folder: The run's folder on this host, whether or not it is there.
        values: The metric by step.
        models: The LoggedModels of checkpoints.
        begun: Checkpoints that an interrupted pruning has begun to remove.
    """
    now = time()
    state = run_state(run)
    local = _local_folders(folder) if folder is not None and state != "living" else {}
    newest_whole = max((step for step in stored if stored[step].is_whole), default=-1)
    records: list[CheckpointRecord] = []
    found_newest = False
    for step in sorted(stored.keys() | local.keys(), reverse=True):
        key = (run.info.run_id, step)
        path = f"{CHECKPOINTS_FOLDER}/checkpoint-{step}"
        files, copy = stored.get(step, StoredCheckpoint()), local.get(step)
        info = validate_checkpoint(copy, hashes=False) if copy is not None else None
        in_store = files.may_be_resumable
        # Names alone do not tell whether an upload got through: of the ones that an unfinished
        # run may need, down to the newest that is whole, the sizes are compared as well.
        if in_store and state != "finished" and not found_newest:
            in_store = found_newest = agrees_with_manifest(repository, path)
        resumable_here = isinstance(info, CheckpointInfo) and info.resumable
        is_whole = files.is_whole or (copy is not None and (copy / MANIFEST).is_file())
        # A deletion that was begun goes on while its run lives, unless a writer may be back at it.
        may_be_written = not is_whole and (
            (state == "living" and not (key in begun and step < newest_whole))
            or (key not in begun and now - last_sign(run) < STALE_SECONDS)
        )
        model = models.get(key)
        records.append(
            CheckpointRecord(
                run_id=run.info.run_id,
                experiment_id=run.info.experiment_id,
                step=step,
                bytes=files.bytes + (bytes_on_disk(copy) if copy is not None else 0),
                metric=values.get(step),
                created=_created(run, repository, step, files, info, model, begun.get(key)),
                location=f"{run.info.artifact_uri}/{path}" if step in stored else str(copy),
                run_state=state,
                slimmable_bytes=files.resume_only
                + (_slimmable_bytes(info) if isinstance(info, CheckpointInfo) else 0),
                resumable=in_store or resumable_here,
                pinned=is_pinned(run.data.tags, step)
                or (model is not None and model_is_pinned(model)),
                being_written=may_be_written,
                leftover=not is_whole and not may_be_written,
                in_store=in_store,
                folder=str(copy) if copy is not None else "",
            )
        )
    records.extend(_leftovers(run, folder, state, now) if folder is not None else [])
    return records


def _leftovers(run: "Run", folder: Path, state: RunState, now: float) -> Iterator[CheckpointRecord]:
    """Describe the hidden folders in which crashed saves and removals ended."""
    if state == "living" or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        name = LEFTOVER_NAME.fullmatch(path.name)
        if name is None:
            continue
        newest = max(entry.stat().st_mtime for entry in [path, *path.rglob("*")])
        # Nobody writes into trash; a staging folder may be that of a run without a heartbeat.
        is_fresh = name[2] == "partial" and now - newest < STALE_SECONDS
        yield CheckpointRecord(
            run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            step=int(name[1]),
            bytes=bytes_on_disk(path),
            metric=None,
            created=datetime.fromtimestamp(newest, UTC),
            location=str(path),
            run_state=state,
            resumable=False,
            being_written=is_fresh,
            leftover=not is_fresh,
            in_store=False,
            folder=str(path),
        )


def _created(
    run: "Run",
    repository: "ArtifactRepository",
    step: int,
    files: StoredCheckpoint,
    info: CheckpointInfo | str | None,
    model: "LoggedModel | None",
    noted: datetime | None,
) -> datetime:
    """When a checkpoint was written, from whatever still tells."""
    if model is not None:
        return datetime.fromtimestamp(model.creation_timestamp / 1000, UTC)
    if isinstance(info, CheckpointInfo):
        return info.created
    if files.is_whole:
        manifest = stored_manifest(repository, f"{CHECKPOINTS_FOLDER}/checkpoint-{step}")
        if manifest is not None:
            return manifest.created
    return noted or datetime.fromtimestamp(run.info.start_time / 1000, UTC)


def checkpoint_models(
    client: "MlflowClient", experiment_id: str
) -> "dict[CheckpointKey, LoggedModel]":
    """Find the LoggedModels of all checkpoints of an experiment."""
    return checkpoints_among(all_pages(client.search_logged_models, [experiment_id]))


def checkpoints_among(models: "Sequence[LoggedModel]") -> "dict[CheckpointKey, LoggedModel]":
    """Those of some LoggedModels that are checkpoints: a `forge.*` tag of theirs is its URI."""
    return {key: model for model in models if (key := checkpoint_of_model(model)) is not None}


def _resumed_runs(client: "MlflowClient") -> "list[Run]":
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return _search_runs(client, experiments, f"tags.`{RESUMED_TAG}` LIKE '%'")


def _search_runs(client: "MlflowClient", experiments: list[str], filters: str) -> "list[Run]":
    return all_pages(client.search_runs, experiments, filters)


def _local_folders(root: Path) -> dict[int, Path]:
    return {
        int(name[1]): path
        for path in (root.iterdir() if root.is_dir() else [])
        if path.is_dir() and (name := CHECKPOINT_NAME.fullmatch(path.name))
    }


def _slimmable_bytes(info: CheckpointInfo) -> int:
    return sum(
        entry.bytes
        for name, entry in info.files.items()
        if entry.resume_only and (info.folder / name).exists()
    )


def bytes_on_disk(folder: Path) -> int:
    """What the files below a folder take; of a training that goes on, some may just be going."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _local_folder(run: "Run", output_folder: Path | None) -> Path | None:
    """Where a run's checkpoints are on this host, by its tag, else by the configuration."""
    run_id = run.info.run_id
    host, _, path = run.data.tags.get(LOCAL_TAG, "").partition(":")
    # What a tag names is deleted from only if it is plainly a folder of this very run.
    if host == socket.gethostname() and Path(path).name == run_id:
        return Path(path)
    return output_folder / run_id if output_folder is not None else None
