"""`compare_runs` as a user runs it, on a store with several finetune runs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.trained_store import Trained, trained_store

FIGURE = "test/bits_per_byte"
SHORT = "hyperparameters.max_steps=12"


@dataclass(frozen=True)
class Store:
    """A trained store with more finetune runs, all but the last evaluated."""

    made: Trained
    runs: dict[str, str]

    def compare(self, *arguments: str, code: int = 0) -> str:
        """Run the step."""
        return self.made.step("compare_runs", *arguments, code=code)

    def left(self, folder: Path) -> tuple[dict[str, Any], str]:
        """What the newest comparison has left: the data and the page."""
        run_id = self.made.runs("compare_runs")[0].info.run_id
        data = json.loads(self.made.fetch(run_id, "comparison.json", folder).read_text("utf-8"))
        return data, self.made.fetch(run_id, "comparison.html", folder).read_text("utf-8")


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, _migrated_database: Path, tiny_llama_folder: Path
) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("compared")
    with trained_store(folder, _migrated_database, tiny_llama_folder, SHORT) as made:
        others = {"r": "qlora.r=4", "rate": "hyperparameters.learning_rate=1e-3"}
        runs = {"plain": made.training}
        for name, override in others.items():
            made.step("finetune", "--overrides", f"{SHORT} {override}")
            runs[name] = made.runs("finetune")[0].info.run_id
        for version in (1, 2, 3):
            made.step("evaluate", "--model", f"models:/tiny/{version}")
        yield Store(made, runs)


def test_the_page_shows_settings_that_differ_the_ranking_and_all_pairs(
    stored: Store, tmp_path: Path
) -> None:
    said = stored.compare()
    assert "Lower bits per byte is better." in said
    assert "comparison.html" in said
    data, page = stored.left(tmp_path)

    assert set(data["runs"][0]["settings"]) == {"qlora.r", "hyperparameters.learning_rate"}
    assert {run["run"] for run in data["runs"]} == set(stored.runs.values())
    (group,) = data["groups"]
    assert group["metric"] == "bits_per_byte" and not group["higher_is_better"]
    values = [model["value"] for model in group["models"]]
    assert values == sorted(values) and len(values) == 4
    # Three runs and their base: six pairs, over the same papers, corrected together.
    pairs = group["pairs"]
    assert len(pairs) == 6
    assert all(pair["adjusted_p_value"] >= pair["p_value"] for pair in pairs)
    assert data["not_compared"] == {}
    # No setting but those that differ, nothing from elsewhere, and pictures with words.
    assert "qlora.lora_alpha" not in page
    assert not any(part in page for part in ("<script", "<link", "src=", 'href="http', "url(http"))
    assert page.count('role="img" aria-label=') == page.count("<figure>") == 4
    assert "does not show what caused what" in page


def test_a_training_run_carries_the_main_figures_of_its_evaluation(stored: Store) -> None:
    client = stored.made.client
    evaluations = {run.info.run_id: run for run in stored.made.runs("evaluate")}
    for run_id in stored.runs.values():
        run = client.get_run(run_id)
        evaluation = evaluations[run.data.tags["forge.tested_by"]]
        assert evaluation.data.tags["forge.model_run"] == run_id
        assert run.data.metrics[FIGURE] == evaluation.data.metrics[FIGURE]
        assert run.data.tags["forge.tested_dataset_digest"]
        # No interval ends, no counts, no plan: they would fill the charts.
        shown = [name for name in run.data.metrics if name.startswith(("test/", "plan/"))]
        assert not any("_ci_" in name or name.startswith("plan/") for name in shown)
        assert 1 <= len(shown) <= 8


def test_an_older_evaluation_that_is_met_again_changes_nothing(stored: Store) -> None:
    from steps.tracking.trained_run import log_with_training

    client, run_id = stored.made.client, stored.runs["plain"]
    tested = client.get_run(run_id).data.tags["forge.tested_by"]
    before = client.get_metric_history(run_id, FIGURE)
    assert not log_with_training(client, tested)
    assert client.get_metric_history(run_id, FIGURE) == before


def test_one_run_and_an_unknown_one(stored: Store, tmp_path: Path) -> None:
    run_id = stored.runs["plain"]
    said = stored.compare("--runs", run_id, "--overrides", "comparison.cluster_by=journal")
    assert "comparison.cluster_by=journal is for ab_compare" in said
    data, page = stored.left(tmp_path)
    assert [run["run"] for run in data["runs"]] == [run_id]
    assert data["effects"] == []
    assert "A single run" in page

    said = stored.compare("--runs", run_id[:8], code=2)
    assert f"did you mean {run_id}?" in said
    said = stored.compare("--runs", "tinny", code=2)
    assert "did you mean tiny?" in said
    said = stored.compare("--runs", stored.made.dataset, code=2)
    assert "is a run of preprocess, expected one of finetune" in said


def test_a_run_whose_evaluation_was_deleted_is_shown_by_its_validation(
    stored: Store, tmp_path: Path
) -> None:
    client = stored.made.client
    tested = client.get_run(stored.runs["rate"]).data.tags["forge.tested_by"]
    client.delete_run(tested)
    try:
        stored.compare("--runs", "tiny")
        data, page = stored.left(tmp_path)
    finally:
        client.restore_run(tested)
    (run,) = (one for one in data["runs"] if one["run"] == stored.runs["rate"])
    assert run["test"] is None and run["validation"] is not None
    assert data["not_compared"] == {run["name"]: "it has no results on a test split"}
    assert len(data["groups"][0]["models"]) == 3
    assert "not evaluated" in page


def test_an_experiment_without_finished_runs_has_nothing_to_compare(stored: Store) -> None:
    stored.made.client.create_experiment("empty")
    assert "nothing to compare" in stored.compare("--runs", "empty")
