"""Whom `generate` asks where nobody is named."""

import mlflow
import pytest

from steps.config.sections import Mlflow, Training
from steps.errors import UserError
from steps.tracking.generations import resolve_asked

LAB = Training(mlflow=Mlflow(registered_model_name="lab"))


def test_the_champion_is_asked_and_nobody_takes_its_place(client: mlflow.MlflowClient) -> None:
    with pytest.raises(UserError, match="no version of 'lab' has the alias champion"):
        resolve_asked(client, "", LAB)
    client.create_registered_model("lab")
    for number in (1, 2):
        client.create_model_version("lab", source=f"s3://somewhere/{number}")
    client.set_registered_model_alias("lab", "challenger", "2")
    with pytest.raises(UserError, match="models:/NAME@challenger"):
        resolve_asked(client, "", LAB)
    client.set_registered_model_alias("lab", "champion", "1")
    assert resolve_asked(client, "", LAB).uri == "models:/lab/1"
    assert resolve_asked(client, "models:/lab@challenger", LAB).uri == "models:/lab/2"
    assert resolve_asked(client, "base", LAB).uri == "base"
