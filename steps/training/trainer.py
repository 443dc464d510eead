"""`ModelTrainer`: one training run, from configuration, model and papers.

    trainer = ModelTrainer(training, model, tokenizer, train_papers, validation_papers, folder)
    trainer.train()
    trainer.evaluate()          # {"eval_loss": ..., "eval_bits_per_byte": ...}
    trainer.save_model("adapter")

For scripts of one's own as well as for the `finetune` step: transformers' Trainer (accumulation,
precision, schedules, DDP, DeepSpeed) with packed papers, fused adapters, a chunked loss normalised
over the whole accumulated batch, validation, atomic checkpoints, and a `Recorder`.
"""

import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import Dataset

from steps.checkpoints.format import rotate
from steps.checkpoints.trainer_state import (
    Progress,
    Report,
    ResumePoint,
    make_deterministic,
)
from steps.checkpoints.writer import CheckpointParts, write_checkpoint
from steps.config.sections import Training
from steps.distributed.collectives import all_gather, all_reduce_sum
from steps.distributed.sampler import ShuffledRows, WithBlankRows
from steps.errors import UserError
from steps.metrics import finite
from steps.models.devices import peak_memory_bytes
from steps.models.fused import fuse_adapters
from steps.models.loading import objective_of
from steps.models.sharded import (
    check_wrapper,
    copy_parameters,
    gathered_parameters,
    set_parameters,
)
from steps.models.sources import task_trained
from steps.planning.out_of_memory import stopping_when_out_of_memory
from steps.progress import waiting
from steps.signals import StopRequested, StopSignals, exit_code, stop_on_signals
from steps.terminal import show_notices
from steps.training.arguments import checkpointed_if_possible, early_stopping, training_arguments
from steps.training.callbacks import NothingLeftToTrain, SaveSchedule, StopAndWatch
from steps.training.context import TrainingContext, default_placement
from steps.training.mixing import MixedOrder, MixedRows, Mixture, SourceLosses
from steps.training.optimizers import own_optimizer
from steps.training.resuming import ResumingTrainer
from steps.training.rows import Examples, tokens_of_batch, training_rows
from steps.training.validation import STORE_NAMES, validate


