"""`ab_compare` as a user runs it: what it spends, what it refuses, what it never promotes."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.support.processes import newest, step

REGISTERED = "training.mlflow.registered_model_name"


def decision_of(run_id: str, folder: Path) -> dict[str, Any]:
    client = mlflow.MlflowClient()
    file = Path(client.download_artifacts(run_id, "decision.json", str(folder)))
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def alpha_entries(run_id: str) -> int:
    return sum(key.startswith("forge.alpha.") for key in mlflow.get_run(run_id).data.params)


def test_decisions_spend_the_papers_and_refuse_or_doubt_what_is_no_evidence(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    given = ("--config", str(tiny_config))

    def overridden(*overrides: str) -> tuple[str, ...]:
        return (*given, "--overrides", " ".join(overrides))

    step("preprocess", tmp_path, *given)
    prepared = newest(client, "preprocess").info.run_id
    step("finetune", tmp_path, *given)

    # Asked twice, the same question spends once and is answered alike.
    sides = ("--champion", "base", "--challenger", "models:/tiny/1", "--promote", "never")
    first = step("ab_compare", tmp_path, *given, *sides)
    one = decision_of(newest(client, "ab_compare").info.run_id, tmp_path / "one")
    assert "no alias is moved (promote=never)" in first
    assert "takes the place" not in first
    assert "Few papers: below 60" in first
    step("ab_compare", tmp_path, *given, *sides)
    two = decision_of(newest(client, "ab_compare").info.run_id, tmp_path / "two")
    assert one["decisions"][0]["alpha"] == two["decisions"][0]["alpha"] == pytest.approx(0.04)
    assert alpha_entries(prepared) == 1

    # Another rule is another question, and so it spends.
    rule = overridden("training.comparison.min_gain=0.001")
    third = step("ab_compare", tmp_path, *rule, *sides)
    assert "served 1 decision before, which spent 0.04 of alpha 0.05" in third
    assert "would allow 0.04" in third
    assert alpha_entries(prepared) == 2

    # What cannot be decided is refused before minutes are spent, and spends nothing.
    groups = overridden("training.comparison.cluster_by=author")
    said = step("ab_compare", tmp_path, *groups, *sides, code=2)
    assert "cluster_by is 'author', expected journal or cluster" in said
    guard = "{metric: general, margin: 0.1, direction: higher_is_better}"
    refused = overridden(f"training.comparison.guards=[{guard}]")
    assert "direction of" in step("ab_compare", tmp_path, *refused, *sides, code=2)
    assert alpha_entries(prepared) == 2

    # A version of another registered model has no claim to this one's place.
    said = step("ab_compare", tmp_path, *overridden(f"{REGISTERED}=other"), *sides, code=2)
    assert "models:/tiny/1 is a version of tiny, and the champion's place is one of other" in said
    assert alpha_entries(prepared) == 2

    # Papers that it was trained on show nothing, whatever the gain.
    step("preprocess", tmp_path, *overridden("training.scientific_data.split.salt=another"))
    said = step("ab_compare", tmp_path, *given, *sides[:4], code=2)
    assert "was trained on" in said
    assert "on which nothing is ever promoted" in said
    allowed = "training.evaluation.allow_trained_papers=true"
    said = step("ab_compare", tmp_path, *overridden(allowed), *sides[:4])
    decided = newest(client, "ab_compare")
    assert decided.data.tags["forge.decision"] == "inconclusive", said
    assert "of these papers, so its gain shows nothing" in said
    page = client.get_model_version("tiny", "1").tags
    assert page["forge.decision"] == "inconclusive"
    assert page["forge.decision_reason"] == decided.data.tags["forge.decision_reason"]
    assert "champion" not in client.get_registered_model("tiny").aliases
