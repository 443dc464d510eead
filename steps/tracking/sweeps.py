"""A sweep against the store: trials used again or trained, and what becomes of the best one.

The search is asked from its beginning each time (see `steps.sweeping.search`): trials that an
earlier sweep has finished are answered from their runs, so that one that was killed goes on.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from steps import outcome
from steps.config.dotted import flatten
from steps.config.file import LoadedConfig, load_config, resolved_yaml
from steps.config.sections import Training
from steps.errors import UserError
from steps.metrics import METRICS, PRIMARY
from steps.sweeping.search import Proposal, Search
from steps.sweeping.space import trial_overrides
from steps.sweeping.trials import Objective, Trial, counted, in_words, winner_of
from steps.terminal import say, styled
from steps.tracking.cache import cache_key, find_reusable, finetune_inputs, key_parts
from steps.tracking.credentials import masked
from steps.tracking.datasets import StoredDataset
from steps.tracking.evaluations import evaluation_inputs
from steps.tracking.job import examples_of
from steps.tracking.mixtures import replay_inputs
from steps.tracking.names import (
    CHALLENGER,
    CHAMPION,
    ERROR_TAG,
    EXIT_CODE_TAG,
    FAILED,
    MODEL_VERSION_TAG,
    OBJECTIVE_TAG,
    STOPPED,
    SWEEP_FILE,
    TRIAL_STATE_TAG,
    TRIAL_TAG,
    TRIAL_VALUES_TAG,
)
from steps.tracking.nested import StepFailed, run_nested_step
from steps.tracking.pipeline import Pipeline
from steps.tracking.registry.model_reference import ModelReference, find_alias, resolve_model
from steps.tracking.runs import StepRun
from steps.tracking.store import reason, store_errors
from steps.tracking.trials import (
    TrialWatch,
    fails_again,
    find_ended,
    mark_ended,
    validation_history,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

# Draws in a row that have all been tried: a search that has closed in on them finds no others.
REPEATS_IN_A_ROW = 20


@dataclass
class SweepUnderWay:
    """A sweep: what it asks, and what it was told.

    Attributes:
        run: Its run.
        loaded: Its configuration.
        dataset: What the trials are trained on.
        search: What is tried next.
        objective: What trials are ranked by.
        trials: Those that have ended.
    """

    run: StepRun
    loaded: LoadedConfig
    dataset: StoredDataset
    search: Search
    objective: Objective
    trials: list[Trial] = field(default_factory=list)

    @property
    def total(self) -> int | None:
        """How many trials there will be; None: as many as the hours allow."""
        sweep, size = self.loaded.training.sweep, self.search.space.size
        if sweep.method != "grid" or size is None:
            return sweep.trials
        return size if sweep.trials is None else min(size, sweep.trials)


def sweep_objective(training: Training, stored: StoredDataset) -> Objective:
    """What trials are ranked by: the metric by which a training ranks its checkpoints.

    Raises:
        UserError: The dataset has nothing to validate on, or the model has no such metric.
    """
    from steps.models.sources import resolve_base, task_trained
    from steps.training.arguments import best_metric

    if not examples_of(stored, "validation", training):
        raise UserError(
            f"the dataset of run {stored.run_id} has nothing in its validation split, and a sweep "
            "ranks its trials by that: raise training.scientific_data.split.validation_fraction, "
            "and run preprocess again"
        )
    task = task_trained(training, resolve_base(training.model).objective)
    name = best_metric(training.logging.metric_for_best_model, task).removeprefix("eval_")
    higher = METRICS[name].higher_is_better or training.logging.greater_is_better
    return Objective(f"validation/{name}", higher)


def describe_sweep(sweep: SweepUnderWay) -> None:
    """Say what will be tried, on the terminal and in the run."""
    run, settings, total = sweep.run, sweep.loaded.training.sweep, sweep.total
    run.tag(dataset_digest=sweep.dataset.digest, dataset_run=sweep.dataset.run_id)
    run.params(dict(flatten("sweep", settings.model_dump(mode="json"))))
    file = run.scratch / "config.yaml"
    file.write_text(masked(resolved_yaml(sweep.loaded.training)), encoding="utf-8")
    run.artifact(file)
    size = sweep.search.space.size
    many = "" if size is None else f" of {size} combinations"
    count = "trials" if total is None else counted(total)
    hours = "" if settings.hours is None else f", at most {settings.hours:g} hours"
    say(f"{settings.method}: {count}{many}{hours}, ranked by {sweep.objective.metric}")


def run_trials(sweep: SweepUnderWay) -> None:
    """Try one proposal after another, until the budget or what there is to try ends."""
    settings, total = sweep.loaded.training.sweep, sweep.total
    started, seen, repeats = time.monotonic(), set[str](), 0
    while total is None or len(sweep.trials) < total:
        used = (time.monotonic() - started) / 3600
        if settings.hours is not None and used >= settings.hours:
            done = counted(len(sweep.trials))
            say(f"the budget of {settings.hours:g} hours is used up after {done}")
            return
        proposal = sweep.search.ask()
        if proposal is None:
            return
        values = json.dumps(proposal.values, sort_keys=True)
        repeats = repeats + 1 if values in seen else 0
        seen.add(values)
        trial = _run_trial(sweep, proposal)
        sweep.trials.append(trial)
        _record(sweep, trial)
        if repeats == REPEATS_IN_A_ROW or (total is None and len(seen) == sweep.search.space.size):
            say(f"nothing new is proposed after {len(seen)} combinations: the search ends here")
            return


def _run_trial(sweep: SweepUnderWay, proposal: Proposal) -> Trial:
    """Answer a proposal: from an earlier run, or by a training."""
    number, values = proposal.number, proposal.values
    title = f"trial {number}"
    try:
        loaded = load_config(sweep.loaded.path, trial_overrides(sweep.loaded, values))
    except UserError as error:
        say(styled(f"failed  {title}", fg="red") + f": {error}")
        return _told(sweep, proposal, Trial(number, values, FAILED, reason=str(error)))
    run, training = sweep.run, loaded.training
    inputs = finetune_inputs(training, sweep.dataset.digest)
    inputs |= replay_inputs(training, run.scratch / "input")
    parts = key_parts("finetune", training, inputs)
    shown = in_words(values)
    found, _ = find_reusable(run.client, run.experiment_id, "finetune", parts)
    if found is not None:
        say(styled(f"reused  {title}", fg="green") + f" ({shown}; run {found.info.run_id})")
        return _finished(sweep, proposal, found, training, reused=True)
    ended = find_ended(run.client, run.experiment_id, cache_key(parts))
    if ended is not None:
        return _ended(sweep, proposal, ended, training, reused=True)
    say(styled(f"running {title}", bold=True) + f" {_how_far(sweep)}({shown})")
    return _train(sweep, proposal, loaded, cache_key(parts))


def _train(sweep: SweepUnderWay, proposal: Proposal, loaded: LoadedConfig, key: str) -> Trial:
    run, title = sweep.run, f"trial {proposal.number}"
    tags = {TRIAL_TAG: str(proposal.number), TRIAL_VALUES_TAG: json.dumps(proposal.values)}
    parameters = {
        "config": str(loaded.path.resolve()),
        "overrides": loaded.overrides,
        "dataset": sweep.dataset.run_id,
        # What a sweep before this one was killed in.
        "resume": "auto",
        "alias": "",
    }

    def judge(value: float) -> bool:
        return sweep.search.report(proposal, value)

    with TrialWatch(run, title, tags, sweep.objective.metric, key, judge) as watch:
        try:
            finished: Run | None = run_nested_step(run, "finetune", title, parameters)
            failure = None
        except StepFailed as error:
            finished, failure = None, error
    if finished is not None:
        return _finished(sweep, proposal, finished, loaded.training)
    assert failure is not None
    run_id = failure.run_id or watch.run_id
    if run_id is None:
        say(styled(f"failed  {title}", fg="red") + f": {failure}")
        failed = Trial(
            proposal.number,
            proposal.values,
            FAILED,
            reason=str(failure),
            exit_code=failure.exit_code,
        )
        return _told(sweep, proposal, failed)
    over = run.client.get_run(run_id)
    if TRIAL_STATE_TAG not in over.data.tags and fails_again(over):
        mark_ended(run.client, run_id, key, FAILED)
    return _ended(sweep, proposal, over, loaded.training)


def _finished(
    sweep: SweepUnderWay,
    proposal: Proposal,
    run: "Run",
    training: Training,
    *,
    reused: bool = False,
) -> Trial:
    history = validation_history(sweep.run.client, run.info.run_id, sweep.objective.metric)
    if not history:
        raise UserError(
            f"trial {proposal.number} (run {run.info.run_id}) has trained {_steps(run)} steps and "
            f"was never validated, and a sweep ranks trials by {sweep.objective.metric}: lower "
            f"training.logging.eval_steps (now {training.logging.eval_steps})"
        )
    keeps = training.logging.load_best_model_at_end and training.qlora.adapts
    value = sweep.objective.value_of(history, keeps_best=keeps)
    trial = Trial(
        proposal.number, proposal.values, "complete", value, history, reused=reused, **_costs(run)
    )
    return _told(sweep, proposal, trial)


def _ended(
    sweep: SweepUnderWay,
    proposal: Proposal,
    run: "Run",
    training: Training,
    *,
    reused: bool = False,
) -> Trial:
    """A trial that did not reach its end."""
    history = validation_history(sweep.run.client, run.info.run_id, sweep.objective.metric)
    stopped = run.data.tags.get(TRIAL_STATE_TAG) == STOPPED and history
    title, earlier = f"trial {proposal.number}", "earlier, " if reused else ""
    number, values = proposal.number, proposal.values
    where = f"({in_words(values)}; {earlier}run {run.info.run_id})"
    if stopped:
        pruner = training.sweep.pruner
        why = f"{sweep.objective.metric} {history[-1]:.4f} at validation {len(history)}"
        say(styled(f"stopped {title}", fg="yellow") + f" {where}: {why}, by {pruner}")
        value = sweep.objective.value_of(history, keeps_best=False)
        ended = Trial(number, values, STOPPED, value, history, reused=reused, reason=why)
        return _told(sweep, proposal, replace(ended, **_costs(run)))
    why = run.data.tags.get(ERROR_TAG, f"it was {run.info.status.lower()}; see its log")
    again = "; not tried again, unless that run is deleted" if reused else ""
    say(styled(f"failed  {title}", fg="red") + f" {where}: {why}{again}")
    code = int(run.data.tags.get(EXIT_CODE_TAG, "1"))
    failed = Trial(number, values, FAILED, None, history, reused=reused, reason=why, exit_code=code)
    return _told(sweep, proposal, replace(failed, **_costs(run)))


def _told(sweep: SweepUnderWay, proposal: Proposal, trial: Trial) -> Trial:
    """Tell the search how a trial went, with those of its validations that it does not know."""
    for value in trial.history[proposal.reports :]:
        sweep.search.report(proposal, value)
    sweep.search.tell(proposal, trial.state, trial.value)
    return trial


def _record(sweep: SweepUnderWay, trial: Trial) -> None:
    """Leave in the sweep's run what is known so far, in case that it is killed."""
    if trial.value is not None:
        sweep.run.metrics({f"trial/{sweep.objective.metric}": trial.value}, step=trial.number)
    write_results(sweep)


