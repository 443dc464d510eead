"""Work that is shared out: each part done by one rank, all results on every rank."""

import threading
from typing import Any

import pytest

from steps.distributed import sharing
from steps.distributed.sharing import agreed, share_out, sharing_out

RANKS = 3


class Ranks:
    """Ranks as threads: what they gather waits for all of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.here = threading.local()
        self.barrier = threading.Barrier(RANKS)
        self.given: dict[int, Any] = {}
        patch.setattr(sharing, "world_size", lambda: RANKS)
        patch.setattr(sharing, "_rank", lambda: self.here.rank)
        patch.setattr(sharing, "all_gather", self.all_gather)

    def all_gather(self, value: Any) -> list[Any]:
        self.given[self.here.rank] = value
        self.barrier.wait(10)
        gathered = [self.given[rank] for rank in range(RANKS)]
        self.barrier.wait(10)
        return gathered

    def run(self, work: Any) -> list[Any]:
        """What the same work gives on each rank."""
        results: list[Any] = [None] * RANKS

        def as_rank(rank: int) -> None:
            self.here.rank = rank
            results[rank] = work(rank)

        threads = [threading.Thread(target=as_rank, args=(rank,)) for rank in range(RANKS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return results


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_every_part_is_done_once_and_every_rank_has_all_results_in_order(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[int, int]] = []

    def measure(rank: int) -> list[int]:
        def square(part: int) -> int:
            done.append((part, rank))
            return part**2

        with sharing_out():
            return share_out(range(count), square)

    results = Ranks(monkeypatch).run(measure)
    assert results == [[part**2 for part in range(count)]] * RANKS
    assert sorted(part for part, _ in done) == list(range(count))
    assert len({rank for _, rank in done}) == min(count, RANKS)


def test_progress_reaches_the_end_on_each_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(rank: int) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        with sharing_out():
            share_out(
                [5, 1, 2, 4],
                lambda part: None,
                size=lambda part: part,
                progress=lambda done, total: seen.append((done, total)),
            )
        return seen

    first, second, third = Ranks(monkeypatch).run(measure)
    assert first == [(8, 12), (12, 12)]
    assert second[-1] == third[-1] == (12, 12)


def test_outside_of_the_block_a_rank_does_all_of_its_work_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = Ranks(monkeypatch).run(lambda rank: share_out([rank, 10 + rank], str))
    assert results == [["0", "10"], ["1", "11"], ["2", "12"]]


def test_what_a_rank_finds_out_alone_stays_its_own() -> None:
    assert agreed("padded") == "padded"
