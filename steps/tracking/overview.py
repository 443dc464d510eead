"""What a store holds for one experiment: read in pages, however many runs there are.

    overview = take_overview(opened, training, scratch, given)

A run is described by what one search brings of it: its status, tags, parameters and newest
metrics. No run is asked for by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steps.config.sections import Training
from steps.metrics import PRIMARY
from steps.tracking.checkpoints.inventory import checkpoints_among
from steps.tracking.checkpoints.resumable import Resumable, resumable_runs
from steps.tracking.checkpoints.room import Room, room_of_checkpoints
from steps.tracking.datasets import dataset_elsewhere
from steps.tracking.heartbeat import sign_of_life
from steps.tracking.names import (
    CHAMPION_AFTER_TAG,
    DATASET_DIGEST_TAG,
    ERROR_TAG,
    OBJECTIVE_TAG,
    RESUMED_TAG,
    SPLIT_TAG,
    STEP_TAG,
)
from steps.tracking.reading import OpenedStore
from steps.tracking.registry.affected import AffectedVersion, affected_versions
from steps.tracking.store import all_pages

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from steps.papers.retractions import Retractions

# A run brings all of its parameters, tags and metrics along, 100 to 200 of them: so many runs, of
# all steps, take a store on SQLite a second, and a server three.
MOST_RUNS = 200
MOST_MODELS = 500
# Where there are more runs, so many of each kind that is listed are looked for besides.
MOST_OF_A_KIND = 50
_NEWEST_FIRST = ["attributes.start_time DESC"]

SPLITS = ("train", "validation", "test")
RunState = Literal["finished", "living", "killed", "failed"]
STATES: tuple[RunState, ...] = ("finished", "living", "killed", "failed")
# Of a run that no step has begun: `mlflow run` made it and its step never came, or somebody else.
NO_STEP = "(no step)"


@dataclass(frozen=True)
class Dataset:
    """A finished preprocess run.

    Attributes:
        run_id: The run.
        made: When it ended, in UTC.
        digest: Of the dataset.
        papers: By split.
        items: Instruction items by split, where there are any.
    """

    run_id: str
    made: str
    digest: str
    papers: dict[str, int]
    items: dict[str, int]


@dataclass(frozen=True)
class RunLine:
    """A run that has not finished.

    Attributes:
        run_id: The run.
        step: Its step.
        state: What became of it.
        started: When, in UTC.
        note: Why it counts as living, or how it failed.
    """

    run_id: str
    step: str
    state: RunState
    started: str
    note: str


@dataclass(frozen=True)
class Figure:
    """The headline of an evaluation on the test split.

    Attributes:
        name: The metric.
        value: What was measured.
        low: Lower end of its interval, or None.
        high: Upper end, or None.
        run_id: The evaluation.
        dataset_digest: Of the papers.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    run_id: str
    dataset_digest: str


@dataclass(frozen=True)
class Version:
    """A registered version.

    Attributes:
        uri: `models:/NAME/VERSION`.
        aliases: Its aliases.
        run_id: The run that trained it, or None.
        figure: Of its newest evaluation in this experiment; None: it has none.
        decision: What was decided of it last, or "".
    """

    uri: str
    aliases: tuple[str, ...]
    run_id: str | None
    figure: Figure | None
    decision: str


@dataclass(frozen=True)
class Decided:
    """A comparison.

    Attributes:
        run_id: The run of ab_compare.
        made: When, in UTC.
        outcome: As `decision.json` has it.
        reason: In a line.
        champion_after: URI of the champion afterwards, or "".
    """

    run_id: str
    made: str
    outcome: str
    reason: str
    champion_after: str


