"""Keeps a run KILLED that `mlflow run` would make FAILED.

    python -m steps.tracking.keep_killed RUN_ID

A step that is told to end closes its run as KILLED and exits with 143 or 130. `mlflow run` looks at
the run then, to leave alone what has ended, but asks `RunStatus.is_terminated` with the status's
name where that wants its number (MLflow 3.17): it takes every run for a running one and, because
of the exit code, writes FAILED over it. The step has gone by then. So it leaves this small
process behind, which ends when the launcher has written.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress

POLL_SECONDS = 0.2

# A launcher writes at once when its child has ended; a slow store may take some seconds.
LONGEST_SECONDS = 15.0


def spawn_status_keeper(run_id: str, launcher: int) -> None:
    """Start the process, if the launcher is still there to write anything."""
    if os.getppid() != launcher:
        return
    subprocess.Popen(
        [sys.executable, "-m", "steps.tracking.keep_killed", run_id],
        # What ends the step's group or terminal shall not end this.
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def keep_killed(run_id: str) -> None:
    """Wait for what the launcher writes, and write KILLED again."""
    import mlflow

    from steps.tracking.store import few_retries, store_errors

    client = mlflow.MlflowClient()
    deadline = time.monotonic() + LONGEST_SECONDS
    # Nobody is left to tell of a store that has gone: the run then stays as it is.
    with few_retries(), suppress(*store_errors()):
        while time.monotonic() < deadline:
            if client.get_run(run_id).info.status == "FAILED":
                client.set_terminated(run_id, "KILLED")
                return
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    keep_killed(sys.argv[1])
