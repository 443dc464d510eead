"""The checkpoint that several ranks go on from."""

import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steps.cache_folder import cache_folder
from steps.checkpoints.format import MANIFEST, CheckpointInfo, validate_checkpoint
from steps.checkpoints.trainer_state import ResumePoint
from steps.config.sections import Training
from steps.distributed.collectives import all_gather, broadcast
from steps.distributed.ranks import Rank
from steps.errors import UserError
from steps.tracking.artifacts import list_files
from steps.tracking.checkpoints.resume import Found, checkpoint_at_hand, find_resume_point
from steps.tracking.names import CHECKPOINTS_FOLDER, RESUME_KEY_TAG
from steps.tracking.runs import (
    StepRun,
)


def agree_on_point(
    run: StepRun,
    rank: Rank,
    reference: str,
    expected: Mapping[str, Any],
    say: Callable[[str], None],
) -> Found | None:
    """Find the newest checkpoint that every rank has at hand; all ranks call it.

    Args:
        run: The run of this step.
        rank: The place of this process.
        reference: As in `find_resume_point`.
        expected: As in `find_resume_point`.
        say: As in `find_resume_point`.

    Raises:
        UserError: As in `find_resume_point`, on every rank.
    """
    if rank.is_first:
        try:
            found = find_resume_point(
                run, reference, expected, say, accept=lambda found: _offer(found, rank)
            )
        except UserError as error:
            broadcast(("error", str(error)))
            raise
        broadcast(("done", None))
        return found
    current: Found | None = None
    while True:
        kind, content = broadcast(None)
        if kind == "error":
            raise UserError(content)
        if kind == "done":
            return current
        current = _taken(run, content)
        if not all(all_gather(current is not None)):
            current = None


def _offer(found: Found, rank: Rank) -> bool:
    if rank.count == 1:
        return True
    folders = [found.point.folder, found.point.best_folder]
    described = [
        (str(folder), checkpoint.step, checkpoint.digest)
        for folder in folders
        if folder is not None
        and isinstance(checkpoint := validate_checkpoint(folder, hashes=False), CheckpointInfo)
    ]
    broadcast(("offer", (found.run_id, found.where, described, found.division)))
    return all(all_gather(True))


def _taken(run: StepRun, offer: Any) -> Found | None:
    """The offered checkpoint as this machine sees it, if it does."""
    run_id, where, described, division = offer
    folders = [
        checkpoint_at_hand(run, run_id, step, Path(folder), digest)
        for folder, step, digest in described
    ]
    if not folders or any(folder is None for folder in folders):
        return None
    first, *best = folders
    assert first is not None
    point = ResumePoint(first, described[0][1], best[0] if best else None)
    return Found(run_id, point, where, division=division)


def is_restarted(run: StepRun) -> bool:
    """Whether an earlier attempt has got as far as training in this run."""
    return run.may_be_rejoined and RESUME_KEY_TAG in run.client.get_run(run.id).data.tags


def lacks(run: StepRun, found: Found) -> bool:
    """Whether the checkpoint found is this run's own, on disk, and not whole in the store."""
    name = f"{CHECKPOINTS_FOLDER}/checkpoint-{found.point.step}"
    stored = {file.path for file in list_files(run.client, run.id, name)}
    ours = found.run_id == run.id and found.where == "local disk"
    return ours and f"{name}/{MANIFEST}" not in stored


def last_steps(run: StepRun) -> dict[str, int]:
    """Last step of each metric of the run, by name; first sends what its spool still holds.

    What the killed attempt had not sent is sent first.
    """
    run.spool.flush(run.patience)
    names = run.client.get_run(run.id).data.metrics
    return {
        name: max(point.step for point in run.client.get_metric_history(run.id, name))
        for name in names
    }


def machine_name(rank: Rank) -> str:
    """The name of this machine among those that take part, "" where it is the only one."""
    names = all_gather((rank.machine, socket.gethostname()))
    if rank.machines == 1:
        return ""
    own = socket.gethostname()
    namesakes = {machine for machine, name in names if name == own}
    return own if len(namesakes) == 1 else f"{own}-{rank.machine}"


def checkpoint_folder(training: Training, rank: Rank, run: StepRun) -> Path:
    """Where a run writes its checkpoints: a folder that all attempts and ranks agree on."""
    output = training.output.output_dir
    if output:
        return Path(output).expanduser() / run.id
    if rank.count == 1 and not rank.is_launched:
        return run.scratch / "training" / run.id
    return shared_checkpoints(run.id)


def shared_checkpoints(run_id: str) -> Path:
    """Checkpoint folder of a run under a launcher that has no `output.output_dir`."""
    return cache_folder() / "checkpoints" / run_id


def remove_shared_checkpoints(run_id: str) -> None:
    """Remove `shared_checkpoints(run_id)`, once the store has all that is in it.

    After a kill it stays: its newest checkpoint may not have been uploaded.
    """
    shutil.rmtree(shared_checkpoints(run_id), ignore_errors=True)
