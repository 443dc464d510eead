"""`prune_checkpoints` among real processes: servers, kills, a writer at work."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from steps.checkpoints.format import CheckpointInfo, validate_checkpoint
from tests.support.project import ROOT
from tests.support.pruning_runs import LAST_ONE, MEASURED, prune, spoil
from tests.support.stored_runs import (
    RESUME_ONLY,
    files_of,
    finetune_run,
    stored_steps,
)


@pytest.fixture
def server(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tracking server with proxied artifacts, on the store's database."""
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(tmp_path / "proxied")]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=1)
            break
        except OSError:
            time.sleep(0.2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    yield uri
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_checkpoints_go_through_a_server_that_proxies_its_artifacts(
    server: str, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    experiment = str(client.create_experiment("pruned"))
    run_id = finetune_run(client, experiment, MEASURED, tmp_path / "scratch")
    assert client.get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
    prune("--apply", "true", policy="pruning.slim=true")
    assert stored_steps(client, run_id) == [20, 40]
    assert not files_of(client, run_id, 20) & set(RESUME_ONLY)
    folders = (tmp_path / "proxied").rglob("checkpoint-*")
    assert {folder.name for folder in folders} == {"checkpoint-20", "checkpoint-40"}


@pytest.mark.slow
def test_a_spoilt_checkpoint_behind_a_server_is_found_before_older_ones_go(
    server: str, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    experiment = str(client.create_experiment("pruned"))
    run_id = finetune_run(client, experiment, MEASURED, tmp_path / "scratch", status="KILLED")
    spoil(next((tmp_path / "proxied").rglob("checkpoint-40")))
    said = prune("--apply", "true", policy=LAST_ONE)
    assert f"checkpoint-40 of run {run_id} (artifact store) cannot be resumed from" in said
    assert stored_steps(client, run_id) == [30, 40]


LAUNCH = """
import sys
from steps.prune_checkpoints import main
import mlflow, mlflow.store.artifact.local_artifact_repo, rich.table
print("ready", flush=True)
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_pruning_killed_at_any_moment_is_finished_by_the_next(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    whole = tmp_path / "whole"
    steps = {step: float(step) for step in range(10, 260, 10)}
    run_id = finetune_run(client, experiment, steps, output)
    client.set_tag(run_id, "forge.pin.checkpoint-50", "true")
    config = str(ROOT / "configs" / "training.yaml")
    overrides = f"training.mlflow.experiment_name=pruned training.output.output_dir={output}"
    command = [sys.executable, "-c", LAUNCH, "--config", config, "--overrides", overrides]
    chance = random.Random(0)
    counts = []
    for _ in range(8):
        process = subprocess.Popen(
            [*command, "--apply", "true"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        process.stdout.readline()
        # From the first file's removal on, at a random moment.
        deadline = time.monotonic() + 60
        before = len(stored_steps(client, run_id))
        while len(stored_steps(client, run_id)) == before and process.poll() is None:
            assert time.monotonic() < deadline
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.wait()
        counts.append(len(stored_steps(client, run_id)))
        # Whatever is left half is none for a reader: what has a manifest is whole.
        for step in stored_steps(client, run_id):
            if "manifest.json" in files_of(client, run_id, step):
                shutil.rmtree(whole, ignore_errors=True)
                path = client.download_artifacts(
                    run_id, f"checkpoints/checkpoint-{step}", str(whole.parent)
                )
                assert isinstance(validate_checkpoint(Path(path)), CheckpointInfo)
    assert counts[0] > 3, "the kill came too late to test anything"
    prune("--apply", "true", policy=f"output.output_dir={output}")
    assert stored_steps(client, run_id) == [10, 50, 250]
    assert sorted(path.name for path in (output / run_id).iterdir()) == [
        "checkpoint-10",
        "checkpoint-250",
        "checkpoint-50",
    ]
    assert len(client.search_logged_models([experiment])) == 3


WRITER = """
import sys, time
from pathlib import Path
import mlflow
from tests.support.stored_runs import files_of, sign_of_life, upload, write_checkpoint
run_id, root, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
client = mlflow.MlflowClient()
for step in range(1, count + 1):
    client.set_tag(run_id, "forge.heartbeat", sign_of_life(time.time()))
    folder = write_checkpoint(root / run_id, step)
    upload(client, run_id, folder)
    # What was stored a moment ago is there: somebody may have to resume from it.
    assert files_of(client, run_id, step) == {file.name for file in folder.iterdir()}, step
print("written")
"""


@pytest.mark.slow
def test_a_run_that_writes_while_others_prune_loses_nothing(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    run_id = finetune_run(client, experiment, {}, output, status="RUNNING", heartbeat=time.time())
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, run_id, str(output), "40"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    policy = f"output.output_dir={output} pruning.keep_best=0"
    pruned = 0
    while writer.poll() is None:
        before = len(stored_steps(client, run_id))
        prune("--apply", "true", policy=policy)
        pruned += before > 2
    assert writer.communicate()[0] == "written\n"
    assert pruned > 0, "no pruning came while there was something to prune"
    assert len(list((output / run_id).iterdir())) == 40
    client.set_terminated(run_id)
    prune("--apply", "true", policy=policy)
    assert stored_steps(client, run_id) == [40]
    folder = client.download_artifacts(run_id, "checkpoints/checkpoint-40", str(tmp_path / "copy"))
    checked = validate_checkpoint(Path(folder))
    assert isinstance(checked, CheckpointInfo), checked
    assert checked.resumable


@pytest.mark.slow
def test_a_thousand_checkpoints_on_a_real_server_get_a_verdict_each(tmp_path: Path) -> None:
    from benchmarks.prune import fill, timed_plan, tracking_server

    with tracking_server(tmp_path) as uri:
        fill(uri, tmp_path / "artifacts", runs=50, checkpoints=20)
        seconds, plan = timed_plan(uri, tmp_path)
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name("pruned")
        killed = client.search_runs([experiment.experiment_id], "attributes.status = 'KILLED'")
    print(f"planned in {seconds:.1f} s")
    verdicts = plan["checkpoints"]
    assert len({(entry["run"], entry["step"]) for entry in verdicts}) == 1_000
    assert [e["step"] for e in verdicts if "points at it" in e["reason"]] == [50]
    # The last and the best of each run; of the killed ones the first too, whose weights are the
    # best so far by their trainer state.
    assert len(killed) == 10
    expected = {(run.info.run_id, 50) for run in killed}
    for run_id in {entry["run"] for entry in verdicts}:
        mine = [entry for entry in verdicts if entry["run"] == run_id]
        best = min(mine, key=lambda entry: (entry["metric"], -entry["step"]))
        expected |= {(run_id, 1_000), (run_id, best["step"])}
    assert {(e["run"], e["step"]) for e in verdicts if e["verdict"] == "keep"} == expected


def test_a_second_pruning_on_this_host_waits_for_the_first(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    from steps.tracking.checkpoints.removal import journal_file, pruning_lock

    run_id = finetune_run(client, experiment, {10: 2.0, 20: 1.0}, tmp_path / "scratch")
    taken, seen = threading.Event(), []

    def first() -> None:
        with pruning_lock(journal_file(client, experiment)):
            taken.set()
            time.sleep(1.5)
            seen.extend(stored_steps(client, run_id))

    thread = threading.Thread(target=first)
    thread.start()
    taken.wait()
    prune("--apply", "true")
    thread.join()
    assert seen == [10, 20]
    assert stored_steps(client, run_id) == [20]
