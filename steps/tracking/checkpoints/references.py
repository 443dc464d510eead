"""What points at a checkpoint: the registry, other runs, pins. Asked before and while pruning.

    protections = find_protections(client, experiment_id, which, inventory)
    reason = still_protected(client, inventory, action)     # right before the deletion

A registered version points at a checkpoint by its source, by a `forge.*` tag, or through its
LoggedModel (that one's tags and place). Where such a text names no run, the version's or the
LoggedModel's own run is meant.
"""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from steps.pruning.policy import Protections
from steps.pruning.records import Action, CheckpointKey, CheckpointRecord
from steps.tracking.checkpoints.inventory import Inventory
from steps.tracking.checkpoints.inventory import _resumed_runs as resumed_runs
from steps.tracking.checkpoints.layout import is_pinned, model_is_pinned, resumed_from
from steps.tracking.checkpoints.stored import is_missing
from steps.tracking.heartbeat import sign_of_life
from steps.tracking.names import CHECKPOINTS_FOLDER, RESUMED_TAG

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient


_PAGE = 1000
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")
_STEP = re.compile(r"checkpoint-([0-9]+)(?![0-9])")
_WHOLE_FOLDER = re.compile(rf"(?:^|/){CHECKPOINTS_FOLDER}/?$")


@dataclass(frozen=True)
class Reference:
    """A text of the registry that points at checkpoints.

    Attributes:
        run_ids: The runs that it may mean.
        step: The checkpoint's step; None: all of the run.
        place: The text itself, for a checkpoint that lies where no run is named.
        by: The version and its aliases.
    """

    run_ids: frozenset[str]
    step: int | None
    place: str
    by: str

    def means(self, checkpoint: CheckpointRecord | Action) -> bool:
        """Whether it points at this checkpoint."""
        if self.step not in (None, checkpoint.step):
            return False
        places = (checkpoint.location, checkpoint.folder)
        return checkpoint.run_id in self.run_ids or any(
            place and place in self.place for place in places
        )


def find_protections(
    client: "MlflowClient", experiment_id: str, which: str, inventory: Inventory
) -> Protections:
    """What the registry and other runs need of these checkpoints."""
    references = registry_references(client, inventory.registered)
    referenced: dict[CheckpointKey, str] = {}
    for record in inventory.records:
        by = sorted({reference.by for reference in references if reference.means(record)})
        if by:
            referenced[record.key] = "; ".join(by)
    needed: dict[CheckpointKey, str] = dict(inventory.best_needed)
    for run in inventory.resumed:
        key = resumed_from(run)
        is_reader = bool(sign_of_life(run))
        is_heir = run.info.status != "FINISHED" and run.info.run_id not in inventory.can_resume
        if key is not None and (is_reader or is_heir):
            needed[key] = run.info.run_id
    return Protections(
        experiment_id=experiment_id,
        run_id=None if which == "all" else which,
        referenced_by=referenced,
        needed_by=needed,
    )


def still_protected(client: "MlflowClient", inventory: Inventory, action: Action) -> str | None:
    """Ask the store again, right before a checkpoint goes.

    Returns:
        Why it may not go after all, or None.
    """
    from mlflow.exceptions import MlflowException

    for reference in registry_references(client, inventory.registered):
        if reference.means(action):
            return f"the registry points at it now ({reference.by})"
    try:
        run = client.get_run(action.run_id)
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None
    if is_pinned(run.data.tags, action.step):
        return "it has been pinned"
    # As it was when the plan was made: by now its sign of that time may be an old one.
    was_living = any(
        record.run_state == "living"
        for record in inventory.records
        if record.run_id == action.run_id
    )
    if sign_of_life(run) and not was_living:
        return "its run lives again"
    model = inventory.models.get(action.key)
    if model is not None:
        current = _logged_model(client, model.model_id)
        if current is not None and model_is_pinned(current):
            return "it has been pinned"
    known = {(run.info.run_id, resumed_from(run)) for run in inventory.resumed}
    for other in resumed_runs(client):
        key = resumed_from(other)
        if key == action.key and (other.info.run_id, key) not in known:
            return f"run {other.info.run_id} has resumed from it"
    return None


def registry_references(
    client: "MlflowClient", models: "dict[str, LoggedModel | None]"
) -> list[Reference]:
    """All that any version of any registered model points at, where it may be a checkpoint.

    Args:
        client: Client of the registry.
        models: LoggedModels of versions that have been looked up; new ones are added.
    """
    references: list[Reference] = []
    token = None
    while True:
        page = client.search_model_versions(max_results=_PAGE, page_token=token)
        for version in page:
            references.extend(_of_version(client, version, models))
        token = page.token
        if not token:
            return references


def _of_version(
    client: "MlflowClient", version: "ModelVersion", models: "dict[str, LoggedModel | None]"
) -> list[Reference]:
    texts = [version.source or "", *_forge_tags(version.tags)]
    by = f"{version.name} version {version.version}"
    references = [_reference(text, version.run_id, by) for text in texts]
    model_ids = set(_MODEL_ID.findall(" ".join([*texts, version.model_id or ""])))
    for model_id in sorted(model_ids):
        if model_id not in models:
            models[model_id] = _logged_model(client, model_id)
        model = models[model_id]
        if model is not None:
            texts = [model.artifact_location or "", *_forge_tags(model.tags or {})]
            references += [_reference(text, model.source_run_id, by) for text in texts]
    if not any(references):
        return []
    # A search leaves the aliases out.
    aliases = client.get_model_version(version.name, version.version).aliases
    by = ", ".join([by, *(f"@{alias}" for alias in aliases)])
    return [replace(reference, by=by) for reference in references if reference is not None]


def _forge_tags(tags: dict[str, str]) -> list[str]:
    return [
        # A tag such as forge.checkpoint_step holds the bare number.
        f"checkpoint-{value}" if "checkpoint" in name and value.isdigit() else value
        for name, value in tags.items()
        if name.startswith("forge.") and name != RESUMED_TAG
    ]


def _reference(text: str, run_id: str | None, by: str) -> Reference | None:
    step = _STEP.search(text)
    if step is None and not _WHOLE_FOLDER.search(text):
        return None
    # The id of a LoggedModel ends like that of a run.
    named = frozenset(_RUN_ID.findall(_MODEL_ID.sub("", text)))
    return Reference(
        named or frozenset([run_id] if run_id else []), int(step[1]) if step else None, text, by
    )


def _logged_model(client: "MlflowClient", model_id: str) -> "LoggedModel | None":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_logged_model(model_id)
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None
