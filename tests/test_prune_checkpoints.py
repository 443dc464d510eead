"""`prune_checkpoints` against real stores: what goes, what stays, what it says."""

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from steps.checkpoints.format import CheckpointInfo, validate_checkpoint
from steps.errors import UserError
from steps.pruning.records import Action
from tests.support.pruning_runs import LAST_ONE, MEASURED, error_line, prune, spoil
from tests.support.stored_runs import (
    METRIC,
    RESUME_ONLY,
    files_of,
    finetune_run,
    sign_of_life,
    stored_steps,
    upload,
    write_checkpoint,
)


def test_the_plan_changes_nothing_and_apply_deletes_what_it_lists(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    run_id = finetune_run(client, experiment, MEASURED, tmp_path / "scratch")
    said = prune()
    assert stored_steps(client, run_id) == [10, 20, 30, 40]
    assert "would be freed; delete with apply=true" in said
    assert all(len(line) <= 80 for line in said.splitlines())

    prune("--apply", "true")
    assert stored_steps(client, run_id) == [20, 40]
    plan = read_plan(client, experiment, tmp_path)
    assert [(c["step"], c["verdict"]) for c in plan["checkpoints"]] == [
        (10, "delete"),
        (20, "keep"),
        (30, "delete"),
        (40, "keep"),
    ]
    assert plan["bytes_before"] - plan["bytes_after"] == plan["bytes_to_free"] > 0
    # The deleted ones' LoggedModels are gone from the ranking as well.
    models = client.search_logged_models([experiment])
    assert {model.name for model in models} == {"checkpoint-20", "checkpoint-40"}

    assert "freed 0 B" in prune("--apply", "true")
    assert stored_steps(client, run_id) == [20, 40]


def test_over_the_experiment_the_best_of_all_runs_stay(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    first = finetune_run(client, experiment, {10: 1.0, 20: 2.0}, tmp_path / "a")
    second = finetune_run(client, experiment, {10: 3.0, 20: 4.0}, tmp_path / "b")
    prune("--apply", "true", policy="pruning.scope=experiment pruning.keep_last=0")
    assert (stored_steps(client, first), stored_steps(client, second)) == ([10], [])


def test_a_slimmed_checkpoint_keeps_its_weights_and_is_valid_and_not_resumable(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    run_id = finetune_run(client, experiment, {10: 1.0}, tmp_path / "scratch")
    said = prune("--apply", "true", policy="pruning.slim=true")
    assert "longer be resumed" in " ".join(said.split())
    folder = client.download_artifacts(run_id, "checkpoints/checkpoint-10", str(tmp_path / "copy"))
    checked = validate_checkpoint(Path(folder))
    assert isinstance(checked, CheckpointInfo), checked
    assert not checked.resumable
    assert not files_of(client, run_id, 10) & set(RESUME_ONLY)
    (model,) = client.search_logged_models([experiment])
    assert model.tags["forge.slimmed"] == "true"


References = Callable[[mlflow.MlflowClient, str], None]


def by_source(client: mlflow.MlflowClient, run_id: str) -> None:
    source = f"{client.get_run(run_id).info.artifact_uri}/checkpoints/checkpoint-10"
    client.create_model_version("registered", source, run_id)


def by_logged_model(client: mlflow.MlflowClient, run_id: str) -> None:
    experiment = client.get_run(run_id).info.experiment_id
    models = client.search_logged_models([experiment])
    model = next(model for model in models if model.name == "checkpoint-10")
    client.create_model_version("registered", f"models:/{model.model_id}", model_id=model.model_id)


def by_version_tag(client: mlflow.MlflowClient, run_id: str) -> None:
    version = client.create_model_version("registered", "runs:/elsewhere/adapter", run_id)
    client.set_model_version_tag("registered", version.version, "forge.checkpoint_step", "10")
    client.set_registered_model_alias("registered", "champion", version.version)


def by_whole_folder(client: mlflow.MlflowClient, run_id: str) -> None:
    source = f"{client.get_run(run_id).info.artifact_uri}/checkpoints"
    client.create_model_version("registered", source, None)


def by_pin_on_the_run(client: mlflow.MlflowClient, run_id: str) -> None:
    client.set_tag(run_id, "forge.pin.checkpoint-10", "for the paper")


def by_pin_on_the_model(client: mlflow.MlflowClient, run_id: str) -> None:
    experiment = client.get_run(run_id).info.experiment_id
    models = client.search_logged_models([experiment])
    model = next(model for model in models if model.name == "checkpoint-10")
    client.set_logged_model_tags(model.model_id, {"forge.pin": "true"})


@pytest.mark.parametrize(
    ("refer", "reason"),
    [
        (by_source, "points at it"),
        (by_logged_model, "the registry points at it"),
        (by_version_tag, "registered version 1, @champion"),
        (by_whole_folder, "the registry points at it"),
        (by_pin_on_the_run, "it is pinned"),
        (by_pin_on_the_model, "it is pinned"),
    ],
)
def test_what_is_referred_to_stays_whether_before_the_plan_or_after_it(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path, refer: References, reason: str
) -> None:
    from steps.tracking.checkpoints.inventory import finetune_runs, take_inventory
    from steps.tracking.checkpoints.references import still_protected

    client.create_registered_model("registered")
    run_id = finetune_run(client, experiment, {10: 2.0, 20: 1.0}, tmp_path / "scratch")
    runs = finetune_runs(client, experiment, "all")
    inventory = take_inventory(client, experiment, runs, METRIC, None, list_all=False)
    actions = [
        Action("delete", experiment, run_id, r.step, r.created, r.location, r.bytes, "")
        for r in inventory.records
    ]
    by_step = {action.step: action for action in actions}
    assert still_protected(client, inventory, by_step[10]) is None
    refer(client, run_id)
    assert still_protected(client, inventory, by_step[10]) is not None
    if refer is not by_whole_folder:
        assert still_protected(client, inventory, by_step[20]) is None

    said = prune("--apply", "true", policy="pruning.keep_last=0 pruning.keep_best=0")
    assert 10 in stored_steps(client, run_id)
    assert (20 in stored_steps(client, run_id)) == (refer is by_whole_folder)
    assert reason in " ".join(said.split())


def test_an_unfinished_run_keeps_the_one_it_would_resume_from_and_a_cut_upload_is_none(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    run_id = finetune_run(
        client, experiment, MEASURED, tmp_path / "s", status="RUNNING", heartbeat=1.0
    )
    artifacts = Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    # The manifest arrived, and a file that it lists did not: 30 is the newest whole one.
    (artifacts / "checkpoints/checkpoint-40/optimizer.pt").unlink()
    prune("--apply", "true", policy="pruning.keep_last=0 pruning.keep_best=0")
    assert stored_steps(client, run_id) == [30]


def test_a_half_uploaded_checkpoint_stays_with_a_living_run_and_goes_with_a_dead_one(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    runs = {
        name: finetune_run(
            client, experiment, {10: 1.0}, tmp_path / name, status="RUNNING", heartbeat=beat
        )
        for name, beat in (("living", time.time()), ("dead", 1.0))
    }
    for run_id in runs.values():
        client.log_artifact(run_id, str(tmp_path / "mlflow.db"), "checkpoints/checkpoint-20")
    prune("--apply", "true")
    left = {name: stored_steps(client, run_id) for name, run_id in runs.items()}
    assert left == {"living": [10, 20], "dead": [10]}


def artifacts_of(client: mlflow.MlflowClient, run_id: str) -> Path:
    root = Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    return root / "checkpoints"


def test_no_older_checkpoint_of_an_unfinished_run_goes_for_a_newer_one_that_is_spoilt(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    run_id = finetune_run(client, experiment, MEASURED, tmp_path / "s", status="KILLED")
    stored = artifacts_of(client, run_id)
    spoil(stored / "checkpoint-40")
    # The plan goes by the sizes, and they agree.
    assert "cannot be resumed from" not in prune(policy=LAST_ONE)
    said = prune("--apply", "true", policy=LAST_ONE)
    assert (
        f"checkpoint-40 of run {run_id} (artifact store) cannot be resumed from: optimizer.pt does "
        "not have the SHA-256 that its manifest says" in said
    )
    assert stored_steps(client, run_id) == [30, 40]
    checked = validate_checkpoint(stored / "checkpoint-30")
    assert isinstance(checked, CheckpointInfo), checked
    assert checked.resumable


def test_a_spoilt_copy_in_the_store_is_no_reason_to_delete_the_one_before_it_there(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    run_id = finetune_run(client, experiment, MEASURED, output, status="KILLED")
    spoil(artifacts_of(client, run_id) / "checkpoint-40")
    # This host would resume from 40, which is intact here; any other from 30.
    prune("--apply", "true", policy=f"{LAST_ONE} output.output_dir={output}")
    assert stored_steps(client, run_id) == [30, 40]
    assert isinstance(validate_checkpoint(output / run_id / "checkpoint-40"), CheckpointInfo)


def test_what_a_run_resumed_from_stays_where_its_own_checkpoints_are_spoilt(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    origin = finetune_run(client, experiment, MEASURED, tmp_path / "o", status="KILLED")
    heir = finetune_run(
        client, experiment, {50: 1.0}, tmp_path / "h", status="KILLED", resumed_from=f"{origin}:30"
    )
    nothing = "pruning.keep_last=0 pruning.keep_best=0"
    spoil(artifacts_of(client, heir) / "checkpoint-50")
    prune("--apply", "true", policy=nothing)
    # 30, which the heir came from, and 40, because its own run is the one to go on with again.
    assert stored_steps(client, origin) == [30, 40]


def test_nothing_is_read_where_nothing_of_an_unfinished_run_is_to_go(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    run_id = finetune_run(client, experiment, {10: 1.0}, tmp_path / "s", status="KILLED")
    spoil(artifacts_of(client, run_id) / "checkpoint-10")
    assert "cannot be resumed from" not in prune("--apply", "true", policy=LAST_ONE)
    assert stored_steps(client, run_id) == [10]


def test_the_plan_goes_by_the_sizes_that_the_upload_noted_and_apply_by_the_files(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    run_id = finetune_run(client, experiment, MEASURED, tmp_path / "s")
    planned = plan_of(client, experiment, tmp_path)
    for entry in planned["checkpoints"]:
        folder = artifacts_of(client, run_id) / f"checkpoint-{entry['step']}"
        assert entry["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    # Somebody took the best one's manifest away: it is none any more, whatever its tags say.
    (artifacts_of(client, run_id) / "checkpoint-20" / "manifest.json").unlink()
    prune("--apply", "true")
    assert stored_steps(client, run_id) == [30, 40]


def test_a_slimmed_checkpoint_says_its_new_size(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    run_id = finetune_run(client, experiment, {10: 1.0}, tmp_path / "s")
    prune("--apply", "true", policy="pruning.slim=true")
    folder = artifacts_of(client, run_id) / "checkpoint-10"
    (model,) = client.search_logged_models([experiment])
    assert model.tags["forge.bytes"] == str(sum(f.stat().st_size for f in folder.iterdir()))
    (entry,) = plan_of(client, experiment, tmp_path, "pruning.slim=true")["checkpoints"]
    assert (entry["verdict"], entry["bytes_freed"]) == ("keep", 0)


def plan_of(
    client: mlflow.MlflowClient, experiment: str, folder: Path, policy: str = ""
) -> dict[str, Any]:
    """Plan, and read what was planned."""
    prune(policy=policy)
    return read_plan(client, experiment, folder)


def read_plan(client: mlflow.MlflowClient, experiment: str, folder: Path) -> dict[str, Any]:
    """The newest `plan.json`."""
    newest = client.search_runs(
        [experiment], "tags.`forge.step` = 'prune_checkpoints'", max_results=1
    )[0]
    file = client.download_artifacts(newest.info.run_id, "plan.json", str(folder))
    content = json.loads(Path(file).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_folders_on_this_host_go_with_their_checkpoint_and_leftovers_of_dead_runs_too(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    done = finetune_run(client, experiment, {10: 2.0, 20: 1.0}, output)
    living = finetune_run(
        client, experiment, {10: 1.0}, output, status="RUNNING", heartbeat=time.time()
    )
    # A checkpoint that never reached the store.
    write_checkpoint(output / done, 5)
    for run_id in (done, living):
        for name in (".checkpoint-7.partial-1", ".checkpoint-8.trash-1"):
            leftover = output / run_id / name
            leftover.mkdir()
            (leftover / "optimizer.pt").write_bytes(b"half")
            for path in (leftover / "optimizer.pt", leftover):
                os.utime(path, (1, 1))
    prune("--apply", "true", policy=f"output.output_dir={output}")
    assert sorted(path.name for path in (output / done).iterdir()) == ["checkpoint-20"]
    assert len(list((output / living).iterdir())) == 3
    assert stored_steps(client, done) == [20]


def test_a_run_that_resumed_protects_its_origin_until_it_has_a_checkpoint_of_its_own(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    nothing = "pruning.keep_last=0 pruning.keep_best=0"
    origin = finetune_run(client, experiment, MEASURED, tmp_path / "s", status="KILLED")
    other = str(client.create_experiment("another"))
    heir = finetune_run(
        client, other, {}, tmp_path / "h", status="KILLED", resumed_from=f"{origin}:20"
    )
    prune("--run", origin, "--apply", "true", policy=nothing)
    assert stored_steps(client, origin) == [20, 40]
    upload(client, heir, write_checkpoint(tmp_path / "h", 50))
    prune("--run", origin, "--apply", "true", policy=nothing)
    assert stored_steps(client, origin) == []
    assert stored_steps(client, heir) == [50]


def test_the_best_weights_stay_with_a_run_that_may_be_resumed_also_its_origin_s(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    nothing = "pruning.keep_last=0 pruning.keep_best=0"
    origin = finetune_run(client, experiment, MEASURED, tmp_path / "s", status="KILLED")
    heir = finetune_run(
        client, experiment, {}, tmp_path / "h", status="KILLED", resumed_from=f"{origin}:40"
    )
    upload(client, heir, write_checkpoint(tmp_path / "h", 45))
    upload(client, heir, write_checkpoint(tmp_path / "h", 50, best_step=20))
    prune("--apply", "true", policy=nothing)
    assert (stored_steps(client, origin), stored_steps(client, heir)) == ([20], [50])


def sign(seconds_ago: float, **process: object) -> str:
    return sign_of_life(time.time() - seconds_ago, **process)


@pytest.mark.parametrize(
    ("heartbeat", "expected"),
    [
        (lambda: sign(10), True),
        (lambda: sign(400), False),
        (lambda: "", False),
        (lambda: "spoilt", False),
        (lambda: this_process(), True),
        (lambda: this_process(process_started=1.0), False),
        # Its process is gone: no need to wait until its last sign is an old one.
        (lambda: this_process(process_started=1.0, time=time.time()), False),
        (lambda: this_process(host="another"), False),
        # Another container on the same host's network: its processes are not seen from here.
        (lambda: this_process(process_space=1), False),
        (lambda: this_process(process_space=1, time=time.time()), True),
    ],
)
def test_a_run_lives_by_a_fresh_heartbeat_or_by_its_process_on_this_host(
    client: mlflow.MlflowClient,
    experiment: str,
    tmp_path: Path,
    heartbeat: Callable[[], str],
    expected: bool,
) -> None:
    from steps.tracking.checkpoints.layout import run_state

    run_id = finetune_run(client, experiment, {}, tmp_path, status="RUNNING")
    client.set_tag(run_id, "forge.heartbeat", heartbeat())
    assert (run_state(client.get_run(run_id)) == "living") is expected
    client.set_terminated(run_id)
    assert run_state(client.get_run(run_id)) == "finished"


def this_process(**changes: object) -> str:
    from steps.tracking.heartbeat import sign_of_this_process

    return json.dumps({**json.loads(sign_of_this_process()), "time": time.time() - 400, **changes})


def test_the_folder_that_a_run_names_on_this_host_is_pruned_with_it(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    run_id = finetune_run(client, experiment, {10: 2.0, 20: 1.0}, tmp_path / "named")
    stranger = write_checkpoint(tmp_path / "strangers", 10)
    other = finetune_run(client, experiment, {10: 2.0, 20: 1.0}, tmp_path / "elsewhere")
    root = tmp_path / "named" / run_id
    client.set_tag(run_id, "forge.local_checkpoints", f"{socket.gethostname()}:{root}")
    # Not a folder of this run, whatever its tag says.
    client.set_tag(other, "forge.local_checkpoints", f"{socket.gethostname()}:{stranger.parent}")
    prune("--apply", "true")
    assert [path.name for path in root.iterdir()] == ["checkpoint-20"]
    assert stranger.is_dir()


def test_bad_input_is_one_line_that_names_the_run(
    client: mlflow.MlflowClient, experiment: str, tmp_path: Path
) -> None:
    other = str(client.create_experiment("another"))
    elsewhere = finetune_run(client, other, {}, tmp_path / "s")
    evaluation = finetune_run(client, experiment, {}, tmp_path / "s", step="evaluate")
    deleted = finetune_run(client, experiment, {}, tmp_path / "s")
    client.delete_run(deleted)
    assert "is not in this tracking store" in error_line("--run", "0" * 32)
    assert f"belongs to experiment {other}, not to {experiment}" in error_line("--run", elsewhere)
    assert "is a run of evaluate" in error_line("--run", evaluation)
    assert "is deleted" in error_line("--run", deleted)


def test_nothing_to_prune_is_one_line_and_no_error(experiment: str) -> None:
    for arguments in ((), ("--apply", "true")):
        assert prune(*arguments) == "nothing to prune: no checkpoints are stored\n"


def test_a_folder_that_cannot_be_deleted_is_one_line(store: str) -> None:
    from steps.tracking.checkpoints.removal import _remove_folder, explain_store_errors

    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "checkpoint-10"
        folder.mkdir()
        (folder / "weights").write_bytes(b"kept")
        os.chmod(parent, 0o555)
        user = os.geteuid()
        if user == 0:
            # Root may write anywhere: act as somebody else.
            os.seteuid(65534)
        try:
            with pytest.raises(UserError) as caught, explain_store_errors():
                _remove_folder(folder, "delete")
        finally:
            os.seteuid(user)
            os.chmod(parent, 0o755)
        assert (folder / "weights").read_bytes() == b"kept"
    assert f"{folder} cannot be read or deleted (Permission denied)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_gone_in_the_middle_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from steps.tracking.checkpoints.inventory import finetune_runs
    from steps.tracking.checkpoints.removal import explain_store_errors

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = mlflow.MlflowClient("http://127.0.0.1:9")
    for which in ("all", "0" * 32):
        with pytest.raises(UserError) as caught, explain_store_errors():
            finetune_runs(client, "1", which)
        assert str(caught.value).startswith("the tracking store failed in the middle (")
        assert "\n" not in str(caught.value)
