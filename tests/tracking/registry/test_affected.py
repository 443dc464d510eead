"""Versions that learned from papers which were retracted since."""

from pathlib import Path
from typing import Any

import mlflow
import pytest

from steps.papers.identifiers import Identity
from steps.papers.ledger import LEDGER_FILE, LedgerEntry, write_ledger
from steps.papers.retractions import Retractions
from steps.tracking.registry.affected import AffectedVersion, affected_versions, say_affected

NAME = "genomics"
RETRACTED = Retractions("list.csv", frozenset({"102", "10.1/p7"}))


class Registry:
    """A store with datasets, training runs and versions."""

    def __init__(self, tmp_path: Path) -> None:
        self.client = mlflow.MlflowClient()
        self.folder = tmp_path
        self.experiment = self.client.create_experiment("affected")
        self.client.create_registered_model(NAME)

    def dataset(self, train: list[int], test: list[int]) -> str:
        run = self.client.create_run(self.experiment)
        splits = dict.fromkeys(train, "train") | dict.fromkeys(test, "test")
        entries = [
            LedgerEntry(
                str(100 + n), split, "cc-by", Identity(str(100 + n), f"10.1/p{n}"), "", "", "", ""
            )
            for n, split in splits.items()
        ]
        write_ledger(entries, self.folder / LEDGER_FILE)
        self.client.log_artifact(run.info.run_id, str(self.folder / LEDGER_FILE), "dataset")
        return str(run.info.run_id)

    def version(self, dataset: str | None, resumed: str = "") -> str:
        tags: dict[str, Any] = {} if dataset is None else {"forge.dataset_run": dataset}
        if resumed:
            tags["forge.resumed_from"] = f"{resumed}:3"
        run = self.client.create_run(self.experiment, tags=tags)
        source = f"runs:/{run.info.run_id}/adapter"
        self.client.create_model_version(NAME, source=source, run_id=run.info.run_id)
        return str(run.info.run_id)

    def alias(self, name: str, version: int) -> None:
        self.client.set_registered_model_alias(NAME, name, str(version))

    def affected(self) -> list[AffectedVersion]:
        return affected_versions(self.client, NAME, RETRACTED, self.folder / "scratch")


@pytest.fixture
def registry(store: str, tmp_path: Path) -> Registry:
    """An empty registry."""
    return Registry(tmp_path)


def uri(number: int) -> str:
    return f"models:/{NAME}/{number}"


def test_affected_versions_are_found_by_any_identifier_and_through_resumed_runs(
    registry: Registry,
) -> None:
    clean = registry.dataset([1, 3, 4], [2, 7])  # the retracted ones are not learned from
    by_pmid = registry.dataset([1, 2], [5])
    by_doi = registry.dataset([6, 7], [1])
    registry.version(clean)  # 1
    first = registry.version(by_pmid)  # 2
    registry.version(by_doi)  # 3
    registry.version(clean, resumed=first)  # 4: began on another dataset
    registry.version(None)  # 5: does not say
    registry.alias("champion", 3)
    registry.alias("previous_champion", 1)
    found = {version.uri: version for version in registry.affected()}
    assert list(found) == [uri(3), uri(5), uri(4), uri(2)]
    assert found[uri(2)].papers == found[uri(4)].papers == ("102",)
    assert found[uri(3)] == AffectedVersion(uri(3), ("champion",), ("107",), "")
    assert found[uri(5)].papers == ()
    assert "which dataset" in found[uri(5)].unknown


def test_what_is_to_be_done_is_said_for_the_champion(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    affected, clean = registry.dataset([2, 7], [1]), registry.dataset([1], [2])
    registry.version(affected)
    registry.version(affected)
    registry.alias("previous_champion", 1)
    say_affected(registry.affected(), RETRACTED)
    assert "rollback=true" not in capsys.readouterr().out
    registry.alias("champion", 2)
    say_affected(registry.affected(), RETRACTED)
    said = capsys.readouterr().out
    assert f"{uri(2)} (champion) was trained on 2 papers (102, 107), retracted by list.csv" in said
    assert "mlflow run . -e ab_compare -P rollback=true" in said
    assert "the previous champion is affected as well" in said
    registry.version(clean)
    registry.alias("previous_champion", 3)
    say_affected(registry.affected(), RETRACTED)
    assert "as well" not in capsys.readouterr().out


def test_a_dataset_without_a_ledger_is_read_from_its_manifest(
    registry: Registry, tmp_path: Path
) -> None:
    run = registry.client.create_run(registry.experiment)
    (tmp_path / "manifest.json").write_text(
        '{"splits": {"train": {"paper_ids": ["10.1/p7", "5"]}, "test": {"paper_ids": ["102"]}}}',
        encoding="utf-8",
    )
    registry.client.log_artifact(run.info.run_id, str(tmp_path / "manifest.json"), "dataset")
    registry.version(run.info.run_id)
    (found,) = registry.affected()
    assert found.papers == ("10.1/p7",)


def test_a_dataset_that_is_gone_is_a_gap_and_no_crash(registry: Registry) -> None:
    registry.version(registry.client.create_run(registry.experiment).info.run_id)
    (found,) = registry.affected()
    assert found.papers == ()
    assert "neither its ledger nor its manifest" in found.unknown
