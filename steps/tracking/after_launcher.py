"""What is left to do on a run when `mlflow run` has written its end.

    python -m steps.tracking.after_launcher keep-killed RUN_ID
    python -m steps.tracking.after_launcher delete RUN_ID

`mlflow run` writes an end into the run that it has made when its step has exited. It looks at the
run first, to leave alone what has ended, but asks `RunStatus.is_terminated` with the status's name
where that wants its number (MLflow 3.17), and so takes every run for a running one:

- A run that the step has closed as KILLED becomes FAILED, because of the exit code.
- A run that the step has deleted takes no writes, and `mlflow run` ends with a traceback.

The step has gone by then. So it leaves this small process behind, which waits for that end.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import Literal

Task = Literal["keep-killed", "delete"]

POLL_SECONDS = 0.2

# A launcher writes at once when its child has ended; a slow store may take some seconds.
LONGEST_SECONDS = 15.0


def spawn(task: Task, run_id: str, launcher: int) -> None:
    """Start the process, if the launcher is still there to write anything.

    Args:
        task: What to do with the run.
        run_id: The run.
        launcher: Process id of `mlflow run`.
    """
    if os.getppid() != launcher:
        return
    subprocess.Popen(
        [sys.executable, "-m", "steps.tracking.after_launcher", task, run_id],
        # What ends the step's group or terminal shall not end this.
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_and_do(task: str, run_id: str) -> None:
    """Wait for what the launcher writes, then do the task."""
    import mlflow

    from steps.tracking.store import few_retries, store_errors

    client = mlflow.MlflowClient()
    deadline = time.monotonic() + LONGEST_SECONDS
    # Nobody is left to tell of a store that has gone: the run then stays as it is.
    with few_retries(), suppress(*store_errors()):
        while time.monotonic() < deadline:
            status = client.get_run(run_id).info.status
            if task == "keep-killed" and status == "FAILED":
                client.set_terminated(run_id, "KILLED")
                return
            if task == "delete" and status != "RUNNING":
                client.delete_run(run_id)
                return
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    wait_and_do(*sys.argv[1:3])
