"""Which checkpoint a run goes on from, and whether it may.

    expected = resume_fingerprint(training, base, dataset_digest)
    found = find_resume_point(run, "auto", expected, say)
    if found is not None:
        take_over(run, found, {})       # history, tags
        trainer.train(resume=found.point)

Looked at are the checkpoints of the named run and of those that it was itself resumed from, on
this machine's disk and in the store; the newest that is valid is taken. Files are checked
against their manifest before any of them is opened.
"""

import hashlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.checkpoints.format import CheckpointInfo, list_names, validate_checkpoint
from steps.checkpoints.trainer_state import (
    BEST_WEIGHTS_FILE,
    ResumePoint,
    best_step,
    environment,
    read_progress,
)
from steps.config.dotted import flatten
from steps.config.sections import Training
from steps.errors import UserError
from steps.models.sources import task_trained
from steps.tracking import cache as reuse
from steps.tracking.artifacts import fetch_folder, list_files
from steps.tracking.checkpoints.claims import claim
from steps.tracking.checkpoints.other_processes import (
    ACCUMULATION,
    PROCESSES,
    Division,
    as_counted_for,
    divided,
    runs_on_others,
)
from steps.tracking.heartbeat import sign_of_life_awaited
from steps.tracking.names import (
    CHECKPOINTS_FOLDER,
    LOCAL_TAG,
    RESUME_KEY_TAG,
    RESUMED_TAG,
    STEP_TAG,
)

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from steps.models.sources import Base
    from steps.tracking.runs import StepRun


# The sections that a training depends on; the model is compared by its weights, not by where it
# lies. The others describe other steps, or where things lie.
# What becomes of the adapter in the end (merge) changes no step of the training, and what is mixed
# into it stands in a fingerprint only where it is.
SECTIONS = tuple(
    name
    for name in reuse.SECTIONS["finetune"]
    if name not in ("model", "merge", "replay", "study_texts")
)

# What may change between a run and its resumption: it bends neither the schedule nor a weight.
# Listed in docs/resume.md.
MAY_CHANGE = {
    "logging.log_steps",
    "logging.save_steps",
    "logging.save_strategy",
    "logging.save_minutes",
    "logging.save_strict",
    "memory_optimization.gpu_memory_gb",
    "memory_optimization.max_memory_usage",
    "hardware.dataloader_num_workers",
    "hardware.dataloader_pin_memory",
    "distributed.max_restarts",
    "distributed.timeout_minutes",
    "distributed.stop_seconds",
}

# Keys that checkpoints of earlier commits do not state. Where one has its default it is left out,
# as those runs trained by the default.
LATER_KEYS = {
    "hyperparameters.embedding_learning_rate",
    "optimizer.loraplus_lr_ratio",
    "qlora.initialization",
    "tokenizer.new_tokens",
}


# The name in a fingerprint that runs of earlier commits do not have.
BASE_CONFIGURATION = "base model configuration"


@dataclass(frozen=True)
class Found:
    """A checkpoint to go on from.

    Attributes:
        run_id: The run that wrote it.
        point: Its folders on this machine.
        where: "local disk" or "artifact store".
        notices: One line for each thing that may change the last bits of the result.
        division: How its batch is shared out, where another number of processes goes on with it.
    """

    run_id: str
    point: ResumePoint
    where: str
    notices: tuple[str, ...] = ()
    division: Division | None = None


@dataclass(frozen=True)
class _Place:
    run_id: str
    step: int
    # None: in the artifact store.
    folder: Path | None

    @property
    def where(self) -> str:
        return "local disk" if self.folder else "artifact store"


