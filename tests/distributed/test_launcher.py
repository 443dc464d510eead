"""Who a process is among several, what all of them agree on, and how several equal one."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from steps.distributed.launcher import RankFailed, note_failure, refused_before, root_cause
from steps.distributed.ranks import LAUNCHED_VARIABLE, Rank, first_host, rank_from_environment
from steps.errors import UserError
from tests.support.rank_trainings import specification, train, trained

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that no launcher has touched, and that is so again afterwards."""
    for name in [*LAUNCHERS, "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"]:
        # Set first, so that what the code sets is taken back too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_process_that_nobody_launched_has_no_rank(environment: pytest.MonkeyPatch) -> None:
    assert rank_from_environment() is None


def test_what_torchrun_says_is_taken(environment: pytest.MonkeyPatch) -> None:
    said = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    said |= {"GROUP_RANK": "1", "TORCHELASTIC_RUN_ID": "job7", "TORCHELASTIC_RESTART_COUNT": "2"}
    for name, value in said.items():
        environment.setenv(name, value)
    rank = rank_from_environment()
    assert rank == Rank(5, 8, 1, 4, 1, "job7", 2)
    assert rank.machines == 2 and not rank.is_first


def test_a_task_of_a_slurm_step_is_a_rank(environment: pytest.MonkeyPatch) -> None:
    said = {"STEP_NUM_TASKS": "8", "STEP_NUM_NODES": "2", "PROCID": "6", "LOCALID": "2"}
    said |= {"NODEID": "1", "STEP_NODELIST": "gpu[07-08]", "JOB_ID": "4711"}
    for name, value in said.items():
        environment.setenv(f"SLURM_{name}", value)
    assert rank_from_environment() == Rank(6, 8, 2, 4, 1, "slurm-4711", 0)
    assert os.environ["MASTER_ADDR"] == "gpu07"
    assert 15000 <= int(os.environ["MASTER_PORT"]) < 35000


def test_a_slurm_batch_script_itself_is_no_rank(environment: pytest.MonkeyPatch) -> None:
    for name, value in {"PROCID": "0", "NTASKS": "8", "LOCALID": "0"}.items():
        environment.setenv(f"SLURM_{name}", value)
    assert rank_from_environment() is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("a,b", "a"),
        ("n[3,5-7]", "n3"),
        ("", "localhost"),
    ],
)
def test_the_first_machine_of_a_slurm_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "contradict each other"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one'"),
    ],
)
def test_a_place_that_cannot_be_is_refused(
    environment: pytest.MonkeyPatch, said: dict[str, str], words: str
) -> None:
    for name, value in said.items():
        environment.setenv(name, value)
    with pytest.raises(UserError, match=words):
        rank_from_environment()


