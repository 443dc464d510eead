"""The release step on a trained tiny model, against one real store."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.trained_store import Trained, trained_store


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, _migrated_database: Path, tiny_llama_folder: Path
) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("trained")
    with trained_store(folder, _migrated_database, tiny_llama_folder) as made:
        yield made


def test_forms_that_score_as_the_version_are_stored_with_their_figures(
    trained: Trained, tmp_path: Path
) -> None:
    said = trained.step("release", "--model", "models:/tiny/1")
    (run,) = trained.runs("release")
    fidelity = json.loads(trained.fetch(run.info.run_id, "fidelity.json", tmp_path).read_text())
    print(said, json.dumps(fidelity, indent=1))
    assert [form["form"] for form in fidelity["forms"]] == ["adapter", "merged"]
