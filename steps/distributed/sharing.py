"""Parts of one piece of work, shared out over the ranks.

    with sharing_out():                         # entered by all ranks, with the same work to do
        results = share_out(batches, score)     # every rank: the results of all batches

What a part is, the work decides, and it never depends on how many ranks there are: each part is
computed by one rank as one process would compute it, so the figures are the same to the last digit.
Outside `sharing_out` each process does all of its work itself, as the ranks of a training do that
hold other papers each.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from steps.distributed.collectives import all_gather, broadcast, raise_on_all_ranks, world_size

Part = TypeVar("Part")
Result = TypeVar("Result")
# Called with how much is done, and how much there is.
Progress = Callable[[int, int], None]

_SHARES: ContextVar[bool] = ContextVar("shares", default=False)


@contextmanager
def sharing_out() -> Iterator[None]:
    """Let `share_out` share out, for the time of a block that all ranks enter."""
    token = _SHARES.set(True)
    try:
        yield
    finally:
        _SHARES.reset(token)


def share_out(
    parts: Sequence[Part],
    work: Callable[[Part], Result],
    *,
    size: Callable[[Part], int] = lambda part: 1,
    progress: Progress | None = None,
) -> list[Result]:
    """Do some work on each part; of several ranks, each does every so manieth.

    Args:
        parts: The same on all ranks.
        work: From a part to a result that can be pickled.
        size: Of a part, in the unit of `progress`.
        progress: Called after each part with what is done (the other ranks are about as far) and
            the total.

    Returns:
        The results of all parts, in their order, on every rank.

    Raises:
        UserError: The work has raised one, on whatever rank.
    """
    sizes = [size(part) for part in parts]
    shared = _SHARES.get() and world_size() > 1
    rank, count = (_rank(), world_size()) if shared else (0, 1)

    def mine() -> list[Result]:
        made = []
        for place in range(rank, len(parts), count):
            made.append(work(parts[place]))
            if progress is not None:
                progress(sum(sizes[: place + count]), sum(sizes))
        return made

    if not shared:
        return mine()
    with raise_on_all_ranks():
        own = mine()
    of_ranks = all_gather(own)
    return [of_ranks[place % count][place // count] for place in range(len(parts))]


def agreed(value: Any) -> Any:
    """What rank 0 has found out by trying; the others' trials may have rounded to another side."""
    return broadcast(value) if _SHARES.get() else value


def _rank() -> int:
    from torch import distributed as dist

    return dist.get_rank()