class ModelTrainer(ResumingTrainer):
    """Trains adapters, or a whole model, on papers.

    Attributes:
        train_rows: The training rows (with their `tokens` and `len`).
        objective: "causal" or "masked", by the model's class; "instruction" as configured.
        progress: What the run remembers from one launch to the next: `progress.tokens_seen`
            (target tokens; of a masked model those read), what was reported, and more.
        steps_done: Optimiser steps that this process has done (after a resume, the later ones).
    """

    def __init__(
        self,
        training: Training,
        model: Any,
        tokenizer: Any,
        train_papers: Examples,
        validation_papers: Examples,
        folder: Path,
        *,
        context: TrainingContext | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        """Prepare a run: tokenise the papers, and fit the model's attention and loss to them.

        Args:
            training: The configuration.
            model: From `load_model`, wrapped by `add_adapter`.
            tokenizer: From `load_tokenizer`.
            train_papers: What is learned from; items with the objective `instruction`.
            validation_papers: What the checkpoints are ranked by; may be empty, then nothing
                is validated and the last state is the result.
            folder: Where checkpoints are written.
            context: Placement, recorder, signals and ranks; None: one process that reports nowhere.
            mixture: What has a share of the tokens besides; None: at most study texts.

        Raises:
            UserError: No paper, an unfit model, head or tokenizer, or a setting that does not fit.
        """
        if not train_papers:
            raise UserError("the training split holds no paper: widen the filters of preprocess")
        self.training_config = training = checkpointed_if_possible(training, model)
        self.tokenizer, self.validation_papers = tokenizer, validation_papers
        self.context = context or TrainingContext()
        self.recorder, self.rank = self.context.recorder, self.context.rank
        self.placement = self.context.placement or default_placement(training.hardware)
        self.stop = self.context.stop or StopSignals()
        self._begin_at_nothing()
        if training.hardware.deterministic:
            make_deterministic()
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.objective = task_trained(training, objective_of(inner))
        stage = self.placement.zero_stage
        made = training_rows(training, inner, tokenizer, train_papers, mixture, zero_stage=stage)
        self.made_rows, self.train_rows = made, made.rows
        self.source_losses = SourceLosses(mixed=isinstance(made.rows, MixedRows))
        show_notices((*made.notes, *fuse_adapters(model, self.placement).notes))
        arguments = training_arguments(
            training,
            folder,
            self.placement,
            validates=bool(self.validation_papers),
            objective=self.objective,
            deepspeed=self.context.deepspeed,
            rows_at_once=made.rows_at_once,
        )
        self.watch = StopAndWatch(self)
        self.early_stopping = early_stopping(training, self.validation_papers)
        self.schedule = SaveSchedule(self, training.logging.save_minutes)
        callbacks = [one for one in (self.watch, self.schedule, self.early_stopping) if one]
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=WithBlankRows(made.rows, made.blank),
            eval_dataset=[] if self.validation_papers else None,  # type: ignore[arg-type]
            data_collator=made.collate,
            callbacks=callbacks,
        )
        for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
            self.remove_callback(callback)
        # The bound forward divides by the tokens of the accumulated batch itself.
        self.model_accepts_loss_kwargs = True
        self._share_out(model)
        decayed = self.get_decay_parameter_names(model)
        self.optimizer_cls_and_kwargs = own_optimizer(training, arguments, model, decayed)
        if self.rank.count > 1:  # Each rank drops out weights of its own.
            torch.manual_seed(training.hyperparameters.seed + self.rank.index)

    def _begin_at_nothing(self) -> None:
        self.progress, self.steps_done = Progress(), 0
        # Tokens of this rank since the ranks were last in step.
        self._new_tokens = 0
        self._agreed_stop: int | None = None
        self._peak = 0.0
        # A scalar on the device: losses not yet checked for NaN.
        self._unseen_loss = torch.zeros(())
        self.best_weights: dict[str, torch.Tensor] = {}
        self.saved_best_step: int | None = None
        # The step of the last validation that was due.
        self.evaluation_expected = -1
        self._resuming = False
        self._started = time.monotonic()

    def _get_train_sampler(self, train_dataset: Any = None) -> ShuffledRows | MixedOrder:
        rows_at_once = self._train_batch_size * self.rank.count
        self.sampler = self.made_rows.sampler(rows_at_once, int(self.args.data_seed or 0))
        return self.sampler

    @property
    def stop_requested(self) -> int | None:
        """The signal by which this run was told to end, once all ranks know of it."""
        return self.stop.requested if self.rank.count == 1 else self._agreed_stop

    def begin(self) -> None:
        """Check what holds the model, validate before the first step, and start the clock."""
        check_wrapper(self.model_wrapped, self.placement)
        if self.state.global_step == 0 and self.args.eval_strategy != "no":
            # For the curve alone: nothing ranks by it. Asked to end now, a run ends after step 1.
            with suppress(StopRequested), waiting("validating before the first step"):
                self.log(self._validation_metrics("eval"))
        self._started = time.monotonic() - self.progress.seconds

    def begin_epoch(self, epoch: int) -> None:
        """Take the order and the masks of this epoch, counted from 0."""
        self.sampler.set_epoch(epoch)
        self.train_rows.begin_epoch(epoch)

    def sync_ranks(self) -> bool:
        """Tell the other ranks, at the end of a step, what this one knows; all call it.

        A rank that left or saved by itself would leave the others waiting for it.

        Returns:
            Whether rank 0's clock says that a checkpoint is due.
        """
        own = (
            self.stop.requested == signal.SIGINT,
            self.stop.requested not in (None, signal.SIGINT),
            self.rank.is_first and self.schedule.is_due(),
            self._new_tokens,
        )
        interrupted, ended, due, tokens = all_reduce_sum([float(value) for value in own])
        self.progress.tokens_seen += int(tokens)
        self._new_tokens = 0
        if interrupted or ended:
            self._agreed_stop = signal.SIGINT if interrupted else signal.SIGTERM
        return due > 0

    def take_unseen_loss(self) -> float:
        """Sum of the losses since the last call, over all ranks; all of them call it."""
        (unseen,) = all_reduce_sum([self._unseen_loss.item()])
        self._unseen_loss.zero_()
        return unseen

    def evaluate(  # type: ignore[override]
        self,
        eval_dataset: Dataset[Any] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score the validation papers, by the definition that `evaluate` uses.

        Returns:
            `eval_loss` (nats a token) and `eval_bits_per_byte`; of a masked model
            `eval_mlm_loss` (nats a masked token) and `eval_mlm_accuracy`, under masks that are
            the same at each call.
        """
        metrics = self._validation_metrics(metric_key_prefix)
        self.progress.last_metrics = metrics
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _validation_metrics(self, prefix: str) -> dict[str, float]:
        model = self.accelerator.unwrap_model(self.model)
        # One rank must not leave the others in the midst of it.
        interruptible = self.stop.at_once() if self.rank.count == 1 else nullcontext()
        with interruptible, self.autocast_smart_context_manager():
            scores = validate(
                self.training_config,
                self.objective,
                model,
                self.tokenizer,
                self.validation_papers,
                self.rank,
            )
        return {f"{prefix}_{name}": value for name, value in scores.items()}

    def _evaluate(self, *arguments: Any, **keywords: Any) -> dict[str, float]:
        try:
            metrics = dict(super()._evaluate(*arguments, **keywords))
        except StopRequested:
            # Saved as before the validation, which the resumed run begins with.
            self._save_checkpoint(self.model, None)
            raise SystemExit(exit_code(self.stop.requested or 0)) from None
        self.progress.evaluated_step = self.state.global_step
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        improved: bool = super()._determine_best_metric(metrics, trial)
        if improved and self._keeps_best():
            self.best_weights = self.trained_weights()
            self.state.best_global_step = self.state.global_step
            # With a checkpoint of its own, the best state outlives this process.
            if self.training_config.logging.save_strategy != "no":
                self.control.should_save = True
        return improved

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: one for name, one in self.model.named_parameters() if one.requires_grad}

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """Copies of the trained parameters on the CPU; under ZeRO-3 all ranks call it."""
        return copy_parameters(self.trained())

    def train(self, *arguments: Any, resume: ResumePoint | None = None, **keywords: Any) -> Any:
        """Train, and end on the best validated weights if the configuration says so.

        On SIGTERM, SIGINT or SIGUSR1 the step is finished and saved, and SystemExit raised with
        143 or 130; on the second one SystemExit is raised at once.

        Args:
            *arguments: Of transformers' `Trainer.train`.
            resume: Go on from this checkpoint, which was written by the same configuration.
            **keywords: Of transformers' `Trainer.train`.

        Returns:
            What transformers' Trainer returns; None where nothing was left to train.
        """
        if self.context.stop is None:
            with stop_on_signals() as self.stop:
                return self._train(arguments, resume, keywords)
        return self._train(arguments, resume, keywords)

    def _train(
        self, arguments: tuple[Any, ...], resume: ResumePoint | None, keywords: dict[str, Any]
    ) -> Any:
        output = None
        with self.stop.deferred():
            if resume is not None:
                self._prepare_to_resume(resume)
                keywords["resume_from_checkpoint"] = str(resume.folder)
            if resume is not None and self._has_ended(resume):
                self.restore_progress()
            else:
                try:
                    output = super().train(*arguments, **keywords)
                except NothingLeftToTrain:
                    self.watch.close()
            self.sync_ranks()
            if self.stop_requested is not None:
                self._save_checkpoint(self.model, None)
                raise SystemExit(exit_code(self.stop_requested))
        if self._keeps_best() and self.best_weights:
            set_parameters(self.trained(), self.best_weights)
        return output

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return time.monotonic() - self._started

    def _inner_training_loop(self, *arguments: Any, **keywords: Any) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        try:
            with stopping_when_out_of_memory(
                self.training_config,
                model.get_base_model() if hasattr(model, "get_base_model") else model,
                micro_batch=self.args.per_device_train_batch_size,
                placement=self.placement,
            ):
                return super()._inner_training_loop(*arguments, **keywords)
        finally:
            self.watch.close()

    def _keeps_best(self) -> bool:
        # Only adapters: a copy of a whole model would double the memory.
        return (
            self.training_config.logging.load_best_model_at_end
            and bool(self.validation_papers)
            and self.training_config.qlora.adapts
        )

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One forward and backward pass, with the tokens counted."""
        self._new_tokens += tokens_of_batch(self.objective, inputs)
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._unseen_loss = self._unseen_loss.to(loss.device) + loss.detach()
        return loss

    def compute_loss(self, model: Any, inputs: Any, *others: Any, **keywords: Any) -> Any:
        """The loss of a batch; of mixed rows, each source's is added up besides."""
        keywords["return_outputs"] = True
        loss, outputs = super().compute_loss(model, inputs, *others, **keywords)
        self.source_losses.add(outputs, inputs)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand metrics to the recorder, under the project's names."""
        if "loss" in logs:
            logs = self.source_losses.tell_apart(logs)
        super().log(logs, start_time)
        # The rank that holds most is the one that runs out.
        self._peak = max(all_gather(peak_memory_bytes()))
        step, named = self.state.global_step, finite(self.named(logs))
        if named and self.rank.is_first:
            self.progress.reports.append(Report(step, int(time.time() * 1000), named))
            self.recorder.metrics(named, step)

    def named(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Give Trainer's figures the project's names, and leave out what has none."""
        named = {STORE_NAMES[key]: float(logs[key]) for key in logs if key in STORE_NAMES}
        if "train/learning_rate" in named:
            named["train/tokens_seen"] = float(self.progress.tokens_seen)
            named["train/tokens_per_second"] = self.progress.tokens_seen / max(self.seconds, 1e-9)
            named["train/epoch"] = float(self.state.epoch or 0.0)
            named["train/memory_gb"] = self._peak / 2**30
        return named

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint of this step, hand it to the recorder, and rotate the older ones.

        Raises:
            OSError: It cannot be written and `logging.save_strict` is set. Otherwise the recorder
                notes it, and the training goes on.
        """
        step, root = self.state.global_step, Path(str(self.args.output_dir))
        best = self.state.best_global_step
        try:
            write_checkpoint(root, self._parts())
        except OSError as error:
            reason = f"checkpoint-{step} could not be written to {root}: {error}"
            if self.rank.is_first:
                self.recorder.checkpoint_failed(step, reason)
            if self.training_config.logging.save_strict:
                raise
            return
        if best == step:
            self.saved_best_step = step
        if not self.rank.is_first:
            return
        measured = self.progress.last_metrics if self.progress.evaluated_step == step else {}
        self.recorder.checkpoint(root / f"checkpoint-{step}", step, self.named(measured))
        limit = self.training_config.output.save_total_limit
        if limit is not None:
            rotate(root, limit, ({best} if best else set()) | self.recorder.uploading())

    def _parts(self) -> CheckpointParts:
        step = self.state.global_step
        best_has_its_own = self.state.best_global_step in (step, self.saved_best_step)
        return CheckpointParts(
            step=step,
            metadata=self.context.metadata,
            progress=self._current_progress(),
            write_weights=self._write_weights,
            write_optimizer=self._write_optimizer,
            write_random_state=lambda folder: self._save_rng_state(str(folder)),
            trainer_state=self.state,
            best_weights={} if best_has_its_own else self.best_weights,
        )

    def _write_weights(self, folder: Path) -> None:
        if self.placement.zero_stage == 3 and not self.training_config.qlora.adapts:
            # The whole model, layer by layer into rank 0's memory.
            self.save_model(str(folder), _internal_call=True)
            return
        if self.placement.fully_sharded:
            weights = self.trained_weights()
            if self.rank.is_first:
                self._save(str(folder), state_dict=weights)
            return
        with gathered_parameters(self.trained().values()):
            self._save(str(folder))

    def _write_optimizer(self, folder: Path) -> None:
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))
