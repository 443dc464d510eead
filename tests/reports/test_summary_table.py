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
    (row,) = summary_rows({"lora": run_with(trained)}, measured, {}, {"lora": {}})
    assert row[5] == "1.500"
    assert row[6] == "1.250\n1.000–1.500"


def test_variants_rank_by_it_and_say_what_they_set() -> None:
    figures = {"worse": 1.4, "better": 1.2}
    training = {
        "train/trainable_parameters": 1e6,
        "train/seconds": 1.0,
        "train/mean_tokens_per_second": 1.0,
    }
    trained = {name: run_with(training) for name in (*figures, "unmeasured")}
    measured = {name: run_with({"test/bits_per_byte": value}) for name, value in figures.items()}
    measured |= {"base": run_with({}), "unmeasured": run_with({})}
    overlays = {
        "worse": {"qlora": {"r": 4}, "tokenizer": {"r": 1}},
        "better": {"qlora": {"method": "dora"}},
        "unmeasured": {"a": {"b": 1, "c": 2, "d": 3, "e": 4}},
    }
    rows = [row[:2] for row in summary_rows(trained, measured, {}, overlays)]
    assert rows == [
        ("1", "better\nmethod=dora"),
        # Two keys that end alike need more of their names.
        ("2", "worse\nqlora.r=4\ntokenizer.r=1"),
        ("3", "unmeasured\nb=1\nc=2\nd=3\nand 1 more"),
    ]
