"""Finetune runs of the store: found by what the user names, and read for a comparison."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from steps.comparison.comparable import EvaluatedModel
from steps.comparison.many_runs import ComparedRun, MeasuredBase, base_name
from steps.config.dotted import flatten
from steps.config.sections import Training
from steps.errors import UserError
from steps.metrics import METRIC_VERSION, PRIMARY
from steps.tracking.cache import SECTIONS
from steps.tracking.evaluations import as_evaluated
from steps.tracking.names import (
    BASE_MODEL_TAG,
    CACHE_PARTS_TAG,
    DATASET_DIGEST_TAG,
    METRIC_VERSION_TAG,
    MODEL_VERSION_TAG,
    OBJECTIVE_TAG,
    RESUMED_TAG,
    SPLIT_TAG,
    STEP_TAG,
)
from steps.tracking.store import all_pages, find_run, metric_by_step, store_errors
from steps.tracking.stored_results import ResultsChanged, read_results

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from steps.tracking.runs import StepRun

# A page with more curves than this cannot be read.
MOST_RUNS = 40
# What finetune reads of the configuration, so that it may move a figure.
SETTINGS = (*SECTIONS["finetune"], "scientific_data", "instructions")
COSTS = (
    "train/tokens_seen",
    "train/seconds",
    "train/mean_tokens_per_second",
    "train/memory_gb",
    "train/trainable_parameters",
)
# Of the parts of an evaluation's cache key: what the likelihood of a paper depends on.
SCORED_WITH = ("input context", "evaluation.stride", "evaluation.seed")
TRAINED_BY = "forge.model_run"
MODEL_URI = "forge.model_uri"


def gather_runs(
    run: "StepRun", finetune_runs: "Sequence[Run]"
) -> tuple[list[ComparedRun], list[MeasuredBase]]:
    """Read finetune runs, the evaluations of what they made, and those of their bases.

    Of several evaluations of a model, that on the dataset on which most of the models were
    measured counts; of those the newest.

    Args:
        run: The run that wants to know.
        finetune_runs: As the store has them.
    """
    experiments = {one.info.experiment_id for one in finetune_runs} | {run.experiment_id}
    evaluations = _all_runs(
        run.client,
        sorted(experiments),
        f"attributes.status = 'FINISHED' and tags.`{STEP_TAG}` = 'evaluate' "
        f"and tags.`{SPLIT_TAG}` = 'test'",
    )
    of_runs = {one.info.run_id: _made_by(one, evaluations) for one in finetune_runs}
    counted = Counter(
        key for found in of_runs.values() for key in {_measured_on(one) for one in found}
    )
    names = _names(finetune_runs)
    experiments_by_id: dict[str, str] = {}
    runs = [
        _read_run(
            run,
            one,
            names[one.info.run_id],
            # Stable: within a dataset the newest stays first.
            sorted(of_runs[one.info.run_id], key=lambda e: -counted[_measured_on(e)]),
            experiments_by_id,
        )
        for one in finetune_runs
    ]
    return runs, _bases(run, runs, evaluations)


def find_finetune_runs(client: "MlflowClient", named: str, experiment_id: str) -> "list[Run]":
    """The finetune runs that a user names, in the order of the names, each once.

    Args:
        client: Client of the store.
        named: Run ids, and names or ids of experiments, comma-separated; "": all finished
            finetune runs of the experiment in use.
        experiment_id: That experiment.

    Raises:
        UserError: One of them is not there, was deleted, or is no finetune run.
    """
    parts = [part.strip() for part in named.split(",") if part.strip()]
    if not parts:
        return _finished(client, experiment_id)
    found: dict[str, Run] = {}
    for part in parts:
        found |= {run.info.run_id: run for run in _named(client, part)}
    return list(found.values())


def newest(runs: "Sequence[Run]", count: int) -> "list[Run]":
    """The runs that began last."""
    return sorted(runs, key=lambda one: -one.info.start_time)[:count]


def _named(client: "MlflowClient", name: str) -> "list[Run]":
    run = find_run(client, name)
    if run is not None:
        if run.info.lifecycle_stage != "active":
            raise UserError(
                f"runs: run {name} was deleted; take it back with `mlflow runs restore --run-id "
                f"{name}`, or leave it out"
            )
        step = run.data.tags.get(STEP_TAG)
        if step != "finetune":
            raise UserError(
                f"runs: run {name} is a run of {step or 'no step of this project'}, expected one "
                f"of finetune; see `mlflow runs list --experiment-id {run.info.experiment_id}`"
            )
        return [run]
    experiments = client.search_experiments()
    # A name before an id: somebody may have called an experiment 7.
    for attribute in ("name", "experiment_id"):
        for experiment in experiments:
            if getattr(experiment, attribute) == name:
                return _finished(client, experiment.experiment_id)
    raise UserError(_unknown(client, name, experiments))


def _unknown(client: "MlflowClient", name: str, experiments: Sequence[Any]) -> str:
    """One line on a name that is neither a run nor an experiment."""
    import difflib

    ids = [experiment.experiment_id for experiment in experiments]
    runs = client.search_runs(ids, f"tags.`{STEP_TAG}` = 'finetune'", max_results=1000)
    run_ids = [run.info.run_id for run in runs]
    known = [*(experiment.name for experiment in experiments), *run_ids]
    begins = [one for one in known if one.startswith(name) and len(name) >= 4]
    near = begins or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = (
        f"did you mean {near[0]}?" if near else "expected a run id, or an experiment's name or id"
    )
    return (
        f"runs: {name!r} is neither a run nor an experiment of this store: {hint} "
        "(`mlflow experiments search` and `mlflow runs list --experiment-id ID` list them)"
    )


def _finished(client: "MlflowClient", experiment_id: str) -> "list[Run]":
    return _all_runs(
        client,
        [experiment_id],
        f"attributes.status = 'FINISHED' and tags.`{STEP_TAG}` = 'finetune'",
    )


def _all_runs(client: "MlflowClient", experiments: Sequence[str], filters: str) -> "list[Run]":
    """All runs that satisfy a filter, the newest first."""
    newest_first = ["attributes.start_time DESC"]
    return all_pages(client.search_runs, list(experiments), filters, order_by=newest_first)


def _made_by(trained: "Run", evaluations: "Iterable[Run]") -> "list[Run]":
    """The evaluations of what a run made; those of forms that were released of it are not."""
    run_id = trained.info.run_id
    own = {trained.data.tags.get(MODEL_VERSION_TAG), f"runs:/{run_id}/adapter"}
    return [
        one
        for one in evaluations
        # The number of a deleted version may be given again: the run has to agree too.
        if one.data.tags.get(TRAINED_BY) == run_id and one.data.tags.get(MODEL_URI) in own
    ]


def _measured_on(evaluation: "Run") -> tuple[str | None, ...]:
    tags = evaluation.data.tags
    digest, version = tags.get(DATASET_DIGEST_TAG), tags.get(METRIC_VERSION_TAG)
    return digest, version, _scored_with(evaluation)


def _scored_with(evaluation: "Run") -> str:
    parts = json.loads(evaluation.data.tags.get(CACHE_PARTS_TAG, "{}"))
    return " ".join(str(parts.get(name)) for name in SCORED_WITH)


def _names(runs: "Sequence[Run]") -> dict[str, str]:
    """What each run is called; the beginning of its id tells namesakes apart."""
    own = {run.info.run_id: str(run.info.run_name or "finetune") for run in runs}
    counts = Counter(own.values())
    return {
        run_id: name if counts[name] == 1 else f"{name} {run_id[:6]}"
        for run_id, name in own.items()
    }


def _read_run(
    run: "StepRun",
    one: "Run",
    name: str,
    evaluations: "Sequence[Run]",
    experiments: dict[str, str],
) -> ComparedRun:
    tags, info = one.data.tags, one.info
    objective = tags.get(OBJECTIVE_TAG, "causal")
    version = tags.get(MODEL_VERSION_TAG, "")
    aliases, notes = _aliases(run.client, version)
    if info.status != "FINISHED":
        notes.append(f"the run is {info.status}")
    if RESUMED_TAG in tags:
        notes.append(f"resumed from {tags[RESUMED_TAG]}")
    model, evaluation, damaged = _first_readable(run, name, evaluations)
    notes += damaged
    if model is not None and model.unverified:
        notes.append(model.unverified)
    if info.experiment_id not in experiments:
        experiments[info.experiment_id] = run.client.get_experiment(info.experiment_id).name
    return ComparedRun(
        run_id=info.run_id,
        name=name,
        experiment=experiments[info.experiment_id],
        status=info.status,
        started=datetime.fromtimestamp(info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        objective=objective,
        base=tags.get(BASE_MODEL_TAG, "unknown"),
        dataset=tags.get(DATASET_DIGEST_TAG, "unknown"),
        version=version,
        aliases=aliases,
        settings=_settings(one),
        curves=_curves(run.client, one, objective),
        cost={key: one.data.metrics[key] for key in COSTS if key in one.data.metrics},
        evaluation=model,
        evaluation_run=evaluation.info.run_id if evaluation else "",
        scored_with=_scored_with(evaluation) if evaluation else "",
        notes=tuple(notes),
        link=_link(info.experiment_id, info.run_id),
    )


def _first_readable(
    run: "StepRun", name: str, evaluations: "Iterable[Run]"
) -> "tuple[EvaluatedModel | None, Run | None, list[str]]":
    """The first evaluation whose files are there and unchanged, and a note on each that is not."""
    notes = []
    gone = store_errors()
    for one in evaluations:
        try:
            results = read_results(run, one)
        except ResultsChanged as error:
            notes.append(f"evaluation {one.info.run_id} cannot be used: {error}")
            continue
        except gone:
            notes.append(f"evaluation {one.info.run_id} cannot be used: its files are gone")
            continue
        return as_evaluated(results, name, one.data.tags[MODEL_URI]), one, notes
    return None, None, notes


def _bases(
    run: "StepRun", runs: Sequence[ComparedRun], evaluations: "Sequence[Run]"
) -> list[MeasuredBase]:
    """The bases of the runs, as measured on the datasets that the runs were measured on."""
    found: dict[tuple[str | None, ...], MeasuredBase] = {}
    for one in runs:
        if one.evaluation is None:
            continue
        key = (one.base, one.evaluation.dataset_digest, one.evaluation.metric_version)
        same = [
            evaluation
            for evaluation in evaluations
            if evaluation.data.tags.get(MODEL_URI) == "base"
            and evaluation.data.tags.get(BASE_MODEL_TAG) == one.base
            and evaluation.data.tags.get(OBJECTIVE_TAG) == one.objective
            and evaluation.data.tags.get(DATASET_DIGEST_TAG) == key[1]
            and evaluation.data.tags.get(METRIC_VERSION_TAG, METRIC_VERSION) == key[2]
            and _scored_with(evaluation) == one.scored_with
        ]
        if (*key, one.scored_with) in found or not same:
            continue
        model, evaluation, _ = _first_readable(run, base_name(one.base), same)
        if model is not None and evaluation is not None:
            found[(*key, one.scored_with)] = MeasuredBase(model, one.scored_with)
    return list(found.values())


def _aliases(client: "MlflowClient", version: str) -> tuple[tuple[str, ...], list[str]]:
    """The aliases of a version, and a note where it is gone."""
    if not version.startswith("models:/"):
        return (), []
    name, _, number = version.removeprefix("models:/").rpartition("/")
    try:
        return tuple(sorted(client.get_model_version(name, number).aliases)), []
    except store_errors():
        return (), [f"{version} is no longer registered"]


def _settings(run: "Run") -> dict[str, str]:
    """What a run was trained with; keys that its version of the project had not are at default."""
    content = Training().model_dump(mode="json", include=set(SETTINGS))
    settings = {
        key: value if isinstance(value, str) else json.dumps(value)
        for name, part in content.items()
        for key, value in flatten(name, part)
    }
    params = run.data.params
    settings |= {key: params[key] for key in params if key.partition(".")[0] in SETTINGS}
    settings["processes"] = run.data.tags.get("forge.processes", "1")
    settings["dataset"] = run.data.tags.get(DATASET_DIGEST_TAG, "unknown").rpartition(":")[2][:12]
    return settings


def _curves(client: "MlflowClient", run: "Run", objective: str) -> dict[str, Any]:
    wanted = ("train/loss", f"validation/{PRIMARY[objective]}", "train/tokens_seen")
    return {
        name: list(metric_by_step(client, run.info.run_id, name).items())
        for name in wanted
        if name in run.data.metrics
    }


def _link(experiment_id: str, run_id: str) -> str:
    """Where a server shows the run; "" for a store without one."""
    from steps.tracking.nested import tracking_uri

    uri = tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return ""
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
