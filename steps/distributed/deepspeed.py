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

from steps.config.deepspeed_file import DECIDED_BY, read_deepspeed_json, stated_keys, value_at
from steps.config.sections import Training
from steps.distributed.deepspeed_keys import check_keys
from steps.errors import UserError

# The names under which DeepSpeed's file asks for what `optimizer.type` auto and adamw mean.
ADAM = ("adam", "adamw")
STAGES = (1, 2, 3)


def read_deepspeed_file(path: Path) -> dict[str, Any]:
    """Read a DeepSpeed file that is in use.

    Raises:
        UserError: It is missing, or not a JSON object with a ZeRO stage of 1 to 3 and with keys and
            values that DeepSpeed knows.
    """
    content = without_nulls(read_deepspeed_json(path))
    stage = value_at(content, "zero_optimization.stage")
    if stage not in STAGES or isinstance(stage, bool):
        raise UserError(
            f"{path}: zero_optimization.stage is {json.dumps(stage)}, expected 1, 2 or 3: without "
            "ZeRO use training.distributed.backend=ddp"
        )
    check_keys(path, content, stage)
    return content


def check_deepspeed_file(
    path: Path, training: Training, dtype: torch.dtype, ranks: int | None = None
) -> None:
    """Refuse a file that a training could not use, before anything is fetched or started.

    Args:
        path: The file.
        training: The configuration.
        dtype: Number format of the computation.
        ranks: Processes over all machines; None: not known yet.

    Raises:
        UserError: See `read_deepspeed_file` and `deepspeed_settings`.
    """
    rows = training.hyperparameters.batch_size
    _settled(path, training, dtype, ranks, None if rows == "auto" else rows)


def without_nulls(content: dict[str, Any]) -> dict[str, Any]:
    """A file's content without the keys that say null, which is what DeepSpeed takes them for."""
    return {
        key: without_nulls(value) if isinstance(value, dict) else value
        for key, value in content.items()
        if value is not None
    }


def _settled(
    path: Path,
    training: Training,
    dtype: torch.dtype,
    ranks: int | None,
    micro_batch: int | None,
) -> dict[str, Any]:
    """What a file says, found to agree with the configuration as far as that is settled."""
    content = read_deepspeed_file(path)
    wrong = list(_contradictions(content, training, dtype, ranks, micro_batch))
    if wrong:
        raise UserError(
            f'{path} contradicts the configuration: {"; ".join(wrong)}: write "auto" there (or '
            "remove the key)"
        )
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
    content = _settled(path, training, dtype, ranks, micro_batch)
    values = training.hyperparameters
    # Trainer's own optimiser and schedule are used, whatever process holds their state.
    for section in ("optimizer", "scheduler"):
        content.pop(section, None)
    for section, format_of in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        # Its other keys, such as the loss scale, are the file's own business.
        stated = content.pop(section, None)
        if dtype == format_of:
            others = stated if isinstance(stated, dict) else {}
            content[section] = {**others, "enabled": True}
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
    ranks: int | None,
    micro_batch: int | None,
) -> Iterator[str]:
    values, optimizer = training.hyperparameters, training.optimizer
    accumulation = values.gradient_accumulation_steps
    rows = micro_batch * accumulation * ranks if micro_batch and ranks else None
    decided = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": rows,
        "gradient_clipping": values.max_grad_norm,
        "bf16.enabled": dtype == torch.bfloat16,
        "fp16.enabled": dtype == torch.float16,
        "optimizer.type": optimizer.type,
        "optimizer.params.lr": values.learning_rate,
        "optimizer.params.weight_decay": values.weight_decay,
        "optimizer.params.eps": optimizer.epsilon,
        "optimizer.params.betas": [optimizer.beta1, optimizer.beta2],
        "scheduler.type": training.scheduler.type,
    }
    is_adam = optimizer.type.lower().startswith(("auto", "adam"))
    for key, stated in stated_keys(content).items():
        # Their names are others than ours; of schedules, the file's are never used.
        agrees = stated == decided[key] and key != "scheduler.type"
        # What is not settled yet is compared when it is.
        agrees = agrees or decided[key] is None
        if key == "optimizer.type":
            agrees = is_adam and str(stated).lower() in ADAM
        if not agrees:
            yield f"{key} is {json.dumps(stated)}, {DECIDED_BY[key]} is {json.dumps(decided[key])}"
    known = {key.rpartition(".")[2] for key in DECIDED_BY if key.startswith("optimizer.params.")}
    given = value_at(content, "optimizer.params")
    for key in sorted(given.keys() - known if isinstance(given, dict) else ()):
        yield f"optimizer.params.{key} has no counterpart here"
    schedule = value_at(content, "scheduler.params")
    for key, stated in schedule.items() if isinstance(schedule, dict) else ():
        if stated != "auto":
            yield f"scheduler.params.{key} is {json.dumps(stated)}, scheduler.* decides"
