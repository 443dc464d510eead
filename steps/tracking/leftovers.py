"""What killed processes leave behind: runs that stay RUNNING, unsent entries, scratch folders.

    tidy(run)

Each step does it when it begins. Only what is provably dead is touched: on this machine by its
process, elsewhere by a heartbeat that stopped a day ago.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from steps.cache_folder import cache_folder
from steps.terminal import say
from steps.tracking.heartbeat import is_provably_dead, last_sign
from steps.tracking.names import ERROR_TAG, EXIT_CODE_TAG, HEARTBEAT_TAG, STEP_TAG
from steps.tracking.spool import RUN, open_spool
from steps.tracking.store import few_retries, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

# At a step's start nobody wants to wait long for what others have left.
SECONDS_FOR_A_SPOOL = 10.0
MOST_RUNS = 50

# Held by the process whose scratch folder it stands in.
LOCK = ".in-use"


def tidy(client: "MlflowClient", run_id: str, experiment_id: str) -> None:
    """Send what killed steps left unsent, close their runs, and clear their scratch folders.

    Args:
        client: Client of the store.
        run_id: The run of this step, which is left alone.
        experiment_id: Whose runs are looked at.
    """
    clear_scratch()
    with few_retries(), suppress(*store_errors()):
        _send_spools(client, run_id)
        for run in _dead_runs(client, experiment_id):
            if run.info.run_id != run_id:
                _close(client, run)


@contextmanager
def scratch_folder(step: str) -> Iterator[Path]:
    """A folder for a step's files, gone when it ends; a later step clears that of a killed one."""
    while True:
        with tempfile.TemporaryDirectory(prefix=f"forge-{step}-") as scratch:
            folder = Path(scratch)
            with (folder / LOCK).open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                # In the moment before the lock, a step that clears up may have taken it.
                if folder.is_dir():
                    yield folder
                    return


def clear_scratch() -> None:
    """Remove scratch folders whose process is gone: nobody holds their lock."""
    for folder in Path(tempfile.gettempdir()).glob("forge-*"):
        with suppress(OSError):
            if folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _dead_runs(client: "MlflowClient", experiment_id: str) -> "list[Run]":
    running = client.search_runs(
        [experiment_id],
        f"attributes.status = 'RUNNING' and tags.`{HEARTBEAT_TAG}` != ''",
        order_by=["attributes.start_time DESC"],
        max_results=MOST_RUNS,
    )
    return [run for run in running if is_provably_dead(run)]


def _close(client: "MlflowClient", run: "Run") -> None:
    run_id, step = run.info.run_id, run.data.tags.get(STEP_TAG, "step")
    if ERROR_TAG not in run.data.tags:
        client.set_tag(run_id, ERROR_TAG, "its process was killed, and could not say so itself")
        client.set_tag(run_id, EXIT_CODE_TAG, "137")
    # When it was last seen, not now: pruning counts from there.
    client.set_terminated(run_id, "KILLED", end_time=int(last_sign(run) * 1000))
    say(f"closed run {run_id} ({step}), whose process was killed")


def _send_spools(client: "MlflowClient", run_id: str) -> None:
    """Send the entries of runs of this store whose processes are gone."""
    for folder in sorted((cache_folder() / "spool").glob("*")):
        if folder.name.startswith(run_id) or not (folder / RUN).is_file():
            continue
        with suppress(OSError), (folder / RUN).open("r+") as file:
            # Two steps that begin at once would send the same twice.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _send(client, folder)


def _send(client: "MlflowClient", folder: Path) -> None:
    spool = open_spool(folder)
    with suppress(*store_errors()):
        run = client.get_run(spool.run_id)
        # One that ended while the store was away is RUNNING there, with its end in the spool.
        if run.info.status == "RUNNING" and not is_provably_dead(run):
            return
        if not spool.pending:
            spool.close()
            return
        sent = spool.flush(SECONDS_FOR_A_SPOOL)
        spool.close()
        if sent:
            say(f"sent what run {spool.run_id} had left unsent")
        else:
            say(f"run {spool.run_id} has entries that were not sent: `{spool.command}` sends them")
