"""finetune on several processes: one run, one result, and no process left, however it ends."""

import importlib
import os
import signal
import socket
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from tests.support.launches import Launch, is_past
from tests.support.processes import listening, processes_of, wait_for
from tests.support.project import ROOT
from tests.support.rank_runs import adapter, losses, newest_run


@pytest.fixture
def dataset(store: str, tiny_config: Path) -> Path:
    """A store with a dataset; gives the configuration."""
    from steps.preprocess import main

    result = CliRunner().invoke(main, ["--config", str(tiny_config)])
    assert result.exit_code == 0, result.output
    return tiny_config


# 127.0.0.1, ::1 and ::ffff:127.0.0.1.
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def test_a_local_launch_listens_to_this_machine_alone_and_meets_in_files(
    dataset: Path, tmp_path: Path
) -> None:
    launch = Launch(dataset, tmp_path)
    seen: set[str] = set()

    def trained_while_watched() -> bool:
        seen.update(listening(processes_of(launch.marker)))
        return is_past(3)() or launch.process.poll() is not None

    wait_for(trained_while_watched, 240)
    assert launch.process.poll() is None, launch.said
    # Gloo's own sockets are there, so that something was looked at.
    assert seen
    assert seen <= LOOPBACK, seen
    launch.process.send_signal(signal.SIGTERM)
    launch.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("lora", "ZeRO-3: each process reads its own share of the base"),
        ("dora", "ZeRO-3: each process loads the base whole and then shares it out: method dora"),
    ],
)
def test_under_zero_3_a_run_says_how_the_base_was_loaded_and_its_version_can_be_loaded(
    dataset: Path, tmp_path: Path, method: str, said: str
) -> None:
    launch = Launch(
        dataset,
        tmp_path,
        hyperparameters__max_steps="4",
        qlora__method=method,
        mlflow__log_model="true",
        distributed__enabled="true",
        distributed__backend="deepspeed",
        distributed__deepspeed_config=str(ROOT / "configs" / "deepspeed" / "zero3.json"),
    )
    # Registered once a fresh process has loaded it and found the same logits.
    assert launch.wait(600) == 0, launch.said
    assert launch.said.count(said) == 1
    run = newest_run()
    assert run.info.status == "FINISHED"
    assert run.data.tags["forge.wrapper"].startswith("DeepSpeedEngine ZeRO-3")


