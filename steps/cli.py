"""What every step's command line has in common: options, signals, exit codes."""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from steps.errors import UserError

BAD_INPUT = 2


def step_command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a step: common options, one line for bad input, no orphans."""

    @click.option(
        "--config",
        "config_path",
        default="configs/training.yaml",
        show_default=True,
        help="YAML configuration; looked up in the working folder, then in the project.",
    )
    @click.option("--overrides", default="", help='Dotted values, such as "training.qlora.r=32".')
    @click.option("--verbose", is_flag=True, envvar="FORGE_VERBOSE", help="Show library messages.")
    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> None:
        leave_with_the_launcher()
        try:
            function(*arguments, **options)
        except UserError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            sys.exit(BAD_INPUT)
        except KeyboardInterrupt:
            click.secho("interrupted", err=True)
            sys.exit(130)

    return wrapped


def leave_with_the_launcher() -> None:
    """End on SIGTERM as on an exception, and when the process that launched us ends.

    `mlflow run` starts a step as a child and, when it is itself terminated, leaves that
    child running and its run RUNNING for ever. On Linux the kernel can tell us instead.
    Only for a step that `mlflow run` started: one from a shell may outlive it (nohup).
    """
    signal.signal(signal.SIGTERM, _terminate)
    if sys.platform == "linux" and os.environ.get("MLFLOW_RUN_ID"):
        parent = os.getppid()
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        # It may have ended between our start and the line above.
        if os.getppid() != parent:
            _terminate(signal.SIGTERM, None)


def _terminate(number: int, _frame: Any) -> None:
    # A second signal while the first is being dealt with ends the process at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise SystemExit(128 + number)


def say(message: str) -> None:
    """Tell the user what happened, above any progress bar."""
    click.echo(message)


def show_notices(notices: tuple[str, ...]) -> None:
    """Print what was accepted but odd, one line each."""
    for notice in notices:
        click.secho(f"note: {notice}", fg="yellow", err=True)
