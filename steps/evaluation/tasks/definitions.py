"""From `evaluation.tasks` to tasks of the harness with their data, before any weight is loaded.

MMLU and PubMedQA on local files are the harness' own definitions (its YAML, so its words, its
choices and its metric) with another data set behind them.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import Any

from steps.config.measurement_sections import YAML_SUFFIXES, HarnessTask
from steps.config.paths import find_file
from steps.errors import UserError, first_line
from steps.evaluation.tasks import geneturing
from steps.evaluation.tasks.checks import check_task
from steps.evaluation.tasks.item_files import (
    Item,
    is_pubmedqa,
    read_geneturing,
    read_mmlu,
    read_pubmedqa,
)
from steps.evaluation.tasks.task_yaml import load_definition
from steps.models.sources import Objective

KEY = "training.evaluation.tasks"
SECONDS_TO_REACH_THE_HUB = 10


@dataclass(frozen=True)
class PreparedTasks:
    """What one entry of `evaluation.tasks` has become.

    Attributes:
        tasks: The harness' tasks by name, with their data.
        groups: Its groups of them by name, whose figures are means over their tasks.
        limit: How many items of each are asked; None: all.
    """

    tasks: dict[str, Any]
    groups: dict[str, Any]
    limit: int | None


def prepare_tasks(
    entries: Sequence[HarnessTask], *, objective: Objective, model: str
) -> list[PreparedTasks]:
    """Find the definitions and the data of tasks, and check that they can be asked.

    Args:
        entries: From the configuration.
        objective: What the model predicts.
        model: Its name, for messages.

    Raises:
        UserError: A task is unknown, its data is not there, or an item of it has no answer; the
            model has no such metric.
    """
    if not entries:
        return []
    if objective == "masked":
        names = ", ".join(entry.name or str(entry.file) for entry in entries)
        raise UserError(
            f"{KEY} names {names}: tasks ask for the log-likelihood of answers, or for written "
            f"ones, and {model} is a masked model, which has neither: set {KEY}=[] for it"
        )
    prepared: list[PreparedTasks] = []
    taken: set[str] = set()
    for entry in entries:
        with harness_seeds():
            made = _prepare(entry)
        for name, task in made.tasks.items():
            if name in taken:
                raise UserError(f"{KEY}: two entries bring the task {name!r}: take one out")
            taken.add(name)
            _set_examples(entry, name, task)
            check_task(entry, name, task)
        prepared.append(made)
    return prepared


@contextmanager
def harness_seeds() -> Iterator[None]:
    """The random state in which the harness' own command reads its tasks; ours comes back."""
    import numpy as np
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


def _prepare(entry: HarnessTask) -> PreparedTasks:
    if entry.file is None:
        return _on_the_hub(entry)
    file = find_file(entry.file, "the file of a task", KEY)
    kind = _format_of(entry, file)
    if kind == "yaml":
        name, task = load_definition(file)
        return PreparedTasks({name: task}, {}, entry.limit)
    made_of: dict[str, Callable[[HarnessTask, Path], list[dict[str, Any]]]] = {
        "mmlu": _mmlu,
        "pubmedqa": _pubmedqa,
        "geneturing": partial(_geneturing, geneturing.open_answers),
        "geneturing_choice": partial(_geneturing, geneturing.choices),
    }
    definitions = made_of[kind](entry, file)
    return PreparedTasks({one["task"]: _build(one) for one in definitions}, {}, entry.limit)


def _format_of(entry: HarnessTask, file: Path) -> str:
    """How a file is laid out, by its name and content where the entry does not say."""
    if entry.format != "auto":
        return entry.format
    if file.suffix in YAML_SUFFIXES:
        return "yaml"
    if file.suffix == ".csv":
        return "mmlu"
    if file.suffix == ".json":
        return "pubmedqa" if is_pubmedqa(file) else "geneturing"
    raise UserError(
        f"task {entry.name!r}: {file.name} is of no known kind, expected .csv (MMLU), .json "
        "(PubMedQA, GeneTuring) or .yaml (a task of the harness): rename it, or say its format"
    )


def _build(definition: Mapping[str, Any]) -> Any:
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(config=dict(definition))


def _harness_definition(*parts: str) -> dict[str, Any]:
    """A definition that the harness brings along, by its place in the folder of tasks."""
    from importlib.resources import files

    from lm_eval.tasks._yaml_loader import load_yaml

    definition: dict[str, Any] = load_yaml(str(files("lm_eval.tasks").joinpath(*parts)))
    for key in ("tag", "group", "task_list"):
        definition.pop(key, None)
    return definition


def _with_data(definition: dict[str, Any], splits: Mapping[str, list[Item]]) -> dict[str, Any]:
    """A definition on items of ours; the splits that have none are left out of it."""
    from datasets import Dataset

    names = ("training_split", "validation_split", "test_split", "fewshot_split")
    kept = {k: v for k, v in definition.items() if k not in names or splits.get(v)}
    data = {name: Dataset.from_list(items) for name, items in splits.items() if items}
    # The harness hands its metadata to the function.
    return {**kept, "custom_dataset": lambda **_: data}


