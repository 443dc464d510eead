"""What checkpoints take up, and what pruning could free of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from steps.config.sections import Training
from steps.pruning.journal import Journal
from steps.pruning.policy import plan_pruning
from steps.pruning.records import CheckpointKey
from steps.tracking.checkpoints.inventory import bytes_on_disk, take_inventory
from steps.tracking.checkpoints.references import find_protections
from steps.tracking.checkpoints.removal import journal_file
from steps.tracking.checkpoints.resumable import local_folder
from steps.tracking.checkpoints.stored import stated_in_tags
from steps.tracking.names import STEP_TAG

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.tracking import MlflowClient

# A plan asks the store twice for each run with checkpoints: as many as take a second or so.
MOST_RUNS_PLANNED = 50


@dataclass(frozen=True)
class Room:
    """Bytes of checkpoints.

    Attributes:
        checkpoints: How many the store has, of those that were looked at.
        in_store: What they take up there, as their tags say.
        on_disk: What the folders of runs on this machine hold.
        prunable: What `prune_checkpoints` would free; None: too many runs to say so at once.
        is_whole: Whether all runs and checkpoints were looked at; else the newest.
    """

    checkpoints: int = 0
    in_store: int = 0
    on_disk: int = 0
    prunable: int | None = 0
    is_whole: bool = True


def room_of_checkpoints(
    client: "MlflowClient",
    experiment_id: str | None,
    runs: "Sequence[Run]",
    stored: "Mapping[CheckpointKey, LoggedModel]",
    training: Training,
    *,
    is_whole: bool = True,
) -> Room:
    """Add up the checkpoints of an experiment.

    Args:
        client: Client of the store.
        experiment_id: The experiment; None: there is none.
        runs: Its runs.
        stored: Its checkpoints, from `checkpoint_models`.
        training: The configuration, with the policy.
        is_whole: Whether these are all of both; of some, no plan of pruning is made.
    """
    trained = [run for run in runs if run.data.tags.get(STEP_TAG) == "finetune"]
    folders = {folder for run in trained if (folder := local_folder(run)) and folder.is_dir()}
    with_some = {run_id for run_id, _ in stored}
    kept = [r for r in trained if r.info.run_id in with_some or local_folder(r) in folders]
    stated = [content for model in stored.values() if (content := stated_in_tags(model))]
    prunable: int | None = 0
    if experiment_id is not None and kept:
        few = is_whole and len(kept) <= MOST_RUNS_PLANNED
        prunable = _prunable(client, experiment_id, kept, stored, training) if few else None
    return Room(
        len(stored),
        sum(content.bytes for content in stated),
        sum(bytes_on_disk(folder) for folder in folders),
        prunable,
        is_whole,
    )


def _prunable(
    client: "MlflowClient",
    experiment_id: str,
    runs: "Sequence[Run]",
    stored: "Mapping[CheckpointKey, LoggedModel]",
    training: Training,
) -> int:
    """What the plan of `prune_checkpoints` comes to, over all runs."""
    policy, output = training.pruning, training.output.output_dir
    pending = Journal(journal_file(client, experiment_id)).pending()
    inventory = take_inventory(
        client,
        experiment_id,
        runs,
        policy.metric,
        Path(output) if output else None,
        pending,
        list_all=False,
        models=stored,
    )
    protections = find_protections(client, experiment_id, "all", inventory)
    now = datetime.now(UTC)
    verdicts = plan_pruning(inventory.records, policy, now, protections, pending)
    return sum(verdict.freed_bytes for verdict in verdicts)
