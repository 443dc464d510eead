"""The keys that a DeepSpeed file may hold, and the values that each may have.

Most come from DeepSpeed's own models of its sections, so that they are those of the release that
is installed. It reads the keys below, which have no model, one by one; what it does not know
there it passes over without a word.
"""

import difflib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from steps.config.deepspeed_file import DECIDED_BY
from steps.errors import UserError, first_line

_Numbers = int | float
_FORMATS = Literal["fp16", "bf16", "fp32"]
# Keys without a model of DeepSpeed's; the value is a type, or the keys of a section.
_PLAIN: dict[str, Any] = {
    "train_batch_size": int,
    "train_micro_batch_size_per_gpu": int,
    "gradient_accumulation_steps": int,
    "gradient_clipping": _Numbers,
    "optimizer": {
        "type": str,
        "params": {
            "lr": _Numbers,
            "betas": list[_Numbers],
            "eps": _Numbers,
            "weight_decay": _Numbers,
        },
    },
    "scheduler": {"type": str, "params": dict[str, Any]},
    "steps_per_print": _Numbers,
    "wall_clock_breakdown": bool,
    "memory_breakdown": bool,
    "dump_state": bool,
    "disable_allgather": bool,
    "disable_python_gc": bool,
    "log_level": str,
    "communication_data_type": _FORMATS,
    "seq_parallel_communication_data_type": _FORMATS,
    "prescale_gradients": bool,
    "gradient_predivide_factor": _Numbers,
    "gradient_allreduce_op": Literal["mean", "sum"],
    "vocabulary_size": int,
    "zero_allow_untested_optimizer": bool,
    "zero_force_ds_cpu_optimizer": bool,
    "dataloader_drop_last": bool,
    "use_data_before_expert_parallelism": bool,
    "activation_checkpointing": {
        "partition_activations": bool,
        "cpu_checkpointing": bool,
        "contiguous_memory_optimization": bool,
        "number_checkpoints": int | None,
        "synchronize_checkpoint_boundary": bool,
        "profile": bool,
    },
    "flops_profiler": {
        "enabled": bool,
        "recompute_fwd_factor": _Numbers,
        "profile_step": int,
        "module_depth": int,
        "top_modules": int,
        "detailed": bool,
        "output_file": str | None,
    },
    "aio": {
        "block_size": int,
        "queue_depth": int,
        "intra_op_parallelism": int,
        "single_submit": bool,
        "overlap_events": bool,
        "use_gds": bool,
    },
    "checkpoint": {
        "tag_validation": Literal["Ignore", "Warn", "Fail", "IGNORE", "WARN", "FAIL"],
        "load_universal": bool,
        "use_node_local_storage": bool,
        "parallel_write": {"pipeline_stage": bool},
    },
    "data_types": {"grad_accum_dtype": _FORMATS | None},
}
# Names that people know from elsewhere, or from older releases.
_MEANT = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "zero": "zero_optimization"}
# Sections for which "auto" may stand as a whole: the configuration decides all that is in them.
_WHOLE = ("bf16", "fp16", "optimizer", "scheduler")
# What transformers works out from the model, and from which ZeRO stage on.
_FROM_THE_MODEL = {
    "zero_optimization.reduce_bucket_size": 1,
    "zero_optimization.stage3_prefetch_bucket_size": 3,
    "zero_optimization.stage3_param_persistence_threshold": 3,
}


