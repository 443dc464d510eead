"""Several processes that train one model: how they start, who each one is, what they agree on.

    rank = rank_from_environment()               # None: nobody has started ranks yet
    launch_ranks(arguments, 4, settings, {}, notes)   # in the first process: starts and waits
    with process_group(rank, "cuda", 30):        # in each rank
        with raise_on_all_ranks():               # fails on all ranks when it fails on one
            load()

One process starts the others through torch's elastic agent, which restarts them all when one is
lost. Agent and ranks meet in files of a folder that only this user can open, and talk through the
loopback interface: a store that listens would unpickle what anybody on the network writes.

Ranks that torchrun, accelerate, DeepSpeed's launcher or SLURM's srun have started find their place
in the environment and start nothing.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from steps.config.sections import Distributed
from steps.distributed.collectives import CannotJoin, describe_error
from steps.distributed.ranks import LAUNCHED_VARIABLE, Rank
from steps.errors import UserError
from steps.signals import STOP_SIGNALS, exit_code

# The signals that ask a run to end, passed on to each rank; a closed terminal is one more.
PASSED_ON = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")


class RankFailed(Exception):
    """A rank has ended for another reason than bad input, and no restart is left.

    Attributes:
        detail: The traceback of that rank, or "" where it was killed.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


def launch_ranks(
    arguments: Sequence[str],
    processes: int,
    settings: Distributed,
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
        notes: An empty folder, where a rank that fails writes its error.

    Raises:
        UserError: A rank has met bad input.
        RankFailed: A rank has failed and the restarts are used up; names the one that did so
            first.
        SystemExit: This process was asked to end (143 or 130), and the ranks have ended.
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
        rdzv_endpoint=str(notes / "rendezvous"),
        rdzv_configs={"store_type": "file", "join_timeout": int(60 * settings.timeout_minutes)},
        local_addr="localhost",
        max_restarts=settings.max_restarts,
        monitor_interval=0.2,
        signals_to_handle=",".join(PASSED_ON),
        **{name: value for name, value in patience.items() if name in known},
    )
    untouched = dict(os.environ)
    os.environ.update(environment)
    # Or the agent makes a store for the ranks that listens.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    for library in ("GLOO", "NCCL"):
        os.environ[f"{library}_SOCKET_IFNAME"] = loopback_interface()
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
        raise root_cause(error.failures, notes) from None
    finally:
        os.environ.clear()
        os.environ.update(untouched)
        # The agent puts its own in their place and leaves them there.
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler or signal.SIG_DFL)


def loopback_interface() -> str:
    """Name of the interface that reaches this machine alone: lo, on macOS lo0."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name.startswith("lo")), "lo")


def note_failure(rank: Rank, error: BaseException) -> None:
    """Write the error that ends this rank to the launcher's notes folder, for `root_cause`."""
    folder = Path(os.environ[LAUNCHED_VARIABLE])
    note = {
        "time": time.time(),
        "attempt": rank.attempt,
        "rank": rank.index,
        "who": str(rank),
        "error": str(error) if isinstance(error, UserError) else describe_error(error),
        "detail": "".join(traceback.format_exception(error)),
        "exit_code": error.exit_code if isinstance(error, UserError) else 1,
        "is_final": isinstance(error, UserError) and not isinstance(error, CannotJoin),
    }
    (folder / f"{rank.attempt}-{rank.index}.json").write_text(json.dumps(note), encoding="utf-8")


@contextmanager
def telling_the_launcher(rank: Rank) -> Iterator[None]:
    """Under `launch_ranks`, note an error for the launcher and exit; else let it pass.

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


def root_cause(failures: Mapping[int, Any], folder: Path) -> Exception:
    """Why the ranks ended: bad input; a kill; or the error of the one that failed first.

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
