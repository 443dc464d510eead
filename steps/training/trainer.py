"""`ModelTrainer`: one training run, from configuration, model and papers.

    trainer = ModelTrainer(training, model, tokenizer, train_papers, validation_papers, folder)
    trainer.train()
    trainer.evaluate()          # {"eval_loss": ..., "eval_bits_per_byte": ...}
    trainer.save_model("adapter")

The API for people with their own scripts as well as for the `finetune` step. It is
transformers' Trainer (accumulation, precision, schedules, DDP, DeepSpeed) with packed
papers, a chunked loss that is normalised over the whole accumulated batch, validation by
bits per byte, atomic checkpoints, and a `Recorder` in place of its integrations.
"""

import math
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import transformers
from safetensors.torch import load_file
from torch.utils.data import Dataset

from steps import config
from steps.errors import UserError
from steps.evaluation.likelihood import score_papers
from steps.evaluation.masked import score_papers_masked
from steps.papers.text import PaperText
from steps.training.attention import (
    PER_DOCUMENT_SDPA,
    register_per_document_attention,
    supports_packing,
)
from steps.training.deepspeed_settings import zero_stage
from steps.training.launch import Rank, from_first, gathered, summed
from steps.training.losses import IGNORED, has_plain_head, use_chunked_loss
from steps.training.masking import (
    MaskedPapers,
    MaskedWindow,
    collate_masked,
    prepare_for_masked_training,
)
from steps.training.models import Objective, objective_of
from steps.training.out_of_memory import stopping_when_out_of_memory
from steps.training.packing import PackedPapers, Window, collate_packed
from steps.training.recorder import Recorder, SilentRecorder
from steps.training.resume import (
    BEST_WEIGHTS_FILE,
    Progress,
    Report,
    ResumePoint,
    make_deterministic,
    read_progress,
)
from steps.training.saving import NothingLeftToTrain, SaveSchedule, finite, save
from steps.training.sharded import (
    check_wrapper,
    gathered_parameters,
    is_partitioned,
    share_out_head_use,
)
from steps.training.shares import ShuffledRows, WithBlankRows
from steps.training.signals import StopRequested, StopSignals, exit_code, stop_on_signals

# Context that a later window of a long paper repeats: enough to pick the thread up again.
WINDOW_OVERLAP = 64
# A validation batch is forward only, so it can be longer than a training row.
VALIDATION_TOKENS = 2048
DIVERGED_FACTOR = 3.0


class TrainingDiverged(UserError):
    """The loss became NaN, infinite, or far worse than it was at the start."""

    # It is the mean over all ranks.
    is_shared = True