def check_keys(path: Path, content: Mapping[str, Any], stage: int) -> None:
    """Check that DeepSpeed knows every key of a file, and can read every value.

    Args:
        path: The file, for the message.
        content: What it says.
        stage: Its ZeRO stage.

    Raises:
        UserError: It does not; names every such key, what was expected, and the nearest known.
    """
    with _silenced():
        models = _models()
        known = {**_PLAIN, **{name: _fields(model) for name, model in models.items()}}
        wrong = list(_problems(content, known, "", stage, known)) or list(_refused(content, models))
    if wrong:
        raise UserError(f"{path}: {'; '.join(wrong)}")


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep off the terminal what DeepSpeed says when it is imported, and of older names of keys."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _models() -> dict[str, Any]:
    """DeepSpeed's models of the sections that have one."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.monitor.config import DeepSpeedMonitorConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    monitors = {
        name: _model_in(DeepSpeedMonitorConfig.model_fields[name].annotation)
        for name in ("tensorboard", "wandb", "csv_monitor", "comet")
    }
    return {
        "zero_optimization": DeepSpeedZeroConfig,
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
        "comms_logger": CommsLoggerConfig,
        "compile": CompileConfig,
        **monitors,
    }


def _model_in(annotation: Any) -> Any:
    """The model of an annotation such as `Optional[Model]`; None where it names none."""
    from pydantic import BaseModel

    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _fields(model: Any) -> dict[str, Any]:
    """The keys of a section that has a model, under all names that it accepts."""
    fields = {}
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        checked = Annotated[(field.annotation, *field.metadata)] if field.metadata else None
        for key in {name, field.alias or name}:
            fields[key] = _fields(inner) if inner else checked or field.annotation
    return fields


def _problems(
    content: Mapping[str, Any],
    known: Mapping[str, Any],
    prefix: str,
    stage: int,
    root: Mapping[str, Any],
) -> Iterator[str]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        expected = known.get(key)
        if expected is None:
            yield f"{name} is no key that is used here{_nearest(key, known, prefix, root)}"
        elif value == "auto" and (isinstance(expected, Mapping) or not _fits(value, expected)):
            yield from _unfilled(name, stage)
        elif not isinstance(expected, Mapping):
            if not _fits(value, expected):
                yield f"{name} is {_shown(value)}, expected {_wanted(value, expected)}"
        elif isinstance(value, Mapping):
            if name != "optimizer.params":
                yield from _problems(value, expected, f"{name}.", stage, root)
            else:
                # Those that have no counterpart here are told apart where the others are compared.
                ours = {part: value[part] for part in value if part in expected}
                yield from _problems(ours, expected, f"{name}.", stage, root)
        else:
            yield f"{name} is {_shown(value)}, expected an object such as {_example(expected)}"


def _unfilled(name: str, stage: int) -> Iterator[str]:
    """The complaint about an "auto" that nothing replaces, if nothing does."""
    from_stage = _FROM_THE_MODEL.get(name)
    if name in DECIDED_BY or name in (*_WHOLE, "optimizer.params", "scheduler.params"):
        return
    if from_stage is None:
        yield f'{name} is "auto", which nothing fills in: give a value, or remove the key'
    elif stage < from_stage:
        yield (
            f'{name} is "auto", which is filled in under ZeRO stage {from_stage} alone, and the '
            f"stage is {stage}: remove the key"
        )


def _fits(value: Any, expected: Any) -> bool:
    return _complaint(value, expected) is None


def _complaint(value: Any, expected: Any) -> str | None:
    """What pydantic says against a value, read as strictly as JSON allows."""
    # JSON has one kind of number: 5e8 is as good as 500000000.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        TypeAdapter(expected).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return str(error.errors()[0]["msg"])
    return None


def _wanted(value: Any, expected: Any) -> str:
    if expected == _Numbers:
        return "a number"
    said = (_complaint(value, expected) or "").removeprefix("Input should be ")
    return {"a valid boolean": "true or false"}.get(said, said)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _example(section: Mapping[str, Any]) -> str:
    return '{"enabled": "auto"}' if "enabled" in section else f'{{"{next(iter(section))}": ...}}'


def _nearest(key: str, known: Mapping[str, Any], prefix: str, root: Mapping[str, Any]) -> str:
    """A proposal for a key that nobody knows, or the way out without one."""
    sections = {name: part for name, part in root.items() if isinstance(part, Mapping)}
    near = [f"{section}.{key}" for section, part in sections.items() if key in part]
    if key in root:
        near = [f"{key} outside {prefix.rstrip('.')}"]
    alike = [_MEANT[key]] if _MEANT.get(key) in known else []
    alike = alike or difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    near = near or [f"{prefix}{name}" for name in alike]
    return f"; did you mean {near[0]}?" if near else ": remove it"


def _refused(content: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[str]:
    """What DeepSpeed itself has against sections whose every value is of the right kind."""
    for section, model in models.items():
        if not isinstance(content.get(section), Mapping):
            continue
        try:
            model(**content[section])
        except (ValueError, AssertionError, TypeError) as error:
            yield f"{section}: {_reason(error)}"


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return first_line(error)
    said = str(error.errors()[0]["msg"])
    return said.removeprefix("Value error, ").removeprefix("Assertion failed, ")
