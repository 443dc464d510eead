"""The benchmark of training runs on a tiny model, goes on where it ended, and reports ratios."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from benchmarks.training import Case, Conditions, cases, report
from tests.support.project import ROOT, demo_texts


def result(pair: int, side: str, speed: float, peak: float) -> dict[str, object]:
    case = {"pair": pair, "method": "lora", "length": 512, "side": side}
    measures = {"tokens_per_second": speed, "peak_bytes": peak * 1e9, "targets": 8000}
    conditions = vars(Conditions("cpu", "float32", threads=2, steps=8, tiny=False))
    losses = {"loss": 2.5, "base_loss": 2.75}
    return {**case, **measures, **losses, **conditions, "versions": {"torch": "2.13.0"}}


def test_ratios_are_taken_round_by_round() -> None:
    results = [
        *(result(0, "ours", 400.0, 3.0), result(0, "trl", 100.0, 6.0)),
        *(result(1, "ours", 300.0, 3.0), result(1, "trl", 150.0, 6.0)),
    ]
    (row,) = [line for line in report(results) if line.startswith("| trl |")]
    assert "125 (100 to 150)" in row and "3.00 (2.00 to 4.00)" in row
    assert "0.50 (0.50 to 0.50)" in row and "2.5000 (2.5000 to 2.5000), 2.7500" in row


def test_each_side_comes_first_in_turn_and_what_was_measured_is_not_run_again() -> None:
    planned = list(cases(("ours", "trl"), ("lora", "qlora"), {512: 2, 2048: 1}))
    assert len(planned) == len(set(planned)) == 2 * 2 * 2 + 2 * 2
    at_512 = [case.side for case in planned if (case.method, case.length) == ("lora", 512)]
    assert at_512 == ["ours", "trl", "trl", "ours"]
    assert Case(0, "lora", 512, "trl").is_in([result(0, "trl", 1.0, 1.0)])
    assert not Case(1, "lora", 512, "trl").is_in([result(0, "trl", 1.0, 1.0)])


def test_what_was_measured_under_other_conditions_is_not_measured_on(tmp_path: Path) -> None:
    results = [result(0, "ours", 400.0, 3.0)]
    Conditions("cpu", "float32", threads=2, steps=8, tiny=False).check(results, tmp_path)
    with pytest.raises(click.ClickException, match="'threads': 2"):
        Conditions("cpu", "float32", threads=4, steps=8, tiny=False).check(results, tmp_path)


@pytest.mark.slow
def test_a_tiny_model_is_trained_by_both_sides_of_this_environment(tmp_path: Path) -> None:
    papers = [{"title": "A title", "abstract": text} for text in demo_texts()]
    file, results = tmp_path / "papers.json", tmp_path / "training.jsonl"
    file.write_text(json.dumps({"papers": papers}), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.training", "--papers", str(file), "--tiny"]
    command += ["--device", "cpu", "--threads", "1", "--steps", "2", "--methods", "qlora"]
    # Each call imports torch: QLoRA alone, and the second call goes on where the first one ended.
    for sides in ("ours", "ours,trainer"):
        finished = subprocess.run(
            [*command, "--sides", sides, "--results", str(results)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    assert [one["side"] for one in lines] == ["ours", "trainer"]
    assert all(one["tokens_per_second"] > 0 and one["targets"] >= 2 * 2 * 64 for one in lines)
    assert lines[0]["base_loss"] == pytest.approx(lines[1]["base_loss"], abs=1e-3)
    assert "**qlora, rows of 64 tokens** (1 rounds)" in finished.stdout