@dataclass(frozen=True)
class Overview:
    """All of it; lists begin with the newest.

    Attributes:
        store: Where the store is.
        experiment: Name of the experiment.
        exists: Whether there is such an experiment.
        registered_model: Name of the registered model.
        datasets: Finished preprocess runs.
        runs: How many runs of each step are in each state.
        all_runs: Whether these are all runs; else the newest `MOST_RUNS`.
        unfinished: Living, killed and failed runs.
        resumable: Killed and failed trainings that can go on.
        base: Of the base's newest evaluation, or None.
        versions: Of the registered model.
        decisions: Comparisons.
        room: Bytes of checkpoints.
        retractions: Name of the list of retracted papers, or "".
        affected: Versions that learned from papers of it.
        trained_on: Digests of the datasets that finished trainings used.
        elsewhere: Another experiment that has a dataset, where this one has none; or "".
    """

    store: str
    experiment: str
    exists: bool
    registered_model: str
    datasets: list[Dataset] = field(default_factory=list)
    runs: dict[str, dict[RunState, int]] = field(default_factory=dict)
    all_runs: bool = True
    unfinished: list[RunLine] = field(default_factory=list)
    resumable: list[Resumable] = field(default_factory=list)
    base: Figure | None = None
    versions: list[Version] = field(default_factory=list)
    decisions: list[Decided] = field(default_factory=list)
    room: Room = field(default_factory=Room)
    retractions: str = ""
    affected: list[AffectedVersion] = field(default_factory=list)
    trained_on: list[str] = field(default_factory=list)
    elsewhere: str = ""

    def version_with(self, alias: str) -> Version | None:
        """The version that has an alias."""
        return next((one for one in self.versions if alias in one.aliases), None)


def take_overview(
    opened: OpenedStore,
    training: Training,
    scratch: Path,
    retractions: "Retractions | None",
) -> Overview:
    """Read the store.

    Args:
        opened: From `open_to_read`.
        training: The configuration: names, policy of pruning.
        scratch: Folder for downloads.
        retractions: Of papers; None: versions are not held against a list.
    """
    client, experiment_id = opened.client, opened.experiment_id
    name = training.mlflow.registered_model_name
    named = Overview(opened.uri, opened.experiment, experiment_id is not None, name)
    if client is None:
        return named
    versions = _versions(client, name)
    aliased = [version.uri for version in versions if version.aliases]
    runs, is_whole = _runs(client, experiment_id, [*aliased, "base"])
    # `mlflow run` has made it for whoever asks, and it will be gone.
    runs = [run for run in runs if _step(run) != "status"]
    finished = [run for run in runs if run.info.status == "FINISHED"]
    datasets = [_dataset(run) for run in finished if _step(run) == "preprocess"]
    figures = _figures(finished)
    states = {run.info.run_id: _state(run) for run in runs}
    models = []
    if experiment_id is not None:
        models = all_pages(client.search_logged_models, [experiment_id], most=MOST_MODELS + 1)
    of_all = is_whole and len(models) <= MOST_MODELS
    stored = checkpoints_among(models[:MOST_MODELS])
    elsewhere = None if datasets else dataset_elsewhere(client, experiment_id)
    return Overview(
        store=named.store,
        experiment=named.experiment,
        exists=named.exists,
        registered_model=name,
        datasets=datasets,
        runs=_counted(runs[:MOST_RUNS], states),
        all_runs=is_whole,
        unfinished=[
            _line(run, states[run.info.run_id]) for run in runs if run.info.status != "FINISHED"
        ],
        resumable=resumable_runs(runs, stored, datasets[0].run_id if datasets else "", training),
        base=figures.get("base"),
        versions=[replace(version, figure=figures.get(version.uri)) for version in versions],
        decisions=[_decided(run) for run in finished if "forge.decision" in run.data.tags],
        room=room_of_checkpoints(
            client,
            experiment_id,
            runs,
            stored,
            training,
            is_whole=of_all,
        ),
        retractions=retractions.name if retractions else "",
        affected=affected_versions(client, name, retractions, scratch) if retractions else [],
        trained_on=_digests(run for run in finished if _step(run) == "finetune"),
        elsewhere=elsewhere[0] if elsewhere else "",
    )


def _runs(
    client: "MlflowClient", experiment_id: str | None, models: Sequence[str]
) -> "tuple[list[Run], bool]":
    """The newest runs; where there are more, also those that a list or the next step hangs on.

    Args:
        client: Client of the store.
        experiment_id: Of which experiment; None: there is none.
        models: URIs whose newest evaluation is looked for.

    Returns:
        The runs, the newest first, and whether these are all.
    """
    if experiment_id is None:
        return [], True

    def search(filters: str, most: int) -> "list[Run]":
        return all_pages(
            client.search_runs, [experiment_id], filters, order_by=_NEWEST_FIRST, most=most
        )

    runs = search("", MOST_RUNS + 1)
    is_whole = len(runs) <= MOST_RUNS
    if not is_whole:
        del runs[MOST_RUNS:]
        finished = f"attributes.status = 'FINISHED' and tags.`{STEP_TAG}` ="
        runs += search("attributes.status != 'FINISHED'", MOST_OF_A_KIND)
        runs += search(f"{finished} 'ab_compare'", MOST_OF_A_KIND)
        runs += search(f"tags.`{RESUMED_TAG}` LIKE '%'", MOST_OF_A_KIND)
        for uri in models:
            measured = f"tags.`forge.model_uri` = '{uri}' and tags.`{SPLIT_TAG}` = 'test'"
            runs += search(f"{finished} 'evaluate' and {measured}", 1)
        datasets = search(f"{finished} 'preprocess'", MOST_OF_A_KIND)
        runs += datasets
        if datasets:
            digest = datasets[0].data.tags.get(DATASET_DIGEST_TAG, "")
            used = f"tags.`{DATASET_DIGEST_TAG}` = '{digest}'"
            runs += search(f"{finished} 'finetune' and {used}", 1)
    unique = {run.info.run_id: run for run in runs}
    return sorted(unique.values(), key=lambda run: -run.info.start_time), is_whole


