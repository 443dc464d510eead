"""Several processes that train one model: how they start, who each one is, what they agree on.

    rank = rank_from_environment()               # None: nobody has started ranks yet
    launch_ranks(arguments, 4, settings, {}, notes)   # in the first process: starts and waits
    with process_group(rank, "cuda", 30):        # in each rank
        with together(rank):                     # fails on all ranks when it fails on one
            load()

One process starts the others through torch's elastic agent, which restarts them all when one is
lost. Ranks that torchrun, accelerate, DeepSpeed's launcher or SLURM's srun have started find
their place in the environment and start nothing.
"""

import json
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from steps import config
from steps.errors import UserError
from steps.training.signals import STOP_SIGNALS, exit_code

# Tells a rank that the process which started it ends the run, and where that one looks for
# what the ranks died of.
LAUNCHED_VARIABLE = "FORGE_LAUNCHED"
# What makes a process one of several.
RANK_VARIABLES = frozenset(
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"}
)
# A store that torch's agent shares with the ranks keeps the addresses of an attempt that was
# killed, and the next one would call them (pytorch issue 135712).
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
# The signals that ask a run to end, passed on to each rank; a closed terminal is one more.
PASSED_ON = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")


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
        """Whether the process that started this one states the end of the run."""
        return LAUNCHED_VARIABLE in os.environ

    def __str__(self) -> str:
        """As it stands in front of this rank's errors."""
        return f"rank {self.index} on {socket.gethostname()}"


class CannotJoin(UserError):
    """The other ranks were not to be reached in time: a restart may find them."""


class RankFailed(Exception):
    """A rank has ended for another reason than bad input, and no restart is left.

    Attributes:
        detail: The traceback of that rank, or "" where it was killed.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


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


def launch_ranks(
    arguments: Sequence[str],
    processes: int,
    settings: config.Distributed,
    environment: Mapping[str, str],
    notes: Path,
) -> None:
    """Start this step as ranks on this machine, and wait until all have ended.

    Signals that ask the run to end reach every rank, which get `settings.stop_seconds` to save.

    Args:
        arguments: Of each rank's Python.
        processes: How many ranks.
        settings: Restarts and time limits.
        environment: Variables of the ranks, besides those of this process.
        notes: An empty folder, where ranks say what they died of.

    Raises:
        UserError: A rank has met bad input.
        RankFailed: A rank has failed and the restarts are used up; names the one that did so
            first.
        SystemExit: This process was told to end, 143 or 130, and the ranks have.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Not in torch 2.11, which waits 30 seconds.
    patience: dict[str, Any] = {"shutdown_timeout": settings.stop_seconds}
    known = {field.name for field in fields(LaunchConfig)}
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"forge-{os.getpid()}",
        rdzv_backend="c10d",
        # A free port of this machine.
        rdzv_endpoint="localhost:0",
        rdzv_configs={"join_timeout": int(60 * settings.timeout_minutes)},
        max_restarts=settings.max_restarts,
        monitor_interval=0.2,
        signals_to_handle=",".join(PASSED_ON),
        **{name: value for name, value in patience.items() if name in known},
    )
    untouched = dict(os.environ)
    os.environ.update(environment)
    os.environ.update(OWN_STORE)
    os.environ[LAUNCHED_VARIABLE] = str(notes)
    # Each would otherwise start as many threads as there are processors.
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    before = {name: signal.getsignal(getattr(signal, name)) for name in PASSED_ON}
    try:
        elastic_launch(launch, sys.executable)("-u", *arguments)
    except SignalException as error:
        raise SystemExit(exit_code(error.sigval)) from None
    except ChildFailedError as error:
        raise first_death(error.failures, notes) from None
    finally:
        os.environ.clear()
        os.environ.update(untouched)
        # The agent puts its own in their place and leaves them there.
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler or signal.SIG_DFL)


def note_failure(rank: Rank, error: BaseException) -> None:
    """Tell the process that has started this one what it dies of."""
    folder = Path(os.environ[LAUNCHED_VARIABLE])
    note = {
        "time": time.time(),
        "attempt": rank.attempt,
        "rank": rank.index,
        "who": str(rank),
        "error": str(error) if isinstance(error, UserError) else _named(error),
        "detail": "".join(traceback.format_exception(error)),
        "exit_code": error.exit_code if isinstance(error, UserError) else 1,
        "is_final": isinstance(error, UserError) and not isinstance(error, CannotJoin),
    }
    (folder / f"{rank.attempt}-{rank.index}.json").write_text(json.dumps(note), encoding="utf-8")


@contextmanager
def telling_the_launcher(rank: Rank) -> Iterator[None]:
    """Leave it to the process that has started this one to say what went wrong.

    Raises:
        SystemExit: In place of an error, with its exit code.
    """
    try:
        yield
    except Exception as error:
        if not rank.is_launched:
            raise
        note_failure(rank, error)
        raise SystemExit(error.exit_code if isinstance(error, UserError) else 1) from None
    finally:
        if rank.is_launched:
            # The agent ends what is left of a group; here there is nothing left to save.
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_DFL)


def refused_before() -> bool:
    """Whether an earlier attempt ended with bad input, which no restart mends."""
    return any(note["is_final"] for note in _notes(Path(os.environ[LAUNCHED_VARIABLE])))


def _notes(folder: Path) -> list[dict[str, Any]]:
    notes = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")]
    return sorted(notes, key=lambda note: (-note["attempt"], note["time"]))


