"""What decisions on test papers have spent of their alpha, kept in the store.

    place = place_in_budget(run, name, stored, questions)

Each decision is a parameter of the preprocess run whose test papers it read. A parameter is written
once and then refuses every other value, so that of two decisions that are made at once, on
whatever hosts, one has the smaller number. The ledger follows the papers: a dataset whose test
papers overlap with those of a spent one goes on where that one is, and so does one whose papers can
no longer be read.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.tracking.artifacts import fetch_file, remember
from steps.tracking.names import (
    ALPHA_PARAM,
    DATASET_DIGEST_TAG,
    DATASET_FOLDER,
    QUESTIONS_TAG,
    STEP_TAG,
)

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from steps.tracking.datasets import StoredDataset
    from steps.tracking.runs import StepRun

SPLIT = "test"


@dataclass(frozen=True)
class _Spent:
    """The decisions on one dataset's test papers.

    Attributes:
        papers: Ids of the test papers; None where they cannot be read any more.
        entries: The decisions in the order of their numbers, as the store holds them.
    """

    papers: frozenset[str] | None
    entries: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Place:
    """Where a decision stands among all on the same papers.

    Attributes:
        before: Decisions that were made before it.
        challengers: Among how many challengers its level is shared.
    """

    before: int
    challengers: int


def question_of(pair: Mapping[str, Any], rule: Mapping[str, Any], digest: str) -> str:
    """What is asked of a pair, as a digest: the same question asked again spends nothing.

    Args:
        pair: Champion and challenger.
        rule: Section `comparison` of the configuration; another rule is another question.
        digest: Of the dataset.
    """
    asked = json.dumps([pair, rule, digest, SPLIT], sort_keys=True, default=str)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def place_in_budget(
    run: "StepRun", name: str, stored: "StoredDataset", questions: Sequence[str]
) -> Place:
    """Enter a decision on one or several challengers, and find its place on these papers.

    Args:
        run: The run that decides.
        name: The registered model; each has a budget of its own.
        stored: The dataset whose test papers are read.
        questions: From `question_of`, one for each challenger.

    Returns:
        A place of its own; for questions that were all asked before in one decision, the place
        that they had then.
    """
    prefix = f"{ALPHA_PARAM}.{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    others = list(_sharing_papers(run.client, prefix, stored))
    for entry in (entry for spent in others for entry in spent.entries):
        if _answers(entry, questions):
            return _place(entry)
    elsewhere = sum(len(spent.entries) for spent in others)
    elsewhere += _without_ledger(run, stored.digest)
    number = 1
    while True:
        before = elsewhere + number - 1
        wanted = {"questions": sorted(questions), "run": run.id, "before": before}
        entry = _first_entry(run.client, stored.run_id, f"{prefix}.{number}", wanted)
        if _answers(entry, questions):
            return _place(entry)
        number += 1


def _answers(entry: Mapping[str, Any], questions: Sequence[str]) -> bool:
    return set(questions) <= set(entry["questions"])


def _place(entry: Mapping[str, Any]) -> Place:
    return Place(int(entry["before"]), len(entry["questions"]))


def _first_entry(
    client: "MlflowClient", run_id: str, key: str, wanted: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Write a parameter unless there is one already; what it holds now."""
    from mlflow.exceptions import MlflowException

    params = client.get_run(run_id).data.params
    if key not in params:
        try:
            client.log_param(run_id, key, json.dumps(wanted))
        except MlflowException as error:
            # Another decision has written it in this moment.
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
        params = client.get_run(run_id).data.params
    entry: Mapping[str, Any] = json.loads(params[key])
    return entry


def _sharing_papers(
    client: "MlflowClient", prefix: str, stored: "StoredDataset"
) -> Iterator[_Spent]:
    """Spent datasets that share papers with this one, or with one that does."""
    papers = set(stored.manifest["splits"][SPLIT]["paper_ids"])
    waiting = [_read(client, one, prefix) for one in _spent_runs(client, prefix, stored.run_id)]
    grew = True
    while grew:
        grew = False
        for spent in list(waiting):
            if spent.papers is None or not papers.isdisjoint(spent.papers):
                papers |= spent.papers or set()
                waiting.remove(spent)
                grew = True
                yield spent


def _spent_runs(client: "MlflowClient", prefix: str, but: str) -> "Iterator[Run]":
    """Preprocess runs of all experiments, deleted ones too, on whose papers was decided."""
    from mlflow.entities import ViewType

    experiments = list(_experiments(client))
    token = None
    while True:
        page = client.search_runs(
            experiments,
            f"params.`{prefix}.1` != ''",
            run_view_type=ViewType.ALL,
            max_results=1000,
            page_token=token,
        )
        yield from (run for run in page if run.info.run_id != but)
        token = page.token
        if not token:
            return


def _experiments(client: "MlflowClient") -> Iterator[str]:
    from mlflow.entities import ViewType

    token = None
    while True:
        page = client.search_experiments(view_type=ViewType.ALL, page_token=token)
        yield from (one.experiment_id for one in page)
        token = page.token
        if not token:
            return


def _read(client: "MlflowClient", run: "Run", prefix: str) -> _Spent:
    keys = [key for key in run.data.params if key.startswith(f"{prefix}.")]
    keys.sort(key=lambda key: int(key.rpartition(".")[2]))
    entries = tuple(json.loads(run.data.params[key]) for key in keys)
    return _Spent(_test_papers(client, run), entries)


def _test_papers(client: "MlflowClient", run: "Run") -> frozenset[str] | None:
    from steps.tracking.store import store_errors

    path = f"{DATASET_FOLDER}/manifest.json"
    with tempfile.TemporaryDirectory() as folder:
        unreadable: tuple[type[Exception], ...] = (*store_errors(), ValueError, KeyError, TypeError)
        try:
            remember(client, run)
            file = fetch_file(client, run.info.run_id, path, Path(folder))
            manifest = json.loads(file.read_text(encoding="utf-8"))
            return frozenset(manifest["splits"][SPLIT]["paper_ids"])
        except unreadable:
            return None


def _without_ledger(run: "StepRun", digest: str) -> int:
    """Decisions on this dataset that were made before there was a ledger."""
    runs = run.client.search_runs(
        [run.experiment_id],
        f"attributes.status = 'FINISHED' and tags.`{STEP_TAG}` = 'ab_compare' "
        f"and tags.`{DATASET_DIGEST_TAG}` = '{digest}'",
        max_results=1000,
    )
    return sum(QUESTIONS_TAG not in one.data.tags for one in runs)
