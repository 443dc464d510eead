"""A training that goes on on another number of processes than it was stopped on.

    division = divided(run_id, checkpoint, expected)     # None: it goes on as it was
    training, expected = division.applied(training, expected)

Adapters and optimiser are the same on all processes under DDP, so what changes is who reads which
rows. An optimiser step takes the next rows of the epoch's order, whoever reads them; while it
takes as many as before, a step's number says which rows have been read, and the epoch goes on
with the others. So the gradient accumulation is divided among the processes that there are now.

A fingerprint keeps the number of processes for which the accumulation that it states is counted,
from one resumption to the next: from 1 to 2 processes and on to 4 it is 1 in all three runs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steps.checkpoints.format import CheckpointInfo
from steps.checkpoints.trainer_state import micro_batch_of, read_progress
from steps.config.sections import Training
from steps.errors import UserError
from steps.tracking.names import BATCH_PROCESSES_TAG, RESUME_KEY_TAG, STEP_TAG
from steps.tracking.store import all_pages

if TYPE_CHECKING:
    from mlflow.entities import Run

    from steps.tracking.runs import StepRun

PROCESSES = "processes"
ACCUMULATION = "hyperparameters.gradient_accumulation_steps"
BATCH_SIZE = "hyperparameters.batch_size"


@dataclass(frozen=True)
class Division:
    """How the batch of a training is divided among the processes that go on with it.

    Attributes:
        before: Processes that wrote the checkpoint.
        now: Processes that go on.
        counted_for: Processes that `stated` is counted for.
        stated: `gradient_accumulation_steps` of the run that began.
        accumulation: The same for the processes that go on.
        rows: Rows of an optimiser step, over all processes.
    """

    before: int
    now: int
    counted_for: int
    stated: int
    accumulation: int
    rows: int

    def applied(
        self, training: Training, fingerprint: Mapping[str, Any]
    ) -> tuple[Training, dict[str, Any]]:
        """The configuration to train by, and the fingerprint of the run that began."""
        values = training.hyperparameters
        values = values.model_copy(update={"gradient_accumulation_steps": self.accumulation})
        settled = training.model_copy(update={"hyperparameters": values})
        as_began = {PROCESSES: self.counted_for, ACCUMULATION: self.stated}
        return settled, {**fingerprint, **as_began}

    @property
    def notice(self) -> str:
        """What changes, for the reader of a run; "" where the number of processes does not."""
        if self.before == self.now:
            return ""
        of_all = self.stated * self.counted_for
        then = str(of_all // self.before)
        if self.now > self.before:
            new = _ranks(self.before, self.now)
            randomness = f"dropout on {new} is drawn from a new seed"
        else:
            randomness = f"the random states of {_ranks(self.now, self.before)} are left out"
        return (
            f"{_processes(self.now)}, before {self.before}: gradient accumulation is "
            f"{self.accumulation} (before {then}), so that a step still takes {self.rows} rows, "
            f"and no row is read twice or left out; {randomness}: the result agrees to rounding "
            "without dropout, and not bit for bit"
        )

    @property
    def tags(self) -> dict[str, str]:
        """What the run says of it (without `forge.`, for `StepRun.tag`)."""
        moved = self.before != self.now
        return {
            "batch_processes": str(self.counted_for),
            "accumulation": str(self.accumulation),
            "processes_before": str(self.before) if moved else "",
            "processes_note": self.notice,
        }


def divided(
    run_id: str, checkpoint: CheckpointInfo, expected: Mapping[str, Any]
) -> Division | None:
    """How the processes that there are now share the batch of a checkpoint's training.

    Args:
        run_id: The run to go on from, for messages.
        checkpoint: The checkpoint.
        expected: From `resume_fingerprint`, with the number of processes now.

    Returns:
        None where they are those of the configuration, and wrote the checkpoint themselves.

    Raises:
        UserError: The state lies in parts of one process each, or the batch cannot be shared out.
    """
    then = checkpoint.facts.get("configuration", {})
    counted_for, now = int(then.get(PROCESSES, 1)), int(expected.get(PROCESSES, 1))
    before = _processes_that_wrote(checkpoint, counted_for)
    if before == counted_for == now:
        return None
    if before != now and then.get("deepspeed") is not None:
        raise UserError(
            f"resume {run_id}: DeepSpeed has written the optimiser's state in {before} part(s), "
            f"one of each process, which {_processes(now)} cannot read: go on with num_processes="
            f"{before} over all machines, or start anew with resume=never"
        )
    stated = then.get(ACCUMULATION)
    if stated is None:
        return None
    micro = micro_batch_of(checkpoint.folder)
    configured = then.get(BATCH_SIZE)
    # With `auto` the key counts rows, not forward passes.
    rows_of_pass = micro if configured == "auto" else int(configured or 1)
    passes = (stated // micro if configured == "auto" else stated) * counted_for
    if passes % now:
        able = [str(n) for n in range(1, passes + 1) if passes % n == 0]
        raise UserError(
            f"resume {run_id}: an optimiser step of that run is {passes} forward pass(es) of "
            f"{rows_of_pass} row(s), which {now} processes cannot share evenly: go on with "
            f"{_one_of(able)} process(es), or start anew with resume=never"
        )
    return Division(
        before, now, counted_for, stated, stated * counted_for // now, passes * rows_of_pass
    )


def as_counted_for(
    expected: Mapping[str, Any], counted_for: int, stated: int | None
) -> dict[str, Any]:
    """A fingerprint as a run states it that counts its accumulation for other processes.

    Whoever launches may leave the configuration as it was, or state the accumulation that makes
    the batch what it was.

    Args:
        expected: From `resume_fingerprint`, with the number of processes now.
        counted_for: Processes that the other run's accumulation is counted for.
        stated: That accumulation; None: what makes the same batch.
    """
    now, accumulation = int(expected.get(PROCESSES, 1)), expected.get(ACCUMULATION)
    if now == counted_for or accumulation is None:
        return dict(expected)
    counted: dict[str, Any] = {**expected, PROCESSES: counted_for}
    whole, rest = divmod(int(accumulation) * now, counted_for)
    if not rest and stated in (None, whole):
        counted[ACCUMULATION] = whole
    return counted


def runs_on_others(
    run: "StepRun",
    expected: Mapping[str, Any],
    keys_of: Callable[[Mapping[str, Any]], Iterable[str]],
) -> "Iterable[Run]":
    """Runs of this configuration on any number of processes, newest first, finished ones too.

    Args:
        run: The run of this step.
        expected: From `resume_fingerprint`.
        keys_of: The tag values by which runs of a fingerprint are found.
    """
    if ACCUMULATION not in expected:
        return
    found = all_pages(
        run.client.search_runs,
        [run.experiment_id],
        f"tags.`{STEP_TAG}` = 'finetune'",
        order_by=["attributes.start_time DESC"],
    )
    keys: dict[int, set[str]] = {}
    for source in found:
        tags = source.data.tags
        counted_for = tags.get(BATCH_PROCESSES_TAG) or tags.get(f"forge.{PROCESSES}", "1")
        if RESUME_KEY_TAG not in tags or not counted_for.isdigit():
            continue
        number = int(counted_for)
        if number not in keys:
            # Either way of stating the batch (see `as_counted_for`).
            as_it_was = {**expected, PROCESSES: number}
            same_batch = as_counted_for(expected, number, None)
            keys[number] = {*keys_of(as_it_was), *keys_of(same_batch)}
        if tags[RESUME_KEY_TAG] in keys[number]:
            yield source


def _processes_that_wrote(checkpoint: CheckpointInfo, counted_for: int) -> int:
    """Processes that wrote a checkpoint: of each there is a loss since the last report."""
    try:
        return len(read_progress(checkpoint.folder).loss_since_report)
    except OSError:
        return counted_for


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def _ranks(first: int, end: int) -> str:
    return f"rank {first}" if end - first == 1 else f"ranks {first} to {end - 1}"


def _one_of(numbers: list[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"{', '.join(numbers[:-1])} or {numbers[-1]}"
