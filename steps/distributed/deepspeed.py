"""DeepSpeed's JSON file, with every "auto" filled in and every contradiction refused.

    settings = deepspeed_settings(Path("configs/deepspeed/zero3.json"), training, dtype, ranks=8)

What the project's configuration decides (batch, clipping, number format, optimiser, schedule)
is decided there alone: a file that says something else is refused with the keys by name,
because DeepSpeed, Trainer and the plan would each believe another one.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from steps.config.sections import Training
from steps.errors import UserError

# The names under which DeepSpeed's file asks for what `optimizer.type` auto and adamw mean.
ADAM = ("adam", "adamw")
KNOWN_OF_OPTIMIZER = {"lr", "weight_decay", "eps", "betas"}
STAGES = (1, 2, 3)


def read_deepspeed_file(path: Path) -> dict[str, Any]:
    """Read a DeepSpeed file.

    Raises:
        UserError: It is missing, or not a JSON object with a ZeRO stage of 1 to 3.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"distributed.deepspeed_config: there is no file {str(path)!r}: give one like "
            "configs/deepspeed/zero2.json"
        ) from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    stage = zero_stage(content) if isinstance(content, dict) else None
    if stage not in STAGES:
        raise UserError(
            f"{path}: zero_optimization.stage is {stage!r}, expected 1, 2 or 3: without ZeRO use "
            "training.distributed.backend=ddp"
        )
    assert isinstance(content, dict)
    return content


def zero_stage(content: Mapping[str, Any] | None) -> int:
    """The ZeRO stage that a file asks for; 0 where it asks for none, or there is no file."""
    zero = (content or {}).get("zero_optimization")
    return (zero.get("stage") or 0) if isinstance(zero, dict) else 0


def deepspeed_settings(
    path: Path, training: Training, dtype: torch.dtype, *, ranks: int, micro_batch: int
) -> dict[str, Any]:
    """Fill a DeepSpeed file in from the configuration.

    Args:
        path: The file.
        training: The configuration.
        dtype: Number format of the computation.
        ranks: Processes over all machines.
        micro_batch: Rows of one forward pass.

    Returns:
        What DeepSpeed is given; holds no "auto" for what the configuration knows.

    Raises:
        UserError: The file contradicts the configuration; names every key that does.
    """
    content = read_deepspeed_file(path)
    wrong = list(_contradictions(content, training, dtype, ranks, micro_batch))
    if wrong:
        raise UserError(
            f'{path} contradicts the configuration: {"; ".join(wrong)}: write "auto" there (or '
            "remove the key)"
        )
    values = training.hyperparameters
    # Trainer's own optimiser and schedule are used, whatever process holds their state.
    for section in ("optimizer", "scheduler"):
        content.pop(section, None)
    for section, format_of in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        # Its other keys, such as the loss scale, are the file's own business.
        stated = content.pop(section, {})
        if dtype == format_of:
            content[section] = {**stated, "enabled": True}
    content |= {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": values.gradient_accumulation_steps,
        "train_batch_size": micro_batch * values.gradient_accumulation_steps * ranks,
        "gradient_clipping": values.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own Adam for the host would be compiled at the first use.
        "zero_force_ds_cpu_optimizer": False,
    }
    # Its report is one more voice on the terminal.
    content.setdefault("steps_per_print", 10**9)
    if zero_stage(content) == 3:
        # Or a model that is trained whole could not be written as one.
        content["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    return content


def _contradictions(
    content: Mapping[str, Any],
    training: Training,
    dtype: torch.dtype,
    ranks: int,
    micro_batch: int,
) -> Iterator[str]:
    values = training.hyperparameters
    ours: dict[str, tuple[Any, str]] = {
        "train_micro_batch_size_per_gpu": (micro_batch, "hyperparameters.batch_size"),
        "gradient_accumulation_steps": (
            values.gradient_accumulation_steps,
            "hyperparameters.gradient_accumulation_steps",
        ),
        "train_batch_size": (
            micro_batch * values.gradient_accumulation_steps * ranks,
            f"batch_size x gradient_accumulation_steps x {ranks} processes",
        ),
        "gradient_clipping": (values.max_grad_norm, "hyperparameters.max_grad_norm"),
        "bf16.enabled": (dtype == torch.bfloat16, "hardware.bf16"),
        "fp16.enabled": (dtype == torch.float16, "hardware.fp16"),
        "optimizer.params.lr": (values.learning_rate, "hyperparameters.learning_rate"),
        "optimizer.params.weight_decay": (values.weight_decay, "hyperparameters.weight_decay"),
        "optimizer.params.eps": (training.optimizer.epsilon, "optimizer.epsilon"),
        "optimizer.params.betas": (
            [training.optimizer.beta1, training.optimizer.beta2],
            "optimizer.beta1 and beta2",
        ),
    }
    for key, (mine, owner) in ours.items():
        stated = _at(content, key)
        if stated not in (None, "auto", mine):
            yield f"{key} is {json.dumps(stated)}, {owner} is {json.dumps(mine)}"
    unknown = (_at(content, "optimizer.params") or {}).keys() - KNOWN_OF_OPTIMIZER
    for key in sorted(unknown):
        yield f"optimizer.params.{key} has no counterpart here"
    kind = _at(content, "optimizer.type")
    ours_is_adam = training.optimizer.type.lower().startswith(("auto", "adam"))
    if kind is not None and not (str(kind).lower() in ADAM and ours_is_adam):
        yield f"optimizer.type is {kind}, optimizer.type here is {training.optimizer.type}"
    schedule = _at(content, "scheduler.type")
    if schedule is not None:
        yield f"scheduler.type is {schedule}, scheduler.type here is {training.scheduler.type}"


def _at(content: Mapping[str, Any], key: str) -> Any:
    value: Any = content
    for part in key.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value