def _step(run: "Run") -> str:
    return str(run.data.tags.get(STEP_TAG, NO_STEP))


def _state(run: "Run") -> RunState:
    if run.info.status == "FINISHED":
        return "finished"
    if run.info.status == "FAILED":
        return "failed"
    return "living" if sign_of_life(run) else "killed"


def _counted(runs: "Sequence[Run]", states: dict[str, RunState]) -> dict[str, dict[RunState, int]]:
    counts: dict[str, dict[RunState, int]] = {}
    for run in runs:
        of_step = counts.setdefault(_step(run), dict.fromkeys(STATES, 0))
        of_step[states[run.info.run_id]] += 1
    return dict(sorted(counts.items()))


def _line(run: "Run", state: RunState) -> RunLine:
    note = sign_of_life(run) if state == "living" else run.data.tags.get(ERROR_TAG, "")
    return RunLine(run.info.run_id, _step(run), state, utc(run.info.start_time), note)


def _dataset(run: "Run") -> Dataset:
    metrics, tags = run.data.metrics, run.data.tags

    def counts(what: str) -> dict[str, int]:
        return {
            split: int(metrics[f"{what}/{split}"])
            for split in SPLITS
            if f"{what}/{split}" in metrics
        }

    digest = tags.get(DATASET_DIGEST_TAG, "")
    made = utc(run.info.end_time or run.info.start_time)
    return Dataset(run.info.run_id, made, digest, counts("papers"), counts("items"))


def _figures(finished: "Sequence[Run]") -> dict[str, Figure]:
    """The newest evaluation on test papers of each model, by its URI."""
    figures: dict[str, Figure] = {}
    for run in finished:
        tags, metrics = run.data.tags, run.data.metrics
        uri = tags.get("forge.model_uri", "")
        if _step(run) != "evaluate" or tags.get(SPLIT_TAG) != "test" or uri in figures:
            continue
        name = PRIMARY.get(tags.get(OBJECTIVE_TAG, "causal"), "")
        value = metrics.get(f"test/{name}")
        if value is not None:
            figures[uri] = Figure(
                name,
                value,
                metrics.get(f"test/{name}_ci_low"),
                metrics.get(f"test/{name}_ci_high"),
                run.info.run_id,
                tags.get(DATASET_DIGEST_TAG, ""),
            )
    return figures


def _versions(client: "MlflowClient", name: str) -> list[Version]:
    """The versions of a registered model, the newest first, without their figures."""
    found: list[ModelVersion] = all_pages(client.search_model_versions, f"name = '{name}'")
    aliases: dict[str, list[str]] = {}
    if found:
        for alias, number in client.get_registered_model(name).aliases.items():
            aliases.setdefault(str(number), []).append(alias)
    return [
        Version(
            f"models:/{name}/{version.version}",
            tuple(sorted(aliases.get(str(version.version), []))),
            version.run_id or None,
            None,
            version.tags.get("forge.decision", ""),
        )
        for version in sorted(found, key=lambda one: -int(one.version))
    ]


def _decided(run: "Run") -> Decided:
    tags = run.data.tags
    return Decided(
        run.info.run_id,
        utc(run.info.end_time or run.info.start_time),
        tags["forge.decision"],
        tags.get("forge.decision_reason", ""),
        tags.get(CHAMPION_AFTER_TAG, ""),
    )


def _digests(runs: Any) -> list[str]:
    digests = (run.data.tags.get(DATASET_DIGEST_TAG) for run in runs)
    return list(dict.fromkeys(digest for digest in digests if digest))


def utc(milliseconds: int) -> str:
    """A time of the store, as ISO 8601 has it."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