def _named(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def first_death(failures: Mapping[int, Any], folder: Path) -> Exception:
    """What the ranks died of: bad input; a kill; or the error of the one that failed first.

    A rank that was killed says nothing; those that lost it fail with errors of their own.

    Args:
        failures: What torch's agent says of each rank: `exitcode` and `timestamp` (seconds).
        folder: What the ranks say (see `note_failure`).
    """
    notes = _notes(folder)
    for note in notes:
        if note["is_final"]:
            return UserError(note["error"])
    first = min((failure.timestamp for failure in failures.values()), default=0)
    for index, failure in sorted(failures.items()):
        # Those that went later were ended by the agent, with SIGTERM and then with SIGKILL.
        ended_by_agent = failure.exitcode == -signal.SIGTERM or failure.timestamp > first
        if failure.exitcode < 0 and not ended_by_agent:
            number = signal.Signals(-failure.exitcode)
            why = " (out of memory?)" if number == signal.SIGKILL else ""
            return RankFailed(f"rank {index} was killed by {number.name}{why}")
    if notes and notes[0]["exit_code"] == UserError.exit_code:
        return UserError(notes[0]["error"])
    if notes:
        return RankFailed(f"{notes[0]['who']}: {notes[0]['error']}", notes[0]["detail"])
    index = min(failures, key=lambda one: failures[one].timestamp)
    return RankFailed(f"rank {index} ended with exit code {failures[index].exitcode}")


@contextmanager
def process_group(
    rank: Rank, device: str, minutes: float, *, alone: bool = False
) -> Iterator[None]:
    """Join the other ranks; every wait for them has a limit.

    Args:
        rank: The place of this process.
        device: "cpu" or "cuda".
        minutes: The longest that one waits for another, here and later.
        alone: Make a group of one too (DeepSpeed asks for it).

    Raises:
        CannotJoin: The others, or the port at which they meet, cannot be had.
    """
    if rank.count == 1 and not alone:
        yield
        return
    import torch
    from torch import distributed as dist

    if device == "cuda":
        torch.cuda.set_device(rank.local)
    # Small facts go by gloo, without stopping the GPU.
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=minutes))
        # A store answers before the group does; here all have met.
        dist.barrier()
    except (dist.DistError, RuntimeError, ValueError) as error:
        reason = _named(error)[:200]
        in_use = "EADDRINUSE" in str(error) or "address already in use" in str(error)
        shares = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        fix = (
            "another program listens there: set MASTER_PORT (torchrun: --rdzv-endpoint) to a "
            "free port"
            if in_use
            else "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, or its restarts call the "
            "ranks of the attempt before"
            if shares and rank.attempt
            else "see that all machines run, reach that address, and name the same one "
            "(GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME chooses the network)"
        )
        raise CannotJoin(
            f"{rank} of {rank.count} could not join the others at {where} within {minutes:g} min "
            f"({reason}): {fix}"
        ) from None
    yield
    leave_group()


def leave_group() -> None:
    """Part from the other ranks, in good order: after an error it would wait for them."""
    from torch import distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def gathered(value: Any, rank: Rank) -> list[Any]:
    """The values of all ranks, in their order, on every rank."""
    if rank.count == 1:
        return [value]
    from torch import distributed as dist

    values: list[Any] = [None] * rank.count
    dist.all_gather_object(values, value)
    return values


def from_first(value: Any, rank: Rank) -> Any:
    """The value that rank 0 gave."""
    if rank.count == 1:
        return value
    from torch import distributed as dist

    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def summed(values: Sequence[float], count: int) -> list[float]:
    """Element-wise sums over the ranks, by way of the CPU."""
    if count == 1:
        return list(values)
    import torch
    from torch import distributed as dist

    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    total: list[float] = tensor.tolist()
    return total


@contextmanager
def together(rank: Rank) -> Iterator[None]:
    """Let bad input that one rank meets in this block be bad input on all of them.

    Raises:
        UserError: A rank has raised one; where rank 0 has not, it says which.
    """
    error: UserError | None = None
    try:
        yield
    except UserError as caught:
        error = caught
    found = gathered(None if error is None else (str(error), error.exit_code, str(rank)), rank)
    told = [one for one in found if one is not None]
    if not told:
        return
    message, code, who = told[0]
    # What rank 0 does for all of them needs no name.
    prefix = "" if found[0] is not None else f"{who}: "
    everywhere = len({one[0] for one in told}) == 1 and len(told) == rank.count
    shared = error if everywhere and error is not None else UserError(f"{prefix}{message}")
    shared.exit_code = code
    shared.is_shared = True
    raise shared


def check_equal(facts: Mapping[str, Any], rank: Rank) -> None:
    """Refuse ranks that were started with different configurations, data or libraries.

    Args:
        facts: JSON values by name.
        rank: The place of this process.

    Raises:
        UserError: They differ; names the first rank that does, and each fact. On every rank.
    """
    everyone = gathered((str(rank), dict(facts)), rank)
    first = everyone[0][1]
    for who, theirs in everyone[1:]:
        different = [
            f"{name} is {theirs.get(name)!r}, on rank 0 {first.get(name)!r}"
            for name in sorted(first.keys() | theirs.keys())
            if theirs.get(name) != first.get(name)
        ]
        if different:
            shared = UserError(
                f"{who} was started with something else than rank 0: {'; '.join(different[:5])}: "
                "start every machine with the same project, configuration and dataset"
            )
            shared.is_shared = True
            raise shared
