"""The table at the end of a pipeline shows the figure that each objective is decided by."""

from types import SimpleNamespace
from typing import Any

import pytest

from steps.reports.summary_table import summary_rows


def run_with(metrics: dict[str, float]) -> Any:
    return SimpleNamespace(data=SimpleNamespace(metrics=metrics, tags={}))


@pytest.mark.parametrize("name", ["bits_per_byte", "mlm_loss", "answer_bits_per_byte"])
def test_each_objective_shows_the_metric_that_decides(name: str) -> None:
    trained = {
        "train/trainable_parameters": 4.88e6,
        "train/seconds": 43.0,
        "train/mean_tokens_per_second": 38.0,
    }
    after = {f"test/{name}": 1.25, f"test/{name}_ci_low": 1.0, f"test/{name}_ci_high": 1.5}
    measured = {"base": run_with({f"test/{name}": 1.5}), "lora": run_with(after)}
    (row,) = summary_rows({"lora": run_with(trained)}, measured, {})
    assert row[4] == "1.500"
    assert row[5] == "1.250\n1.000–1.500"
