"""Moving aliases: the champion's place changes hands here and nowhere else."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from steps import config
from steps.errors import UserError
from steps.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Side, find_alias
from steps.tracking.runs import StepRun

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from steps.comparison.decision import Decision

LOCK_SECONDS = 600


@contextmanager
def promotion_lock(training: config.Training) -> Iterator[None]:
    """One decision at a time on this host for one registered model.

    Raises:
        UserError: Another one holds the lock for too long.
    """
    from filelock import FileLock, Timeout

    from steps.training.models import cache_folder

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
    state = {}
    for alias in (CHAMPION, CHALLENGER, PREVIOUS):
        side = find_alias(client, name, alias)
        if side is not None:
            state[alias] = side.uri
    return state


def promote_version(
    run: StepRun, name: str, winner: Side, decision: "Decision", before: Mapping[str, str]
) -> str:
    """Make the winner champion, keep the old one as previous_champion, drop challenger.

    The order makes a crash harmless: the old champion is noted first, so that a rerun, which
    decides the same, finds what is left to do.

    Returns:
        One line that says what moved.

    Raises:
        UserError: The winner is no registered version, or an alias moved meanwhile.
    """
    client = run.client
    if winner.version is None:
        raise UserError(f"{winner.uri} is no registered version and cannot be promoted")
    now = alias_state(client, name)
    if now != dict(before):
        raise UserError(
            f"the aliases of {name} were moved meanwhile (from {dict(before)} to {now}): "
            "nothing was changed here; run ab_compare again"
        )
    old = find_alias(client, name, CHAMPION)
    if old is not None and old.version is not None and old.uri != winner.uri:
        client.set_registered_model_alias(name, PREVIOUS, old.version.version)
        _audit(client, name, old, f"replaced by {winner.uri}", run, decision)
    client.set_registered_model_alias(name, CHAMPION, winner.version.version)
    _audit(client, name, winner, "promoted", run, decision)
    if CHALLENGER in now:
        client.delete_registered_model_alias(name, CHALLENGER)
    before_name = old.uri if old else "nothing"
    return f"promoted: @{CHAMPION} is now {winner.uri} (before: {before_name})"


def roll_back(run: StepRun, name: str) -> str:
    """Bring the previous champion back.

    Raises:
        UserError: There is none.
    """
    client = run.client
    previous = find_alias(client, name, PREVIOUS)
    current = find_alias(client, name, CHAMPION)
    if previous is None or previous.version is None:
        raise UserError(
            f"{name} has no version with the alias @{PREVIOUS}: nothing to roll back to"
        )
    client.set_registered_model_alias(name, CHAMPION, previous.version.version)
    client.delete_registered_model_alias(name, PREVIOUS)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    client.set_model_version_tag(
        name, previous.version.version, "forge.audit", f"{now} rolled back to by run {run.id}"
    )
    run.tag(decision="rollback", champion_after=previous.uri)
    before = current.uri if current else "nothing"
    return f"rolled back: @{CHAMPION} is now {previous.uri} (before: {before})"


def _audit(
    client: "MlflowClient", name: str, side: Side, what: str, run: StepRun, decision: "Decision"
) -> None:
    assert side.version is not None
    number = side.version.version
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    client.set_model_version_tag(name, number, "forge.audit", f"{now} {what}, run {run.id}")
    client.set_model_version_tag(name, number, "forge.decision", decision.outcome)
    client.set_model_version_tag(name, number, "forge.decision_run", run.id)
    client.update_model_version(name, number, description=f"{what}. {decision.reason}")
