"""Which model is meant when none is named."""

import mlflow
import pytest

from steps.config.file import load_config
from steps.errors import UserError
from steps.tracking.registry.model_reference import resolve_model

NAME = "genomics"


def test_the_challenger_is_meant_else_the_champion_and_that_is_said(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client = mlflow.MlflowClient()
    overrides = f"training.mlflow.registered_model_name={NAME}"
    training = load_config("configs/demo.yaml", overrides).training
    with pytest.raises(UserError, match="has the alias challenger or champion: run finetune"):
        resolve_model(client, "", training)
    run = client.create_run(client.create_experiment("meant")).info.run_id
    client.create_registered_model(NAME)
    for _ in range(2):
        client.create_model_version(NAME, source=f"runs:/{run}/adapter", run_id=run)
    with pytest.raises(UserError, match="has the alias challenger or champion"):
        resolve_model(client, "", training)
    client.set_registered_model_alias(NAME, "champion", "1")
    assert resolve_model(client, "", training).uri == f"models:/{NAME}/1"
    assert "has no challenger: the champion, genomics/1, is taken" in capsys.readouterr().out
    client.set_registered_model_alias(NAME, "challenger", "2")
    assert resolve_model(client, "", training).uri == f"models:/{NAME}/2"
    assert capsys.readouterr().out == ""