def write_results(sweep: SweepUnderWay, importance: Mapping[str, float] | None = None) -> None:
    """Write `sweep.json`: all trials, which one is ahead, and shares of importance if asked for."""
    best = winner_of(sweep.trials, sweep.objective)
    content = {
        "metric": sweep.objective.metric,
        "higher_is_better": sweep.objective.higher_is_better,
        "dataset": sweep.dataset.digest,
        **sweep.loaded.training.sweep.model_dump(mode="json"),
        "trials": [vars(trial) for trial in sweep.trials],
        "winner": None if best is None else best.number,
        "importance": dict(importance or {}),
    }
    outcome.add(sweep=content)
    file = sweep.run.scratch / SWEEP_FILE
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    sweep.run.artifact(file)


def write_comparison_page(sweep: SweepUnderWay) -> None:
    """Leave the page that shows the trials beside one another, and name the run."""
    from steps.tracking.comparison_page import COMPARISON_PAGE, write_comparison

    run, done = sweep.run, [trial for trial in sweep.trials if trial.run_id is not None]
    trained = [run.client.get_run(str(trial.run_id)) for trial in done]
    write_comparison(run, trained, sweep.loaded.training, title="Trials of a sweep")
    best = winner_of(sweep.trials, sweep.objective)
    values = ", ".join(f"{key} {value}" for key, value in (best.values if best else {}).items())
    run.present(
        f"{len(sweep.trials)} trials · {', '.join(sweep.loaded.training.sweep.parameters)}",
        [f"best: **{values or 'none'}**; `{COMPARISON_PAGE}` has all trials, `sweep.json` too"],
    )


