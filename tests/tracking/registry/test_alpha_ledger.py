"""What decisions spend follows the papers, and nobody spends the same share twice."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from steps.tracking.datasets import StoredDataset
from steps.tracking.registry.alpha_ledger import Place, place_in_budget, question_of
from steps.tracking.runs import StepRun
from steps.tracking.spool import Spool

NAME = "own lab's model"


class Ledger:
    """Datasets of a store, and decisions on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = mlflow.MlflowClient()
        self.experiment = self.client.create_experiment("decisions")

    def dataset(self, papers: Sequence[str], experiment: str | None = None) -> StoredDataset:
        """A preprocess run whose test split holds these papers."""
        run = self.client.create_run(
            experiment or self.experiment, tags={"forge.step": "preprocess"}
        )
        manifest = {"splits": {"test": {"paper_ids": list(papers)}}}
        file = self.folder / "manifest.json"
        file.write_text(json.dumps(manifest))
        self.client.log_artifact(run.info.run_id, str(file), "dataset")
        self.client.set_terminated(run.info.run_id)
        return StoredDataset(run.info.run_id, f"sha256:{run.info.run_id}", self.folder, manifest)

    def ask(self, stored: StoredDataset, *questions: str, name: str = NAME) -> int:
        """Enter a decision from a run of its own; how many were before it."""
        return self.place(stored, *questions, name=name).before

    def place(self, stored: StoredDataset, *questions: str, name: str = NAME) -> Place:
        """Enter a decision from a run of its own."""
        run = self.client.create_run(self.experiment, tags={"forge.step": "ab_compare"})
        spool = Spool(self.folder / "spool" / run.info.run_id, run.info.run_id)
        step = StepRun(run.info.run_id, self.experiment, self.client, self.folder, spool, 0.0)
        return place_in_budget(step, name, stored, questions)


@pytest.fixture
def ledger(store: str, tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def test_each_question_spends_once(ledger: Ledger) -> None:
    stored = ledger.dataset(["a", "b"])
    assert [ledger.ask(stored, one) for one in ("p", "q", "p", "r", "q")] == [0, 1, 0, 2, 1]


def test_a_pair_of_an_earlier_decision_keeps_its_share(ledger: Ledger) -> None:
    """Asked alone after it was asked with others, it is tested as it was then."""
    stored = ledger.dataset(["a", "b"])
    assert ledger.place(stored, "p", "q") == Place(0, 2)
    assert ledger.place(stored, "q") == Place(0, 2)
    assert ledger.place(stored, "q", "p") == Place(0, 2)
    # With a new one beside it, it is another decision.
    assert ledger.place(stored, "q", "r") == Place(1, 2)


def test_each_registered_model_has_its_own_budget(ledger: Ledger) -> None:
    stored = ledger.dataset(["a"])
    assert ledger.ask(stored, "p") == 0
    assert ledger.ask(stored, "p", name="another") == 0


def test_the_budget_follows_the_papers(ledger: Ledger) -> None:
    elsewhere = ledger.client.create_experiment("elsewhere")
    first = ledger.dataset(["a", "b"])
    ledger.ask(first, "p")
    ledger.ask(first, "q")
    # One paper is enough, in another experiment too; and one that shares with the sharing one.
    sharing = ledger.dataset(["b", "c"], elsewhere)
    assert ledger.ask(sharing, "r") == 2
    assert ledger.ask(ledger.dataset(["c", "d"]), "s") == 3
    assert ledger.ask(ledger.dataset(["x", "y"]), "t") == 0
    # Made anew from the same papers, a dataset knows the question.
    assert ledger.ask(ledger.dataset(["a", "b"]), "q") == 1


def test_papers_that_are_gone_count_as_shared(ledger: Ledger) -> None:
    gone = ledger.dataset(["a"])
    ledger.ask(gone, "p")
    ledger.client.delete_run(gone.run_id)
    (Path(mlflow.get_run(gone.run_id).info.artifact_uri) / "dataset" / "manifest.json").unlink()
    assert ledger.ask(ledger.dataset(["z"]), "q") == 1


def test_decisions_at_the_same_moment_cannot_spend_the_same(ledger: Ledger) -> None:
    stored = ledger.dataset(["a", "b"])
    with ThreadPoolExecutor(8) as pool:
        before = list(pool.map(lambda n: ledger.ask(stored, f"question {n}"), range(8)))
    assert sorted(before) == list(range(8))


def test_another_pair_rule_or_dataset_is_another_question() -> None:
    pair, rule = {"champion": "base"}, {"min_gain": 0.002}
    questions = {
        question_of(pair, rule, "sha256:1"),
        question_of(pair, rule, "sha256:2"),
        question_of(pair, {"min_gain": 0.001}, "sha256:1"),
        question_of({"champion": "models:/x/1"}, rule, "sha256:1"),
    }
    assert len(questions) == 4
    assert question_of(dict(pair), dict(rule), "sha256:1") in questions


def test_decisions_from_before_the_ledger_count(ledger: Ledger) -> None:
    stored = ledger.dataset(["a"])
    tags = {"forge.step": "ab_compare", "forge.dataset_digest": stored.digest}
    old = ledger.client.create_run(ledger.experiment, tags=tags)
    ledger.client.set_terminated(old.info.run_id)
    assert ledger.ask(stored, "p") == 1
