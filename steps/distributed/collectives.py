"""What several processes do together: sums, broadcasts, and errors that all of them raise."""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from steps.distributed.ranks import LAUNCHED_VARIABLE, Rank
from steps.errors import UserError


class CannotJoin(UserError):
    """The other ranks were not to be reached in time: a restart may find them."""


def describe_error(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


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
    meeting = meeting_file(rank)
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    place: dict[str, Any] = {}
    if meeting is not None:
        where = str(meeting)
        place = {
            "init_method": meeting.absolute().as_uri(),
            "rank": rank.index,
            "world_size": rank.count,
        }
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=minutes), **place)
        # A store answers before the group does; here all have met.
        dist.barrier()
    except (dist.DistError, RuntimeError, ValueError) as error:
        reason = describe_error(error)[:200]
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


def meeting_file(rank: Rank) -> Path | None:
    """The file in which the ranks of a local launch meet, a new one for each attempt.

    None: a launcher such as torchrun has started the ranks, and says at which address they meet.
    """
    if not rank.is_launched:
        return None
    return Path(os.environ[LAUNCHED_VARIABLE]) / f"meeting-{rank.attempt}"


def leave_group() -> None:
    """Leave the process group. Not after an error: it would wait for ranks that are gone."""
    from torch import distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """How many ranks have joined the process group; 1 where there is none."""
    from torch import distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first_rank() -> bool:
    """Whether this is rank 0, or trains alone."""
    from torch import distributed as dist

    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def rank_name() -> str:
    """This rank as messages name it: `rank 1 on gpu07`."""
    from torch import distributed as dist

    joined = dist.is_available() and dist.is_initialized()
    return f"rank {dist.get_rank() if joined else 0} on {socket.gethostname()}"


def all_gather(value: Any) -> list[Any]:
    """The values of all ranks, in the order of the ranks, on every rank.

    Args:
        value: Anything that can be pickled.
    """
    count = world_size()
    if count == 1:
        return [value]
    from torch import distributed as dist

    values: list[Any] = [None] * count
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """The value that rank 0 gave; what the other ranks give is not looked at."""
    if world_size() == 1:
        return value
    from torch import distributed as dist

    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def all_reduce_sum(values: Sequence[float]) -> list[float]:
    """Element-wise sums over the ranks in float64, by way of the CPU."""
    if world_size() == 1:
        return list(values)
    import torch
    from torch import distributed as dist

    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    total: list[float] = tensor.tolist()
    return total


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Raise on every rank the `UserError` that any rank raises in this block.

    Raises:
        UserError: A rank has raised one; where rank 0 has not, the message says which did.
    """
    error: UserError | None = None
    try:
        yield
    except UserError as caught:
        error = caught
    gathered = all_gather(None if error is None else (str(error), error.exit_code, rank_name()))
    errors = [one for one in gathered if one is not None]
    if not errors:
        return
    message, code, name = errors[0]
    # What rank 0 does for all of them needs no name.
    prefix = "" if gathered[0] is not None else f"{name}: "
    everywhere = len({one[0] for one in errors}) == 1 and len(errors) == len(gathered)
    shared = error if everywhere and error is not None else UserError(f"{prefix}{message}")
    shared.exit_code = code
    shared.is_shared = True
    raise shared


def check_ranks_agree(facts: Mapping[str, Any]) -> None:
    """Refuse ranks that were started with different configurations, data or libraries.

    Args:
        facts: JSON values by name.

    Raises:
        UserError: They differ; names the first rank that does, and each fact. On every rank.
    """
    everyone = all_gather((rank_name(), dict(facts)))
    first = everyone[0][1]
    for name, theirs in everyone[1:]:
        different = [
            f"{fact} is {theirs.get(fact)!r}, on rank 0 {first.get(fact)!r}"
            for fact in sorted(first.keys() | theirs.keys())
            if theirs.get(fact) != first.get(fact)
        ]
        if different:
            shared = UserError(
                f"{name} was started with something else than rank 0: {'; '.join(different[:5])}: "
                "start every machine with the same project, configuration and dataset"
            )
            shared.is_shared = True
            raise shared
