"""Several ranks and one MLflow run: rank 0 writes, the others read, a restart goes on in it.

    with run_of_rank(rank, "finetune", training, verbose=False, name="lora") as run:
        found = agree_on_point(run, rank, "auto", expected, say)

A launch keeps its run over all restarts of its ranks. Where our own launcher has started them, it
has opened the run and ends it; under torchrun and its like rank 0 does both, and finds the run of
an earlier attempt by the tag `forge.launch`.
"""

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from steps.config.sections import Training
from steps.distributed.collectives import all_gather, broadcast, raise_on_all_ranks
from steps.distributed.ranks import Rank
from steps.errors import UserError
from steps.tracking.names import ERROR_TAG, ERROR_TYPE_TAG, EXIT_CODE_TAG, LAUNCH_TAG
from steps.tracking.runs import (
    StepRun,
    reading_run,
    step_run,
)
from steps.tracking.store import connect, experiment_id, store_errors
from steps.tracking.waiting_runs import tag_failure


@contextmanager
def run_of_rank(
    rank: Rank, step: str, training: Training, *, verbose: bool, name: str | None = None
) -> Iterator[StepRun]:
    """Take part in the run of this launch; all ranks enter it together.

    Under torchrun and its like, whatever a rank fails with is in the run before the others can
    notice that it is gone.

    Args:
        rank: The place of this process.
        step: Entry point.
        training: The configuration (store, experiment).
        verbose: Let the libraries' own messages through to the terminal.
        name: Name of a new run.
    """
    with ExitStack() as stack:
        # A machine that was brought back counts from 0, whatever the others have been through.
        attempt = max(all_gather(rank.attempt))
        with raise_on_all_ranks():
            if rank.is_first:
                run = stack.enter_context(_first_run(rank, attempt, step, training, verbose, name))
        ids = broadcast((run.id, run.experiment_id) if rank.is_first else None)
        with raise_on_all_ranks():
            if not rank.is_first:
                # After the first, which has made the store's tables where it is new.
                run = stack.enter_context(reading_run(step, training, *ids, verbose=verbose))
        with _failing_aloud(rank, run):
            yield run


@contextmanager
def _first_run(
    rank: Rank, attempt: int, step: str, training: Training, verbose: bool, name: str | None
) -> Iterator[StepRun]:
    if rank.count > 1 and not rank.is_launched and "MLFLOW_RUN_ID" not in os.environ:
        earlier = _earlier_attempt(rank.launch, attempt, training)
        if earlier is not None:
            os.environ["MLFLOW_RUN_ID"] = earlier
    log_name = step if attempt == 0 else f"{step}-attempt-{attempt}"
    with ExitStack() as stack:
        run = stack.enter_context(
            step_run(
                step,
                training,
                verbose=verbose,
                run_name=name,
                log_name=log_name,
                ends=not rank.is_launched,
                rejoins=rank.count > 1 or rank.is_launched or rank.attempt > 0,
            )
        )
        if not rank.is_launched:
            forget_error(run)
        if rank.count > 1:
            run.tag(launch=rank.launch)
        yield run


def _earlier_attempt(launch: str, attempt: int, training: Training) -> str | None:
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


def first_error(run: StepRun) -> tuple[str, int] | None:
    """The error and the exit code that a process of this run has left in it, or None."""
    tags = run.client.get_run(run.id).data.tags
    error = tags.get(ERROR_TAG)
    return None if error is None else (error, int(tags.get(EXIT_CODE_TAG, "1")))


def forget_error(run: StepRun) -> None:
    """Take an earlier attempt's error out of the run."""
    if not run.may_be_rejoined:
        return
    tags = run.client.get_run(run.id).data.tags
    for name in (ERROR_TAG, EXIT_CODE_TAG, ERROR_TYPE_TAG):
        if name in tags:
            run.client.delete_tag(run.id, name)