def test_what_the_agent_ended_is_not_taken_for_the_cause(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv(LAUNCHED_VARIABLE, str(tmp_path))
    note_failure(Rank(1, 2, 1, 2), ValueError("boom"))
    # Stuck in what rank 1 had left, until the agent's patience with it was at an end.
    stuck = {0: SimpleNamespace(exitcode=-9, timestamp=40)}
    died = root_cause({1: SimpleNamespace(exitcode=1, timestamp=10), **stuck}, tmp_path)
    assert isinstance(died, RankFailed)
    assert str(died).startswith("rank 1 on ") and str(died).endswith("ValueError: boom")
    assert "boom" in died.detail


def test_a_rank_that_was_killed_comes_before_those_that_lost_it(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv(LAUNCHED_VARIABLE, str(tmp_path))
    note_failure(Rank(0, 2), RuntimeError("Connection closed by peer"))
    failures = {
        0: SimpleNamespace(exitcode=1, timestamp=10),
        1: SimpleNamespace(exitcode=-9, timestamp=10),
    }
    assert str(root_cause(failures, tmp_path)).startswith("rank 1 was killed by SIGKILL")


def test_bad_input_of_any_attempt_is_what_is_said(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv(LAUNCHED_VARIABLE, str(tmp_path))
    assert not refused_before()
    note_failure(Rank(1, 2), UserError("the value, what was expected, the fix"))
    assert refused_before()
    died = root_cause({1: SimpleNamespace(exitcode=2, timestamp=10)}, tmp_path)
    assert isinstance(died, UserError) and str(died) == "the value, what was expected, the fix"


def test_two_ranks_read_every_row_once_and_learn_what_one_does(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    one = trained(specification(tmp_path, tiny_llama_folder, "one", accumulation=2), 1)
    two = trained(specification(tmp_path, tiny_llama_folder, "two"), 2)
    two.assert_equals(one)
    assert two.tokens_seen == one.tokens_seen
    assert two.wrapper == "DistributedDataParallel" and one.wrapper == "none"
    # The rows are odd in number, so the last step of an epoch has one row for two ranks.
    count = max(one.rows[0]) + 1
    assert count % 2 == 1
    epoch = [rows[: (count + 1) // 2] for rows in two.rows]
    read = sorted(epoch[0] + epoch[1][: count // 2])
    assert read == list(range(count))


def test_two_ranks_learn_from_mixed_rows_what_one_does_and_share_them_out(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    sections = {
        "replay": {"source": "others", "share": 0.3},
        "study_texts": {"share": 0.1, "kinds": ["section_order"]},
    }
    said = specification(tmp_path, tiny_llama_folder, "one", accumulation=2, sections=sections)
    one = trained(said, 1)
    two = trained(specification(tmp_path, tiny_llama_folder, "two", sections=sections), 2)
    two.assert_equals(one)
    assert two.tokens_seen == one.tokens_seen
    assert {name.split()[1] for name in one.losses} >= {"loss", "replay_loss", "study_loss"}
    # What one rank reads in an epoch, the two of them read in turns.
    epoch = one.rows[0][: one.rows_an_epoch]
    half = -(-len(epoch) // 2)
    assert [rows[:half][: len(epoch[rank::2])] for rank, rows in enumerate(two.rows)] == [
        epoch[0::2],
        epoch[1::2],
    ]


ZERO = [f"configs/deepspeed/{name}.json" for name in ("zero2", "zero3", "zero3_offload")]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("deepspeed", [None, *ZERO])
def test_two_ranks_learn_what_one_does_on_each_backend(
    tiny_llama_folder: Path, tmp_path: Path, method: str, deepspeed: str | None
) -> None:
    said = specification(tmp_path, tiny_llama_folder, "one", accumulation=2, method=method)
    one = trained(said, 1)
    said = specification(tmp_path, tiny_llama_folder, "two", method=method, deepspeed=deepspeed)
    two = trained(said, 2)
    two.assert_equals(one)
    if deepspeed:
        stage = 2 if "zero2" in deepspeed else 3
        assert two.wrapper.startswith(f"DeepSpeedEngine ZeRO-{stage}")
        assert ("optimizer on cpu" in two.wrapper) == ("offload" in deepspeed)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
@pytest.mark.parametrize("deepspeed", [None, *ZERO])
def test_a_killed_group_resumes_to_the_same_weights_on_each_backend(
    tiny_llama_folder: Path, tmp_path: Path, method: str, deepspeed: str | None
) -> None:
    common = {"method": method, "deepspeed": deepspeed, "steps": 36}
    common["dropout"] = 0.0 if method == "full" else 0.2
    untouched = trained(specification(tmp_path, tiny_llama_folder, "untouched", **common), 2)
    # The checkpoint before is in the second epoch: it has an order of rows of its own.
    kill = {"rank": 1, "step": 29}
    killed = specification(tmp_path, tiny_llama_folder, "killed", kill=kill, **common)
    assert train(killed, 2).returncode != 0
    checkpoint = tmp_path / "killed" / "checkpoint-24"
    assert (checkpoint / "rng_state_1.pth").is_file()
    said = specification(tmp_path, tiny_llama_folder, "killed", resume=str(checkpoint), **common)
    resumed = trained(said, 2)
    assert resumed.steps_done == 36 - 24
    assert all((resumed.weights[n] == w).all() for n, w in untouched.weights.items())
    later = {n: v for n, v in untouched.losses.items() if int(n.split()[0]) > 24}
    assert {n: v for n, v in resumed.losses.items() if int(n.split()[0]) > 24} == later
