"""The files that `evaluation.tasks` depends on, whose digests are part of the cache key."""

from collections.abc import Sequence
from pathlib import Path

from steps.config.measurement_sections import YAML_SUFFIXES, HarnessTask
from steps.config.paths import find_file

KEY = "training.evaluation.tasks"


def task_files(entries: Sequence[HarnessTask]) -> list[Path]:
    """The files that entries of `evaluation.tasks` name, and those that a task YAML names.

    Raises:
        UserError: One of them is missing.
    """
    from steps.evaluation.tasks.task_yaml import files_of_definition

    found: list[Path] = []
    for entry in entries:
        named = (entry.file, entry.fewshot_file, entry.ground_truth)
        files = [find_file(name, "the file of a task", KEY) for name in named if name is not None]
        for file in files:
            found += files_of_definition(file) if file.suffix in YAML_SUFFIXES else [file]
    return found
