"""The names under which checkpoints lie in the store."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from steps.pruning.records import CheckpointKey, RunState
from steps.tracking.heartbeat import sign_of_life
from steps.tracking.names import CHECKPOINTS_FOLDER, PIN_TAG, RESUMED_TAG, STOPPED, TRIAL_STATE_TAG

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run


CHECKPOINT_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
LEFTOVER_NAME = re.compile(r"\.checkpoint-([0-9]+)\.(partial|trash)-[0-9]+")
_CHECKPOINT_URI = re.compile(rf"(?:^|/){CHECKPOINTS_FOLDER}/checkpoint-([0-9]+)/?$")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
# The server answers small requests slower than it could: several are under way at a time.
THREADS = 8


def resumed_from(run: "Run") -> CheckpointKey | None:
    """The checkpoint that a run says it resumed from (`RUN_ID:STEP` or a checkpoint's URI)."""
    text = run.data.tags.get(RESUMED_TAG, "")
    origin = _RUN_ID.search(text)
    step = re.search(r"([0-9]+)/?$", text[origin.end() :]) if origin else None
    return (origin[0], int(step[1])) if origin and step else None


def run_state(run: "Run") -> RunState:
    """Whether a run lives, has finished, or may still be resumed."""
    if sign_of_life(run):
        return "living"
    if run.data.tags.get(TRIAL_STATE_TAG) == STOPPED:
        # By a sweep that found it worse than others: nobody goes on from it.
        return "finished"
    return "finished" if run.info.status == "FINISHED" else "unfinished"


def is_pinned(tags: Mapping[str, str], step: int) -> bool:
    """Whether a run's tags say that its checkpoint of this step stays."""
    names = (PIN_TAG, f"{PIN_TAG}.checkpoint-{step}")
    return any(tags.get(name, "false").lower() != "false" for name in names)


def checkpoint_of_model(model: "LoggedModel") -> CheckpointKey | None:
    """The checkpoint whose LoggedModel this is, or None."""
    for name, value in (model.tags or {}).items():
        place = _CHECKPOINT_URI.search(value)
        if name.startswith("forge.") and name != RESUMED_TAG and place and model.source_run_id:
            run_ids = _RUN_ID.findall(value)
            if not run_ids or model.source_run_id in run_ids:
                return model.source_run_id, int(place[1])
    return None


def model_is_pinned(model: "LoggedModel") -> bool:
    """Whether a checkpoint's LoggedModel says that it is to be kept."""
    return str((model.tags or {}).get(PIN_TAG, "false")).lower() != "false"
