"""The configuration, as transformers' `TrainingArguments`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from steps.config.sections import Training
from steps.errors import UserError
from steps.metrics import METRICS, VALIDATION_METRICS
from steps.models.devices import Placement
from steps.models.sources import Task
from steps.terminal import say
from steps.training.optimizers import MUON, STAND_IN, optimizer_name


def training_arguments(
    training: Training,
    folder: Path,
    placement: Placement,
    *,
    validates: bool,
    objective: Task = "causal",
    deepspeed: Mapping[str, Any] | None = None,
    rows_at_once: int | None = None,
) -> transformers.TrainingArguments:
    """Express the configuration as transformers' arguments.

    `rows_at_once` are the rows of one forward pass, a divisor of the configured ones (None: those);
    an optimiser step takes the same rows either way.

    Raises:
        UserError: A setting that transformers does not know, or `batch_size: auto`.
    """
    values = training.hyperparameters
    logging = training.logging
    device, dtype = placement.device, placement.torch_dtype
    micro_batch, accumulation = rows_of_a_step(training, rows_at_once)
    warmup = training.warmup_steps
    evaluates: Literal["no", "steps", "epoch"] = logging.eval_strategy if validates else "no"
    metric = best_metric(logging.metric_for_best_model, objective)
    # A shared-out state is small; and bitsandbytes' optimisers know no offload.
    shared_out = deepspeed or placement.fully_sharded
    optimizer = optimizer_name(training.optimizer.type, "cpu" if shared_out else device)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=values.num_epochs,
        max_steps=values.max_steps,
        learning_rate=values.learning_rate,
        # Below 1 it is a share of all steps.
        warmup_steps=training.scheduler.warmup_ratio if warmup is None else warmup,
        lr_scheduler_type=training.scheduler.type,
        weight_decay=values.weight_decay,
        max_grad_norm=values.max_grad_norm,
        optim=STAND_IN if optimizer == MUON else optimizer,
        adam_beta1=training.optimizer.beta1,
        adam_beta2=training.optimizer.beta2,
        adam_epsilon=training.optimizer.epsilon,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=device == "cpu",
        **activation_checkpointing(training),
        logging_steps=logging.log_steps,
        logging_first_step=True,
        # A NaN must reach the eye, not be replaced by a mean.
        logging_nan_inf_filter=False,
        eval_strategy=evaluates,
        eval_steps=logging.eval_steps,
        save_strategy=logging.save_strategy,
        save_steps=logging.save_steps,
        metric_for_best_model=metric if validates else None,
        greater_is_better=_greater_is_better(training, metric),
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
        deepspeed=deepspeed and {**deepspeed, **_deepspeed_rows(micro_batch, accumulation)},
        report_to="none",
        disable_tqdm=True,
    )
    # One process trains on one GPU: with several in sight Trainer would split each batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def rows_of_a_step(training: Training, rows_at_once: int | None) -> tuple[int, int]:
    """Rows of one forward pass, and how many passes an optimiser step takes.

    Args:
        training: The configuration.
        rows_at_once: As in `training_arguments`.

    Raises:
        UserError: The rows are still to be worked out (`batch_size: auto`).
    """
    values = training.hyperparameters
    rows = values.batch_size
    if rows == "auto":
        raise UserError(
            "hyperparameters.batch_size is auto: the finetune step works it out from the memory "
            "plan; a script of your own calls steps.planning.suggestions.with_auto_batch_size first"
        )
    micro_batch = rows if rows_at_once is None else rows_at_once
    return micro_batch, values.gradient_accumulation_steps * (rows // micro_batch)


def _deepspeed_rows(micro_batch: int, accumulation: int) -> dict[str, int]:
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
    }


def checkpointed_if_possible(training: Training, model: Any) -> Training:
    """The configuration, without gradient checkpointing where a class of models has none.

    Args:
        training: The configuration.
        model: A `PreTrainedModel`, wrapped by peft or not, or the class of one.
    """
    memory = training.memory_optimization
    if model.supports_gradient_checkpointing or not memory.gradient_checkpointing:
        return training
    name = model.config_class.model_type
    say(f"note: {name} has no gradient checkpointing: it is off, and activations stay in memory")
    without = {"gradient_checkpointing": False, "offload_activations": False}
    settled = memory.model_copy(update=without)
    return training.model_copy(update={"memory_optimization": settled})


def activation_checkpointing(training: Training) -> dict[str, Any]:
    """The arguments by which transformers computes activations again in the backward pass."""
    memory = training.memory_optimization
    if not memory.gradient_checkpointing:
        return {}
    known = transformers.TrainingArguments.__dataclass_fields__
    # The name in transformers 5.23; 5.17 knows the older one alone.
    name = "activation_checkpointing"
    if name not in known:
        name = "gradient_checkpointing"
    # `offload` is transformers' own: `save_on_cpu` around each checkpointed layer.
    how = {"use_reentrant": False, "offload": memory.offload_activations}
    return {name: True, f"{name}_kwargs": how}


def best_metric(wanted: str, objective: Task) -> str:
    """The validation metric that checkpoints are ranked by; `auto` takes the objective's own.

    Raises:
        UserError: A model of this objective is not validated by that metric.
    """
    known = [f"eval_{metric.name}" for metric in VALIDATION_METRICS[objective]]
    name = wanted.replace("validation/", "eval_")
    if name == "auto" or (objective != "causal" and name == "eval_loss"):
        return known[0]
    if not name.startswith("eval_"):
        name = f"eval_{name}"
    if name not in known:
        raise UserError(
            f"logging.metric_for_best_model is {wanted!r}, which is not measured for a "
            f"{objective} model: use auto, {' or '.join(known)}"
        )
    return name


def _greater_is_better(training: Training, metric: str) -> bool:
    """Which way is better is the metric's own; the configuration may turn a loss round."""
    higher_is_better = METRICS[metric.removeprefix("eval_")].higher_is_better
    return higher_is_better or training.logging.greater_is_better


def early_stopping(
    training: Training, validation_papers: Sequence[Any]
) -> transformers.EarlyStoppingCallback | None:
    """The callback that stops after `logging.early_stopping_patience` validations without gain.

    Raises:
        UserError: It is set, and nothing is validated.
    """
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
