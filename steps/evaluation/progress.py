"""Progress bars of an evaluation."""

from typing import TYPE_CHECKING, Any

from steps.distributed.collectives import is_first_rank

if TYPE_CHECKING:
    from tqdm import tqdm


def bar_of(what: str, unit: str) -> "tqdm[Any]":
    """A progress bar; of several ranks, the first shows it."""
    from tqdm import tqdm

    return tqdm(desc=what, unit=unit, unit_scale=True, disable=not is_first_rank())


def show(bar: "tqdm[Any]", done: int, total: int) -> None:
    """Move a bar to what is done of all."""
    bar.total = total
    bar.update(done - bar.n)
