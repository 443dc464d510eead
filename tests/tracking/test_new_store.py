"""A new SQLite store survives simultaneous first starts, and a kill while it is made."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steps.tracking.new_store import from_every_folder, make_sqlite_store
from tests.support.project import ROOT

START = """
import sys
from steps.config.sections import Mlflow, Training
from steps.tracking.store import connect
client = connect(Training(mlflow=Mlflow(experiment_name="first")))
client.create_run(client.get_experiment_by_name("first").experiment_id)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    return subprocess.Popen(
        [sys.executable, "-c", START],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def runs_in(folder: Path) -> int:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return int(database.execute("select count(*) from runs").fetchone()[0])


def rounds(count: int, starts: int, folder: Path) -> None:
    for number in range(count):
        here = folder / f"round-{number}"
        here.mkdir()
        processes = [start(here) for _ in range(starts)]
        said = [process.communicate()[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * starts, said
        assert runs_in(here) == starts
        assert sorted(file.name for file in here.iterdir()) == ["mlflow.db"]


def test_steps_that_start_at_once_make_one_store(tmp_path: Path) -> None:
    rounds(1, 5, tmp_path)


@pytest.mark.slow
def test_twenty_rounds_of_five_first_starts_at_once(tmp_path: Path) -> None:
    rounds(20, 5, tmp_path)


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_start_that_is_killed_leaves_nothing_that_the_next_cannot_use(
    tmp_path: Path, count: int
) -> None:
    moments = random.Random(0)
    killed_midway = 0
    for number in range(count):
        folder = tmp_path / f"round-{number}"
        folder.mkdir()
        process = start(folder)
        while process.poll() is None and not list(folder.iterdir()):
            time.sleep(0.01)
        # The first at once, so that one at least hits the making.
        time.sleep(moments.uniform(0, 3) if number else 0)
        killed_midway += bool(list(folder.glob(".mlflow.db.*.new")))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        after = start(folder)
        said = after.communicate()[1]
        assert after.returncode == 0, said
        assert runs_in(folder) >= 1
        assert sorted(file.name for file in folder.iterdir()) == ["mlflow.db"]
    assert killed_midway > 0, "no kill hit the making of a store"


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "http://127.0.0.1:1"])
def test_other_stores_are_left_alone(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_sqlite_store(uri)
    assert not list(tmp_path.iterdir())


def test_a_relative_store_is_named_so_that_it_is_found_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = from_every_folder("sqlite:///mlflow.db")
    make_sqlite_store(found)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Path(found.removeprefix("sqlite:///")) == tmp_path / "mlflow.db"
    assert (tmp_path / "mlflow.db").is_file()
    for uri in (found, "http://127.0.0.1:1", "sqlite:///:memory:"):
        assert from_every_folder(uri) == uri
