"""Several ranks and one MLflow run: rank 0 writes, the others read, a restart goes on in it.

    with run_of_rank(rank, training, verbose=False, name="lora") as run:
        found = agree_on_point(run, rank, "auto", expected, say)

A launch keeps its run over all restarts of its ranks. Where our own launcher has started them, it
has opened the run and ends it; under torchrun and its like rank 0 does both, and finds the run of
an earlier attempt by the tag `forge.launch`.
"""

import logging
import os
import shutil
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from steps import config
from steps.errors import UserError
from steps.tracking.heartbeat import heartbeat
from steps.tracking.resumption import (
    FOLDER,
    KEY_TAG,
    Found,
    checkpoint_at_hand,
    find_resume_point,
)
from steps.tracking.runs import (
    StepRun,
    first_error,
    forget_error,
    reading_run,
    step_run,
    tag_failure,
)
from steps.tracking.store import connect, experiment_id, store_errors
from steps.training.checkpoints import MANIFEST, CheckpointInfo, validate_checkpoint
from steps.training.launch import Rank, from_first, gathered, together
from steps.training.models import cache_folder
from steps.training.resume import ResumePoint

LAUNCH_TAG = "forge.launch"


@contextmanager
def run_of_rank(
    rank: Rank, training: config.Training, *, verbose: bool, name: str
) -> Iterator[StepRun]:
    """Take part in the run of this launch; all ranks enter it together.

    Under torchrun and its like, whatever a rank fails with is in the run before the others can
    notice that it is gone.

    Args:
        rank: The place of this process.
        training: The configuration (store, experiment).
        verbose: Let the libraries' own messages through to the terminal.
        name: Name of a new run.
    """
    with ExitStack() as stack:
        # A machine that was brought back counts from 0, whatever the others have been through.
        attempt = max(gathered(rank.attempt, rank))
        with together(rank):
            if rank.is_first:
                run = stack.enter_context(_first_run(rank, attempt, training, verbose, name))
        ids = from_first((run.id, run.experiment_id) if rank.is_first else None, rank)
        with together(rank):
            if not rank.is_first:
                # After the first, which has made the store's tables where it is new.
                run = stack.enter_context(reading_run("finetune", training, *ids, verbose=verbose))
        with _failing_aloud(rank, run):
            yield run


@contextmanager
def _first_run(
    rank: Rank, attempt: int, training: config.Training, verbose: bool, name: str
) -> Iterator[StepRun]:
    if rank.count > 1 and not rank.is_launched and "MLFLOW_RUN_ID" not in os.environ:
        earlier = _earlier_attempt(rank.launch, attempt, training)
        if earlier is not None:
            os.environ["MLFLOW_RUN_ID"] = earlier
    log_name = "finetune" if attempt == 0 else f"finetune-attempt-{attempt}"
    with ExitStack() as stack:
        run = stack.enter_context(
            step_run(
                "finetune",
                training,
                verbose=verbose,
                run_name=name,
                log_name=log_name,
                ends=not rank.is_launched,
            )
        )
        if not rank.is_launched:
            stack.enter_context(heartbeat(run))
            forget_error(run)
        if rank.count > 1:
            run.tag(launch=rank.launch)
        yield run


def _earlier_attempt(launch: str, attempt: int, training: config.Training) -> str | None:
    """The run that this launch has begun, if one has, or that it was killed in."""
    client = connect(training)
    runs = client.search_runs(
        [experiment_id()],
        f"tags.`{LAUNCH_TAG}` = '{launch}' and attributes.status != 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    for run in runs:
        # A name of a launch may be used again another day; what has ended stays ended, unless
        # the agent of this very launch says that it has started over.
        if run.info.status == "RUNNING" or attempt > 0:
            return str(run.info.run_id)
    return None


@contextmanager
def _failing_aloud(rank: Rank, run: StepRun) -> Iterator[None]:
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        shared = isinstance(error, UserError) and error.is_shared
        if rank.count > 1 and not rank.is_launched and not shared:
            with suppress(*store_errors()):
                earlier = first_error(run)
                if earlier is not None and rank.is_first:
                    # Another rank's: this one has only lost it.
                    logging.getLogger("traceback").error("%s", traceback.format_exc())
                    lost = UserError(earlier[0])
                    lost.exit_code = earlier[1]
                    raise lost from error
                if earlier is None and not rank.is_first:
                    code = error.exit_code if isinstance(error, UserError) else 1
                    tag_failure(run.id, f"{rank}: {error}", code)
                    if rank.attempt >= int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
                        # Rank 0 may be stuck in what this one has left, and be killed in it.
                        run.client.set_terminated(run.id, "FAILED")
        raise


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
            from_first(("error", str(error)), rank)
            raise
        from_first(("done", None), rank)
        return found
    current: Found | None = None
    while True:
        kind, content = from_first(None, rank)
        if kind == "error":
            raise UserError(content)
        if kind == "done":
            return current
        current = _taken(run, content)
        if not all(gathered(current is not None, rank)):
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
    from_first(("offer", (found.run_id, found.where, described)), rank)
    return all(gathered(True, rank))


def _taken(run: StepRun, offer: Any) -> Found | None:
    """The offered checkpoint as this machine sees it, if it does."""
    run_id, where, described = offer
    folders = [
        checkpoint_at_hand(run, run_id, step, Path(folder), digest)
        for folder, step, digest in described
    ]
    if not folders or any(folder is None for folder in folders):
        return None
    first, *best = folders
    assert first is not None
    point = ResumePoint(first, described[0][1], best[0] if best else None)
    return Found(run_id, point, where)


def is_restarted(run: StepRun) -> bool:
    """Whether an earlier attempt has got as far as training in this run."""
    return KEY_TAG in run.client.get_run(run.id).data.tags


def lacks(run: StepRun, found: Found) -> bool:
    """Whether the store has not got the checkpoint of this very run that it goes on from."""
    name = f"{FOLDER}/checkpoint-{found.point.step}"
    stored = {file.path for file in run.client.list_artifacts(run.id, name)}
    ours = found.run_id == run.id and found.where == "local disk"
    return ours and f"{name}/{MANIFEST}" not in stored


def last_steps(run: StepRun) -> dict[str, int]:
    """The last step of each metric that the run has, so that none is reported twice.

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
    names = gathered((rank.machine, socket.gethostname()), rank)
    if rank.machines == 1:
        return ""
    own = socket.gethostname()
    namesakes = {machine for machine, name in names if name == own}
    return own if len(namesakes) == 1 else f"{own}-{rank.machine}"


def checkpoint_folder(training: config.Training, rank: Rank, run: StepRun) -> Path:
    """Where a run writes its checkpoints: a folder that all attempts and ranks agree on."""
    output = training.output.output_dir
    if output:
        return Path(output).expanduser() / run.id
    if rank.count == 1 and not rank.is_launched:
        return run.scratch / "training" / run.id
    return shared_checkpoints(run.id)


def shared_checkpoints(run_id: str) -> Path:
    """The folder of a run of several ranks that names none."""
    return cache_folder() / "checkpoints" / run_id


def remove_shared_checkpoints(run_id: str) -> None:
    """Remove that folder, once the training is done and the store has its content.

    After a kill it stays: its newest checkpoint may not have been uploaded.
    """
    shutil.rmtree(shared_checkpoints(run_id), ignore_errors=True)
