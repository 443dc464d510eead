"""What every step's command line has in common: options, signals, exit codes."""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from steps.allocator import keep_freed_memory
from steps.errors import UserError
from steps.outcome import as_json
from steps.terminal import show_error

papers_option = click.option(
    "--papers", default="", help="File, folder, glob or artifact URI; empty: the config's."
)


def step_command(
    default_config: str = "configs/training.yaml",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a step: common options, one line for bad input, no orphans.

    Args:
        default_config: What `--config` is where it is not given.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @click.option(
            "--config",
            "config_path",
            default=default_config,
            show_default=True,
            help="YAML configuration; looked up in the working folder, then in the project.",
        )
        @click.option("--overrides", default="", help='Dotted values: "training.qlora.r=32".')
        @click.option(
            "--verbose", is_flag=True, envvar="FORGE_VERBOSE", help="Show library messages."
        )
        @click.option(
            "--json",
            "json_wanted",
            is_flag=True,
            envvar="FORGE_JSON",
            help="Print one JSON object at the end, and all else to stderr.",
        )
        @functools.wraps(function)
        def wrapped(*arguments: Any, json_wanted: bool, **options: Any) -> None:
            leave_with_the_launcher()
            keep_freed_memory()
            # The steps that this one starts are none of the caller's.
            os.environ.pop("FORGE_JSON", None)
            wanted = json_wanted and os.environ.get("RANK", "0") == "0"
            code, message, unexpected = 0, None, None
            with as_json(wanted) as print_json:
                try:
                    refuse_secrets(options)
                    function(*arguments, **options)
                except UserError as error:
                    _tag_unjoined_run(error)
                    if not (error.is_shared and os.environ.get("RANK", "0") != "0"):
                        show_error(str(error))
                    code, message = error.exit_code, str(error)
                except KeyboardInterrupt:
                    click.echo("interrupted", err=True)
                    code, message = 130, "interrupted"
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else int(end.code is not None)
                except Exception as error:
                    code, message, unexpected = 1, f"{type(error).__name__}: {error}", error
            print_json(code, message)
            if unexpected is not None:
                raise unexpected
            if code:
                sys.exit(code)

        return wrapped

    return decorate


def refuse_secrets(options: Mapping[str, Any]) -> None:
    """Refuse passwords and tokens on the command line; a run that `mlflow run` made goes.

    `mlflow run` has stored its parameters by then, and any user of the machine can read the
    command line.

    Raises:
        UserError: An option holds one.
    """
    from steps.tracking.credentials import holds_secret

    for name, value in options.items():
        if not (isinstance(value, str) and holds_secret(value)):
            continue
        gone = ""
        run_id = os.environ.pop("MLFLOW_RUN_ID", None)
        if run_id is not None:
            from steps.tracking.waiting_runs import delete_waiting_run

            gone = delete_waiting_run(run_id)
        raise UserError(
            f"{name.removesuffix('_path')} holds a password or a token, which mlflow would store "
            "and any user of this machine can read: set MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD, HF_TOKEN, or the like in the environment{gone}"
        )


def prepare_environment_of_steps(verbose: bool) -> None:
    """Let the steps that this one starts run in its own environment.

    Args:
        verbose: Show library messages, theirs too.
    """
    # The steps' commands say `python`: let that be this one, activated environment or not.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # A dozen processes import torch, transformers and mlflow: from compiled files that takes 8 s
    # each, and 18 s where the environment forbids to keep them.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if verbose:
        os.environ["FORGE_VERBOSE"] = "1"


def _tag_unjoined_run(error: UserError) -> None:
    """Write an error that came before the step joined its run into that run.

    `mlflow run` has made the run and closes it as FAILED; without the tag it would not say why.
    A step that has joined its run has deleted the variable (see `steps.tracking.runs`).
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id is None or "MLFLOW_TRACKING_URI" not in os.environ:
        return
    from steps.tracking.waiting_runs import tag_waiting_run

    tag_waiting_run(run_id, str(error), error.exit_code)


def leave_with_the_launcher() -> None:
    """On SIGTERM or SIGUSR1 raise SystemExit; on Linux also when the launcher ends.

    `mlflow run` starts a step as a child and, when it is itself terminated, leaves that
    child running and its run RUNNING for ever. On Linux the kernel can tell us instead.
    Only for a step that `mlflow run` or a launcher of ranks started: one from a shell may
    outlive it (nohup).
    """
    signal.signal(signal.SIGTERM, _terminate)
    # What SLURM's --signal=USR1@120 sends ahead of the time limit.
    signal.signal(signal.SIGUSR1, _terminate)
    started = os.environ.get("MLFLOW_RUN_ID") or os.environ.get("TORCHELASTIC_RUN_ID")
    if sys.platform == "linux" and started:
        parent = os.getppid()
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        # It may have ended between our start and the line above.
        if os.getppid() != parent:
            _terminate(signal.SIGTERM, None)


def _terminate(_number: int, _frame: Any) -> None:
    # A second signal while the first is being dealt with ends the process at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    raise SystemExit(128 + signal.SIGTERM)