@pytest.mark.slow
def test_a_killed_rank_is_made_up_for_in_the_same_run_and_no_step_is_reported_twice(
    dataset: Path, tmp_path: Path
) -> None:
    untouched = Launch(dataset, tmp_path)
    assert untouched.wait() == 0, untouched.said
    expected, whole = losses(newest_run()), adapter(newest_run(), tmp_path / "a")

    launch = Launch(dataset, tmp_path)
    wait_for(lambda: newest_run().info.status == "RUNNING" and is_past(45)())
    os.kill(launch.rank(1), signal.SIGKILL)
    assert launch.wait() == 0, launch.said

    run = newest_run()
    assert run.info.status == "FINISHED"
    assert "forge.resumed_from" not in run.data.tags
    assert "steps done after the resume" in launch.said
    assert losses(run) == expected
    resumed = adapter(run, tmp_path / "b")
    assert all((resumed[name] == whole[name]).all() for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_the_launcher_saves_once_and_leaves_no_process(
    dataset: Path, tmp_path: Path, number: signal.Signals
) -> None:
    launch = Launch(dataset, tmp_path, hyperparameters__max_steps="100000")
    wait_for(is_past(5))
    os.kill(launch.process.pid, number)
    assert launch.wait() == (130 if number == signal.SIGINT else 143), launch.said

    run = newest_run()
    assert run.info.status == "KILLED"
    last = losses(run)[-1][0]
    stored = mlflow.MlflowClient().list_artifacts(run.info.run_id, "checkpoints")
    saved = sorted(int(one.path.rpartition("-")[2]) for one in stored)
    assert [step for step in saved if step % 20] in ([], [last]) and saved[-1] == last
    assert launch.said.count("and saved; to go on") == 1


@pytest.mark.slow
def test_ranks_save_and_end_with_a_launcher_that_is_killed_and_a_new_one_goes_on(
    dataset: Path, tmp_path: Path
) -> None:
    launch = Launch(dataset, tmp_path)
    wait_for(is_past(25))
    os.kill(launch.process.pid, signal.SIGKILL)
    launch.wait()
    killed = newest_run()

    resuming = ("-m", "steps.finetune", "--num-processes", "2", "--resume", "auto")
    second = Launch(dataset, tmp_path, *resuming)
    assert second.wait() == 0, second.said
    run = newest_run()
    origin, _, step = run.data.tags["forge.resumed_from"].partition(":")
    # Saved when the launcher went, and not at the last interval.
    assert origin == killed.info.run_id and int(step) >= 25
    assert [done for done, _ in losses(run)] == list(range(1, 121))
    assert mlflow.MlflowClient().get_run(origin).info.status == "KILLED"


@pytest.mark.slow
def test_an_error_of_one_rank_stands_in_front_and_the_run_is_failed(
    dataset: Path, tmp_path: Path
) -> None:
    launch = Launch(
        dataset, tmp_path, hyperparameters__max_steps="100000", distributed__max_restarts="0"
    )
    wait_for(is_past(5))
    os.kill(launch.rank(1), signal.SIGKILL)
    assert launch.wait() == 1
    run = newest_run()
    assert run.info.status == "FAILED"
    assert (
        run.data.tags["forge.error"] == "RankFailed: rank 1 was killed by SIGKILL (out of memory?)"
    )
    assert "error: rank 1 was killed by SIGKILL" in launch.said
    assert "Traceback" not in launch.said


@pytest.mark.slow
def test_bad_input_of_the_ranks_is_one_line_and_not_tried_again(
    dataset: Path, tmp_path: Path
) -> None:
    # Only a loaded model knows its modules.
    launch = Launch(dataset, tmp_path, qlora__target_modules="[no_such_module]")
    assert launch.wait() == 2, launch.said
    lines = [line for line in launch.said.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and "no_such_module" in lines[0]
    assert "Traceback" not in launch.said
    assert newest_run().info.status == "FAILED"


def places(count: int) -> list[dict[str, str]]:
    """What a launcher that starts ranks and does not watch them puts into the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{"RANK": str(i), "LOCAL_RANK": str(i), **common} for i in range(count)]


ALONE = ("-m", "steps.finetune")


@pytest.mark.slow
def test_ranks_that_were_started_with_different_configurations_are_refused_by_rank_0(
    dataset: Path, tmp_path: Path
) -> None:
    rates = ("1e-3", "2e-3")
    ranks = [
        Launch(dataset, tmp_path, *ALONE, place=place, hyperparameters__learning_rate=rate)
        for place, rate in zip(places(2), rates, strict=True)
    ]
    assert [rank.wait() for rank in ranks] == [2, 2]
    (line,) = [line for line in ranks[0].said.splitlines() if line.startswith("error")]
    assert "rank 1" in line and "learning_rate is 0.002, on rank 0 0.001" in line
    assert "error" not in ranks[1].said
    assert newest_run().data.tags["forge.error"] in line


@pytest.mark.slow
def test_ranks_of_any_launcher_train_together_in_one_run(dataset: Path, tmp_path: Path) -> None:
    ranks = [Launch(dataset, tmp_path, *ALONE, place=place) for place in places(2)]
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].said
    run = newest_run()
    assert run.info.status == "FINISHED" and run.data.tags["forge.processes"] == "2"
    assert run.data.tags["forge.wrapper"] == "DistributedDataParallel"
    assert [step for step, _ in losses(run)] == list(range(1, 121))


def test_a_rank_whose_others_never_come_gives_up_in_time(dataset: Path, tmp_path: Path) -> None:
    place = places(2)[0]
    rank = Launch(dataset, tmp_path, *ALONE, place=place, distributed__timeout_minutes="0.05")
    assert rank.wait() == 2
    (line,) = [line for line in rank.said.splitlines() if line.startswith("error")]
    assert "could not join the others at 127.0.0.1:" in line and "within 0.05 min" in line


def test_a_port_that_is_in_use_is_named(dataset: Path, tmp_path: Path) -> None:
    place = places(2)[0]
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", int(place["MASTER_PORT"])))
        taken.listen()
        rank = Launch(dataset, tmp_path, *ALONE, place=place, distributed__timeout_minutes="0.1")
        assert rank.wait() == 2
    (line,) = [line for line in rank.said.splitlines() if line.startswith("error")]
    assert place["MASTER_PORT"] in line and "set MASTER_PORT" in line


def test_a_deepspeed_file_that_is_not_there_is_named_at_once(
    tiny_config: Path, tmp_path: Path
) -> None:
    from steps.finetune import main

    overrides = (
        "training.distributed.enabled=true training.distributed.backend=deepspeed "
        "training.distributed.deepspeed_config=configs/deepspeed/zero4.json"
    )
    result = CliRunner().invoke(main, ["--config", str(tiny_config), "--overrides", overrides])
    assert result.exit_code == 2
    assert "zero4.json" in result.output and "zero3.json" in result.output


@pytest.mark.parametrize("step", ["finetune", "main"])
def test_a_deepspeed_file_with_a_misspelt_key_is_refused_before_anything_is_made(
    step: str, client: mlflow.MlflowClient, tiny_config: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"stage": 2, "overlap_com": true}}')
    overrides = (
        "training.distributed.enabled=true training.distributed.backend=deepspeed "
        f"training.distributed.deepspeed_config={file}"
    )
    main = importlib.import_module(f"steps.{step}").main
    result = CliRunner().invoke(main, ["--config", str(tiny_config), "--overrides", overrides])
    assert result.exit_code == 2
    assert "did you mean zero_optimization.overlap_comm?" in result.output
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert client.search_runs(experiments) == []


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from steps.distributed.ranks import check_devices
    from steps.errors import UserError

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(2, "cuda")
    with pytest.raises(UserError, match=r"3 processes on this machine, but it has 2 GPU"):
        check_devices(3, "cuda")
