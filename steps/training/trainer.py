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
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch.utils.data import Dataset

from steps.checkpoints.trainer_state import (
    BEST_WEIGHTS_FILE,
    Progress,
    Report,
    ResumePoint,
    make_deterministic,
    read_progress,
)
from steps.checkpoints.writer import save
from steps.config.sections import Training
from steps.distributed.collectives import all_gather, all_reduce_sum, broadcast
from steps.distributed.deepspeed import zero_stage
from steps.distributed.ranks import Rank
from steps.distributed.sampler import ShuffledRows, WithBlankRows
from steps.errors import UserError
from steps.evaluation.likelihood import score_papers
from steps.evaluation.masked import score_papers_masked
from steps.metrics import finite
from steps.models.attention import (
    PER_DOCUMENT_SDPA,
    register_per_document_attention,
    supports_packing,
)
from steps.models.devices import peak_memory_bytes
from steps.models.loading import objective_of
from steps.models.sharded import (
    gathered_parameters,
    is_partitioned,
    share_out_head_use,
)
from steps.papers.text import PaperText
from steps.planning.out_of_memory import stopping_when_out_of_memory
from steps.recorder import Recorder, SilentRecorder
from steps.signals import StopRequested, StopSignals, exit_code, stop_on_signals
from steps.training.arguments import early_stopping, training_arguments
from steps.training.callbacks import NothingLeftToTrain, SaveSchedule, StopAndWatch
from steps.training.losses import IGNORED, has_plain_head, use_chunked_loss
from steps.training.masking import (
    MaskedPapers,
    MaskedWindow,
    collate_masked,
    prepare_for_masked_training,
)
from steps.training.packing import PackedPapers, Window, collate_packed

# Context that a later window of a long paper repeats: enough to pick the thread up again.
WINDOW_OVERLAP = 64

# A validation batch is forward only, so it can be longer than a training row.
VALIDATION_TOKENS = 2048


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
        training: Training,
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
                already (see `steps.distributed.launcher`); None: it trains alone.
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
        self.watch = StopAndWatch(self)
        self.early_stopping = early_stopping(training, self.validation_papers)
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
        interrupted, ended, due, tokens = all_reduce_sum(
            [
                float(requested == signal.SIGINT),
                float(requested not in (None, signal.SIGINT)),
                float(self.rank.is_first and self.schedule.is_due()),
                float(self._new_tokens),
            ]
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
            sums = all_reduce_sum(sums) if shares else broadcast(sums)
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
                if isinstance(callback, StopAndWatch):
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
        self._peak = max(all_gather(peak_memory_bytes()))
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


def _targets(inputs: Mapping[str, torch.Tensor]) -> int:
    return int((inputs["labels"] != IGNORED).sum())


def _tokens_read(inputs: Mapping[str, torch.Tensor]) -> int:
    """Tokens of a masked model's batch without the padding."""
    seen = inputs.get("attention_mask")
    return inputs["input_ids"].numel() if seen is None else int(seen.sum())
