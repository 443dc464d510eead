"""DeepSpeed's JSON file as it stands, and which of its keys the configuration decides."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steps.config.paths import find_file
from steps.config.sections import Training
from steps.errors import UserError

# Keys of DeepSpeed's file, and the keys of the configuration that decide what they say.
DECIDED_BY = {
    "train_micro_batch_size_per_gpu": "hyperparameters.batch_size",
    "gradient_accumulation_steps": "hyperparameters.gradient_accumulation_steps",
    "train_batch_size": "hyperparameters.batch_size x gradient_accumulation_steps x processes",
    "gradient_clipping": "hyperparameters.max_grad_norm",
    "bf16.enabled": "hardware.bf16",
    "fp16.enabled": "hardware.fp16",
    "optimizer.type": "optimizer.type",
    "optimizer.params.lr": "hyperparameters.learning_rate",
    "optimizer.params.weight_decay": "hyperparameters.weight_decay",
    "optimizer.params.eps": "optimizer.epsilon",
    "optimizer.params.betas": "optimizer.beta1 and beta2",
    "scheduler.type": "scheduler.type",
}
_OBJECTS = ("zero_optimization", "bf16", "fp16", "optimizer", "optimizer.params", "scheduler")


def deepspeed_path(training: Training, file: Path) -> Path:
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


def read_deepspeed_json(path: Path) -> dict[str, Any]:
    """Read a DeepSpeed file.

    Raises:
        UserError: It is missing, not a JSON object, or holds something else where one belongs.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_key_once)
    except FileNotFoundError:
        raise UserError(
            f"distributed.deepspeed_config: there is no file {str(path)!r}: give one like "
            "configs/deepspeed/zero2.json"
        ) from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: holds {json.dumps(content)[:40]}, expected a JSON object like that of "
            "configs/deepspeed/zero2.json"
        )
    for key in _OBJECTS:
        value = value_at(content, key)
        # What ZeRO does is not the configuration's to decide.
        may_be_auto = key != "zero_optimization"
        if not (value is None or isinstance(value, dict) or (value == "auto" and may_be_auto)):
            expected = 'an object or "auto"' if may_be_auto else 'an object such as {"stage": 2}'
            raise UserError(f"{path}: {key} is {json.dumps(value)}, expected {expected}")
    return content


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice: remove one")
    return content


def value_at(content: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key; None where nothing does."""
    value: Any = content
    for part in key.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def stated_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a file itself says of the keys that the configuration decides, by dotted key."""
    stated = {key: value_at(content, key) for key in DECIDED_BY}
    return {key: value for key, value in stated.items() if value is not None and value != "auto"}


def notices_of_an_idle_file(training: Training, file: Path) -> Iterator[str]:
    """Name what a DeepSpeed file that is not in use sets, but the configuration decides.

    One that is in use is checked against the settled values when the training begins.
    """
    if training.distributed.deepspeed_config is None:
        return
    state = " (distributed.enabled is false: not in use)"
    if training.distributed.enabled:
        state = f" (distributed.backend is {training.distributed.backend}: not in use)"
    try:
        path = deepspeed_path(training, file)
        content = read_deepspeed_json(path)
    except UserError as error:
        if training.distributed.uses_deepspeed:
            raise
        yield f"{error}{state}"
        return
    if training.distributed.uses_deepspeed:
        return
    seen = set()
    for key, value in stated_keys(content).items():
        section = key.partition(".")[0]
        # A line for each section is enough; a format that is switched off sets nothing.
        if section in seen or value is False:
            continue
        seen.add(section)
        name = key.removesuffix(".type").removesuffix(".enabled")
        shown = "enabled" if value is True else value
        yield f"{path.name} sets {name} ({shown}): {DECIDED_BY[key]} decides{state}"
    zero = content.get("zero_optimization", {})
    if isinstance(zero, dict) and zero.get("stage") and "offload_optimizer" in zero:
        yield f"{path.name}: ZeRO stage {zero['stage']} with optimizer offload{state}"
