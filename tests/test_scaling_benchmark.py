"""The benchmark of costs of scale fits what it is given, and measures rows of tokens."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scaling import AXES, last_exponent, line_through, row
from tests.support.project import ROOT, demo_texts


def test_a_line_is_found_with_its_slope_and_a_square_is_seen_to_be_none() -> None:
    sizes = [1, 2, 4, 8]
    slope, fit = line_through(sizes, [3.0 + 2.0 * size for size in sizes])
    assert slope == pytest.approx(2.0)
    assert fit == pytest.approx(1.0)
    squares = [float(size**2) for size in sizes]
    assert last_exponent(sizes, squares) == pytest.approx(2.0)
    assert line_through(sizes, squares)[1] < 0.97
    cells = row(AXES["tokens"], sizes, [(size * 1e-6, 4 * size) for size in sizes]).split("|")
    assert "1 µs" in cells[4]
    assert "4 bytes" in cells[9]


@pytest.mark.slow
def test_rows_of_tokens_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "papers.json"
    file.write_text(json.dumps([{"abstract": text} for text in demo_texts()]), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.scaling", "--papers", str(file)]
    finished = subprocess.run(
        [*command, "--axis", "tokens", "--sizes", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in finished.stdout.splitlines() if line.startswith("| tokens |")]
    each = line.split("|")[9].split()[0]
    assert float(each) < 6
