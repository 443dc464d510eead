"""What a step prints, and what of the libraries' own words is kept off the terminal."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import click

# What the user is told goes to the run's log too; kept until there is one.
_SAID = logging.getLogger("said")
_SAID.setLevel(logging.INFO)
_SAID.propagate = False
_BEFORE_THE_LOG = MemoryHandler(1000, flushLevel=logging.CRITICAL + 1)
_SAID.addHandler(_BEFORE_THE_LOG)


def say(message: str) -> None:
    """Tell the user what happened, above any progress bar; of several ranks the first does."""
    if is_speaking():
        click.echo(message)
        note_in_log(message)


def show_notices(notices: tuple[str, ...]) -> None:
    """Print what was accepted but odd, one line each."""
    for notice in notices if is_speaking() else ():
        click.echo(styled(f"note: {notice}", fg="yellow"), err=True)
        note_in_log(f"note: {notice}")


def show_error(message: str) -> None:
    """Print what went wrong, in one line."""
    click.echo(styled(f"error: {message}", fg="red"), err=True)
    note_in_log(f"error: {message}")


def show(content: object, **options: Any) -> None:
    """Print a table, or a text with rich's markup.

    Args:
        content: What rich can print.
        **options: Of `rich.console.Console.print`.
    """
    if not is_speaking():
        return
    from rich.console import Console

    console = Console(record=True)
    console.print(content, **options)
    note_in_log(console.export_text().rstrip())


def styled(text: str, **style: Any) -> str:
    """A text in colour or bold, as `click.style` has it, unless the user wants none."""
    return text if _is_colourless() else click.style(text, **style)


def in_bytes(count: int) -> str:
    """A number of bytes in the unit that suits it: `1.2 GB`."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count} B"


def note_in_log(text: str) -> None:
    """Write down what the user was told; where there is no log yet, when there is one."""
    _SAID.info("%s", click.unstyle(text))


def is_speaking() -> bool:
    """Whether this process talks: of several ranks the first does."""
    return os.environ.get("RANK", "0") == "0"


def is_plain() -> bool:
    """Whether lines follow each other: a pipe, a file, or a terminal that cannot move its cursor.

    Who sets NO_COLOR wants no control characters either. Some terminals (of a container, of
    `script`) have no width, and a bar cut to it would show nothing.
    """
    if _is_colourless() or not sys.stderr.isatty():
        return True
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except OSError:
        return True


def _is_colourless() -> bool:
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


# Libraries that talk on the terminal about matters of their own. Their words go to the run's
# log; `--verbose` (or FORGE_VERBOSE) lets them through. Our own words are click's and tqdm's.
NOISY_LOGGERS = (
    "mlflow",
    "alembic",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "lm_eval",
    "DeepSpeed",
    "deepspeed",
    "bitsandbytes",
    "torch",
    "torchao",
    "huggingface_hub",
    "matplotlib",
    "optuna",
    "urllib3",
    "evaluate",
    "py.warnings",
    "git",
    "traceback",
)


@contextmanager
def logging_to(log_file: Path, verbose: bool) -> Iterator[None]:
    """Log all messages to a file; warnings, or in a verbose step all, to the terminal too.

    What the user was told before goes first.
    """
    root = logging.getLogger()
    to_file = logging.FileHandler(log_file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    to_terminal = logging.StreamHandler()
    to_terminal.addFilter(lambda record: verbose or not _is_noise(record.name))
    to_terminal.setLevel(logging.WARNING)
    before = root.level
    root.setLevel(logging.INFO)
    root.addHandler(to_file)
    root.addHandler(to_terminal)
    _SAID.addHandler(to_file)
    _BEFORE_THE_LOG.setTarget(to_file)
    _BEFORE_THE_LOG.flush()
    _SAID.removeHandler(_BEFORE_THE_LOG)
    logging.captureWarnings(True)
    quieten_handlers()
    quieten_progress_bars()
    # DeepSpeed installs its handler and warns in one go, when it is imported.
    deepspeed = logging.getLogger("DeepSpeed")

    def divert(record: logging.LogRecord) -> bool:
        to_file.handle(record)
        return verbose

    deepspeed.addFilter(divert)
    try:
        yield
    finally:
        deepspeed.removeFilter(divert)
        root.setLevel(before)
        root.removeHandler(to_file)
        root.removeHandler(to_terminal)
        _SAID.removeHandler(to_file)
        to_file.close()


def quieten_handlers() -> None:
    """Take away the handlers that libraries put on their own loggers; the root's remain.

    Called again after a heavy import: a library installs its handler when it is imported.
    """
    # Torch gives handlers to loggers below its own too.
    known = [name for name in logging.root.manager.loggerDict if _is_noise(name)]
    for name in {*NOISY_LOGGERS, *known}:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and not isinstance(
                handler, logging.FileHandler
            ):
                logger.removeHandler(handler)
        logger.propagate = True


def quieten_progress_bars() -> None:
    """Switch off the bars of libraries; the steps show their own."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def _is_noise(name: str) -> bool:
    return any(name == noisy or name.startswith(f"{noisy}.") for noisy in NOISY_LOGGERS)
