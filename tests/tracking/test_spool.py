"""What is spooled reaches the run once: after an outage, a kill, or a lost answer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from steps.config.sections import Mlflow, Training
from steps.errors import UserError
from steps.tracking import spool as spool_module
from steps.tracking.runs import step_run
from steps.tracking.spool import Spool, StoreAway, open_spool
from tests.support.project import ROOT

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def run_id(store: str) -> str:
    client = mlflow.MlflowClient()
    return str(client.create_run(client.create_experiment("spooled")).info.run_id)


@pytest.fixture
def store_away(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(NOWHERE)


def history(run_id: str, name: str) -> list[tuple[int, float, int]]:
    found = mlflow.MlflowClient().get_metric_history(run_id, name)
    return sorted((m.step, m.value, m.timestamp) for m in found)


def test_what_is_spooled_stands_in_the_run(run_id: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w")
    single = tmp_path / "config.yaml"
    single.write_text("a: 1")
    spool = Spool(tmp_path / "spool", run_id)
    for step in range(1, 2501):
        spool.metrics({"train/loss": 1 / step}, step)
    spool.metrics({"train/loss": float("nan")}, 2501)
    spool.tags({"forge.x": "y"})
    spool.artifact(folder, "checkpoints/checkpoint-5")
    spool.artifact(single)
    # The caller may delete its files at once.
    (folder / "weights").unlink()
    single.unlink()
    spool.status("FINISHED")
    assert spool.flush(60)
    spool.close()

    client = mlflow.MlflowClient()
    steps = [step for step, _, _ in history(run_id, "train/loss")]
    assert steps == list(range(1, 2502))
    run = client.get_run(run_id)
    assert run.data.tags["forge.x"] == "y"
    assert run.info.status == "FINISHED"
    names = {f.path for f in client.list_artifacts(run_id)}
    assert names == {"checkpoints", "config.yaml"}
    kept = {f.path for f in client.list_artifacts(run_id, "checkpoints/checkpoint-5")}
    assert kept == {"checkpoints/checkpoint-5/weights"}
    assert not (tmp_path / "spool").exists()


def test_a_store_that_is_away_costs_the_caller_nothing_and_loses_nothing(
    run_id: str, store_away: None, store: str, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", run_id)
    for step in range(100):
        spool.metrics({"train/loss": float(step), "train/epoch": 0.5}, step)
    assert not spool.flush(1.0)
    assert "does not answer" in spool.last_error
    mlflow.set_tracking_uri(store)
    spool.metrics({"train/loss": 100.0}, 100)
    assert spool.flush(60)
    spool.close()
    found = history(run_id, "train/loss")
    assert [(step, value) for step, value, _ in found] == [(n, float(n)) for n in range(101)]


def test_a_batch_whose_answer_was_lost_is_not_there_twice(run_id: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", run_id)
    for step in range(50):
        spool.metrics({"train/loss": float(step), "train/grad": float("nan")}, step)
    assert spool.flush(60)
    # As if the process had ended between the store's commit and the note of it.
    (tmp_path / "spool" / "sent").unlink()
    again = open_spool(tmp_path / "spool")
    assert again.pending
    assert again.flush(60)
    again.close()
    spool.close()
    assert [step for step, _, _ in history(run_id, "train/loss")] == list(range(50))
    assert [step for step, _, _ in history(run_id, "train/grad")] == list(range(50))


def test_a_killed_process_leaves_a_spool_that_the_command_sends(
    run_id: str, store: str, tmp_path: Path
) -> None:
    folder = tmp_path / "spool"
    code = (
        "import time, mlflow; from pathlib import Path; from steps.tracking.spool import Spool\n"
        f"mlflow.set_tracking_uri({NOWHERE!r})\n"
        f"spool = Spool(Path({str(folder)!r}), {run_id!r})\n"
        "for step in range(20): spool.metrics({'train/loss': step / 2}, step)\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Half a line, as a full disk or a lost power leaves it.
    with (folder / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"metrics": {"train/lo')

    said = CliRunner().invoke(spool_module.main, [str(folder), "--tracking-uri", store])
    assert said.exit_code == 0, said.output
    assert [value for _, value, _ in history(run_id, "train/loss")] == [n / 2 for n in range(20)]
    assert not folder.exists()


def test_the_command_says_in_one_line_why_it_cannot_send(
    run_id: str, store_away: None, tmp_path: Path
) -> None:
    runner = CliRunner()
    absent = runner.invoke(spool_module.main, [str(tmp_path / "nothing")])
    assert absent.exit_code == 2
    assert "is not a spool" in absent.output
    spool = Spool(tmp_path / "spool", run_id)
    spool.tags({"a": "b"})
    spool.close()
    away = runner.invoke(
        spool_module.main,
        [str(tmp_path / "spool"), "--minutes", "0.01", "--tracking-uri", NOWHERE],
    )
    assert away.exit_code == 2
    assert away.output.count("\n") == 1
    assert "does not answer" in away.output
    assert (tmp_path / "spool" / "journal.jsonl").is_file()


def test_an_entry_that_the_store_refuses_is_raised_and_not_tried_for_ever(
    run_id: str, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", run_id)
    spool.metrics({"not a name?!*": 1.0}, 1)
    with pytest.raises(mlflow.exceptions.MlflowException, match="not a name"):
        spool.flush(60)
    spool.close()


def settings() -> Training:
    return Training(mlflow=Mlflow(experiment_name="spooled", spool_minutes=0.01))


def test_a_step_whose_store_goes_away_ends_with_one_line_and_its_end_is_sent_later(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(StoreAway, match=r"the step is done, but .* is away") as left,
        step_run("probe", settings(), verbose=False) as run,
    ):
        mlflow.set_tracking_uri(NOWHERE)
    assert "\n" not in str(left.value)
    assert mlflow.active_run() is None
    mlflow.set_tracking_uri(store)
    assert mlflow.get_run(run.id).info.status == "RUNNING"
    spool = open_spool(run.spool.folder)
    assert spool.flush(60)
    spool.close()
    assert mlflow.get_run(run.id).info.status == "FINISHED"
    assert [f.path for f in run.client.list_artifacts(run.id)] == ["logs"]


def test_the_error_of_a_step_is_not_hidden_by_a_store_that_is_away(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(UserError, match="^the loss is infinite$"),
        step_run("probe", settings(), verbose=False) as run,
    ):
        mlflow.set_tracking_uri(NOWHERE)
        raise UserError("the loss is infinite")
    mlflow.set_tracking_uri(store)
    spool = open_spool(run.spool.folder)
    assert spool.flush(60)
    spool.close()
    ended = mlflow.get_run(run.id)
    assert ended.info.status == "FAILED"
    assert ended.data.tags["forge.error"] == "the loss is infinite"


def test_params_keep_nulls_lists_and_long_values_and_clash_with_none(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    waiting = client.create_run(client.create_experiment("launched"))
    # As `mlflow run` does before its step begins.
    client.log_param(waiting.info.run_id, "alias", "'challenger'")
    monkeypatch.setenv("MLFLOW_RUN_ID", waiting.info.run_id)
    with step_run("probe", settings(), verbose=False) as run:
        run.params(
            {
                "alias": "challenger",
                "a.null": None,
                "a.list": ["q_proj", "v_proj"],
                "a.flag": True,
                "a.rate": 2e-4,
                "a.long": "x" * 7000,
                **{f"many.{n}": n for n in range(250)},
            }
        )
    params = mlflow.get_run(run.id).data.params
    assert params["alias"] == "'challenger'"
    assert params["a.null"] == "null"
    assert json.loads(params["a.list"]) == ["q_proj", "v_proj"]
    assert (params["a.flag"], float(params["a.rate"])) == ("true", 2e-4)
    assert len(params["a.long"]) == 6000
    assert params["a.long"].endswith("(whole in config.yaml)")
    assert sum(name.startswith("many.") for name in params) == 250


def test_the_times_are_those_of_the_measurement(
    run_id: str, store_away: None, store: str, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", run_id)
    spool.metrics({"train/loss": 1.0}, 1)
    measured = time.time() * 1000
    assert not spool.flush(0.5)
    mlflow.set_tracking_uri(store)
    assert spool.flush(60)
    spool.close()
    assert abs(history(run_id, "train/loss")[0][2] - measured) < 250
