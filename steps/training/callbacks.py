"""What happens between two optimiser steps: the bar, the stop, the save."""

import math
import time
from typing import Any, NoReturn, Protocol

import transformers

from steps.checkpoints.trainer_state import Progress
from steps.errors import UserError
from steps.models.devices import peak_memory_bytes
from steps.progress import ProgressLine
from steps.signals import exit_code
from steps.training.optimizers import warm_up_from_the_first_step

DIVERGED_FACTOR = 3.0


class TrainingDiverged(UserError):
    """The loss became NaN, infinite, or far worse than it was at the start."""

    # It is the mean over all ranks.
    is_shared = True


class NothingLeftToTrain(Exception):
    """A resumed run began with a validation that was still due, and early stopping ended it."""


class TrainingLoop(Protocol):
    """What the callbacks ask of the trainer that they are called by."""

    progress: Progress
    steps_done: int
    evaluation_expected: int

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""

    @property
    def stop_requested(self) -> int | None:
        """The signal by which this run was told to end, once all ranks know of it."""

    def begin(self) -> None:
        """Check what holds the model, validate before the first step, and start the clock."""

    def restore_progress(self) -> None:
        """Take up what the checkpoint says, once Trainer has reset its counters."""

    def begin_epoch(self, epoch: int) -> None:
        """Take the order and the masks of this epoch, counted from 0."""

    def sync_ranks(self) -> bool:
        """Tell the other ranks what this one knows; whether a checkpoint is due by the clock."""

    def take_unseen_loss(self) -> float:
        """Sum of the losses since the last call, over all ranks."""


class SaveSchedule(transformers.TrainerCallback):  # type: ignore[misc]
    """Adds to Trainer's own intervals: minutes, and the signals that end a run."""

    def __init__(self, trainer: TrainingLoop, minutes: float | None) -> None:
        """Save after so many minutes too; None: only by Trainer's own intervals."""
        self.trainer = trainer
        self.minutes = minutes
        self._saved_at = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take up what the checkpoint says, once Trainer has reset its counters."""
        self._saved_at = time.monotonic()
        self.trainer.restore_progress()
        if control.should_training_stop:
            # Trainer would look at it after one more step.
            raise NothingLeftToTrain

    def is_due(self) -> bool:
        """Whether the minutes between two checkpoints have passed."""
        return self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide whether this step is saved, after Trainer's own intervals have."""
        if control.should_evaluate:
            self.trainer.evaluation_expected = state.global_step
        if self.trainer.stop_requested is not None:
            control.should_save = True
            # Whoever asked may not wait for minutes; the resumed run begins with it.
            control.should_evaluate = False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave, if that is what the save was for."""
        self._saved_at = time.monotonic()
        requested = self.trainer.stop_requested
        if requested is not None:
            # From here, because Trainer would first go through the end of an epoch.
            raise SystemExit(exit_code(requested))


class StopAndWatch(transformers.TrainerCallback):  # type: ignore[misc]
    """The progress bar, and the stop when the loss runs away."""

    def __init__(self, trainer: TrainingLoop) -> None:
        """Watch this trainer."""
        self.trainer = trainer
        self.line: ProgressLine | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        """Check what holds the model, start the clock and the bar."""
        self.trainer.begin()
        steps = args.get_warmup_steps(state.max_steps)
        warm_up_from_the_first_step(found["lr_scheduler"], steps)
        if state.is_world_process_zero:
            self.line = ProgressLine(
                "training", "steps", total=state.max_steps, done=state.global_step
            )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give the order and the masks of the state's own epoch.

        A resumed run goes on with those of where it stopped. Accelerate does not reach the
        sampler below what it skips rows and shares them out by.
        """
        self.trainer.begin_epoch(math.floor(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Agree with the other ranks, look for a loss that is no number, move the bar."""
        if self.trainer.sync_ranks():
            control.should_save = True
        if control.should_save or control.should_evaluate:
            # A checkpoint between two reports must not hold what a NaN has left of the weights.
            unseen = self.trainer.take_unseen_loss()
            if not math.isfinite(unseen):
                self._stop(unseen, args, state)
        self.trainer.steps_done += 1
        if self.line is not None:
            rate = self.trainer.progress.tokens_seen / max(self.trainer.seconds, 1e-9)
            memory = peak_memory_bytes() / 2**30
            self.line.show(state.global_step, note=f"{rate:.0f} tokens/s, {memory:.1f} GiB")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the reported loss, and stop where it has run away from the first one."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if self.line is not None:
            self.line.show(state.global_step, what=f"training, loss {loss:.3f}")
        progress = self.trainer.progress
        if progress.first_loss is None:
            progress.first_loss = loss
        if not math.isfinite(loss) or loss > DIVERGED_FACTOR * progress.first_loss + 1.0:
            self._stop(loss, args, state)

    def _stop(self, loss: float, args: Any, state: Any) -> NoReturn:
        self.close()
        first = self.trainer.progress.first_loss
        began = "" if first is None else f" (it began at {first:g})"
        raise TrainingDiverged(
            f"the training loss is {loss:g} at step {state.global_step}{began}: lower "
            f"training.hyperparameters.learning_rate (now {args.learning_rate:g}) or max_grad_norm "
            f"(now {args.max_grad_norm:g}); the last checkpoint before this step is kept"
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Close the bar: an error's line would otherwise be followed by one that never moves."""
        if self.line is not None:
            self.line.close()
