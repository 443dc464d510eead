"""Bars move on a terminal; a pipe, NO_COLOR and TERM=dumb get lines that follow each other."""

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Mapping

import click
import pytest

from tests.support.project import ROOT

# Progress of a step: all of it is worth a line, so that nobody has to wait for it.
WORK = """
import click
from steps import progress
from steps.terminal import say, show_error, show_notices, styled
progress.SECONDS_WORTH_A_LINE = progress.SECONDS_BETWEEN_LINES = 0.0
say(styled("running evaluate", bold=True))
show_notices(("only 13 papers",))
with progress.about("base"), progress.ProgressLine("scoring papers", "tokens") as line:
    line.show(400, 1000)
    line.show(1000)
with progress.waiting("loading"):
    pass
show_error("no such file")
"""
FAILING = """
from steps.progress import ProgressLine
from steps.terminal import show_error
try:
    with ProgressLine("papers", "papers") as line:
        line.show(3)
        raise FileNotFoundError
except FileNotFoundError:
    show_error("no such file")
"""
CONTROL = ("\\r", "\\x1b")


def seen(on_terminal: bool, columns: int = 80, work: str = WORK, **variables: str) -> str:
    """What a user sees of that work: on a pseudo-terminal, or through a pipe."""
    command = [sys.executable, "-c", work]
    environment = {**os.environ, "TERM": "xterm", **variables}
    environment = {name: value for name, value in environment.items() if value}
    if not on_terminal:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
        )
        return done.stdout.decode()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        content = b""
        try:
            while part := os.read(ours, 4096):
                content += part
        except OSError:
            # The other side is closed.
            pass
    os.close(ours)
    assert process.returncode == 0
    # A terminal ends its lines with both.
    return content.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("on_terminal", "columns", "variables"),
    [
        (False, 80, {}),
        (True, 80, {"NO_COLOR": "1"}),
        (True, 80, {"TERM": "dumb"}),
        (True, 0, {}),
    ],
    ids=["pipe", "NO_COLOR", "dumb", "no width"],
)
def test_plain_lines_follow_each_other(
    on_terminal: bool, columns: int, variables: Mapping[str, str]
) -> None:
    text = seen(on_terminal, columns, **{"NO_COLOR": "", **variables})
    if columns == 0:
        # Colours do no harm there.
        text = click.unstyle(text)
    assert not any(mark in repr(text) for mark in CONTROL)
    lines = [line.partition("[")[0].rstrip() for line in text.splitlines()]
    assert lines == [
        "running evaluate",
        "note: only 13 papers",
        "base: scoring papers:  40% 400/1.00k",
        "base: scoring papers: 100% 1.00k/1.00k",
        # Said at its end as well.
        "base: scoring papers: 100% 1.00k/1.00k",
        "loading: 0 s",
        "error: no such file",
    ]


def test_a_bar_moves_on_a_terminal_and_says_what_it_is_about() -> None:
    text = seen(True, NO_COLOR="")
    assert "\x1b[1mrunning evaluate\x1b[0m" in text
    assert "\rbase: scoring papers: 100%" in text
    assert "█" in text


def test_an_error_leaves_no_bar_above_its_line() -> None:
    text = seen(True, work=FAILING, NO_COLOR="")
    # The bar's line was taken back before the error was printed.
    assert text.rpartition("\r")[2].strip() == "\x1b[31merror: no such file\x1b[0m"


def test_an_error_leaves_no_plain_line_either() -> None:
    # However long the work took.
    work = f"from steps import progress\nprogress.SECONDS_WORTH_A_LINE = 0.0\n{FAILING}"
    waits = work.replace('ProgressLine("papers", "papers") as line', 'waiting("loading")').replace(
        "import ProgressLine", "import waiting"
    )
    for program in (work, waits.replace("        line.show(3)\n", "")):
        assert seen(False, work=program) == "error: no such file\n"


def test_a_stage_keeps_what_its_line_is_about() -> None:
    work = """
from steps import progress
progress.SECONDS_WORTH_A_LINE = 0.0
with progress.about("base"), progress.ProgressLine("papers", "papers") as line:
    line.stage("reading", 3)
"""
    assert seen(False, work=work).startswith("base: reading: 3 papers")


def test_of_several_ranks_the_first_talks() -> None:
    assert seen(False, RANK="1") == "error: no such file\n"
