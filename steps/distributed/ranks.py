"""Which process this is among those that train together."""

import os
import re
import socket
from dataclasses import dataclass

from steps.errors import UserError

# Tells a rank that the process which started it ends the run, and where that one looks for
# why the ranks ended.
LAUNCHED_VARIABLE = "FORGE_LAUNCHED"

# What makes a process one of several.
RANK_VARIABLES = frozenset(
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"}
)


@dataclass(frozen=True)
class Rank:
    """The place of this process among those that train together.

    Attributes:
        index: Counted over all machines; 0 reports to the store.
        count: Processes in all.
        local: Counted on this machine.
        local_count: Processes on this machine.
        machine: Counted over the machines.
        launch: What all attempts of one launch have in common, or "".
        attempt: How often the group has been restarted.
    """

    index: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1
    machine: int = 0
    launch: str = ""
    attempt: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the one that reports."""
        return self.index == 0

    @property
    def machines(self) -> int:
        """How many machines take part, each with as many processes as this one."""
        return max(1, self.count // self.local_count)

    @property
    def is_launched(self) -> bool:
        """Whether `launch_ranks` started this process, and so the launcher closes the run."""
        return LAUNCHED_VARIABLE in os.environ

    def __str__(self) -> str:
        """As it stands in front of this rank's errors."""
        return f"rank {self.index} on {socket.gethostname()}"


def rank_from_environment() -> Rank | None:
    """The place that a launcher has given this process, or None where there is no launcher.

    Raises:
        UserError: The variables of the launcher contradict each other.
    """
    _adopt_slurm()
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    index, count = _number("RANK"), _number("WORLD_SIZE")
    local, local_count = _number("LOCAL_RANK", 0), _number("LOCAL_WORLD_SIZE", count)
    if not (0 <= index < count and 0 <= local < local_count <= count):
        raise UserError(
            f"RANK={index} WORLD_SIZE={count} LOCAL_RANK={local} LOCAL_WORLD_SIZE={local_count} "
            "contradict each other: start through torchrun, or unset them to train alone"
        )
    os.environ.setdefault("LOCAL_RANK", str(local))
    return Rank(
        index=index,
        count=count,
        local=local,
        local_count=local_count,
        machine=_number("GROUP_RANK", index // local_count),
        launch=_launch_name(),
        attempt=_number("TORCHELASTIC_RESTART_COUNT", 0),
    )


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} is {text!r} in the environment, expected a number") from None


def _launch_name() -> str:
    """What stays the same when the agent restarts this process, maybe on another machine."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    # Without a rendezvous of its own every launch of torchrun is called "none".
    return name if name != "none" else f"{socket.gethostname()}:{os.getppid()}"


def _adopt_slurm() -> None:
    """Translate what srun says into what torch reads.

    A batch script has SLURM_PROCID too; only a task of a job step has siblings to wait for.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in os.environ or tasks == "1":
        return
    machines = max(1, _number("SLURM_STEP_NUM_NODES", 1))
    os.environ["RANK"] = str(_number("SLURM_PROCID"))
    os.environ["WORLD_SIZE"] = tasks
    os.environ["LOCAL_RANK"] = str(_number("SLURM_LOCALID"))
    os.environ["LOCAL_WORLD_SIZE"] = str(max(1, int(tasks) // machines))
    os.environ["GROUP_RANK"] = str(_number("SLURM_NODEID", 0))
    job = os.environ.get("SLURM_JOB_ID", "0")
    os.environ.setdefault("MASTER_ADDR", first_host(os.environ.get("SLURM_STEP_NODELIST", "")))
    # Two jobs that share a machine must not share a port.
    os.environ.setdefault("MASTER_PORT", str(15000 + int(re.sub(r"\D", "", job) or 0) % 20000))
    os.environ.setdefault("TORCHELASTIC_RUN_ID", f"slurm-{job}")


def first_host(nodes: str) -> str:
    """The first machine of a list as SLURM writes it: `gpu[07-09,12],cpu1` gives `gpu07`."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?", nodes)
    return (match[1] + (match[2] or "")) if match else "localhost"


def check_process_count(wanted: int, rank: Rank) -> None:
    """Refuse a number of processes where a launcher has started another one.

    Args:
        wanted: The option; 1 where it was not given.
        rank: The place that the launcher has given this process.

    Raises:
        UserError: The two contradict each other.
    """
    if wanted not in (1, rank.local_count):
        raise UserError(
            f"num_processes is {wanted}, but a launcher has started {rank.local_count} "
            "ranks on this machine already: leave num_processes out"
        )


def check_devices(processes: int, device: str) -> None:
    """Refuse more processes on this machine than it has GPUs.

    Raises:
        UserError: There are fewer GPUs.
    """
    if device != "cuda":
        return
    import torch

    gpus = torch.cuda.device_count()
    if processes > gpus:
        raise UserError(
            f"{processes} processes on this machine, but it has {gpus} GPU(s): give "
            f"num_processes={gpus} (or fewer), or training.hardware.device=cpu (srun: "
            "--gpu-bind=none shows every task all GPUs of its machine)"
        )
