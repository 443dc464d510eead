"""A training that goes on on another number of processes reads and learns what it would have."""

from pathlib import Path

import pytest

from steps.distributed.sampler import shuffled
from tests.support.rank_trainings import specification, trained

# Forward passes of a step over all processes.
PASSES = 4


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (1, 2),
        pytest.param(2, 1, marks=pytest.mark.slow),
        pytest.param(2, 4, marks=pytest.mark.slow),
        pytest.param(4, 2, marks=pytest.mark.slow),
    ],
)
def test_each_row_is_read_once_and_the_adapter_is_that_of_an_untouched_run(
    tiny_llama_folder: Path, tmp_path: Path, before: int, now: int
) -> None:
    # Reports at every third step: the checkpoint of step 4 lies between two of them.
    logging = {"log_steps": 3, "eval_steps": 6, "save_steps": 4}
    sections = {"logging": logging, "output": {"save_total_limit": None}}
    common = {"steps": 10, "sections": sections}

    def said(name: str, ranks: int, resume: str | None = None) -> dict[str, object]:
        passes = PASSES // ranks
        return specification(
            tmp_path, tiny_llama_folder, name, accumulation=passes, resume=resume, **common
        )

    untouched = trained(said("untouched", before), before)
    checkpoint = tmp_path / "untouched" / "checkpoint-4"
    resumed = trained(said("resumed", now, str(checkpoint)), now)

    assert resumed.steps_done == 6
    # The learning rate, and with it each loss reported after the checkpoint, goes on.
    assert resumed.losses.keys() == untouched.losses.keys()
    resumed.assert_equals(untouched)
    assert resumed.tokens_seen == untouched.tokens_seen
    # All rows from the checkpoint's place to the end of its epoch, each by one rank.
    count = max(max(rows) for rows in untouched.rows) + 1
    steps_an_epoch = -(-count // PASSES)
    order = shuffled(count, 42, 4 // steps_an_epoch).tolist()[4 % steps_an_epoch * PASSES :]
    assert 4 % steps_an_epoch and order
    own = [order[rank::now] for rank in range(now)]
    assert [rows[: len(mine)] for rows, mine in zip(resumed.rows, own, strict=True)] == own
