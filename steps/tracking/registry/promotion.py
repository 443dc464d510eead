"""Moving aliases: the champion's place changes hands here and nowhere else."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from steps.config.sections import Training
from steps.errors import UserError
from steps.tracking.names import ALIAS_MOVE_TAG, CHALLENGER, CHAMPION, PREVIOUS
from steps.tracking.registry.model_reference import ModelReference
from steps.tracking.runs import StepRun

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from steps.comparison.decision import Decision
    from steps.tracking.registry.model_reference import ModelReference
    from steps.tracking.runs import StepRun


def comparison_inputs(
    challengers: "Iterable[ModelReference]", champion: str, dataset_digest: str, may_promote: bool
) -> dict[str, str]:
    """What a decision depends on, besides its section of the configuration.

    Args:
        challengers: The versions that were compared.
        champion: URI of the champion afterwards, or "". A decision stands while that one is
            champion, whichever was before.
        dataset_digest: Of the papers.
        may_promote: Whether the alias could move.
    """
    versions = sorted({one.uri for one in challengers} | ({champion} - {""}))
    return {
        "versions": json.dumps(versions),
        "dataset": dataset_digest,
        "promote": str(may_promote),
    }


LOCK_SECONDS = 600


@contextmanager
def promotion_lock(training: Training) -> Iterator[None]:
    """One decision at a time on this host for one registered model.

    Raises:
        UserError: Another one holds the lock for too long.
    """
    from filelock import FileLock, Timeout

    from steps.cache_folder import cache_folder

    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"promotion-{training.mlflow.registered_model_name}.lock")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise UserError(
            f"another ab_compare has held {lock.lock_file} for {LOCK_SECONDS} s: wait for it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def alias_state(client: "MlflowClient", name: str) -> dict[str, str]:
    """Alias to version URI, for the three aliases that a decision reads or moves."""
    from mlflow.exceptions import MlflowException

    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    names = (CHAMPION, CHALLENGER, PREVIOUS)
    return {alias: f"models:/{name}/{aliases[alias]}" for alias in names if alias in aliases}


def promote_version(
    run: StepRun, name: str, winner: ModelReference, decision: "Decision", before: Mapping[str, str]
) -> str:
    """Make the winner champion, keep the old one as previous_champion, drop challenger.

    Args:
        run: The run that decided; the versions' tags name it.
        name: The registered model.
        winner: The version that is promoted.
        decision: Goes into the tags and descriptions of both versions.
        before: The aliases that the decision was based on.

    Returns:
        One line that says what moved.

    Raises:
        UserError: An alias moved meanwhile.
    """
    now = alias_state(run.client, name)
    if now != dict(before):
        raise UserError(
            f"the aliases of {name} were moved meanwhile (from {dict(before)} to {now}): "
            "nothing was changed here; run ab_compare again"
        )
    old = now.get(CHAMPION)
    after = {CHAMPION: winner.uri}
    if old is not None and old != winner.uri:
        after[PREVIOUS] = old
    elif PREVIOUS in now:
        after[PREVIOUS] = now[PREVIOUS]
    notes = {winner.uri: f"promoted to @{CHAMPION} (before: {old or 'nothing'})"}
    if old is not None and old != winner.uri:
        notes[old] = f"replaced as @{CHAMPION} by {winner.uri}"
    move = AliasMove(run.id, _timestamp(), now, after, notes, decision.outcome, decision.reason)
    _carry_out(run.client, name, move)
    return f"promoted: @{CHAMPION} is now {winner.uri} (before: {old or 'nothing'})"


def roll_back(run: StepRun, name: str) -> str:
    """Bring the previous champion back.

    Returns:
        One line that says what moved.

    Raises:
        UserError: There is none.
    """
    now = alias_state(run.client, name)
    if PREVIOUS not in now:
        raise UserError(
            f"{name} has no version with the alias @{PREVIOUS}: nothing to roll back to"
        )
    back, old = now[PREVIOUS], now.get(CHAMPION)
    after = {key: uri for key, uri in now.items() if key != PREVIOUS} | {CHAMPION: back}
    notes = {back: f"brought back to @{CHAMPION} (before: {old or 'nothing'})"}
    if old is not None and old != back:
        notes[old] = f"rolled back, @{CHAMPION} is {back} again"
    reason = "Rolled back by hand."
    _carry_out(
        run.client, name, AliasMove(run.id, _timestamp(), now, after, notes, "rollback", reason)
    )
    run.tag(decision="rollback", champion_after=back)
    return f"rolled back: @{CHAMPION} is now {back} (before: {old or 'nothing'})"


# --- a move is written down before it is made ---------------------------------------------


@dataclass(frozen=True)
class AliasMove:
    """One promotion or rollback, as the registered model's journal tag holds it.

    Attributes:
        run: The run that decided.
        time: When, in UTC.
        before: Aliases before.
        after: Aliases afterwards.
        notes: What the audit tag of each version says.
        outcome: Of the decision.
        reason: Of the decision.
    """

    run: str
    time: str
    before: dict[str, str]
    after: dict[str, str]
    notes: dict[str, str]
    outcome: str
    reason: str


def finish_interrupted_move(client: "MlflowClient", name: str) -> str | None:
    """Finish a move whose process died in the middle of it.

    Returns:
        One line that says what was done; None where there was nothing to finish.
    """
    from mlflow.exceptions import MlflowException

    try:
        journal = client.get_registered_model(name).tags.get(ALIAS_MOVE_TAG)
    except MlflowException:
        return None  # nothing is registered under this name yet
    if not journal:
        return None
    move = _read_move(journal)
    missing = "" if move is None else _missing_version(client, name, move)
    if move is None or missing:
        client.delete_registered_model_tag(name, ALIAS_MOVE_TAG)
        why = f"{missing} was deleted" if missing else "what is noted of it cannot be read"
        return (
            f"a move of the aliases of {name} had been interrupted, and {why}: it is set aside, "
            f"the aliases stay as they are now ({alias_state(client, name) or 'none'})"
        )
    now = alias_state(client, name)
    aliases = (CHAMPION, CHALLENGER, PREVIOUS)
    if any(now.get(key) not in (move.before.get(key), move.after.get(key)) for key in aliases):
        client.delete_registered_model_tag(name, ALIAS_MOVE_TAG)
        return (
            f"a move of the aliases of {name} by run {move.run} had been interrupted, and they "
            f"were moved elsewhere since (now {now}): they are left as they are"
        )
    _carry_out(client, name, move)
    return f"finished a move of the aliases that run {move.run} had begun: now {move.after}"


def _read_move(journal: str) -> AliasMove | None:
    """The move that a journal tag holds; None where it holds something else."""
    import msgspec

    try:
        return msgspec.json.decode(journal.encode(), type=AliasMove)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def _missing_version(client: "MlflowClient", name: str, move: AliasMove) -> str:
    """A version that a move needs and the registry has not; "" where all are there."""
    from mlflow.exceptions import MlflowException

    for uri in sorted({*move.after.values(), *move.notes}):
        try:
            client.get_model_version(name, _number(uri))
        except MlflowException:
            return uri
    return ""


def _carry_out(client: "MlflowClient", name: str, move: AliasMove) -> None:
    """Move the aliases; done again after a crash, it finishes what is left.

    Raises:
        UserError: Somebody else moved an alias at the same time.
    """
    client.set_registered_model_tag(name, ALIAS_MOVE_TAG, json.dumps(asdict(move)))
    # The old champion is noted before it loses its place.
    for alias in (PREVIOUS, CHAMPION, CHALLENGER):
        if alias in move.after:
            client.set_registered_model_alias(name, alias, _number(move.after[alias]))
        elif alias in move.before:
            client.delete_registered_model_alias(name, alias)
    now = alias_state(client, name)
    if now != move.after:
        # Before a version is said to be promoted that is not.
        client.delete_registered_model_tag(name, ALIAS_MOVE_TAG)
        raise UserError(
            f"the aliases of {name} were moved by somebody else at the same time (wanted "
            f"{move.after}, found {now}): decide who is right, then run ab_compare again"
        )
    for uri, note in move.notes.items():
        number = _number(uri)
        # One tag a move: none of them overwrites another.
        client.set_model_version_tag(name, number, f"forge.audit.{move.time}", note)
        _tag_decision(client, uri, move.outcome, move.reason, move.run)
        client.update_model_version(name, number, description=f"{note}. {move.reason}")
    client.delete_registered_model_tag(name, ALIAS_MOVE_TAG)


def note_decision(client: "MlflowClient", uri: str, decision: "Decision", run_id: str) -> None:
    """Leave a decision that moves nothing in the tags of the version that it is about."""
    _tag_decision(client, uri, decision.outcome, decision.reason, run_id)


def _tag_decision(client: "MlflowClient", uri: str, outcome: str, reason: str, run_id: str) -> None:
    name, number = uri.removeprefix("models:/").rpartition("/")[::2]
    tags = {"decision": outcome, "decision_reason": reason, "decision_run": run_id}
    for key, value in tags.items():
        client.set_model_version_tag(name, number, f"forge.{key}", value)


def _number(uri: str) -> str:
    return uri.rpartition("/")[2]


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
