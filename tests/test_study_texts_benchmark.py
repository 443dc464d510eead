"""The benchmark of study texts pairs papers, pools seeds, and runs on a tiny model."""

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks.study_texts import ARMS, main, report, result_file


def written(folder: Path, arm: str, seed: int, nats: list[float]) -> None:
    file = result_file(folder, arm, seed)
    frame = pd.DataFrame({"nats": nats, "bytes": [100] * len(nats)})
    frame.to_parquet(file)
    file.with_suffix(".json").write_text(json.dumps({"tokens": 1000 + seed}))


def test_a_gain_is_the_mean_over_seeds_and_has_the_sign_of_the_better_arm(tmp_path: Path) -> None:
    for seed, better in enumerate((2.0, 4.0)):
        plain = [50.0 + number for number in range(12)]
        written(tmp_path, ARMS[0], seed, plain)
        written(tmp_path, ARMS[1], seed, [nats - better for nats in plain])
    lines = list(report(tmp_path))
    assert lines[:2] == ["seed 0: tokens 1,000 and 1,000", "seed 1: tokens 1,001 and 1,001"]
    (row,) = [line for line in lines if line.startswith("| bits_per_byte |")]
    # Two, three and four nats of a hundred bytes.
    assert "| +0.0433 (" in row and row.endswith(" | +0.0289, +0.0577 |")


def test_what_is_not_measured_is_said(tmp_path: Path) -> None:
    assert list(report(tmp_path)) == ["nothing is measured yet"]
    written(tmp_path, ARMS[0], 0, [1.0])
    assert list(report(tmp_path)) == ["nothing is measured yet"]


@pytest.mark.slow
def test_a_tiny_model_is_trained_on_both_and_what_is_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    options = ["--folder", str(tmp_path / "out"), "--tiny", "--seeds", "1"]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert "seed 0: tokens" in done.output and "| bits_per_byte |" in done.output
    again = CliRunner().invoke(main, options, catch_exceptions=False)
    assert "learned from" in done.output and "learned from" not in again.output
