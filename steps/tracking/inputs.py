"""The papers and further files that preprocess reads, and their digests."""

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from steps.config.paper_sections import ScientificData
from steps.config.paths import PROJECT_ROOT
from steps.config.sections import Training
from steps.errors import UserError


def find_papers(
    location: str,
    scratch: Path,
    what: str = "papers",
    also: Callable[[Path], bool] = lambda _: False,
) -> list[Path]:
    """Find local paper files, or download those of an artifact URI.

    Args:
        location: A path, folder or glob (from the working folder, then the project), or a
            URI that MLflow can read (`runs:/ID/path`, `mlflow-artifacts:/…`, `s3://…`).
        scratch: Where a download goes.
        what: What an error calls them.
        also: Which files of a folder are to be read besides.

    Raises:
        UserError: Nothing is there, or it may not be read.
    """
    from steps.papers.inputs import resolve_inputs

    if "://" in location or location.startswith(("runs:/", "mlflow-artifacts:/", "models:/")):
        from steps.tracking.datasets import download

        return resolve_inputs(str(download(location, scratch, what)), what, also)
    in_project = str(PROJECT_ROOT / location)
    if not _is_something(location) and _is_something(in_project):
        return resolve_inputs(in_project, what, also)
    return resolve_inputs(location, what, also)


def find_paper_files(training: Training, location: str | None, scratch: Path) -> list[Path]:
    """The files of papers; none for a dataset of instruction items alone.

    Args:
        training: The configuration.
        location: Where they are; null says that there are none.
        scratch: Where a download goes.

    Raises:
        UserError: Nothing is there, or neither papers nor items are named.
    """
    if location is not None:
        return find_papers(location, scratch)
    if training.instructions.data_file is None:
        raise UserError(
            "training.scientific_data.data_file is null, and so is "
            "training.instructions.data_file: name papers, instruction items, or both"
        )
    return []


def find_items(training: Training, scratch: Path) -> list[Path]:
    """The files of instruction items that the configuration names.

    Raises:
        UserError: There are none where the objective needs them.
    """
    what, location = "training.instructions.data_file", training.instructions.data_file
    if location is not None:
        return find_papers(location, scratch / "instructions", what)
    if training.model.objective == "instruction":
        raise UserError(
            f"training.model.objective is instruction, and {what} is null: name a file of "
            "instruction items, such as JSON Lines of messages"
        )
    return []


def _is_something(location: str) -> bool:
    path = os.path.expanduser(location)
    return os.path.lexists(path) or bool(glob.glob(path, recursive=True))


# Files besides the papers, all but the list of retractions of the section `split`.
FURTHER_FILES = ("previous_manifest", "decontaminate_against")
RETRACTED = "retracted"
WHAT_RETRACTED = f"scientific_data.{RETRACTED} (reject, keep, or a list of identifiers)"


def with_local_files(settings: ScientificData, scratch: Path) -> ScientificData:
    """The settings with local paths for their further files, found as the papers are.

    Raises:
        UserError: One is not there, may not be read, or is more than one file.
    """
    named = {key: getattr(settings.split, key) for key in FURTHER_FILES}
    found = {
        key: find_file_named(f"scientific_data.split.{key}", location, scratch / key)
        for key, location in named.items()
        if location is not None
    }
    local: dict[str, Any] = {"split": settings.split.model_copy(update=found)}
    if settings.retraction_list is not None:
        local[RETRACTED] = find_file_named(
            WHAT_RETRACTED, settings.retraction_list, scratch / RETRACTED
        )
    return settings.model_copy(update=local)


def find_retraction_list(training: Training, scratch: Path) -> Path | None:
    """The file of retracted papers that the configuration names, or None.

    That of `release` goes first: models outlive the list that their dataset was made with.

    Raises:
        UserError: It is not there, may not be read, or is more than one file.
    """
    newer = training.release.retracted
    if newer is not None:
        return Path(find_file_named("release.retracted", newer, scratch))
    location = training.scientific_data.retraction_list
    return None if location is None else Path(find_file_named(WHAT_RETRACTED, location, scratch))


def find_file_named(what: str, location: str, scratch: Path) -> str:
    """The path of one file that a key names, found as papers are.

    Raises:
        UserError: It is not there, may not be read, or is more than one file.
    """
    if os.path.isdir(location):
        raise UserError(f"{what} {location!r} is a folder: name a file")
    files = find_papers(location, scratch, what)
    if len(files) > 1:
        raise UserError(f"{what} {location!r} is {len(files)} files: name one")
    return str(files[0])


def input_digests(
    papers: list[Path], local: ScientificData, items: Sequence[Path] = ()
) -> dict[str, str]:
    """Digests of all files that the dataset is made from, by name.

    Args:
        papers: Files of papers.
        local: The settings, with local paths for their further files.
        items: Files of instruction items.
    """
    from steps.tracking.cache import digest_of_files

    further = {key: getattr(local.split, key) for key in FURTHER_FILES}
    further[RETRACTED] = local.retraction_list
    found = {"papers": digest_of_files(papers)} | {
        key: digest_of_files([Path(file)]) for key, file in further.items() if file is not None
    }
    return found | ({"instructions": digest_of_files(list(items))} if items else {})
