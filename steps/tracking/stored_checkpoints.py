"""Checkpoints as the tracking store holds them: listed with all that a plan needs, deleted."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from steps.errors import UserError
from steps.pruning.policy import Action, CheckpointKey, CheckpointRecord, Protections, RunState

if TYPE_CHECKING:
    from mlflow.entities import FileInfo, Run
    from mlflow.tracking import MlflowClient

FOLDER = "checkpoints"
# What only resuming needs; the rest is the weights and the manifest.
RESUME_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "trainer_state.json")
PINNED_TAG = "forge.pinned"


def finetune_runs(client: "MlflowClient", experiment_id: str, run: str) -> "list[Run]":
    """The finetune runs to look at: one, or `all` of the experiment.

    Raises:
        UserError: There is no such run, or it is another experiment's.
    """
    from mlflow.exceptions import MlflowException

    if run != "all":
        try:
            found = client.get_run(run)
        except MlflowException:
            raise UserError(
                f"run {run!r} is not in this tracking store: give the id of a finetune run, or all"
            ) from None
        if found.info.experiment_id != experiment_id:
            raise UserError(
                f"run {run!r} belongs to experiment {found.info.experiment_id}, not to "
                f"{experiment_id}: prune it from there"
            )
        return [found]
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], "tags.`forge.step` = 'finetune'", max_results=1000, page_token=token
        )
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def list_records(client: "MlflowClient", runs: "list[Run]", metric: str) -> list[CheckpointRecord]:
    """Describe every checkpoint of these runs."""
    records = []
    for run in runs:
        folders = [f for f in client.list_artifacts(run.info.run_id, FOLDER) if f.is_dir]
        if not folders:
            continue
        values = {m.step: m.value for m in client.get_metric_history(run.info.run_id, metric)}
        pinned = set(run.data.tags.get(PINNED_TAG, "").replace(",", " ").split())
        for folder in folders:
            step = int(folder.path.rpartition("-")[2])
            files = client.list_artifacts(run.info.run_id, folder.path)
            records.append(_record(run, step, folder.path, files, values.get(step), pinned))
    return records


def _record(
    run: "Run",
    step: int,
    path: str,
    files: "list[FileInfo]",
    metric: float | None,
    pinned: set[str],
) -> CheckpointRecord:
    names = {file.path.rpartition("/")[2]: int(file.file_size or 0) for file in files}
    for_resuming = {
        name: size
        for name, size in names.items()
        if name in RESUME_FILES or name.startswith("rng_state")
    }
    return CheckpointRecord(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        step=step,
        bytes=sum(names.values()),
        metric=metric,
        created=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        location=f"{run.info.artifact_uri}/{path}",
        run_state=run_state(run),
        slimmable_bytes=sum(for_resuming.values()),
        resumable="optimizer.pt" in names and "manifest.json" in names,
        pinned=str(step) in pinned or "all" in pinned,
        being_written="manifest.json" not in names,
    )


def run_state(run: "Run") -> RunState:
    """Whether a run lives, has finished, or may still be resumed."""
    if run.info.status in ("RUNNING", "SCHEDULED"):
        return "living"
    return "finished" if run.info.status == "FINISHED" else "unfinished"


def find_protections(
    client: "MlflowClient", experiment_id: str, run: str, runs: "list[Run]"
) -> Protections:
    """What the registry and other runs need of these runs' checkpoints."""
    known = {r.info.run_id for r in runs}
    referenced: dict[CheckpointKey, str] = {}
    for version in client.search_model_versions():
        source = version.source or ""
        if version.run_id in known and f"/{FOLDER}/checkpoint-" in source:
            step = int(source.rpartition("-")[2])
            aliases = ", ".join(f"@{alias}" for alias in version.aliases)
            referenced[(version.run_id, step)] = f"version {version.version} {aliases}".strip()
    needed: dict[CheckpointKey, str] = {}
    for other in runs:
        origin = other.data.tags.get("forge.resumed_from", "")
        source_run, _, step_text = origin.partition(":")
        if step_text.isdigit() and other.info.status != "FINISHED":
            needed[(source_run, int(step_text))] = f"run {other.info.run_id}, which resumed from it"
    return Protections(
        experiment_id=experiment_id,
        run_id=None if run == "all" else run,
        referenced_by=referenced,
        needed_by=needed,
    )


def remove(client: "MlflowClient", action: Action) -> None:
    """Delete or slim one checkpoint; what is gone already is no error."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    run = client.get_run(action.run_id)
    repository = get_artifact_repository(run.info.artifact_uri)
    folder = f"{FOLDER}/checkpoint-{action.step}"
    present = {f.path for f in client.list_artifacts(action.run_id, FOLDER)}
    if folder not in present:
        return
    if action.what == "delete":
        repository.delete_artifacts(folder)
        return
    for file in client.list_artifacts(action.run_id, folder):
        name = file.path.rpartition("/")[2]
        if name in RESUME_FILES or name.startswith("rng_state"):
            repository.delete_artifacts(file.path)
