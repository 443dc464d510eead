"""Which trainings can go on, told from one search over runs and one over checkpoints.

The step itself looks closer: it reads the checkpoint and compares it with its manifest, with the
configuration and with the dataset (`steps.tracking.checkpoints.resume`).
"""

import json
import shlex
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steps.checkpoints.format import list_names
from steps.config.dotted import flatten
from steps.config.sections import Training
from steps.pruning.records import CheckpointKey
from steps.tracking.cache import SECTIONS
from steps.tracking.checkpoints.layout import resumed_from, run_state
from steps.tracking.checkpoints.stored import stated_in_tags
from steps.tracking.names import LOCAL_TAG, RESUME_KEY_TAG, STEP_TAG

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run


@dataclass(frozen=True)
class Resumable:
    """A training that ended early.

    Attributes:
        run_id: The run.
        checkpoint: Step of the newest checkpoint that it can go on from.
        parameters: Of the entry point, as the run was started; without those that nobody gave.
        differences: Where the run does not say how it was started: overrides that make the
            configuration of whoever asks that of the run.
    """

    run_id: str
    checkpoint: int
    parameters: dict[str, str]
    differences: str = ""


def local_folder(run: "Run") -> Path | None:
    """Where a run's checkpoints are on this machine, if it ran here."""
    host, _, path = run.data.tags.get(LOCAL_TAG, "").partition(":")
    return Path(path) if host == socket.gethostname() else None


def resumable_runs(
    runs: "Sequence[Run]",
    stored: "Mapping[CheckpointKey, LoggedModel]",
    newest_dataset: str,
    training: Training,
) -> list[Resumable]:
    """Trainings that ended early, have a checkpoint, and that no other run went on from.

    Args:
        runs: Of the experiment, the newest first.
        stored: From `checkpoint_models`.
        newest_dataset: The run of the dataset that `latest` means.
        training: The configuration of whoever asks.
    """
    by_id = {run.info.run_id: run for run in runs}
    steps: dict[str, list[int]] = {}
    for (run_id, step), model in stored.items():
        content = stated_in_tags(model)
        if content is not None and content.may_be_resumable:
            steps.setdefault(run_id, []).append(step)
    found = []
    heirs = {run.info.run_id: key[0] for run in runs if (key := resumed_from(run)) is not None}
    for run in runs:
        tags = run.data.tags
        if tags.get(STEP_TAG) != "finetune" or RESUME_KEY_TAG not in tags:
            continue
        if run_state(run) != "unfinished" or run.info.run_id in heirs.values():
            continue
        newest = max(_at_hand(run, by_id, steps), default=None)
        if newest is not None:
            given = _given(run, newest_dataset)
            differences = "" if "config" in given else _differences(run, training)
            found.append(Resumable(run.info.run_id, newest, given, differences))
    return found


def _at_hand(
    run: "Run", by_id: "Mapping[str, Run]", steps: Mapping[str, Sequence[int]]
) -> Iterable[int]:
    """Steps of the checkpoints of a run, and of those that it went on from up to where it did."""
    limit = float("inf")
    current: Run | None = run
    while current is not None:
        folder = local_folder(current)
        local = [step for step, _ in list_names(folder)] if folder and folder.is_dir() else []
        own = [*steps.get(current.info.run_id, ()), *local]
        yield from (step for step in own if step <= limit)
        origin = resumed_from(current)
        limit = min(limit, origin[1]) if origin else limit
        current = by_id.get(origin[0]) if origin else None


def _given(run: "Run", newest_dataset: str) -> dict[str, str]:
    """The parameters that it takes to start a run again as it was."""
    # As `mlflow run` has logged them, quoted for the shell.
    logged = {name: run.data.params.get(name, "") for name in ("config", "overrides")}
    logged["num_processes"] = run.data.tags.get("forge.processes", "1")
    given = {name: " ".join(shlex.split(value)) for name, value in logged.items() if value}
    if given.get("num_processes") == "1":
        del given["num_processes"]
    dataset = run.data.tags.get("forge.dataset_run", "")
    if dataset and dataset != newest_dataset:
        given["dataset"] = dataset
    return {name: value for name, value in given.items() if value}


def _differences(run: "Run", training: Training) -> str:
    """Overrides for what the run was trained with and this configuration has otherwise."""
    found = []
    for section in SECTIONS["finetune"]:
        content = getattr(training, section).model_dump(mode="json")
        for key, value in flatten(section, content):
            logged = run.data.params.get(key)
            now = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            if logged is not None and logged != now:
                found.append(f"training.{key}={logged}")
    return " ".join(found)