def challenge_with(sweep: SweepUnderWay, trial: Trial) -> ModelReference:
    """Give the winner's version the alias `challenger`, unless it is the champion already.

    Raises:
        UserError: The version is gone, or the registry refuses.
    """
    client, training = sweep.run.client, sweep.loaded.training
    tags = client.get_run(trial.run_id).data.tags
    reference = resolve_model(client, tags[MODEL_VERSION_TAG], training)
    if reference.version is None:
        say(f"the winner is not registered, because mlflow.log_model is false: {reference.uri}")
        return reference
    name = reference.version.name
    champion = find_alias(client, name, CHAMPION)
    if champion is not None and champion.uri == reference.uri:
        say(f"the winner, {reference.name}, is @{CHAMPION} already")
        return reference
    try:
        client.set_registered_model_alias(name, CHALLENGER, reference.version.version)
    except store_errors() as error:
        raise UserError(
            f"the winner, {reference.uri}, could not get the alias {CHALLENGER} ({reason(error)}): "
            "give it one in the MLflow UI; nothing has to be trained again"
        ) from None
    say(f"the winner, {reference.name}, is @{CHALLENGER}")
    return reference


def refuse_without_winner(sweep: SweepUnderWay) -> None:
    """End the step where no trial was trained to its end.

    Raises:
        StepFailed: With the first failure's reason and exit code.
    """
    first = next((trial for trial in sweep.trials if trial.state == FAILED), None)
    why = f"; the first: {first.reason}" if first is not None else ""
    code = UserError.exit_code if first is None else first.exit_code
    raise StepFailed(
        f"of {counted(len(sweep.trials))} none reached its end, so nothing has won{why}", code
    )


