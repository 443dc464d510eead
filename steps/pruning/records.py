"""What the store says of one checkpoint, and what can be done to it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

CheckpointKey = tuple[str, int]
RunState = Literal["living", "unfinished", "finished"]


@dataclass(frozen=True)
class CheckpointRecord:
    """What is known of one stored checkpoint.

    Attributes:
        run_id: The run that wrote it.
        experiment_id: That run's experiment.
        step: Optimiser steps done when it was written.
        bytes: What it takes up.
        metric: Its value of the policy's metric; None or not finite: it is not ranked.
        created: When it was written, with its time zone; the same each time it is looked up.
        location: Where it lies, for whoever deletes it.
        run_state: Whether its run lives, has finished, or may still be resumed.
        slimmable_bytes: Bytes of the files that only resuming needs; 0: nothing to slim.
        resumable: Whether every file that resuming needs is there.
        pinned: Whether a user has tagged it to stay.
        being_written: Whether it is not complete yet.
        leftover: Whether it is not complete and never will be, because its writer is gone.
        in_store: Whether the artifact store has it; False: it lies on this host's disk alone.
        folder: Its copy on this host's disk, for whoever deletes it; "": there is none.
    """

    run_id: str
    experiment_id: str
    step: int
    bytes: int
    metric: float | None
    created: datetime
    location: str
    run_state: RunState
    slimmable_bytes: int = 0
    resumable: bool = True
    pinned: bool = False
    being_written: bool = False
    leftover: bool = False
    in_store: bool = True
    folder: str = ""

    @property
    def key(self) -> CheckpointKey:
        """(run id, step)."""
        return self.run_id, self.step


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One intended removal, as the journal holds it.

    `created` tells a checkpoint from a later one that was saved under the same run and step.
    """

    what: Literal["delete", "slim"]
    experiment_id: str
    run_id: str
    step: int
    created: datetime
    location: str
    bytes: int
    reason: str
    folder: str = ""

    @property
    def key(self) -> CheckpointKey:
        """(run id, step)."""
        return self.run_id, self.step


@dataclass(frozen=True)
class PendingAction:
    """An action that the journal holds as intended and not as done.

    Attributes:
        action: What was intended.
        begun: Whether it may have taken some files already.
    """

    action: Action
    begun: bool


Identity = tuple[str, int, datetime]


def identity_of(checkpoint: CheckpointRecord | Action) -> Identity:
    """What tells a checkpoint from another that was written at the same step of the same run."""
    return checkpoint.run_id, checkpoint.step, checkpoint.created
