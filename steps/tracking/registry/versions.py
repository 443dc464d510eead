"""Registered versions: made, checked, found, and moved by alias.

A version is a models-from-code pyfunc around an adapter folder. It gets its alias only
after a fresh process has loaded it and found the logits that the trainer had.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from steps.config.paths import PROJECT_ROOT
from steps.config.sections import Training
from steps.digests import folder_sha256
from steps.distributed.ranks import RANK_VARIABLES
from steps.errors import UserError
from steps.tracking.names import ADAPTER_DIGEST_TAG
from steps.tracking.registry.naming import make_version
from steps.tracking.registry.stored_model import KIND_TAG, store_model
from steps.tracking.runs import StepRun
from steps.tracking.store import all_pages, reason, store_errors

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.tracking import MlflowClient


# Before there was the tag, the name told.
OF_VERSIONS = (f"tags.`{KIND_TAG}` = 'version'", "name = 'model'")


class RegistrationError(UserError):
    """The stored model cannot be loaded, or gives other logits than the trainer's model."""


def register(
    run: StepRun,
    adapter: Path,
    training: Training,
    alias: str,
    figures: Mapping[str, float],
) -> str:
    """Log an adapter folder as a model, check it in a fresh process, register it.

    Args:
        run: The run that trained it.
        adapter: The folder, with its card as `README.md`.
        training: The configuration; names the registered model.
        alias: Set last, so that whoever finds a version by it finds a checked one; "": none.
        figures: Main figures, for the description that the registry's page shows.

    Returns:
        `models:/NAME/VERSION`.

    Raises:
        RegistrationError: The check failed; nothing was registered.
        UserError: The store refused, or went away for longer than MLflow's own retries, about four
            minutes; the message says what it holds by then.
    """
    from steps.terminal import quieten_handlers

    quieten_handlers()
    try:
        model_uri, model_id = store_model(run, adapter, training)
        check_in_fresh_process(model_uri)
        return _create_version(run, adapter, training, alias, model_uri, model_id, figures)
    except RegistrationError:
        # The bytes stay for whoever looks for the cause; their state says what they are.
        run.client.finalize_logged_model(model_id, "FAILED")
        raise
    except store_errors() as error:
        raise UserError(
            f"no version was registered, because the tracking store failed ({reason(error)}); "
            f"training is done and the adapter is safe in runs:/{run.id}/adapter: `--resume "
            f"{run.id}` registers it without training again"
        ) from None


def _create_version(
    run: StepRun,
    adapter: Path,
    training: Training,
    alias: str,
    model_uri: str,
    model_id: str,
    figures: Mapping[str, float],
) -> str:
    from steps.models.adapted import read_description

    name = training.mlflow.registered_model_name
    client = run.client
    base = read_description(adapter)["base"]["name"]
    shown = "; ".join(f"{key} {value:,.6g}" for key, value in figures.items())
    version = make_version(
        client,
        name,
        source=model_uri,
        run_id=run.id,
        model_id=model_id,
        description=f"{training.qlora.resolved_method} of {base}. {shown}. "
        "Card: artifacts/adapter/README.md of this model.",
        tags={ADAPTER_DIGEST_TAG: folder_sha256(adapter)},
    )
    uri = f"models:/{name}/{version.version}"
    # What `mlflow.register_model` notes, and the UI reads to show a model as registered.
    noted = json.dumps([{"name": name, "version": str(version.version)}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": noted})
    if not alias:
        return uri
    try:
        client.set_registered_model_alias(name, alias, version.version)
    except store_errors() as error:
        raise UserError(
            f"{uri} is registered, but could not get the alias {alias!r} ({reason(error)}): give "
            f"it one in the MLflow UI, or name it as {uri}; nothing has to be trained again"
        ) from None
    return uri


def check_in_fresh_process(model_uri: str) -> None:
    """Load a stored model as a stranger would, and compare its probe logits.

    Raises:
        RegistrationError: They differ, or the model cannot be loaded.
    """
    import mlflow

    command = [sys.executable, "-m", "steps.tracking.registry.check_model", model_uri]
    # In this working folder, which the store's URI may be relative to.
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    # Nor as one of several ranks: it would wait for the others.
    alone = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    finished = subprocess.run(
        command,
        # By a variable: a command line, in which a password may stand, is open to all users.
        env={**alone, "PYTHONPATH": path, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if finished.returncode != 0:
        lines = (finished.stderr.strip() or finished.stdout.strip() or "no output").splitlines()
        raise RegistrationError(
            f"the check of the stored model in a fresh process failed: {lines[-1]}; "
            "nothing was registered"
        )


def models_without_version(client: "MlflowClient", experiment_id: str) -> "list[LoggedModel]":
    """Models that finetune stored and no registered version is made of.

    A training that was killed while it registered, or whose check failed, leaves one: it takes
    room, and nothing points to it.
    """
    registered = {
        str(version.source).removeprefix("models:/") for version in client.search_model_versions()
    }
    found: dict[str, LoggedModel] = {}
    for condition in OF_VERSIONS:
        models = all_pages(client.search_logged_models, [experiment_id], filter_string=condition)
        found |= {one.model_id: one for one in models if one.model_id not in registered}
    return list(found.values())
