"""Claims on a killed run: one launch goes on from it, however many ask at the same moment.

    holder = claim(run, source)      # "" or the id of the run that was first

A tag is of no use here: the last writer wins it, and nobody hears who wrote before. A parameter
of a run is written once and then refuses every other value (the store's primary key), so that
the first writer wins, and all others can read who that was. It takes no clock and no waiting.
"""

from typing import TYPE_CHECKING

from steps.tracking.heartbeat import sign_of_life
from steps.tracking.names import RESUME_KEY_TAG, RESUMED_BY_PARAM, RESUMED_TAG
from steps.tracking.store import find_run

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from steps.tracking.runs import StepRun


# With these a run is itself one to go on from, and leads to its origin's checkpoints.
TAGS_OF_AN_HEIR = {RESUME_KEY_TAG, RESUMED_TAG}


def claim(run: "StepRun", source: "Run") -> str:
    """Claim a run to go on from.

    A claim lasts while its holder lives (it may be loading the model), and for good once that one
    says what it resumed from: then it is the one to go on from. A holder that died before that
    has left nothing: the next parameter, `forge.resumed_by.2`, is open then.

    Args:
        run: The new run.
        source: The run that it wants to go on from.

    Returns:
        "": the claim is held by `run`; else the id of the run that holds it.
    """
    number = 1
    while True:
        name = RESUMED_BY_PARAM if number == 1 else f"{RESUMED_BY_PARAM}.{number}"
        holder = _first_writer(run.client, source.info.run_id, name, run.id)
        if holder == run.id:
            return ""
        if _holds(run.client, holder):
            return holder
        number += 1


def _first_writer(client: "MlflowClient", run_id: str, name: str, value: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.log_param(run_id, name, value)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
    return str(client.get_run(run_id).data.params[name])


def _holds(client: "MlflowClient", holder: str) -> bool:
    run = find_run(client, holder)
    if run is None or run.info.lifecycle_stage == "deleted":
        return False
    return run.data.tags.keys() >= TAGS_OF_AN_HEIR or bool(sign_of_life(run))
