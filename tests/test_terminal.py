"""The log of a run holds what its user saw, from the first line on."""

import logging
import subprocess
import sys
from pathlib import Path

from tests.support.project import ROOT

STEP = """
import sys
from pathlib import Path
from rich.table import Table
from steps.terminal import logging_to, say, show, show_error, show_notices, styled
say("before the run")
with logging_to(Path(sys.argv[1]), verbose=False):
    say(styled("in the run", bold=True))
    show_notices(("accepted but odd",))
    table = Table("name", "value")
    table.add_row("lora", "1.418")
    show(table)
    show_error("cannot go on")
say("after the run")
with logging_to(Path(sys.argv[2]), verbose=False):
    say("in another run")
"""


def test_the_log_holds_what_was_said_and_nothing_of_another_run(tmp_path: Path) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    command = [sys.executable, "-c", STEP, str(first), str(second)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = [
        line.partition(f" said {logging.getLevelName(logging.INFO)} ")[2]
        for line in first.read_text(encoding="utf-8").splitlines()
    ]
    assert [line for line in said if line and "┏" not in line] == [
        "before the run",
        "in the run",
        "note: accepted but odd",
        "error: cannot go on",
    ]
    for line in done.stdout.splitlines()[2:-2]:
        # The table.
        assert line.rstrip() in first.read_text(encoding="utf-8")
    assert "in another run" in second.read_text(encoding="utf-8")
    assert "the run" not in second.read_text(encoding="utf-8").replace("in another run", "")
