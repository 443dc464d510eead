"""A store that is looked at stays as it is: none is made, none is upgraded, nothing is written."""

import hashlib
import sqlite3
from pathlib import Path

import mlflow
import pytest

from steps.config.sections import Mlflow, Training
from steps.errors import UserError
from steps.tracking.reading import OpenedStore, open_to_read

NAMED = Training(mlflow=Mlflow(experiment_name="named"))


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def refusal(file: Path) -> str:
    """The one line about a store, which is as it was afterwards."""
    before = digest(file)
    with pytest.raises(UserError) as refused:
        open_to_read(NAMED)
    assert digest(file) == before
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("leftover", [None, b""])
def test_a_store_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leftover: bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    if leftover is not None:
        (tmp_path / "mlflow.db").write_bytes(leftover)
    before = sorted(tmp_path.iterdir())
    assert open_to_read(NAMED) == OpenedStore("sqlite:///mlflow.db", None, "named", None)
    assert sorted(tmp_path.iterdir()) == before


def test_an_experiment_that_is_not_there_is_not_made(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(tmp_path / "mlflow.db")
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    opened = open_to_read(NAMED)
    assert opened.client is not None
    assert (opened.experiment, opened.experiment_id) == ("named", None)
    assert digest(tmp_path / "mlflow.db") == before
    assert not (tmp_path / "mlruns").exists()
    assert not list(working.iterdir())


def test_the_experiment_is_the_one_that_a_step_would_work_in(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, other = client.create_experiment("named"), client.create_experiment("other")
    assert open_to_read(NAMED).experiment_id == named
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    assert open_to_read(NAMED).experiment_id == other
    # What `mlflow run` takes where nobody names one.
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    assert open_to_read(NAMED).experiment == "Default"


def test_what_is_opened_cannot_be_written(client: mlflow.MlflowClient) -> None:
    client.create_experiment("named")
    opened = open_to_read(NAMED)
    assert opened.client is not None
    with pytest.raises(mlflow.MlflowException, match="readonly"):
        opened.client.create_run(str(opened.experiment_id))


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        # The first one of MLflow's, and one that this MLflow does not know.
        ("451aebb31d03", "of an older MLflow (451aebb31d03"),
        ("ffffffffffff", "of a newer MLflow (ffffffffffff"),
    ],
)
def test_a_store_of_another_schema_is_named_and_left_alone(
    store: str, tmp_path: Path, revision: str, words: str
) -> None:
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as database:
        database.execute("update alembic_version set version_num = ?", (revision,))
        # Of such a store MLflow's client would make the missing tables at once.
        database.execute("drop table logged_models")
    message = refusal(file)
    assert words in message
    assert mlflow.__version__ in message


def test_a_database_of_something_else_is_named(store: str, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("create table songs (title text)")
    assert "something else than MLflow" in refusal(file)


def test_a_deleted_experiment_is_named(client: mlflow.MlflowClient, tmp_path: Path) -> None:
    client.delete_experiment(client.create_experiment("named"))
    assert "'named'" in refusal(tmp_path / "mlflow.db")