class ModelTrainer(transformers.Trainer):  # type: ignore[misc]
    """Trains adapters, or a whole model, on papers.

    Attributes:
        train_rows: The training rows (their `tokens` and `len` are facts that a step can print).
        objective: "causal" or "masked", by the model's class.
        tokens_seen: Target tokens trained on so far; of a masked model, tokens read, as its
            targets are but the masked ones.
        steps_done: Optimiser steps that this process has done (after a resume, the later ones).
    """

    def __init__(
        self,
        training: config.Training,
        model: Any,
        tokenizer: Any,
        train_papers: Sequence[PaperText],
        validation_papers: Sequence[PaperText],
        folder: Path,
        *,
        recorder: Recorder | None = None,
        dtype: torch.dtype = torch.bfloat16,
        micro_batch: int | None = None,
        facts: Mapping[str, Any] | None = None,
        stop: StopSignals | None = None,
        rank: Rank | None = None,
        deepspeed: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare a run; nothing is computed yet.

        Args:
            training: The configuration.
            model: From `load_model`, wrapped by `add_adapter`.
            tokenizer: From `load_tokenizer`.
            train_papers: What is learned from.
            validation_papers: What the checkpoints are ranked by; may be empty, then nothing
                is validated and the last state is the result.
            folder: Where checkpoints are written.
            recorder: Where metrics and checkpoints are reported to; None keeps them local.
            dtype: Number format of the computation (adapters stay float32).
            micro_batch: Rows of one forward pass; None takes `hyperparameters.batch_size`.
            facts: What a checkpoint's manifest states besides (dataset digest, …).
            stop: Who handles the signals of this process; None: `train` does, while it lasts.
            rank: The place of this process among those that train together, which have joined
                already (see `steps.training.launch`); None: it trains alone.
            deepspeed: From `deepspeed_settings`; None: without DeepSpeed.

        Raises:
            UserError: No paper to train on, or a model whose documents cannot be packed.
        """
        if not train_papers:
            raise UserError("the training split holds no paper: widen the filters of preprocess")
        self.training_config = training
        self.tokenizer = tokenizer
        self.compute_dtype = dtype
        self.validation_papers = list(validation_papers)
        self.recorder: Recorder = recorder or SilentRecorder()
        self.facts = dict(facts or {})
        self.rank = rank or Rank()
        self.zero_stage = zero_stage(deepspeed) if deepspeed else None
        self.tokens_seen = 0
        # Of this rank, since the ranks last told each other.
        self._new_tokens = 0
        self._agreed_stop: int | None = None
        self._peak = 0.0
        self.steps_done = 0
        self.last_metrics: dict[str, float] = {}
        self.best_weights: dict[str, torch.Tensor] = {}
        # Losses since the last look, summed on the device.
        self._unseen_loss = torch.zeros(())
        self.saved_best_step: int | None = None
        self.reports: list[Report] = []
        # Steps of the last validation that was due, and that was done.
        self.evaluation_expected = self.evaluated_step = -1
        self._handles_signals = stop is None
        self.stop = stop or StopSignals()
        self._resumed_progress: Progress | None = None
        self._started = time.monotonic()
        if training.hardware.deterministic:
            make_deterministic()
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.objective = objective_of(inner)
        length = training.model.max_length
        overlap = min(WINDOW_OVERLAP, length // 4)
        self.train_rows: PackedPapers | MaskedPapers
        blank: Any = [Window("", (tokenizer.eos_token_id,), 1)]
        collate: Any = collate_packed
        if self.objective == "masked":
            first_position = prepare_for_masked_training(inner)
            packed = first_position is not None
            self.train_rows = MaskedPapers(
                train_papers,
                tokenizer,
                length,
                overlap,
                training.masking,
                training.hyperparameters.seed,
                packed=packed,
            )
            blank = [MaskedWindow((tokenizer.pad_token_id,), (IGNORED,))]
            collate = partial(
                collate_masked,
                pad_id=tokenizer.pad_token_id,
                first_position=first_position or 0,
                packed=packed,
            )
        else:
            prepare_for_packed_training(inner)
            if self.zero_stage == 3:
                share_out_head_use(inner)
            self.train_rows = PackedPapers(train_papers, tokenizer, length, overlap)
        arguments = training_arguments(
            training,
            folder,
            dtype,
            micro_batch,
            validates=bool(self.validation_papers),
            objective=self.objective,
            deepspeed=deepspeed,
        )
        self.watch = _StopAndWatch(self)
        self.early_stopping = _early_stopping(training, self.validation_papers)
        self.schedule = SaveSchedule(self)
        callbacks = [self.watch, self.schedule]
        if self.early_stopping is not None:
            callbacks.append(self.early_stopping)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=WithBlankRows(self.train_rows, blank),
            eval_dataset=[] if self.validation_papers else None,  # type: ignore[arg-type]
            data_collator=collate,
            callbacks=callbacks,
        )
        for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
            self.remove_callback(callback)
        # The bound forward divides by the tokens of the accumulated batch itself.
        self.model_accepts_loss_kwargs = True
        if self.rank.count > 1:
            # Each rank drops out weights of its own.
            torch.manual_seed(training.hyperparameters.seed + self.rank.index)

    def _get_train_sampler(self, train_dataset: Any = None) -> ShuffledRows:
        together = self._train_batch_size * self.rank.count
        seed = int(self.args.data_seed or 0)
        self.sampler = ShuffledRows(len(self.train_rows), together, seed)
        return self.sampler

    @property
    def stop_requested(self) -> int | None:
        """The signal by which this run was told to end, once all ranks know of it."""
        return self.stop.requested if self.rank.count == 1 else self._agreed_stop

    def agree(self) -> bool:
        """Tell the other ranks, at the end of a step, what this one knows; all call it.

        A rank that left or saved by itself would leave the others waiting for it.

        Returns:
            Whether rank 0's clock says that a checkpoint is due.
        """
        requested = self.stop.requested
        interrupted, ended, due, tokens = summed(
            [
                float(requested == signal.SIGINT),
                float(requested not in (None, signal.SIGINT)),
                float(self.rank.is_first and self.schedule.is_due()),
                float(self._new_tokens),
            ],
            self.rank.count,
        )
        self.tokens_seen += int(tokens)
        self._new_tokens = 0
        if interrupted or ended:
            self._agreed_stop = signal.SIGINT if interrupted else signal.SIGTERM
        return due > 0

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
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        # Shared-out weights come together for all ranks at once: then each scores every paper.
        shares = not is_partitioned(model)
        papers = self.validation_papers
        if shares:
            papers = papers[self.rank.index :: self.rank.count]
        # One rank must not leave the others in the midst of it.
        interruptible = self.stop.at_once() if self.rank.count == 1 else nullcontext()
        with interruptible, self.autocast_smart_context_manager():
            score = self._masked_sums if self._is_masked() else self._sums
            sums = score(model, papers) if papers else [0.0, 0.0, 0.0]
            # All ranks have to draw the same conclusions from them.
            sums = summed(sums, self.rank.count) if shares else from_first(sums, self.rank)
        scores = _masked_scores(sums) if self._is_masked() else _scores(sums)
        model.train(was_training)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.last_metrics = metrics
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _is_masked(self) -> bool:
        return self.objective == "masked"

    def _sums(self, model: Any, papers: Sequence[PaperText]) -> list[float]:
        """Nats, tokens and bytes of papers."""
        context = self.training_config.model.max_length
        frame = score_papers(
            model,
            self.tokenizer,
            papers,
            context=context,
            stride=max(1, context // 2),
            batch_tokens=max(VALIDATION_TOKENS, context),
        )
        return [float(frame[name].sum()) for name in ("nats", "tokens", "bytes")]

    def _masked_sums(self, model: Any, papers: Sequence[PaperText]) -> list[float]:
        """Nats, number and hits of the masked tokens of papers."""
        context = self.training_config.model.max_length
        frame = score_papers_masked(
            model,
            self.tokenizer,
            papers,
            context=context,
            batch_tokens=max(VALIDATION_TOKENS, context),
            pseudo_tokens=0,
            seed=self.training_config.evaluation.seed,
        )
        return [float(frame[name].sum()) for name in ("mlm_nats", "mlm_targets", "mlm_hits")]

    def _evaluate(self, *arguments: Any, **keywords: Any) -> dict[str, float]:
        try:
            metrics: dict[str, float] = super()._evaluate(*arguments, **keywords)
        except StopRequested:
            # Saved as before the validation, which the resumed run begins with.
            self._save_checkpoint(self.model, None)
            raise SystemExit(exit_code(self.stop.requested or 0)) from None
        self.evaluated_step = self.state.global_step
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
        trained = self.trained()
        with gathered_parameters(trained.values()):
            return {name: one.detach().to("cpu", copy=True) for name, one in trained.items()}

    def whole_weights(self) -> dict[str, torch.Tensor] | None:
        """All weights of a model that ZeRO-3 shares out and trains whole, on rank 0's CPU.

        All ranks call it.

        Returns:
            None where the model's own `state_dict` will do.
        """
        if not is_partitioned(self.model) or self.training_config.qlora.adapts:
            return None
        weights: dict[str, torch.Tensor] = self.accelerator.get_state_dict(self.deepspeed)
        return weights

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
        if self._handles_signals:
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
                    self.watch.on_train_end(self.args, self.state, self.control)
            self.agree()
            if self.stop_requested is not None:
                self._save_checkpoint(self.model, None)
                raise SystemExit(exit_code(self.stop_requested))
        if self._keeps_best() and self.best_weights:
            self._set_weights(self.best_weights)
        return output

    def _prepare_to_resume(self, resume: ResumePoint) -> None:
        self._resumed_progress = read_progress(resume.folder)
        self.state = transformers.TrainerState.load_from_json(
            str(resume.folder / "trainer_state.json")
        )
        if self.state.train_batch_size != self._train_batch_size:
            raise UserError(
                f"resume: a pass held {self.state.train_batch_size} rows, now it holds "
                f"{self._train_batch_size}: set hyperparameters.batch_size to the former"
            )
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
        assert self._resumed_progress is not None
        patience = self.training_config.logging.early_stopping_patience
        stopped_early = 0 < patience <= self._resumed_progress.without_gain
        if self.state.global_step < self.state.max_steps and not stopped_early:
            return False
        self._load_from_checkpoint(str(resume.folder))
        self._tr_loss = torch.tensor(0.0)
        return True

    def restore_progress(self) -> None:
        """Take up what the checkpoint says besides weights, optimiser and random state."""
        progress, self._resumed_progress = self._resumed_progress, None
        if progress is None:
            return
        self.tokens_seen = progress.tokens_seen
        self.last_metrics = progress.last_metrics
        self.reports = progress.reports
        self.evaluated_step = progress.evaluated_step
        self.watch.first_loss = progress.first_loss
        if self.early_stopping is not None:
            self.early_stopping.early_stopping_patience_counter = progress.without_gain
        self._started = time.monotonic() - progress.seconds
        loss = progress.loss_since_report[self.rank.index]
        self._tr_loss = torch.tensor(loss, device=self.args.device)
        self._globalstep_last_logged = progress.reported_step
        self._total_loss_scalar = progress.total_loss
        # The checkpoint's own intervals may have been changed since.
        self.state.compute_steps(self.args, self.state.max_steps)
        if progress.evaluation_due:
            self.evaluation_expected = self.state.global_step
            self._determine_best_metric(self._evaluate(None, None), None)

    def _set_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        trained = {name: one for name, one in self.trained().items() if name in weights}
        with torch.no_grad(), gathered_parameters(trained.values(), changing=True):
            for name, parameter in trained.items():
                parameter.copy_(weights[name])

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
                dtype=self.compute_dtype,
                device=self.args.device.type,
                world_size=self.rank.count,
                zero_stage=self.zero_stage or 0,
            ):
                return super()._inner_training_loop(*arguments, **keywords)
        finally:
            # An error's line would otherwise be followed by a bar that nothing moves.
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, _StopAndWatch):
                    callback.on_train_end(self.args, self.state, self.control)

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
        self._new_tokens += _tokens_read(inputs) if self._is_masked() else _targets(inputs)
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._unseen_loss = self._unseen_loss.to(loss.device) + loss.detach()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand metrics to the recorder, under the project's names."""
        super().log(logs, start_time)
        # The rank that holds most is the one that runs out.
        self._peak = max(gathered(_peak_memory_bytes(), self.rank))
        step, named = self.state.global_step, finite(self.named(logs))
        if named and self.rank.is_first:
            self.reports.append(Report(step, int(time.time() * 1000), named))
            self.recorder.metrics(named, step)

    def named(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Give Trainer's figures the project's names, and leave out what has none."""
        names = {
            "loss": "train/loss",
            "grad_norm": "train/gradient_norm",
            "learning_rate": "train/learning_rate",
            "eval_loss": "validation/loss",
            "eval_bits_per_byte": "validation/bits_per_byte",
            "eval_mlm_loss": "validation/mlm_loss",
            "eval_mlm_accuracy": "validation/mlm_accuracy",
        }
        named = {names[key]: float(value) for key, value in logs.items() if key in names}
        if "train/loss" in named:
            named["train/tokens_seen"] = float(self.tokens_seen)
            named["train/tokens_per_second"] = self.tokens_seen / max(self.seconds, 1e-9)
            named["train/epoch"] = float(self.state.epoch or 0.0)
            named["train/memory_gb"] = self._peak / 2**30
        return named

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        save(self)


def _scores(sums: Sequence[float]) -> dict[str, float]:
    nats, tokens, size = sums
    return {"loss": nats / tokens, "bits_per_byte": nats / (math.log(2) * size)}


def _masked_scores(sums: Sequence[float]) -> dict[str, float]:
    nats, targets, hits = sums
    return {"mlm_loss": nats / targets, "mlm_accuracy": hits / targets}


class _StopAndWatch(transformers.TrainerCallback):  # type: ignore[misc]
    """The progress bar, and the stop when the loss runs away."""

    def __init__(self, trainer: ModelTrainer) -> None:
        self.trainer = trainer
        self.bar: Any = None
        self.first_loss: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from tqdm import tqdm

        trainer = self.trainer
        check_wrapper(trainer.model_wrapped, trainer.rank.count, trainer.zero_stage)
        self.trainer._started = time.monotonic()
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The state's own epoch: a resumed run goes on with the order and the masks of where it
        # stopped. Accelerate does not reach the sampler below what it skips rows and shares them
        # out by.
        epoch = math.floor(state.epoch or 0)
        self.trainer.sampler.set_epoch(epoch)
        if isinstance(self.trainer.train_rows, MaskedPapers):
            self.trainer.train_rows.begin_epoch(epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.agree():
            control.should_save = True
        if control.should_save or control.should_evaluate:
            # A checkpoint between two reports must not hold what a NaN has left of the weights.
            (unseen,) = summed([self.trainer._unseen_loss.item()], self.trainer.rank.count)
            self.trainer._unseen_loss.zero_()
            if not math.isfinite(unseen):
                self._stop(unseen, args, state)
        self.trainer.steps_done += 1
        if self.bar is not None:
            rate = self.trainer.tokens_seen / max(self.trainer.seconds, 1e-9)
            self.bar.update()
            self.bar.set_postfix(
                tokens_per_s=f"{rate:.0f}", memory=f"{_peak_memory_bytes() / 2**30:.1f}GB"
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
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
        if self.bar is not None:
            self.bar.close()


def prepare_for_packed_training(model: Any) -> None:
    """Give a causal model per-document attention and the chunked loss.

    Args:
        model: A `PreTrainedModel`, the one inside any adapter.

    Raises:
        UserError: Packed documents would see each other in this model.
    """
    if not supports_packing(model):
        raise UserError(
            f"{type(model).__name__} lets packed papers attend to each other (its attention takes "
            "no document borders): choose another model"
        )
    if not has_plain_head(model):
        raise UserError(
            f"{type(model).__name__} has an output head that the chunked loss does not cover "
            "(a bias, soft-capped or scaled logits, or an adapter on it): choose another model, or "
            "leave the head out of qlora.target_modules (qlora.modules_to_save trains it whole)"
        )
    register_per_document_attention()
    model.set_attn_implementation(PER_DOCUMENT_SDPA)
    model.config.use_cache = False
    use_chunked_loss(model)


def training_arguments(
    training: config.Training,
    folder: Path,
    dtype: torch.dtype,
    micro_batch: int | None,
    *,
    validates: bool,
    objective: Objective = "causal",
    deepspeed: Mapping[str, Any] | None = None,
) -> transformers.TrainingArguments:
    """Express the configuration as transformers' arguments."""
    values = training.hyperparameters
    logging = training.logging
    device = "cuda" if torch.cuda.is_available() and training.hardware.device != "cpu" else "cpu"
    rows = micro_batch or values.batch_size
    if rows == "auto":
        raise UserError(
            "hyperparameters.batch_size is auto: the finetune step works it out from the memory "
            "plan; a script of your own calls steps.training.memory.with_settled_batch first"
        )
    warmup = training.warmup_steps
    checkpointing = training.memory_optimization.gradient_checkpointing
    # Transformers' own: `save_on_cpu` around each checkpointed layer.
    how = {"use_reentrant": False, "offload": training.memory_optimization.offload_activations}
    evaluates: Literal["no", "steps", "epoch"] = logging.eval_strategy if validates else "no"
    metric = best_metric(logging.metric_for_best_model, objective)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=values.gradient_accumulation_steps,
        num_train_epochs=values.num_epochs,
        max_steps=values.max_steps,
        learning_rate=values.learning_rate,
        # Below 1 it is a share of all steps.
        warmup_steps=training.scheduler.warmup_ratio if warmup is None else warmup,
        lr_scheduler_type=training.scheduler.type,
        weight_decay=values.weight_decay,
        max_grad_norm=values.max_grad_norm,
        # A shared-out state is small; and bitsandbytes' optimisers know no offload.
        optim=optimizer_name(training.optimizer.type, "cpu" if deepspeed else device),
        adam_beta1=training.optimizer.beta1,
        adam_beta2=training.optimizer.beta2,
        adam_epsilon=training.optimizer.epsilon,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=device == "cpu",
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs=how if checkpointing else None,
        logging_steps=logging.log_steps,
        logging_first_step=True,
        # A NaN must reach the eye, not be replaced by a mean.
        logging_nan_inf_filter=False,
        eval_strategy=evaluates,
        eval_steps=logging.eval_steps,
        save_strategy=logging.save_strategy,
        save_steps=logging.save_steps,
        metric_for_best_model=metric if validates else None,
        greater_is_better=logging.greater_is_better,
        load_best_model_at_end=False,
        save_total_limit=None,
        seed=values.seed,
        data_seed=values.seed,
        dataloader_num_workers=training.hardware.dataloader_num_workers,
        dataloader_pin_memory=training.hardware.dataloader_pin_memory and device == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        ddp_timeout=round(60 * training.distributed.timeout_minutes),
        deepspeed=dict(deepspeed) if deepspeed else None,
        report_to="none",
        disable_tqdm=True,
    )
    # One process trains on one GPU: with several in sight Trainer would split each batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def best_metric(wanted: str, objective: Objective) -> str:
    """The validation metric that checkpoints are ranked by; `auto` takes the objective's own.

    Raises:
        UserError: A model of this objective is not validated by that metric.
    """
    known = {
        "causal": ("eval_bits_per_byte", "eval_loss"),
        "masked": ("eval_mlm_loss", "eval_mlm_accuracy"),
    }[objective]
    name = wanted.replace("validation/", "eval_")
    if name == "auto" or (objective, name) == ("masked", "eval_loss"):
        return known[0]
    if not name.startswith("eval_"):
        name = f"eval_{name}"
    if name not in known:
        raise UserError(
            f"logging.metric_for_best_model is {wanted!r}, which is not measured for a "
            f"{objective} model: use auto, {' or '.join(known)}"
        )
    return name


def _early_stopping(
    training: config.Training, validation_papers: Sequence[PaperText]
) -> transformers.EarlyStoppingCallback | None:
    patience = training.logging.early_stopping_patience
    if not patience:
        return None
    if not validation_papers or training.logging.eval_strategy == "no":
        raise UserError(
            f"logging.early_stopping_patience is {patience}, but nothing is validated: raise "
            "scientific_data.split.validation_fraction and set logging.eval_strategy to steps, "
            "or set the patience to 0"
        )
    return transformers.EarlyStoppingCallback(early_stopping_patience=patience)


def _targets(inputs: Mapping[str, torch.Tensor]) -> int:
    return int((inputs["labels"] != IGNORED).sum())


def _tokens_read(inputs: Mapping[str, torch.Tensor]) -> int:
    """Tokens of a masked model's batch without the padding."""
    seen = inputs.get("attention_mask")
    return inputs["input_ids"].numel() if seen is None else int(seen.sum())


def optimizer_name(wanted: str, device: str) -> str:
    """Transformers' name of an optimiser; `auto` takes paged 8-bit AdamW on a GPU.

    Raises:
        UserError: Transformers knows no such optimiser.
    """
    from transformers.training_args import OptimizerNames

    older = {"adamw": "adamw_torch", "adam": "adamw_torch", "auto": "auto"}
    name = older.get(wanted.lower(), wanted.lower())
    if name == "auto":
        return "paged_adamw_8bit" if device == "cuda" else "adamw_torch_fused"
    known = [member.value for member in OptimizerNames]
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        raise UserError(f"optimizer.type is {wanted!r}; nearest known: {', '.join(near)} (or auto)")
    return name


def _peak_memory_bytes() -> float:
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
