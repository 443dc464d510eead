"""The harness' tasks in an evaluation: what they depend on, whom they are asked of."""

from pathlib import Path
from typing import TYPE_CHECKING

from steps.config.sections import Training
from steps.evaluation.measure import Results
from steps.evaluation.tasks.files import task_files
from steps.terminal import say
from steps.tracking.cache import digest_of_files

if TYPE_CHECKING:
    from steps.evaluation.tasks.definitions import PreparedTasks
    from steps.evaluation.workload import Phase
    from steps.models.adapted import AdaptedModel
    from steps.tracking.registry.lineage import Lineage
    from steps.tracking.registry.model_reference import ModelReference


def task_inputs(training: Training) -> dict[str, str]:
    """The files of `evaluation.tasks` by their digest; none where no task is asked.

    Raises:
        UserError: One of them is missing.
    """
    tasks = training.evaluation.tasks
    return {"tasks": digest_of_files(task_files(tasks))} if tasks else {}


def prepared_tasks(
    training: Training, reference: "ModelReference", adapter: Path | None
) -> "list[PreparedTasks]":
    """The tasks that a model is asked, with their data; nothing of its weights is loaded.

    Args:
        training: The configuration.
        reference: The model.
        adapter: Its folder; None for the base that the configuration names.

    Raises:
        UserError: A task cannot be asked, or not of such a model.
    """
    from steps.models.adapted import read_description
    from steps.models.sources import resolve_base

    if not training.evaluation.tasks:
        return []
    from steps.evaluation.tasks.definitions import prepare_tasks

    objective = (
        resolve_base(training.model).objective
        if adapter is None
        else read_description(adapter)["base"]["objective"]
    )
    return prepare_tasks(training.evaluation.tasks, objective=objective, model=reference.name)


def check_tasks(training: Training) -> None:
    """Look before hours of training whether the tasks of the evaluation can be asked after it.

    Raises:
        UserError: One of them cannot.
    """
    from steps.tracking.registry.model_reference import ModelReference

    prepared_tasks(training, ModelReference("base", None, None), None)


def planned_tasks(tasks: "list[PreparedTasks]") -> "list[Phase]":
    """How much the tasks are, for what an evaluation says before it begins."""
    if not tasks:
        return []
    from steps.evaluation.tasks.workload import task_phases

    return task_phases(tasks)


def ask_tasks(
    training: Training,
    adapted: "AdaptedModel",
    tasks: "list[PreparedTasks]",
    lineage: "Lineage",
    results: Results,
) -> None:
    """Add what the tasks show of a model to its results."""
    if not tasks:
        return
    from steps.evaluation.tasks.run import run_tasks

    settings = training.evaluation
    draws = {"seed": settings.seed, "resamples": settings.bootstrap_samples}
    count = sum(len(entry.tasks) for entry in tasks)
    say(f"asking the items of {count} {'task' if count == 1 else 'tasks'} of the harness")
    shown = run_tasks(adapted, tasks, lineage.trained_texts(), **draws)
    results.tasks = shown.items
    results.metrics |= shown.metrics
