"""The results that an evaluation has left in the store, read back and held against their digests.

results = read_results(run, evaluation)
results.metrics["bits_per_byte"]
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steps.digests import file_sha256
from steps.tracking.artifacts import list_files, remember
from steps.tracking.kept_results import fetch_results, keep_results
from steps.tracking.names import (
    GENERAL_FILE,
    METRICS_FILE,
    PER_PAPER_FILE,
    RESULTS_DIGEST_TAG,
    TASKS_FILE,
)
from steps.tracking.store import one_line, store_errors

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

    from steps.tracking.runs import StepRun


@dataclass(frozen=True)
class StoredResults:
    """What an evaluation run has left of one model on one split.

    Attributes:
        run_id: The evaluation run.
        tags: Of that run.
        per_paper: One row a paper of the split.
        general: The same of the general texts, or None.
        tasks: One row an item of the harness' tasks, or None.
        metrics: By name, without the split in front.
    """

    run_id: str
    tags: dict[str, str]
    per_paper: "pd.DataFrame"
    general: "pd.DataFrame | None"
    tasks: "pd.DataFrame | None"
    metrics: dict[str, float]


class ResultsChanged(Exception):
    """Files of stored results are damaged, or not those that the evaluation wrote."""


def read_results(run: "StepRun", evaluation: "Run") -> StoredResults:
    """Read the results of an evaluation run, and check them against the digests in its tags.

    Raises:
        ResultsChanged: They differ, or cannot be read.
    """
    import pandas as pd
    from pyarrow.lib import ArrowException

    run_id, tags = evaluation.info.run_id, dict(evaluation.data.tags)
    remember(run.client, evaluation)
    noted: dict[str, str] = json.loads(tags.get(RESULTS_DIGEST_TAG, "{}"))

    target = run.scratch / "evaluations" / run_id
    target.mkdir(parents=True, exist_ok=True)

    # Evaluations of earlier commits note no digests.
    there = set(noted) or {file.path for file in list_files(run.client, run_id)}
    wanted = [METRICS_FILE, PER_PAPER_FILE, *({GENERAL_FILE, TASKS_FILE} & there)]
    try:
        known = {name: noted.get(name) for name in wanted}
        files = fetch_results(run.client, run_id, known, target)
    except store_errors() as error:
        raise ResultsChanged(one_line(error)) from None

    def fetch(name: str) -> Path:
        if noted and noted.get(name) != file_sha256(files[name]):
            raise ResultsChanged(f"{name} was changed after it was written")
        return files[name]

    def fetch_frame(name: str) -> "pd.DataFrame | None":
        """A frame that not every evaluation has."""
        return pd.read_parquet(fetch(name)) if name in there else None

    try:
        keep_results(run.client, run_id, {fetch(name): noted[name] for name in files if noted})
        metrics = json.loads(fetch(METRICS_FILE).read_text(encoding="utf-8"))
        return StoredResults(
            run_id=run_id,
            tags=tags,
            per_paper=pd.read_parquet(fetch(PER_PAPER_FILE)),
            general=fetch_frame(GENERAL_FILE),
            tasks=fetch_frame(TASKS_FILE),
            metrics={name.partition("/")[2]: value for name, value in metrics.items()},
        )
    except (ValueError, OSError, ArrowException) as error:
        raise ResultsChanged(one_line(error)) from None