def _mmlu(entry: HarnessTask, file: Path) -> list[dict[str, Any]]:
    from importlib.resources import files

    folder = files("lm_eval.tasks").joinpath("mmlu", "default")
    subject = entry.name.removeprefix("mmlu_")
    if folder.joinpath(f"mmlu_{subject}.yaml").is_file():
        definition = _harness_definition("mmlu", "default", f"mmlu_{subject}.yaml")
    else:
        words = subject.replace("_", " ")
        definition = _harness_definition("mmlu", "default", "_default_template_yaml")
        definition["description"] = (
            f"The following are multiple choice questions (with answers) about {words}.\n\n"
        )
    examples = _examples_file(entry)
    splits = {"test": read_mmlu(file), "dev": read_mmlu(examples) if examples else []}
    return [_with_data({**definition, "task": entry.name}, splits)]


def _pubmedqa(entry: HarnessTask, file: Path) -> list[dict[str, Any]]:
    truth = entry.ground_truth
    answers = find_file(truth, "the answers of a task", KEY) if truth else None
    asked, others = read_pubmedqa(file, answers)
    examples = _examples_file(entry)
    train = read_pubmedqa(examples, None)[0] if examples else others
    definition = _harness_definition("pubmedqa", "pubmedqa.yaml")
    return [_with_data({**definition, "task": entry.name}, {"test": asked, "train": train})]


def _geneturing(
    definition_of: Callable[[str], dict[str, Any]], entry: HarnessTask, file: Path
) -> list[dict[str, Any]]:
    examples = _examples_file(entry)
    shown = read_geneturing(examples) if examples else {}
    made = []
    for module, items in read_geneturing(file).items():
        definition = definition_of(geneturing.task_name(entry.name, module))
        if definition["output_type"] != "multiple_choice":
            # Answers of other questions are no text of this one.
            items = [{k: v for k, v in item.items() if k != "choices"} for item in items]
        definition |= {"test_split": "test", "fewshot_split": "train"}
        definition["fewshot_config"] = {"sampler": "first_n"}
        splits = {"test": items, "train": shown.get(module, [])}
        made.append(_with_data(definition, splits))
    return made


def _examples_file(entry: HarnessTask) -> Path | None:
    if entry.fewshot_file is None:
        return None
    return find_file(entry.fewshot_file, "the examples of a task", KEY)


def _set_examples(entry: HarnessTask, name: str, task: Any) -> None:
    """How many examples stand before a question, by the rules of the harness' own command.

    Raises:
        UserError: More than there are.
    """
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    stated = task.get_config("num_fewshot")
    if entry.num_fewshot is not None and stated != 0:
        task.set_config(key="num_fewshot", value=entry.num_fewshot)
    elif stated is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    wanted = task.get_config("num_fewshot")
    if wanted and entry.file is not None and not entry.file.endswith(YAML_SUFFIXES):
        examples = 0 if task.fewshot_cfg.split is None and not task.has_training_docs() else None
        available = len(list(task.fewshot_docs())) if examples is None else examples
        if wanted > available:
            raise UserError(
                f"task {name!r}: num_fewshot is {wanted}, and there are {available} examples: name "
                "a file with as many by fewshot_file, or lower it"
            )


@cache
def _manager() -> Any:
    """The index of all tasks of the harness, which takes seconds to build."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _on_the_hub(entry: HarnessTask) -> PreparedTasks:
    """A task that the harness knows by name, on the data that it names.

    Raises:
        UserError: There is no such task, or its data is out of reach.
    """
    manager = _manager()
    if entry.name not in manager.task_index:
        near = get_close_matches(entry.name, manager.all_tasks, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "`lm_eval ls tasks` lists them"
        raise UserError(f"{KEY}: the harness has no task {entry.name!r}; {hint}")
    give = f"or give its data as {{name: {entry.name}, file: PATH}} where there is a file of it"
    try:
        with _quick_where_there_is_no_hub():
            loaded = manager.load([entry.name])
    except ConnectionError as error:
        raise UserError(
            f"task {entry.name!r} needs data from the hub, which is out of reach, and the local "
            f"cache does not hold it ({first_line(error)}): connect, fill the cache on another "
            f"machine, {give}"
        ) from None
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise UserError(
            f"task {entry.name!r} cannot be built on the hub's data ({first_line(error)}): take it "
            f"out of {KEY}, {give}"
        ) from None
    return PreparedTasks(loaded["tasks"], loaded.get("groups", {}), entry.limit)


@contextmanager
def _quick_where_there_is_no_hub() -> Iterator[None]:
    """Have data sets looked for in the local cache alone where the hub does not answer.

    `datasets` tries each of its questions for half a minute, and asks several a task.
    """
    from datasets import config
    from huggingface_hub import constants

    modules: tuple[Any, ...] = (config, constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    if not any(before) and not _answers(constants.ENDPOINT):
        for module in modules:
            module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _answers(address: str) -> bool:
    """Whether somebody answers under an address, by whatever status."""
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(address, timeout=SECONDS_TO_REACH_THE_HUB):
            return True
    except HTTPError:
        return True
    except (OSError, HTTPException):
        return False
