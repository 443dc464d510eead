"""The GPU benchmark runs, and reports every case, where there is no GPU to run it on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import ROOT


def benchmark(folder: Path, *arguments: str) -> list[dict[str, object]]:
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_qlora", "--out", str(folder), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    content = json.loads((folder / "gpu_qlora.json").read_text(encoding="utf-8"))
    results: list[dict[str, object]] = content["results"]
    return results


@pytest.mark.slow
def test_a_tiny_shape_is_measured_on_the_cpu_with_its_plan(tmp_path: Path) -> None:
    results = benchmark(
        tmp_path,
        *("--tiny", "--device", "cpu", "--systems", "ours"),
        *("--lengths", "64", "--micro-batches", "1", "2"),
    )
    assert [one["status"] for one in results] == ["ok", "ok"]
    for one in results:
        assert isinstance(one["tokens_per_second"], float)
        assert isinstance(one["planned"], int)
    table = (tmp_path / "gpu_qlora.md").read_text(encoding="utf-8")
    assert "| 64 | 2 | ours |" in table


@pytest.mark.slow
def test_what_cannot_be_measured_is_a_result_and_no_crash(tmp_path: Path) -> None:
    arguments = ("--tiny", "--systems", "ours", "--lengths", "64", "--micro-batches", "1")
    (without_gpu,) = benchmark(tmp_path, *arguments)
    assert without_gpu["status"] == "torch sees no GPU"
    (late,) = benchmark(tmp_path, *arguments, "--device", "cpu", "--time-limit", "1")
    assert late["status"] == "not done in 1 s"
