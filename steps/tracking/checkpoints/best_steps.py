"""The checkpoints whose weights a resumed run would end on."""

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from steps.pruning.records import CheckpointKey, CheckpointRecord
from steps.tracking.checkpoints.layout import THREADS, resumed_from
from steps.tracking.checkpoints.stored import (
    artifact_repository,
)
from steps.tracking.names import CHECKPOINTS_FOLDER

if TYPE_CHECKING:
    from mlflow.entities import Run


class _TrainerState(msgspec.Struct):
    """What of a checkpoint's `trainer_state.json` is looked at."""

    best_global_step: int | None = None


def best_steps_needed(
    runs: "Sequence[Run]", resumed: "Sequence[Run]", records: Sequence[CheckpointRecord]
) -> dict[CheckpointKey, str]:
    """Find the checkpoints that hold the best weights of runs that may be resumed.

    The best step may lie before a run's own start: then it is one of its origin's.
    """
    origins = {run.info.run_id: key[0] for run in resumed if (key := resumed_from(run))}
    asked: list[tuple[Run, CheckpointRecord]] = []
    for run in runs:
        mine = [record for record in records if record.run_id == run.info.run_id]
        able = [r for r in mine if r.resumable and r.run_state != "finished"]
        able.sort(key=lambda record: record.step)
        stored = [record for record in able if record.in_store]
        points = {record.step: record for record in able[-1:] + stored[-1:]}
        asked.extend((run, record) for record in points.values())
    needed: dict[CheckpointKey, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        bests = pool.map(lambda entry: _best_step(*entry), asked)
        for (run, record), best in zip(asked, bests, strict=True):
            owner: str | None = run.info.run_id
            passed: set[str] = set()
            while best not in (None, record.step) and owner is not None and owner not in passed:
                passed.add(owner)
                needed[owner, best or 0] = run.info.run_id
                owner = origins.get(owner)
    return needed


def _best_step(run: "Run", record: CheckpointRecord) -> int | None:
    """The best validated step up to a checkpoint, from its trainer state; None: there is none."""
    path = f"{CHECKPOINTS_FOLDER}/checkpoint-{record.step}/trainer_state.json"
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(record.folder) / "trainer_state.json" if record.folder else None
        if record.in_store:
            repository = artifact_repository(run)
            if not any(
                entry.path == path for entry in repository.list_artifacts(str(Path(path).parent))
            ):
                return None
            file = Path(repository.download_artifacts(path, scratch))
        if file is None or not file.is_file():
            return None
        content = file.read_bytes()
    try:
        best = msgspec.json.decode(content, type=_TrainerState).best_global_step
    except msgspec.MsgspecError:
        # Nobody can resume from a checkpoint with a broken state.
        return None
    return best or None
