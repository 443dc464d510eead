"""Which checkpoint a run goes on from: the newest valid one, of the same run, of a dead one."""

import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest

from steps.checkpoints.format import writing_checkpoint
from steps.checkpoints.trainer_state import BEST_WEIGHTS_FILE, Progress, write_progress
from steps.errors import UserError
from steps.tracking import heartbeat as heartbeats
from steps.tracking.checkpoints.claims import claim
from steps.tracking.checkpoints.resume import (
    Found,
    metadata,
    resume_key,
    take_over,
)
from steps.tracking.checkpoints.uploads import CheckpointUploads
from steps.tracking.names import CHECKPOINT_URI_TAG
from steps.tracking.runs import StepRun
from tests.support.stopped_runs import EXPECTED, Store


@pytest.fixture
def runs(store: str, tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_the_newest_checkpoint_is_taken_from_disk_or_store(runs: Store) -> None:
    source, new = runs.killed(), runs.run()
    runs.upload(source, runs.save(source, 5), runs.save(source, 10))
    found = runs.find(source.id, new)
    assert found is not None
    assert (found.point.step, found.where) == (10, "local disk")
    # On another machine, or with an emptied disk, it comes from the store.
    shutil.rmtree(runs.local(source) / "checkpoint-10")
    found = runs.find(source.id, new)
    assert found is not None
    assert (found.point.step, found.where) == (10, "artifact store")
    assert (found.point.folder / "optimizer.pt").read_bytes() == b"moments of 10"
    assert runs.said == []


def test_a_broken_checkpoint_gives_way_to_the_one_before_in_one_line(runs: Store) -> None:
    source = runs.killed()
    runs.save(source, 5)
    (runs.save(source, 10) / "optimizer.pt").write_bytes(b"Moments of 10")
    runs.upload(source, runs.save(source, 15))
    artifacts = Path(mlflow.get_run(source.id).info.artifact_uri.removeprefix("file://"))
    (artifacts / "checkpoints" / "checkpoint-15" / "stray.pt").write_bytes(b"a pickle")
    shutil.rmtree(runs.local(source) / "checkpoint-15")
    found = runs.find(source.id)
    assert found is not None
    assert found.point.step == 5
    assert runs.said == [
        f"checkpoint-15 of run {source.id} (artifact store) passed over: stray.pt is not listed "
        "in its manifest",
        f"checkpoint-10 of run {source.id} (local disk) passed over: optimizer.pt does not have "
        "the SHA-256 that its manifest says",
    ]


def test_a_half_uploaded_checkpoint_does_not_exist(runs: Store) -> None:
    source = runs.killed()
    runs.upload(source, runs.save(source, 5))
    folder = runs.save(source, 10)
    for name in ("adapter_model.safetensors", "optimizer.pt"):
        runs.client.log_artifact(source.id, str(folder / name), "checkpoints/checkpoint-10")
    shutil.rmtree(runs.local(source))
    found = runs.find(source.id)
    assert found is not None
    assert found.point.step == 5
    assert "manifest.json is missing" in runs.said[0]


def test_the_best_weights_come_from_the_best_steps_checkpoint(runs: Store) -> None:
    first = runs.killed()
    best = runs.save(first, 5, best=5)
    runs.save(first, 10, best=5)
    second = runs.killed(resumed_from=f"{first.id}:10")
    runs.save(second, 15, best=5)
    runs.save(first, 20, best=20)
    new = runs.run()
    found = runs.find(second.id, new)
    assert found is not None
    # Not the first run's checkpoint-20: the second one left it behind at step 10.
    assert (found.run_id, found.point.step) == (second.id, 15)
    assert found.point.best_folder == best

    shutil.rmtree(best)
    with pytest.raises(UserError, match="neither this disk nor the store has a valid checkpoint"):
        runs.find(second.id, new)
    assert "the best weights up to it are in checkpoint-5, of which none is valid" in runs.said[0]


def test_changes_are_refused_by_name(runs: Store) -> None:
    source = runs.killed()
    runs.save(source, 5)
    changes: dict[str, Any] = {"qlora.r": 8, "dataset": "sha256:e"}
    with pytest.raises(UserError) as refused:
        runs.find(source.id, **changes)
    assert 'dataset was "sha256:d", is "sha256:e"; qlora.r was 4, is 8' in str(refused.value)
    # `auto` looks for runs of the same configuration, and begins anew where there is none.
    assert runs.find("auto", **changes) is None
    assert runs.said == [
        "nothing to resume (no unfinished run of this configuration and dataset): starting anew"
    ]


def test_a_living_run_is_refused_and_auto_passes_it_over(runs: Store) -> None:
    living, killed = runs.run(), runs.killed()
    runs.save(living, 50)
    runs.save(killed, 5)
    with heartbeats.heartbeat(living.client, living.id):
        with pytest.raises(UserError, match=f"its process {os.getpid()} is alive"):
            runs.find(living.id)
        found = runs.find("auto")
        assert found is not None
        assert found.run_id == killed.id


def test_life_elsewhere_is_told_by_the_age_of_its_last_sign(runs: Store) -> None:
    def run_seen(seconds_ago: float) -> Any:
        sign = {"host": "elsewhere", "pid": 1, "time": time.time() - seconds_ago}
        run = runs.run(heartbeat=json.dumps({**sign, "process_started": 1.0}))
        return runs.client.get_run(run.id)

    assert "from elsewhere" in heartbeats.sign_of_life(run_seen(20))
    assert heartbeats.sign_of_life(run_seen(1000)) == ""


def test_auto_waits_where_only_the_age_of_a_sign_speaks_for_a_run(
    runs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "POLL_SECONDS", 0.1)

    def elsewhere(seconds_ago: float) -> str:
        sign = {"host": "elsewhere", "pid": 1, "process_started": 1.0}
        return json.dumps({**sign, "time": time.time() - seconds_ago})

    killed = runs.run(heartbeat=elsewhere(0))
    runs.upload(killed, runs.save(killed, 5))
    # Killed on another machine a moment ago, so that its sign is not an old one for two seconds
    # yet. Stated after the upload, which may take longer than that.
    killed.tag(heartbeat=elsewhere(heartbeats.STALE_SECONDS - 2))
    found = runs.find("auto")
    assert found is not None
    assert found.run_id == killed.id
    assert f"run {killed.id}: it gave a sign of life" in runs.said[0]
    assert "waiting for another" in runs.said[0]

    # Living on another machine: its next sign comes.
    living = runs.run(heartbeat=elsewhere(1))
    runs.upload(living, runs.save(living, 5))
    beats = threading.Timer(0.5, lambda: living.tag(heartbeat=elsewhere(0)))
    beats.start()
    assert runs.find("auto") is None
    beats.join()
    assert any(said.startswith(f"run {living.id} passed over: it gave") for said in runs.said)


def test_a_set_clock_does_not_kill_a_run(runs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    run = runs.run()
    with heartbeats.heartbeat(run.client, run.id):
        # What the kernel does to every process's time of birth when the clock is set.
        moved = psutil.boot_time() + 3600
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: moved)
        assert "is alive" in heartbeats.sign_of_life(runs.client.get_run(run.id))


def test_the_heart_beats_until_the_block_ends(runs: Store) -> None:
    run = runs.run()

    def beat() -> Any:
        return json.loads(runs.client.get_run(run.id).data.tags["forge.heartbeat"])["time"]

    with heartbeats.heartbeat(run.client, run.id, seconds=0.2):
        first = beat()
        end = time.monotonic() + 20
        while beat() == first:
            assert time.monotonic() < end, "no second beat"
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("status", "words"),
    [("FINISHED", "that run has finished"), ("FAILED", "has a valid checkpoint")],
)
def test_what_cannot_be_resumed_is_said(runs: Store, status: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        runs.find(runs.run(status).id)


def test_only_finetune_runs_that_exist_are_resumed(runs: Store) -> None:
    with pytest.raises(UserError, match="there is no such run"):
        runs.find("0123abcd")
    with pytest.raises(UserError, match="not a finetune run"):
        runs.find(runs.run("FAILED", step="preprocess").id)


def test_auto_takes_the_newest_that_no_other_run_went_on_from(runs: Store) -> None:
    older, continued = runs.run("FAILED"), runs.run("KILLED")
    runs.save(older, 5)
    runs.save(continued, 10)
    runs.run("FINISHED", resumed_from=f"{continued.id}:10")
    found = runs.find("auto")
    assert found is not None
    assert found.run_id == older.id


def test_launches_at_the_same_moment_go_on_from_different_runs(runs: Store) -> None:
    killed = {runs.killed().id for _ in range(3)}
    for run_id in killed:
        runs.save(runs.known[run_id], 5)
    launched = [runs.run(heartbeat=heartbeats.sign_of_this_process()) for _ in range(8)]
    at_once = threading.Barrier(len(launched))

    def launch(run: StepRun) -> Found | None:
        at_once.wait()
        return runs.find("auto", run)

    with ThreadPoolExecutor(len(launched)) as pool:
        found = list(pool.map(launch, launched))
    taken = [point.run_id for point in found if point is not None]
    assert sorted(taken) == sorted(killed)
    assert sum("starting anew" in said for said in runs.said) == 5


def test_a_launch_that_died_on_its_way_is_gone_on_from_itself_or_leaves_the_run_free(
    runs: Store,
) -> None:
    source = runs.killed()
    runs.save(source, 5)
    # Killed while it loaded the model, before it could say what it goes on from: it has left
    # nothing.
    assert claim(runs.killed(resume_key="another"), runs.client.get_run(source.id)) == ""
    heir = runs.killed()
    found = runs.find("auto", heir)
    assert found is not None
    assert found.run_id == source.id
    take_over(heir, found, {})
    # Killed after that and before its first checkpoint: the next one goes on from it, and so
    # from the same checkpoint.
    new = runs.run(heartbeat=heartbeats.sign_of_this_process())
    found = runs.find("auto", new)
    assert found is not None
    assert (found.run_id, found.point.step) == (source.id, 5)
    assert runs.client.get_run(heir.id).data.params == {"forge.resumed_by": new.id}
    assert runs.find("auto") is None


def test_who_names_a_run_gets_it_and_hears_of_others(runs: Store) -> None:
    source, first = runs.killed(), runs.run(heartbeat=heartbeats.sign_of_this_process())
    runs.save(source, 5)
    assert runs.find("auto", first) is not None
    assert runs.find(source.id) is not None
    assert runs.said == [f"note: run {first.id} goes on from run {source.id} too"]


def test_the_new_run_has_the_whole_history_once_and_the_dead_one_is_closed(runs: Store) -> None:
    source = runs.killed()
    runs.save(source, 5)
    source.metrics({"train/loss": 9.0}, 6)
    new = runs.run()
    found = runs.find(source.id, new)
    assert found is not None
    take_over(new, found, {})
    history = runs.client.get_metric_history(new.id, "train/loss")
    assert [(p.step, p.timestamp, p.value) for p in history] == [
        (step, 1000 * step, 1.0 / step) for step in range(1, 6)
    ]
    assert runs.client.get_run(new.id).data.tags["forge.resumed_from"] == f"{source.id}:5"
    assert runs.client.get_run(source.id).info.status == "KILLED"


def test_checkpoints_are_models_that_the_store_ranks_and_their_bytes_stand_once(
    runs: Store,
) -> None:
    run = runs.run()
    with CheckpointUploads(run) as uploads:
        for step, value in ((5, 1.5), (10, 1.25), (15, 1.75)):
            folder = runs.save(run, step)
            run.metrics({"validation/bits_per_byte": value}, step)
            # Twice: a validation may come after the save of the same step.
            uploads.submit(folder, step, {})
            uploads.submit(folder, step, {"validation/bits_per_byte": value})
    ranked = runs.client.search_logged_models(
        [runs.experiment],
        order_by=[{"field_name": "metrics.validation/bits_per_byte", "ascending": False}],
    )
    assert [model.name for model in ranked] == ["checkpoint-15", "checkpoint-5", "checkpoint-10"]
    assert ranked[-1].tags[CHECKPOINT_URI_TAG] == f"runs:/{run.id}/checkpoints/checkpoint-10"
    history = runs.client.get_metric_history(run.id, "validation/bits_per_byte")
    assert sorted(point.step for point in history) == [5, 10, 15]
    copies = list((runs.folder / "mlruns").rglob("optimizer.pt"))
    assert len(copies) == 3


def test_an_upload_that_fails_is_tried_again_at_the_end_and_said(runs: Store) -> None:
    run = runs.run()
    artifacts = Path(runs.client.get_run(run.id).info.artifact_uri.removeprefix("file://"))
    artifacts.parent.mkdir(parents=True, exist_ok=True)
    # A file in the folder's place: nobody can write below it, not even root.
    artifacts.touch()
    with CheckpointUploads(run) as uploads:
        uploads.submit(runs.save(run, 5), 5, {})
        while uploads.under_way():
            time.sleep(0.01)
        said = runs.client.get_run(run.id).data.tags["forge.checkpoint_error"]
        assert "checkpoint-5 could not be uploaded" in said
        artifacts.unlink()
    stored = runs.client.list_artifacts(run.id, "checkpoints/checkpoint-5")
    assert "checkpoints/checkpoint-5/manifest.json" in {file.path for file in stored}


def test_the_key_of_auto_depends_on_every_value() -> None:
    keys = {resume_key(EXPECTED), *(resume_key({**EXPECTED, key: None}) for key in EXPECTED)}
    assert len(keys) == 1 + len(EXPECTED)


def test_best_weights_beside_the_others_need_no_other_checkpoint(runs: Store) -> None:
    source = runs.killed()
    stated = metadata(source.id, "sha256:d", EXPECTED)
    with writing_checkpoint(runs.local(source), 10, stated) as folder:
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        (folder / BEST_WEIGHTS_FILE).write_bytes(b"better ones")
        (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": 5}))
        write_progress(folder, Progress())
    found = runs.find(source.id)
    assert found is not None
    assert (found.point.step, found.point.best_folder) == (10, None)