def resume_fingerprint(
    training: Training, base: "Base", dataset_digest: str, replay_digest: str = ""
) -> dict[str, Any]:
    """What a checkpoint has to agree with: the dataset, the base, and the configuration.

    Args:
        training: The configuration.
        base: The base model.
        dataset_digest: Of the papers.
        replay_digest: Of the texts of `replay.source`, where it has a share.

    Returns:
        JSON values by their name; configuration keys carry their path below `training`.
    """
    expected: dict[str, Any] = {
        "dataset": dataset_digest,
        # Where the base lies may differ from machine to machine; its weights may not.
        "base model": base.sha256 or f"{base.name} {base.revision}",
        "model.objective": task_trained(training, base.objective),
        "model.max_length": training.model.max_length,
        "scientific_data.sections": training.scientific_data.sections,
        # The masks under which a masked model is validated.
        "evaluation.seed": training.evaluation.seed,
    }
    expected |= reuse.chat_inputs(training)
    if base.config_sha256 is not None:
        expected[BASE_CONFIGURATION] = base.config_sha256
    for section in SECTIONS:
        default = dict(flatten(section, getattr(Training(), section).model_dump(mode="json")))
        content = getattr(training, section).model_dump(mode="json")
        for key, value in flatten(section, content):
            if key in LATER_KEYS and value == default[key]:
                continue
            if key not in MAY_CHANGE:
                expected[key] = value
    # Checkpoints of earlier commits say nothing of these, and their runs had none.
    if training.replay.share:
        expected |= {"replay.share": training.replay.share, "replay.source": replay_digest}
    if training.study_texts.share:
        expected |= dict(flatten("study_texts", training.study_texts.model_dump(mode="json")))
    content = json.loads(json.dumps(expected))
    assert isinstance(content, dict)
    return content


def resume_key(expected: Mapping[str, Any]) -> str:
    """The tag value by which `auto` finds runs of the same configuration and dataset."""
    return hashlib.sha256(json.dumps(expected, sort_keys=True).encode()).hexdigest()


