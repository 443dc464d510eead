"""Whether the checkpoints that unfinished runs would resume from are intact, before others go.

    stake = runs_at_stake(inventory, actions)
    inventory = with_intact_resume_points(inventory, stake, pending, say)

An older checkpoint of an unfinished run may go because a newer one stays. Sizes tell of that one
that its upload got through, and not that its bytes are the ones that were written: so it is read
whole and compared with its manifest, as a resume would do it, before the older one goes. That
costs the reading of one checkpoint a run, where something of the run is to go, and nothing else.
"""

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from steps.checkpoints.format import validate_checkpoint
from steps.pruning.records import Action, CheckpointRecord, PendingAction
from steps.tracking.checkpoints.inventory import Inventory, related
from steps.tracking.checkpoints.layout import resumed_from
from steps.tracking.checkpoints.stored import artifact_repository
from steps.tracking.names import CHECKPOINTS_FOLDER

if TYPE_CHECKING:
    from mlflow.entities import Run


def runs_at_stake(inventory: Inventory, actions: Sequence[Action]) -> set[str]:
    """Runs that lose their last way back by these actions, should their newest one be broken.

    These are the unfinished ones that something is taken from, and those that resumed from a
    run that something is taken from: where the heir's own is broken, its origin's is needed.
    """
    takers: dict[str, set[str]] = {}
    for run in inventory.resumed:
        key = resumed_from(run)
        if key is not None:
            takers.setdefault(key[0], set()).add(run.info.run_id)
    stake: set[str] = set()
    waiting = {action.run_id for action in actions}
    while waiting:
        run_id = waiting.pop()
        stake.add(run_id)
        waiting |= takers.get(run_id, set()) - stake
    resumable = {
        record.run_id
        for record in inventory.found
        if record.resumable and record.run_state != "finished"
    }
    return stake & resumable


def with_intact_resume_points(
    inventory: Inventory,
    run_ids: Collection[str],
    pending: Sequence[PendingAction],
    say: Callable[[str], None],
) -> Inventory:
    """Read what these runs would resume from; what is broken no longer counts as resumable.

    That is the newest on this host, and the newest in the store for a launch on another host:
    where one is broken, the one before is read, until one is intact.

    Args:
        inventory: From `take_inventory`.
        run_ids: From `runs_at_stake`.
        pending: What an interrupted pruning left: nobody resumes from what it had begun on.
        say: Told, in one line each, what is broken and how.
    """
    begun = {(entry.action.key, entry.action.created) for entry in pending if entry.begun}
    runs = {**inventory.runs, **inventory.heirs}
    found = list(inventory.found)
    for run_id in sorted(run_ids):
        mine = [
            index
            for index, record in enumerate(found)
            if record.run_id == run_id
            and record.resumable
            and not (record.being_written or record.leftover)
            and (record.key, record.created) not in begun
        ]
        one_is_intact = False
        for index in sorted(mine, key=lambda index: found[index].step, reverse=True):
            if one_is_intact and not found[index].in_store:
                continue
            found[index] = _checked(runs[run_id], found[index], say)
            one_is_intact |= found[index].resumable
            if found[index].in_store:
                break
    return related(replace(inventory, found=found))


def _checked(run: "Run", record: CheckpointRecord, say: Callable[[str], None]) -> CheckpointRecord:
    name = f"checkpoint-{record.step} of run {record.run_id}"
    here = in_store = ""
    if record.folder:
        here = _what_is_wrong(Path(record.folder))
        if here:
            say(f"{name} (local disk) cannot be resumed from: {here}")
    if record.in_store:
        with tempfile.TemporaryDirectory() as scratch:
            in_store = _what_is_wrong(_fetched(run, record.step, scratch))
        if in_store:
            say(f"{name} (artifact store) cannot be resumed from: {in_store}")
    is_here = bool(record.folder) and not here
    is_stored = record.in_store and not in_store
    return replace(record, resumable=is_here or is_stored, in_store=is_stored)


def _what_is_wrong(folder: Path) -> str:
    """Why nobody can resume from a checkpoint, or ""."""
    checked = validate_checkpoint(folder)
    if isinstance(checked, str):
        return checked
    return "" if checked.resumable else "its optimizer state has been pruned"


def _fetched(run: "Run", step: int, scratch: str) -> Path:
    """A stored checkpoint on this disk: where it lies if that is here, else a copy."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    repository = artifact_repository(run)
    is_local = isinstance(repository, LocalArtifactRepository)
    path = f"{CHECKPOINTS_FOLDER}/checkpoint-{step}"
    return Path(repository.download_artifacts(path, None if is_local else scratch))
