"""Values that files of the existing layout hold, and what becomes of each."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steps.config.deepspeed_file import notices_of_an_idle_file
from steps.config.dotted import flatten
from steps.config.sections import Training


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
    notices.extend(notices_of_an_idle_file(training, file))
    return training, notices


def _is_plain_path(uri: str) -> bool:
    return "://" not in uri and uri not in ("databricks", "uc")


def _numbers_in_quotes(training: Training, given: Mapping[str, Any]) -> Iterator[str]:
    checked = dict(flatten("training", training.model_dump()))
    for key, value in flatten("training", given):
        number = checked.get(key)
        if isinstance(value, str) and isinstance(number, (int, float)):
            yield f"{key.removeprefix('training.')} is the text {value!r}: read as {number:g}"