def metadata(run_id: str, dataset_digest: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest of each checkpoint of a run states."""
    return {
        "dataset_digest": dataset_digest,
        "run_id": run_id,
        "configuration": dict(expected),
        "environment": environment(),
    }


def resumable_tags(root: Path, expected: Mapping[str, Any]) -> dict[str, str]:
    """Tags (without `forge.`, for `StepRun.tag`) by which a later run finds this one."""
    return {
        "local_checkpoints": f"{socket.gethostname()}:{root.resolve()}",
        "resume_key": resume_key(expected),
    }


def find_resume_point(
    run: "StepRun",
    reference: str,
    expected: Mapping[str, Any],
    say: Callable[[str], None],
    accept: Callable[[Found], bool] = lambda _: True,
) -> Found | None:
    """Find the checkpoint to go on from.

    Of several launches that look at the same moment, `auto` gives a killed run to one (see
    `steps.tracking.checkpoints.claims`). The others take the next one; where there is none they
    begin anew, as they do beside a living run: two that go on from the same checkpoint would only
    work out the same adapter twice. A run that is named is taken as it is.

    A run that has been in training itself was restarted by its launcher, and goes on from its
    own newest checkpoint, whatever the reference says.

    Args:
        run: The new run; what comes from the store is laid into its scratch folder.
        reference: `never`, `auto`, or the id of a run.
        expected: From `resume_fingerprint`.
        say: Told, in one line each, what was passed over and why.
        accept: Whether all who need the checkpoint have it; the next older one is tried if not.

    Returns:
        None for `never`, and for `auto` where there is nothing to resume.

    Raises:
        UserError: The named run is living, has finished, has no usable checkpoint, or was
            made with another configuration or dataset.
    """
    itself = run.client.get_run(run.id)
    if RESUME_KEY_TAG in itself.data.tags:
        found = _newest_usable(run, itself, expected, say, accept)
        if found is not None:
            return found
    if reference == "never":
        return None
    if reference != "auto":
        source = _named_run(run.client, reference, say)
        holder = claim(run, source)
        if holder:
            say(f"note: run {holder} goes on from run {reference} too")
        found = _newest_usable(run, source, expected, say, accept)
        if found is None:
            raise UserError(
                f"resume {reference}: neither this disk nor the store has a valid checkpoint of "
                "that run: start anew with resume=never"
            )
        return found
    for source in _unfinished_runs(run, expected, say):
        holder = claim(run, source)
        if holder:
            say(f"run {source.info.run_id} passed over: run {holder} goes on from it")
            continue
        found = _newest_usable(run, source, expected, say, accept)
        if found is not None:
            return found
    say("nothing to resume (no unfinished run of this configuration and dataset): starting anew")
    return None


def take_over(run: "StepRun", found: Found, already: Mapping[str, int]) -> None:
    """Make the new run whole: its origin, and the history up to the checkpoint.

    The history comes from the checkpoint itself: what the killed run reported after it will be
    reported again, and a store that was away may have missed some of it.

    Args:
        run: The run that goes on.
        found: Where from.
        already: The last step of each metric that the run has, as one restarted in it does.
    """
    from mlflow.entities import Metric

    if found.run_id != run.id:
        run.tag(resumed_from=f"{found.run_id}:{found.point.step}")
    points = [
        Metric(name, value, report.time, report.step)
        for report in read_progress(found.point.folder).reports
        for name, value in report.metrics.items()
        if report.step > already.get(name, -1)
    ]
    for start in range(0, len(points), 1000):
        run.client.log_batch(run.id, metrics=points[start : start + 1000])
    source = run.client.get_run(found.run_id)
    if source.info.status == "RUNNING" and found.run_id != run.id:
        # It was killed before it could say so.
        run.client.set_terminated(found.run_id, "KILLED")


def _named_run(client: "MlflowClient", run_id: str, say: Callable[[str], None]) -> "Run":
    from mlflow.exceptions import MlflowException

    try:
        source = client.get_run(run_id)
    except MlflowException:
        raise UserError(
            f"resume {run_id!r}: there is no such run in this store: give never, auto, or the id "
            "of a finetune run"
        ) from None
    step = source.data.tags.get(STEP_TAG)
    if step != "finetune":
        raise UserError(f"resume {run_id}: not a finetune run ({step or 'no forge.step tag'})")
    if source.info.status == "FINISHED":
        raise UserError(
            f"resume {run_id}: that run has finished: there is nothing left to train; start anew "
            "with resume=never"
        )
    life = sign_of_life_awaited(client, source, say)
    if life:
        raise UserError(f"resume {run_id}: that run is living ({life}): stop it first")
    return source


def _unfinished_runs(
    run: "StepRun", expected: Mapping[str, Any], say: Callable[[str], None]
) -> "Iterator[Run]":
    """Yield runs that ended early with this configuration and dataset, newest first."""
    runs: list[Run] = []
    for key in dict.fromkeys(_keys(expected)):
        runs += run.client.search_runs(
            [run.experiment_id],
            f"tags.`{STEP_TAG}` = 'finetune' and tags.`{RESUME_KEY_TAG}` = '{key}'",
            order_by=["attributes.start_time DESC"],
        )
    # Those on as many processes come first: they go on bit for bit.
    seen = {one.info.run_id for one in runs}
    others = runs_on_others(run, expected, _keys)
    runs += [one for one in others if one.info.run_id not in seen]
    # A run that another one went on from is that one's business now.
    continued = {r.data.tags.get(RESUMED_TAG, "").partition(":")[0] for r in runs}
    for source in runs:
        if source.info.run_id in {*continued, run.id} or source.info.status == "FINISHED":
            continue
        life = sign_of_life_awaited(run.client, source, say)
        if life:
            say(f"run {source.info.run_id} passed over: {life}")
        else:
            yield source


def _keys(expected: Mapping[str, Any]) -> tuple[str, str]:
    """The tag values of runs of this fingerprint, those of earlier commits included."""
    earlier = {name: value for name, value in expected.items() if name != BASE_CONFIGURATION}
    return resume_key(expected), resume_key(earlier)


def checkpoint_at_hand(
    run: "StepRun", run_id: str, step: int, folder: Path, digest: str
) -> Path | None:
    """A checkpoint that another process has named, on this machine's disk or from the store.

    Args:
        run: The run of this step.
        run_id: The run that wrote it.
        step: Its step.
        folder: Where the other process sees it.
        digest: Of its manifest.
    """
    seen = validate_checkpoint(folder, hashes=False)
    if not isinstance(seen, CheckpointInfo) or seen.digest != digest:
        seen = _fetch(run, _Place(run_id, step, None))
    return seen.folder if isinstance(seen, CheckpointInfo) and seen.digest == digest else None


def _newest_usable(
    run: "StepRun",
    source: "Run",
    expected: Mapping[str, Any],
    say: Callable[[str], None],
    accept: Callable[[Found], bool],
) -> Found | None:
    places = _places(run.client, source)
    for place in places:
        checked = _fetch(run, place)
        if isinstance(checked, CheckpointInfo) and not checked.resumable:
            checked = "its optimizer state has been pruned"
        if isinstance(checked, CheckpointInfo):
            division = divided(source.info.run_id, checked, expected)
            _refuse_differences(source.info.run_id, checked.facts, expected)
            best = _best_folder(
                run, checked, places, bool(expected["logging.load_best_model_at_end"])
            )
            if not isinstance(best, str):
                point = ResumePoint(checked.folder, checked.step, best)
                notices = _notices(checked.facts, division)
                found = Found(place.run_id, point, place.where, notices, division)
                if accept(found):
                    return found
                best = "not every machine has it, and the store does not"
            checked = best
        say(f"checkpoint-{place.step} of run {place.run_id} ({place.where}) passed over: {checked}")
    return None


def _places(client: "MlflowClient", source: "Run") -> list[_Place]:
    """Where checkpoints of a run and of its origins lie: newest first, local before stored."""
    from mlflow.exceptions import MlflowException

    places: list[_Place] = []
    limit: float = float("inf")
    current: Run | None = source
    while current is not None:
        run_id, tags = current.info.run_id, current.data.tags
        host, _, path = tags.get(LOCAL_TAG, "").partition(":")
        if host == socket.gethostname():
            places.extend(_Place(run_id, step, folder) for step, folder in list_names(Path(path)))
        stored = [f.path for f in list_files(client, run_id, CHECKPOINTS_FOLDER) if f.is_dir]
        places.extend(_Place(run_id, int(path.rpartition("-")[2]), None) for path in stored)
        places = [p for p in places if p.run_id != run_id or p.step <= limit]
        origin, _, step_text = tags.get(RESUMED_TAG, "").partition(":")
        current = None
        if step_text.isdigit():
            limit = min(limit, int(step_text))
            # It may have been deleted, with its checkpoints.
            with suppress(MlflowException):
                current = client.get_run(origin)
    return sorted(places, key=lambda p: (-p.step, p.folder is None))


def _fetch(run: "StepRun", place: _Place) -> CheckpointInfo | str:
    """Bring a checkpoint to this disk and check it; or why it cannot be used."""
    from mlflow.exceptions import MlflowException

    if place.folder is not None:
        return validate_checkpoint(place.folder)
    name = f"checkpoint-{place.step}"
    target = run.scratch / "resume" / place.run_id / name
    target.mkdir(parents=True, exist_ok=True)
    try:
        fetched = fetch_folder(run.client, place.run_id, f"{CHECKPOINTS_FOLDER}/{name}", target)
    except (MlflowException, OSError) as error:
        return f"it cannot be fetched: {' '.join(str(error).split())}"
    return validate_checkpoint(fetched)


def _best_folder(
    run: "StepRun", checkpoint: CheckpointInfo, places: list[_Place], wanted: bool
) -> Path | str | None:
    """Where the best validated weights are: None: in the checkpoint itself; or why nowhere."""
    best = best_step(checkpoint.folder)
    if not wanted or best in (None, checkpoint.step):
        return None
    if (checkpoint.folder / BEST_WEIGHTS_FILE).is_file():
        return None
    for place in places:
        if place.step == best:
            checked = _fetch(run, place)
            if isinstance(checked, CheckpointInfo):
                return checked.folder
    return f"the best weights up to it are in checkpoint-{best}, of which none is valid"


def _refuse_differences(
    run_id: str, stated: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    # What checkpoints did not say while there was one process only, and one way to begin.
    alone = {"processes": 1, "deepspeed": None, "qlora.initialization": "default"}
    then, expected = {**alone, **stated.get("configuration", {})}, {**alone, **expected}
    # Nor with which config.json the base was read.
    then.setdefault(BASE_CONFIGURATION, expected.get(BASE_CONFIGURATION))
    if ACCUMULATION in then:
        expected = as_counted_for(expected, int(then[PROCESSES]), then[ACCUMULATION])
    changed = [
        f"{name} was {json.dumps(then.get(name))}, is {json.dumps(expected.get(name))}"
        for name in sorted(then.keys() | expected.keys())
        if then.get(name) != expected.get(name)
    ]
    if changed:
        raise UserError(
            f"resume {run_id}: not the same run any more: {'; '.join(changed)}: set that back (for "
            "the dataset: name its run), or start anew with resume=never"
        )


def _notices(stated: Mapping[str, Any], division: Division | None) -> tuple[str, ...]:
    now = environment()
    then = stated.get("environment", {})
    divided_now = (division.notice,) if division is not None and division.notice else ()
    return divided_now + tuple(
        f"{name} was {then[name]}, is {now[name]}: the result may differ in its last bits"
        for name in now
        if name in then and then[name] != now[name]
    )
