"""What a step prints, and what of the libraries' own words is kept off the terminal."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    pass


def say(message: str) -> None:
    """Tell the user what happened, above any progress bar; of several ranks the first does."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(message)


def show_notices(notices: tuple[str, ...]) -> None:
    """Print what was accepted but odd, one line each."""
    for notice in notices if os.environ.get("RANK", "0") == "0" else ():
        click.secho(f"note: {notice}", fg="yellow", err=True)


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
    "urllib3",
    "evaluate",
    "py.warnings",
    "git",
    "traceback",
)


@contextmanager
def logging_to(log_file: Path, verbose: bool) -> Iterator[None]:
    """Log all messages to a file; warnings, or in a verbose step all, to the terminal too."""
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


class StageBar:
    """A bar for papers, a stage at a time."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self.bar = tqdm(desc="papers", unit=" papers")

    def __call__(self, stage: str, done: int) -> None:
        """Show how many papers a stage has done."""
        self.bar.set_description(stage)
        self.bar.n = done
        self.bar.refresh()

    def close(self) -> None:
        """End the bar's line."""
        self.bar.close()
