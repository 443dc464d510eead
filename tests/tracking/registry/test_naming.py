"""Names that no store takes, and aliases that only decisions move, are refused at once."""

from pathlib import Path

import mlflow
import pytest

from steps.config.sections import Mlflow, Training
from steps.errors import UserError
from steps.tracking.registry.naming import check_alias, check_names, try_names
from tests.support.processes import step


@pytest.mark.parametrize("alias", ["champion", "Champion", " champion", "previous_champion"])
def test_aliases_that_decisions_move_are_refused(alias: str) -> None:
    with pytest.raises(UserError, match="moved by ab_compare alone"):
        check_alias(alias)


@pytest.mark.parametrize(
    "alias", ["v2", "V10", "latest", "LATEST", "my challenger", "a/b", "x" * 300]
)
def test_aliases_that_no_store_takes_are_refused(alias: str) -> None:
    with pytest.raises(UserError, match="--alias") as refused:
        check_alias(alias)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("alias", ["challenger", "candidate-2", "v2_long"])
def test_other_aliases_are_taken(alias: str) -> None:
    check_alias(alias)


@pytest.mark.parametrize("name", ["own-lab/model", "genome:v2", "../x", "..", "", "  "])
def test_registered_models_that_no_store_takes_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="registered_model_name"):
        check_names(Training(mlflow=Mlflow(registered_model_name=name)))


@pytest.mark.parametrize("name", ["", "x" * 501])
def test_experiments_that_no_store_takes_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="experiment_name"):
        check_names(Training(mlflow=Mlflow(experiment_name=name)))


def test_a_trial_makes_the_registered_model_and_no_version(store: str) -> None:
    client = mlflow.MlflowClient()
    for _ in range(2):
        try_names(client, "own-lab", "candidate")
    assert client.get_registered_model("own-lab").aliases == {}
    assert len(client.search_model_versions("name = 'own-lab'")) == 0


def test_what_only_the_server_refuses_is_said_before_the_training(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    client = mlflow.MlflowClient()

    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("needs catalog.schema.name", INVALID_PARAMETER_VALUE)

    monkeypatch.setattr(client, "create_registered_model", refuse)
    with pytest.raises(UserError, match=r"does not take \(needs catalog\.schema\.name\)"):
        try_names(client, "own-lab", "candidate")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--alias", "champion"), "moved by ab_compare alone"),
        (("--overrides", "training.mlflow.registered_model_name=a/b"), "registered_model_name"),
    ],
)
def test_finetune_refuses_before_anything_runs(
    store: str, tiny_config: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    said = step("finetune", tmp_path, "--config", str(tiny_config), *arguments, code=2)
    assert words in said
    client = mlflow.MlflowClient()
    assert client.search_registered_models() == []
    assert client.get_experiment_by_name("tiny") is None


def test_ab_compare_refuses_a_path_before_it_names_a_lock_after_it(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    name = "training.mlflow.registered_model_name=../../outside"
    said = step("ab_compare", tmp_path, "--config", str(tiny_config), "--overrides", name, code=2)
    assert "registered_model_name is '../../outside'" in said
    assert not list(tmp_path.rglob("*outside*"))
