"""The configuration file: layers and overrides merged, checked, and explained when wrong.

    loaded = load_config("configs/training.yaml", "training.qlora.r=32")

OmegaConf reads and merges (it knows YAML 1.2 floats such as `2e-4`, lists and dotted
overrides); pydantic checks.
"""

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from steps.config.base import Section
from steps.config.dotted import dotted, parse_overrides
from steps.config.model_source import origin_of_overlay, without_stale_origin
from steps.config.older_layout import settle_oddities
from steps.config.paths import find_file
from steps.config.sections import Training
from steps.errors import UserError

# What a configuration may take from the environment: places, and the number of a job.
ENVIRONMENT_NAMES = (
    *("HOME", "USER", "PWD", "TMPDIR", "SCRATCH", "WORK", "PROJECT", "DATA", "XDG_CACHE_HOME"),
    *("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_TMPDIR", "PBS_JOBID"),
)
# How many keys of a section a message names.
KEYS_SHOWN = 12


class ConfigFile(Section):
    """The content of a file under its root key, once `extends` has been resolved."""

    training: Training = Training()


@dataclass(frozen=True)
class LoadedConfig:
    """A checked configuration.

    Attributes:
        training: The typed values.
        path: The file that was asked for.
        overrides: The dotted overrides as given.
        notices: One line for each oddity that was accepted.
    """

    training: Training
    path: Path
    overrides: str = ""
    notices: tuple[str, ...] = field(default=())

    def variant_overrides(self, name: str) -> str:
        """Express a variant's overlay as dotted overrides for the `finetune` step."""
        overlay: dict[str, Any] = dict(self.training.variants[name])
        origin = origin_of_overlay(overlay)
        if origin:
            overlay["model"] = {**overlay["model"], **origin}
        assignments = " ".join(dotted("training", overlay))
        return f"{self.overrides} {assignments}".strip()


def load_config(path: str | Path, overrides: str = "") -> LoadedConfig:
    """Read, merge and check a configuration.

    Args:
        path: YAML file with the root key `training`, and optionally `extends`
            (a file beside it). Relative paths are looked up in the working folder,
            then in the project.
        overrides: Space-separated dotted assignments, such as
            `"training.qlora.r=32 training.hyperparameters.learning_rate=1e-4"`.

    Raises:
        UserError: A missing or unreadable file, an unknown key, a wrong value.
    """
    file = find_file(path, "the configuration", "--config")
    layers = list(_layers(file))
    assignments = parse_overrides(overrides, Training.model_fields)
    if assignments:
        layers.append(("overrides", assignments))
    merged, foreign = _merged_without_stale_origin(layers)
    training = _validate(merged, layers)
    for name, overlay in training.variants.items():
        where = f"training.variants.{name}"
        overlaid = [*layers, (f"{file.name}, {where}", {"training": overlay})]
        _validate(_merged_without_stale_origin(overlaid)[0], overlaid)
    if not training.mlflow.enabled:
        raise UserError(
            f"{file}: training.mlflow.enabled is false, but the tracking store is how the steps "
            "hand results on: remove the key, or point training.mlflow.tracking_uri at "
            "sqlite:///mlflow.db for a store without a server"
        )
    training, notices = settle_oddities(training, merged, file)
    return LoadedConfig(training, file, overrides.strip(), (*foreign, *notices))


class Variations:
    """A configuration with other values, each checked as if the file held them.

    The files are read and merged once: a hundred variations take less than a second.
    """

    def __init__(self, loaded: LoadedConfig) -> None:
        """Read the files and the overrides of a configuration again."""
        self._layers = list(_layers(loaded.path))
        assignments = parse_overrides(loaded.overrides, Training.model_fields)
        if assignments:
            self._layers.append(("overrides", assignments))
        self._merged = _merged_without_stale_origin(self._layers)[0]

    def check(self, values: Mapping[str, Any], where: str) -> Training:
        """The configuration with these values.

        Args:
            values: By their dotted key below `training`.
            where: What a message names as their place.

        Raises:
            UserError: A key or a value, or what they are together, is refused.
        """
        content, nested = self._merged, dict[str, Any]()
        for key, value in values.items():
            path = ["training", *key.split(".")]
            content, nested = _with(content, path, value), _with(nested, path, value)
        return _validate(content, [*self._layers, (where, nested)])


