"""The benchmark of a step's overhead runs, and shares out all of a step's processor time."""

import os
import re
import subprocess
import sys

import pytest

from tests.support.project import ROOT


@pytest.mark.slow
def test_a_step_is_measured_and_its_time_shared_out() -> None:
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.overhead", "--repeat", "1"),
            *("--steps", "preprocess in a new store"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    row = next(line for line in finished.stdout.splitlines() if line.startswith("| preprocess"))
    _processor, _wall, imports, _store, processes, rest = map(
        float, re.findall(r"(?<=\| )[\d.]+(?= \|)", row)
    )
    assert imports > 0
    assert processes == 0
    assert rest >= 0
    assert "- preprocess in a new store: " in finished.stdout
