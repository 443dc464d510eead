"""What of a checkpoint belongs to single ranks, for a number of ranks that is another one now."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.trainer_pt_utils import safe_globals

# As Trainer names them: of one process, and of each of several.
ALONE, OF_RANK = "rng_state.pth", "rng_state_{}.pth"


def loss_of_rank(losses: Sequence[float], ranks: int, rank: int) -> float:
    """The loss since the last report of one rank.

    Trainer reports the mean over the ranks, so that of another number of them begins at the mean.

    Args:
        losses: Of each rank that wrote the checkpoint.
        ranks: How many there are now.
        rank: Which one.
    """
    return losses[rank] if len(losses) == ranks else sum(losses) / len(losses)


def sums_of_ranks(sums: Sequence[Sequence[float]], ranks: int) -> list[list[float]]:
    """Sums that are added up over the ranks, for each rank there is now: all to rank 0.

    Args:
        sums: Of each rank that wrote the checkpoint, `[ranks then, entries]`.
        ranks: How many there are now.
    """
    if len(sums) == ranks:
        return [list(one) for one in sums]
    total = [sum(entries) for entries in zip(*sums, strict=True)]
    return [total, *([0.0] * len(total) for _ in range(ranks - 1))]


def restore_random_state(folder: Path, ranks: int, rank: int, local: int, seed: int) -> bool:
    """Restore random states that another number of ranks has written.

    A rank takes that of the same number. One that there was none of is seeded by its number and by
    the checkpoint's own name, so that it repeats no draw of its first steps.

    Args:
        folder: The checkpoint.
        ranks: How many there are now.
        rank: Which one.
        local: Its number on its machine.
        seed: Of the training.

    Returns:
        False where as many ranks have written it: then Trainer's own way restores each rank's.
    """
    before = 1 if (folder / ALONE).is_file() else len(list(folder.glob(OF_RANK.format("*"))))
    if before == ranks:
        return False
    file = folder / (ALONE if before == 1 else OF_RANK.format(rank))
    if rank < before and file.is_file():
        with safe_globals():
            _set_states(torch.load(file, weights_only=True), local)
        return True
    step = int(folder.name.rpartition("-")[2])
    (drawn,) = np.random.SeedSequence([seed, rank, step]).generate_state(1)
    random.seed(int(drawn))
    np.random.seed(int(drawn))
    torch.manual_seed(int(drawn))
    return True


def _set_states(states: dict[str, Any], local: int) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.random.set_rng_state(states["cpu"])
    on_gpu = states.get("cuda")
    if on_gpu is not None and torch.cuda.is_available():
        # One state where a single process wrote it, else one of each GPU of that machine.
        if not isinstance(on_gpu, torch.Tensor):
            on_gpu = on_gpu[min(local, len(on_gpu) - 1)]
        torch.cuda.set_rng_state(on_gpu)
