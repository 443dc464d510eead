"""The part of `ModelTrainer` that goes on from a checkpoint, and says what one has to hold."""

import time
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from steps.checkpoints.other_ranks import loss_of_rank, restore_random_state, sums_of_ranks
from steps.checkpoints.trainer_state import (
    BEST_WEIGHTS_FILE,
    Progress,
    ResumePoint,
    read_progress,
    read_trainer_state,
)
from steps.distributed.collectives import all_gather
from steps.models.fully_sharded import (
    by_adapter_name,
    fully_shard_layers,
    read_sharded_optimizer,
    write_sharded_optimizer,
)
from steps.models.sharded import set_parameters


class ResumingTrainer(transformers.Trainer):  # type: ignore[misc]
    """A transformers Trainer that gets back what Trainer itself forgets.

    Its attributes are those of `ModelTrainer`, the one class made of it.
    """

    def _prepare_to_resume(self, resume: ResumePoint) -> None:
        self.progress, self._resuming = read_progress(resume.folder), True
        self.state = read_trainer_state(resume.folder, self._train_batch_size)
        best = self.state.best_global_step
        if best is None or not self._keeps_best():
            return
        beside = resume.folder / BEST_WEIGHTS_FILE
        if beside.is_file():
            self.best_weights = load_file(beside)
            return
        self._load_from_checkpoint(str(resume.best_folder or resume.folder))
        self.best_weights = self.trained_weights()
        self.saved_best_step = best

    def _has_ended(self, resume: ResumePoint) -> bool:
        """Whether the checkpoint is that of the last step; then its weights are loaded here."""
        patience = self.training_config.logging.early_stopping_patience
        stopped_early = 0 < patience <= self.progress.without_gain
        if self.state.global_step < self.state.max_steps and not stopped_early:
            return False
        self._load_from_checkpoint(str(resume.folder))
        self._tr_loss = torch.tensor(0.0)
        return True

    def restore_progress(self) -> None:
        """Give Trainer its own counters back, once it has reset them."""
        if not self._resuming:
            return
        self._resuming, progress, rank = False, self.progress, self.rank
        self._started = time.monotonic() - progress.seconds
        if self.early_stopping is not None:
            self.early_stopping.early_stopping_patience_counter = progress.without_gain
        loss = loss_of_rank(progress.loss_since_report, rank.count, rank.index)
        self._tr_loss = torch.tensor(loss, device=self.args.device)
        self._globalstep_last_logged = progress.reported_step
        self._total_loss_scalar = progress.total_loss
        self.source_losses.restore(sums_of_ranks(progress.source_sums, rank.count), rank.index)
        # The checkpoint's own intervals may have been changed since.
        self.state.compute_steps(self.args, self.state.max_steps)
        if progress.evaluation_due:
            self.evaluation_expected = self.state.global_step
            self._determine_best_metric(self._evaluate(None, None), None)

    def _share_out(self, model: Any) -> None:
        """Have FSDP2 share the layers out, where it is asked for, before the optimiser is made."""
        if self.placement.fully_sharded:
            fully_shard_layers(model, self.placement.device, self.rank.count)
            # So Trainer names models that need no wrapper.
            self.is_distributed_loading_by_transformers = True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.placement.fully_sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = load_file(Path(resume_from_checkpoint) / "adapter_model.safetensors")
        trained = self.trained()
        set_parameters(trained, by_adapter_name(self.model, trained, saved))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.placement.fully_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        write_sharded_optimizer(self.model, _plain(self.optimizer), Path(output_dir))
        if self.rank.is_first:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.placement.fully_sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer = _plain(self.optimizer)
        read_sharded_optimizer(self.model, optimizer, Path(checkpoint))
        state = torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True)
        self.lr_scheduler.load_state_dict(state)
        for group, rate in zip(
            optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True
        ):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        rank, seed = self.rank, int(self.args.seed)
        if checkpoint is not None and restore_random_state(
            Path(checkpoint), rank.count, rank.index, rank.local, seed
        ):
            return
        super()._load_rng_state(checkpoint)

    def _current_progress(self) -> Progress:
        """The progress with what Trainer counts by itself, as of this step; all ranks call it."""
        step, progress = self.state.global_step, self.progress
        epoch = float(self.state.epoch or 0.5)
        # The last epoch counts as ended wherever it is left.
        ends_epoch = epoch.is_integer() or self.control.should_training_stop
        by_epoch = ends_epoch and self.args.eval_strategy == "epoch"
        expected = self.evaluation_expected == step or by_epoch
        progress.evaluation_due = expected and progress.evaluated_step != step
        progress.seconds = self.seconds
        progress.loss_since_report = all_gather(float(self._tr_loss))
        progress.reported_step = self._globalstep_last_logged
        progress.total_loss = self._total_loss_scalar
        progress.source_sums = self.source_losses.state()
        if self.early_stopping is not None:
            progress.without_gain = self.early_stopping.early_stopping_patience_counter
        return progress


def _plain(optimizer: Any) -> Any:
    """The optimiser inside accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)
