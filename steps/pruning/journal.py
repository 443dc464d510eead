"""The journal of a deletion, so that a killed one can be finished."""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from steps.errors import UserError
from steps.pruning.records import Action, Identity, PendingAction, identity_of


def carry_out(
    actions: Sequence[Action],
    journal: "Journal",
    still_protected: Callable[[Action], str | None],
    perform: Callable[[Action], None],
) -> list[tuple[Action, str]]:
    """Perform the actions one by one, each noted in the journal before and after.

    Args:
        actions: What to do (`actions_to_take`).
        journal: Where it is noted first.
        still_protected: Asked right before each action, since the registry may have changed
            after the plan was made: why it may no longer be done, or None.
        perform: Removes a checkpoint's bytes. It must accept that some or all of them are gone
            already, because it is called again after a crash. What it raises ends the work.

    Returns:
        The actions that were not performed, each with the reason.
    """
    spared: list[tuple[Action, str]] = []
    if not actions:
        return spared
    journal.intend(actions)
    for action in actions:
        reason = still_protected(action)
        if reason is not None:
            spared.append((action, reason))
            continue
        # A deletion is begun on the disk before its first file goes: see `Journal`.
        journal.begin(action)
        perform(action)
        journal.finish(action)
    return spared


class _Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the journal."""

    event: Literal["intended", "begun", "done"]
    at: datetime
    actions: list[Action]


class Journal:
    """A write-ahead log of removals, as JSON Lines: intended, begun, done.

    It is on the disk before the first byte goes, so that after a crash it tells which
    checkpoints may be half gone. It only grows, and is the record of what was removed and why.
    """

    def __init__(self, path: Path) -> None:
        """Take the file's path; it is made when something is first intended."""
        self.path = path

    def intend(self, actions: Sequence[Action]) -> None:
        """Note what is to be removed. Earlier intentions that were not begun lapse."""
        self._append("intended", actions)

    def begin(self, action: Action) -> None:
        """Note that files go from now on."""
        self._append("begun", [action])

    def finish(self, action: Action) -> None:
        """Note that all is gone that was to go."""
        self._append("done", [action])

    def pending(self) -> list[PendingAction]:
        """List what was intended and not done, in the order of the intentions.

        Raises:
            UserError: A line is not one of a journal.
        """
        pending: dict[Identity, PendingAction] = {}
        for event in self._events():
            if event.event == "intended":
                pending = {key: entry for key, entry in pending.items() if entry.begun}
            for action in event.actions:
                identity = identity_of(action)
                if event.event == "done":
                    pending.pop(identity, None)
                elif event.event == "begun":
                    pending[identity] = PendingAction(action, begun=True)
                else:
                    pending.setdefault(identity, PendingAction(action, begun=False))
        return list(pending.values())

    def _events(self) -> list[_Event]:
        if not self.path.exists():
            return []
        events = []
        # What follows the last line end was cut off by a crash before it was on the disk, and so
        # before anything was done about it.
        complete = self.path.read_bytes().split(b"\n")[:-1]
        for number, line in enumerate(complete, start=1):
            try:
                events.append(msgspec.json.decode(line, type=_Event))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise UserError(
                    f"{self.path}, line {number}: not an entry of a pruning journal ({error}): "
                    "move the file away, then check the checkpoints that it names"
                ) from None
        return events

    def _append(
        self, event: Literal["intended", "begun", "done"], actions: Sequence[Action]
    ) -> None:
        line = msgspec.json.encode(_Event(event, datetime.now(UTC), list(actions))) + b"\n"
        is_new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            _cut_torn_line(file)
            file.write(line)
            file.flush()
            # A lost `done` only means that a removal is repeated; the others must not be lost.
            if event != "done":
                os.fsync(file.fileno())
        if is_new:
            _fsync_folder(self.path.parent)


def _cut_torn_line(file: BinaryIO) -> None:
    """Cut off what a crash left behind the last line end, or the next line would join it."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(end - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