def _with(content: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """The mappings with one value in place, those on the way to it copied."""
    key, *rest = path
    if not rest:
        return {**content, key: value}
    below = content.get(key)
    return {**content, key: _with(below if isinstance(below, Mapping) else {}, rest, value)}


def resolved_yaml(training: Training) -> str:
    """Write the resolved configuration as YAML that `load_config` reads back."""
    import yaml

    content = {"training": training.model_dump(mode="json")}
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration file, for editors."""
    schema = ConfigFile.model_json_schema()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "a configuration file beside this one, whose values stand where this one "
        "says nothing",
    }
    schema["title"] = "ScientificLLM-Forge configuration"
    return schema


def _layers(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, content) of a file after those of the files it extends."""
    seen: list[Path] = []
    stack: list[tuple[str, dict[str, Any]]] = []
    while True:
        if file.resolve() in seen:
            raise UserError(f"{file}: extends itself by way of {seen[-1].name}: break the circle")
        seen.append(file.resolve())
        content = _read_yaml(file)
        parent = content.pop("extends", None)
        stack.append((str(file), content))
        if parent is None:
            break
        if not isinstance(parent, str) or not (file.parent / parent).is_file():
            raise UserError(f"{file}: extends {parent!r}, which is no file beside it")
        file = file.parent / parent
    yield from reversed(stack)


def _read_yaml(file: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    OmegaConf.register_resolver("oc.env", _environment_variable, replace=True)
    unreadable = (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError, RecursionError)
    try:
        loaded = OmegaConf.load(file)
        content = OmegaConf.to_container(loaded, resolve=True)
    except unreadable as error:
        raise UserError(
            f"{file}: not a readable YAML file: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"{file}: expected the root key 'training', found a {type(content).__name__}"
        )
    return {str(key): value for key, value in content.items()}


def _environment_variable(name: str, default: str | None = None) -> str | None:
    """What `${oc.env:NAME}` stands for; only names that hold no secrets are resolved.

    Raises:
        UserError: Another name, or one that is not set and has no default.
    """
    if name not in ENVIRONMENT_NAMES:
        raise UserError(
            f"${{oc.env:{name}}}: the configuration is stored with each run, so only "
            f"{', '.join(ENVIRONMENT_NAMES)} are read from the environment; give the value, or "
            "leave secrets to the variables that their libraries read"
        )
    value = os.environ.get(name, default)
    if value is None:
        raise UserError(f"${{oc.env:{name}}}: {name} is not set in the environment: set it")
    return value


def _merge(contents: list[dict[str, Any]]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    # Variants are replaced as a whole: a demo's list of variants is not added to another's.
    merged: dict[str, Any] = {}
    for content in contents:
        training = content.get("training")
        if isinstance(training, dict) and isinstance(training.get("variants"), dict):
            base = merged.get("training")
            if isinstance(base, dict):
                base.pop("variants", None)
        result = OmegaConf.to_container(OmegaConf.merge(merged, content))
        assert isinstance(result, dict)
        merged = {str(key): value for key, value in result.items()}
    return merged


def _merged_without_stale_origin(
    layers: list[tuple[str, dict[str, Any]]],
) -> tuple[dict[str, Any], list[str]]:
    """The layers merged, without what an earlier one says of another model's origin."""
    stale, notices = without_stale_origin(layers)
    merged = _merge([content for _, content in layers])
    for key in stale:
        merged["training"]["model"][key] = None
    return merged, notices


def _validate(merged: dict[str, Any], layers: list[tuple[str, dict[str, Any]]]) -> Training:
    # A key written with nothing behind it (`qlora:`) means the default, for sections as for values.
    training = merged.get("training")
    if isinstance(training, dict):
        merged = {**merged, "training": {k: v for k, v in training.items() if v is not None}}
    try:
        return ConfigFile.model_validate(merged).training
    except ValidationError as error:
        raise UserError(_explain(error, layers)) from None


def _explain(error: ValidationError, layers: list[tuple[str, dict[str, Any]]]) -> str:
    """Turn the first of pydantic's complaints into one line."""
    first = error.errors()[0]
    # Union members and literals appear in the location with names that are no keys of the file.
    keys = [str(part) for part in first["loc"]]
    path = ".".join(_existing_path(keys, layers))
    source = next(
        (name for name, content in reversed(layers) if _holds(content, path.split("."))),
        layers[-1][0],
    )
    rest = len(error.errors()) - 1
    more = f" (and {rest} more)" if rest else ""
    if first["type"] == "extra_forbidden":
        return f"{source}: unknown key {path}{_nearest(keys)}{more}"
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return f"{source}: {message}{more}"
    value = json.dumps(first["input"], default=str)
    expected = first["msg"].removeprefix("Input should be ")
    return f"{source}: {path} is {value}, expected {expected}{more}"


def _existing_path(keys: list[str], layers: list[tuple[str, dict[str, Any]]]) -> list[str]:
    for length in range(len(keys), 0, -1):
        if any(_holds(content, keys[:length]) for _, content in layers):
            return keys[:length]
    return keys


def _holds(content: Any, keys: list[str]) -> bool:
    for key in keys:
        if isinstance(content, Mapping) and key in content:
            content = content[key]
        elif isinstance(content, list) and key.isdigit() and int(key) < len(content):
            content = content[int(key)]
        else:
            return False
    return True


def _nearest(keys: list[str]) -> str:
    known = [name for name, _ in _known_keys(ConfigFile, "")]
    wanted = ".".join(keys)
    siblings = [name for name in known if name.rpartition(".")[0] == wanted.rpartition(".")[0]]
    leaf_to_path = {name.rpartition(".")[2]: name for name in known}
    if keys[-1] in leaf_to_path:
        return f"; did you mean {leaf_to_path[keys[-1]]}?"
    # Names alone are compared: with their sections in front all keys of one look alike.
    by_leaf = {name.rpartition(".")[2]: name for name in siblings}
    for leaves, cutoff in ((by_leaf, 0.6), (leaf_to_path, 0.7)):
        if near := difflib.get_close_matches(keys[-1], leaves, n=1, cutoff=cutoff):
            return f"; did you mean {leaves[near[0]]}?"
    # `rank` for `r`, `grad_accumulation` for `grad`.
    begins = [leaf for leaf in by_leaf if keys[-1].startswith(leaf) or leaf.startswith(keys[-1])]
    if begins:
        return f"; did you mean {by_leaf[max(begins, key=len)]}?"
    if not siblings:
        return ""
    shown = ", ".join(list(by_leaf)[:KEYS_SHOWN])
    more = ", …" if len(by_leaf) > KEYS_SHOWN else ""
    return f"; {wanted.rpartition('.')[0]} has {shown}{more}"


def _known_keys(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, info in section.model_fields.items():
        yield f"{prefix}{name}", info
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _known_keys(annotation, f"{prefix}{name}.")