def evaluate_winner(sweep: SweepUnderWay, trial: Trial, reference: ModelReference) -> Iterator[str]:
    """Score the winner and its base on the test split; nothing else of a sweep reads that.

    Yields:
        A line about each, once it is measured.
    """
    loaded = load_config(sweep.loaded.path, trial_overrides(sweep.loaded, trial.values))
    pipeline = Pipeline(sweep.run, loaded)
    measured = {"base": ModelReference("base", None, None), reference.name: reference}
    for name, one in measured.items():
        inputs = evaluation_inputs(loaded.training, one, sweep.dataset.digest, "test")
        given = {"model": one.uri, "dataset": sweep.dataset.run_id}
        found = pipeline.step("evaluate", f"evaluate {name}", inputs, given)
        metric = f"test/{PRIMARY[found.data.tags[OBJECTIVE_TAG]]}"
        low, value, high = (
            found.data.metrics[f"{metric}{end}"] for end in ("_ci_low", "", "_ci_high")
        )
        yield f"{name}: {metric} {value:.4f} ({low:.4f} to {high:.4f}); run {found.info.run_id}"


def _how_far(sweep: SweepUnderWay) -> str:
    """How many trials there are, and how long the rest may take by those that have finished."""
    total, done = sweep.total, len(sweep.trials)
    took = [trial.seconds for trial in sweep.trials if trial.state == "complete"]
    if total is None:
        return ""
    if not took:
        return f"of {total} "
    minutes = (total - done) * sum(took) / len(took) / 60
    return f"of {total}, about {minutes:.0f} min left " if minutes >= 1 else f"of {total} "


def _steps(run: "Run") -> str:
    return f"{run.data.metrics.get('train/steps', 0):.0f}"


def _costs(run: "Run") -> dict[str, Any]:
    begin, end = run.info.start_time or 0, run.info.end_time or 0
    return {
        "run_id": run.info.run_id,
        "tokens": run.data.metrics.get("train/tokens_seen", 0.0),
        "seconds": max(end - begin, 0) / 1000,
    }
