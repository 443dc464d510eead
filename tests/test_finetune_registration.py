"""A training whose registration fails is not lost: the message says what is there, and goes on."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

from tests.support.processes import newest


def run_step(name: str, config: Path, *arguments: str, code: int = 0) -> str:
    from importlib import import_module

    command = import_module(f"steps.{name}").main
    result = CliRunner().invoke(command, ["--config", str(config), *arguments])
    assert result.exit_code == code, result.output
    return result.output


def refusing(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("the registry has no room", INTERNAL_ERROR)

    monkeypatch.setattr(mlflow.MlflowClient, call, refuse)


def test_a_finished_training_is_registered_without_training_again(
    store: str, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    run_step("preprocess", tiny_config)
    with monkeypatch.context() as refused:
        refusing("create_model_version", refused)
        said = run_step("finetune", tiny_config, code=2)
    failed = newest(client, "finetune").info.run_id
    assert "no version was registered" in said
    assert f"`--resume {failed}` registers it without training again" in said
    assert len(client.search_model_versions("name = 'tiny'")) == 0

    said = run_step("finetune", tiny_config, "--resume", failed)
    assert "steps done after the resume: 0 of" in said
    version = client.get_model_version_by_alias("tiny", "challenger")
    assert version.run_id == newest(client, "finetune").info.run_id


def test_a_version_without_its_alias_is_said_to_exist(
    store: str, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    run_step("preprocess", tiny_config)
    with monkeypatch.context() as refused:
        refusing("set_registered_model_alias", refused)
        said = run_step("finetune", tiny_config, code=2)
    assert "models:/tiny/1 is registered, but could not get the alias 'challenger'" in said
    assert len(client.search_model_versions("name = 'tiny'")) == 1
