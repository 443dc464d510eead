"""Values that files of the existing layout hold, and what becomes of each."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steps.config.dotted import flatten
from steps.config.paths import find_file
from steps.config.sections import Training
from steps.errors import UserError


def settle_oddities(
    training: Training, merged: dict[str, Any], file: Path
) -> tuple[Training, list[str]]:
    """Give each oddity of older files its right value, and say so in one line each."""
    notices: list[str] = []
    given = merged.get("training") or {}
    notices.extend(_numbers_in_quotes(training, given))
    older = training.hyperparameters.warmup_steps
    ramp = training.scheduler.num_warmup_steps
    if older is not None and ramp is not None and older != ramp:
        notices.append(
            f"hyperparameters.warmup_steps is {older} and scheduler.num_warmup_steps is {ramp}: "
            f"{ramp} is used, the scheduler's own; remove the other"
        )
    if training.data is not None and any(training.data.model_dump().values()):
        notices.append(
            "data.* (the older layout's own files) is not used: papers come from "
            f"scientific_data.data_file ({training.scientific_data.data_file})"
        )
    if training.model.padding is not None or training.model.truncation is not None:
        notices.append(
            "model.padding and model.truncation are not used: papers are packed, and long ones "
            "become windows of model.max_length, so that nothing is padded or cut off"
        )
    if training.model.model_type is not None:
        notices.append(
            f"model.model_type ({training.model.model_type}) is not used: the objective comes from "
            "the model's own configuration, or from model.objective"
        )
    if training.memory_optimization.max_memory_usage is not None:
        notices.append(
            "memory_optimization.max_memory_usage is not used: memory_optimization.gpu_memory_gb "
            f"({training.memory_optimization.gpu_memory_gb:g}) is the budget"
        )
    if training.output.overwrite_output_dir:
        notices.append(
            "output.overwrite_output_dir is not used: each run writes into a folder of its own"
        )
    uri = training.mlflow.tracking_uri
    if uri is not None and (uri.startswith("file:") or _is_plain_path(uri)):
        settled = "sqlite:///mlflow.db"
        notices.append(
            f"mlflow.tracking_uri {uri!r} is a file store, which MLflow 3.17 refuses: "
            f"{settled} is used (artifacts in ./mlruns, as before)"
        )
        mlflow_section = training.mlflow.model_copy(update={"tracking_uri": settled})
        training = training.model_copy(update={"mlflow": mlflow_section})
    notices.extend(_deepspeed_oddities(training, file))
    return training, notices


def _is_plain_path(uri: str) -> bool:
    return "://" not in uri and uri not in ("databricks", "uc")


def _numbers_in_quotes(training: Training, given: Mapping[str, Any]) -> Iterator[str]:
    checked = dict(flatten("training", training.model_dump()))
    for key, value in flatten("training", given):
        number = checked.get(key)
        if isinstance(value, str) and isinstance(number, (int, float)):
            yield f"{key.removeprefix('training.')} is the text {value!r}: read as {number:g}"


def deepspeed_file(training: Training, file: Path) -> Path:
    """The DeepSpeed file that a configuration names, beside it, in the working folder or here.

    Args:
        training: A configuration whose `distributed.deepspeed_config` is set.
        file: Where it was read from.

    Raises:
        UserError: There is no such file.
    """
    path = training.distributed.deepspeed_config
    assert path is not None
    beside = file.parent / path
    if beside.is_file():
        return beside
    return find_file(path, "the DeepSpeed file", "distributed.deepspeed_config")


def _deepspeed_oddities(training: Training, file: Path) -> Iterator[str]:
    """Name what a DeepSpeed file that is not in use sets that the configuration decides."""
    if training.distributed.deepspeed_config is None:
        return
    found = deepspeed_file(training, file)
    try:
        content = json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{found}: not JSON: {error}") from None
    if training.distributed.uses_deepspeed:
        # Checked against the settled values when the training begins.
        return
    state = " (distributed.enabled is false: not in use)"
    if training.distributed.enabled:
        state = f" (distributed.backend is {training.distributed.backend}: not in use)"
    decided_by = {
        "fp16": "hardware.fp16 and hardware.bf16",
        "bf16": "hardware.fp16 and hardware.bf16",
        "optimizer": "training.optimizer",
        "scheduler": "training.scheduler",
        "train_batch_size": "hyperparameters.batch_size and gradient_accumulation_steps",
        "train_micro_batch_size_per_gpu": "hyperparameters.batch_size",
        "gradient_accumulation_steps": "hyperparameters.gradient_accumulation_steps",
        "gradient_clipping": "hyperparameters.max_grad_norm",
    }
    for key, owner in decided_by.items():
        value = content.get(key)
        if value is None or value == "auto" or value == {"enabled": "auto"}:
            continue
        if isinstance(value, dict) and value.get("enabled") is False:
            continue
        shown = value.get("type", "enabled") if isinstance(value, dict) else value
        yield f"{found.name} sets {key} ({shown}): {owner} decides{state}"
    zero = content.get("zero_optimization", {})
    if isinstance(zero, dict) and zero.get("stage") and "offload_optimizer" in zero:
        yield f"{found.name}: ZeRO stage {zero['stage']} with optimizer offload{state}"
