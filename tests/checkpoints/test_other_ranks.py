"""What of a checkpoint belongs to single ranks goes to another number of them, nothing lost."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from steps.checkpoints.other_ranks import (
    ALONE,
    OF_RANK,
    loss_of_rank,
    restore_random_state,
    sums_of_ranks,
)


def written(folder: Path, ranks: int) -> list[torch.Tensor]:
    """A checkpoint of so many ranks; gives what each would draw next."""
    folder.mkdir()
    drawn = []
    for rank in range(ranks):
        torch.manual_seed(100 + rank)
        states = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "cpu": torch.random.get_rng_state(),
        }
        torch.save(states, folder / (ALONE if ranks == 1 else OF_RANK.format(rank)))
        drawn.append(torch.rand(4))
    return drawn


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1), (2, 4), (4, 2)])
def test_a_rank_goes_on_with_the_draws_of_its_number_and_new_ones_with_their_own(
    tmp_path: Path, before: int, now: int
) -> None:
    folder = tmp_path / "checkpoint-7"
    expected = written(folder, before)
    drawn = []
    for rank in range(now):
        assert restore_random_state(folder, now, rank, rank, 42)
        drawn.append(torch.rand(4))
    for of_rank, stored in zip(drawn, expected, strict=False):
        assert torch.equal(of_rank, stored)
    assert len({tuple(one.tolist()) for one in drawn}) == now
    # The same once more: a resumption can be repeated.
    assert restore_random_state(folder, now, now - 1, now - 1, 42)
    assert torch.equal(torch.rand(4), drawn[-1])


@pytest.mark.parametrize("ranks", [1, 3])
def test_as_many_ranks_are_left_to_the_trainer(tmp_path: Path, ranks: int) -> None:
    folder = tmp_path / "checkpoint-7"
    written(folder, ranks)
    assert not restore_random_state(folder, ranks, 0, 0, 42)


@pytest.mark.parametrize("now", [1, 2, 3, 5])
def test_the_mean_of_the_losses_and_the_sums_over_the_ranks_stay(now: int) -> None:
    losses, sums = [1.0, 2.0], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    shared = [loss_of_rank(losses, now, rank) for rank in range(now)]
    assert sum(shared) / now == pytest.approx(1.5)
    of_ranks = sums_of_ranks(sums, now)
    assert len(of_ranks) == now
    assert [sum(entries) for entries in zip(*of_ranks, strict=True)] == [5.0, 7.0, 9.0]


def test_rows_of_one_source_have_no_sums() -> None:
    assert sums_of_ranks([], 1) in ([], [[]])
    assert sums_of_ranks([], 2)[0] == []
