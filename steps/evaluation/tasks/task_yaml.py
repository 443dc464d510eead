"""A task of the harness that somebody wrote: a YAML on this disk, with its data beside it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from steps.errors import UserError, first_line


def load_definition(file: Path) -> tuple[str, Any]:
    """A task by its YAML.

    Data files that are not found from the working folder are looked for beside the YAML.

    Returns:
        Its name and the harness' task.

    Raises:
        UserError: It is no task, its data is missing, or the harness cannot build it.
    """
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError
    from lm_eval.tasks import TaskManager

    definition = _read(file, resolve=True)
    kwargs = definition.get("dataset_kwargs")
    if isinstance(kwargs, Mapping) and "data_files" in kwargs:
        found = _map_files(kwargs["data_files"], lambda name: _data_file(file, name))
        definition["dataset_kwargs"] = {**kwargs, "data_files": found}
    try:
        task = TaskManager(include_defaults=False).load([definition])["tasks"][definition["task"]]
    except UserError:
        raise
    except ConnectionError as error:
        raise UserError(
            f"{file.name} needs data from the hub, which is out of reach ({first_line(error)}): "
            "connect, or name local files by dataset_path: json and dataset_kwargs.data_files"
        ) from None
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError),
        *(TemplateError, DatasetsError),
    ) as error:
        cause = first_line(error.__cause__ or error)
        raise UserError(
            f"{file.name}: the harness cannot build this task ({type(error).__name__}: {cause}): "
            "mend the YAML or its data"
        ) from None
    return definition["task"], task


def files_of_definition(file: Path) -> list[Path]:
    """The files that a YAML's task is made of: itself, what it includes, its code and data.

    Raises:
        UserError: It is no task, or a data file is missing.
    """
    definition = _read(file, resolve=False)
    kwargs = definition.get("dataset_kwargs")
    data = kwargs.get("data_files", []) if isinstance(kwargs, Mapping) else []
    named = [Path(_data_file(file, name)) for name in _each_file(data) if not _is_pattern(name)]
    beside = [*file.parent.glob("*.py"), *file.parent.glob("*.yaml"), *file.parent.glob("*.yml")]
    return sorted({file, *(one for one in beside if one.is_file()), *named})


def _read(file: Path, *, resolve: bool) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml
    from yaml import YAMLError

    try:
        definition: dict[str, Any] = load_yaml(file, resolve_func=resolve)
    except (YAMLError, OSError, ValueError, ImportError, AttributeError, SyntaxError) as error:
        raise UserError(
            f"{file.name}: cannot be read as a task ({first_line(error)}): mend it"
        ) from None
    if not isinstance(definition.get("task"), str) or "class" in definition:
        raise UserError(
            f"{file.name}: is no single task of the harness, expected `task: NAME` in it: name the "
            "YAML of each task of a group"
        )
    return definition


def _is_pattern(name: str) -> bool:
    """Whether a name is an address or a pattern, which `datasets` resolves."""
    return "://" in name or "*" in name


def _data_file(file: Path, name: str) -> str:
    if _is_pattern(name):
        return name
    for candidate in (Path(name), file.parent / name):
        if candidate.is_file():
            return str(candidate.resolve())
    raise UserError(
        f"{file.name}: its data file {name!r} is neither in the working folder nor beside it: "
        "put it there, or mend dataset_kwargs.data_files"
    )


def _each_file(data: Any) -> Iterator[str]:
    if isinstance(data, Mapping):
        for value in data.values():
            yield from _each_file(value)
    elif isinstance(data, str):
        yield data
    else:
        for value in data:
            yield from _each_file(value)


def _map_files(data: Any, found: Callable[[str], str]) -> Any:
    if isinstance(data, Mapping):
        return {key: _map_files(value, found) for key, value in data.items()}
    return found(data) if isinstance(data, str) else [_map_files(value, found) for value in data]
