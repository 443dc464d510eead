"""Every row is read once an epoch, by one rank, whatever the number of ranks."""

import pytest
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from torch.utils.data import BatchSampler

from steps.distributed.sampler import ShuffledRows, WithBlankRows


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 7, 8, 33])
@pytest.mark.parametrize("micro_batch", [1, 2, 5])
def test_the_shares_are_disjoint_complete_and_of_one_length(
    rows: int, ranks: int, micro_batch: int
) -> None:
    shares = []
    for rank in range(ranks):
        sampler = ShuffledRows(rows, micro_batch * ranks, seed=3)
        batches = BatchSamplerShard(
            BatchSampler(sampler, micro_batch, drop_last=False), ranks, rank, even_batches=True
        )
        shares.append(list(batches))
    assert len({len(share) for share in shares}) == 1
    read = [index for share in shares for batch in share for index in batch]
    assert sorted(index for index in read if index < rows) == list(range(rows))
    assert len(read) - rows < micro_batch * ranks


def test_the_order_changes_with_the_epoch_and_not_with_the_ranks() -> None:
    alone, among_three = ShuffledRows(10, 1, seed=5), ShuffledRows(10, 3, seed=5)
    first = list(alone)
    assert list(among_three)[:10] == first
    alone.set_epoch(1)
    assert list(alone) != first


def test_the_order_is_the_one_that_accelerate_gives_a_single_process() -> None:
    theirs = SeedableRandomSampler(range(20), data_seed=11)
    ours = ShuffledRows(20, 1, seed=11)
    for epoch in range(3):
        theirs.set_epoch(epoch)
        ours.set_epoch(epoch)
        assert list(ours) == list(theirs)


def test_rows_beyond_the_last_are_blank() -> None:
    rows = WithBlankRows(["a", "b"], "blank")
    assert len(rows) == 2
    assert [rows[index] for index in range(4)] == ["a", "b", "blank", "blank"]
