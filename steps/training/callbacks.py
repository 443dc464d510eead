"""What happens between two optimiser steps: the bar, the stop, the save."""

import math
import time
from typing import TYPE_CHECKING, Any, NoReturn

import transformers

from steps.distributed.collectives import all_reduce_sum
from steps.errors import UserError
from steps.models.devices import peak_memory_bytes
from steps.models.sharded import check_wrapper
from steps.signals import exit_code
from steps.training.masking import (
    MaskedPapers,
)

if TYPE_CHECKING:
    from steps.training.trainer import ModelTrainer


class NothingLeftToTrain(Exception):
    """The validation that a resumed run begins with was the last one that it was to wait for."""


class SaveSchedule(transformers.TrainerCallback):  # type: ignore[misc]
    """Adds to Trainer's own intervals: minutes, and the signals that end a run."""

    def __init__(self, trainer: "ModelTrainer") -> None:
        self.trainer = trainer
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
        minutes = self.trainer.training_config.logging.save_minutes
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

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


DIVERGED_FACTOR = 3.0


class TrainingDiverged(UserError):
    """The loss became NaN, infinite, or far worse than it was at the start."""

    # It is the mean over all ranks.
    is_shared = True


class StopAndWatch(transformers.TrainerCallback):  # type: ignore[misc]
    """The progress bar, and the stop when the loss runs away."""

    def __init__(self, trainer: "ModelTrainer") -> None:
        self.trainer = trainer
        self.bar: Any = None
        self.first_loss: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Check the wrapper, start the clock and the bar."""
        from tqdm import tqdm

        trainer = self.trainer
        check_wrapper(trainer.model_wrapped, trainer.rank.count, trainer.zero_stage)
        self.trainer._started = time.monotonic()
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give the sampler and the masks the epoch of the trainer's state."""
        # The state's own epoch: a resumed run goes on with the order and the masks of where it
        # stopped. Accelerate does not reach the sampler below what it skips rows and shares them
        # out by.
        epoch = math.floor(state.epoch or 0)
        self.trainer.sampler.set_epoch(epoch)
        if isinstance(self.trainer.train_rows, MaskedPapers):
            self.trainer.train_rows.begin_epoch(epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Agree with the other ranks, look for a loss that is no number, move the bar."""
        if self.trainer.agree():
            control.should_save = True
        if control.should_save or control.should_evaluate:
            # A checkpoint between two reports must not hold what a NaN has left of the weights.
            (unseen,) = all_reduce_sum([self.trainer._unseen_loss.item()])
            self.trainer._unseen_loss.zero_()
            if not math.isfinite(unseen):
                self._stop(unseen, args, state)
        self.trainer.steps_done += 1
        if self.bar is not None:
            rate = self.trainer.tokens_seen / max(self.trainer.seconds, 1e-9)
            self.bar.update()
            self.bar.set_postfix(
                tokens_per_s=f"{rate:.0f}", memory=f"{peak_memory_bytes() / 2**30:.1f}GB"
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Look at the reported loss."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if self.bar is not None:
            self.bar.set_description(f"training, loss {loss:.3f}")
        if self.first_loss is None:
            self.first_loss = loss
        if not math.isfinite(loss) or loss > DIVERGED_FACTOR * self.first_loss + 1.0:
            self._stop(loss, args, state)

    def _stop(self, loss: float, args: Any, state: Any) -> NoReturn:
        if self.bar is not None:
            self.bar.close()
        began = "" if self.first_loss is None else f" (it began at {self.first_loss:g})"
        raise TrainingDiverged(
            f"the training loss is {loss:g} at step {state.global_step}{began}: lower "
            f"training.hyperparameters.learning_rate (now {args.learning_rate:g}) or max_grad_norm "
            f"(now {args.max_grad_norm:g}); the last checkpoint before this step is kept"
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
