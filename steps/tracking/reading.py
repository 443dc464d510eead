"""A store that is only looked at: nothing of it is made, upgraded or written.

    opened = open_to_read(training)
    if opened.client is not None and opened.experiment_id is not None: ...

MLflow's own client makes a database that is not there, brings one of an older MLflow up to its own
schema without asking, and adds the experiment "Default"; `set_experiment` makes the experiment.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from steps.config.sections import Training
from steps.tracking.credentials import without_credentials
from steps.tracking.new_store import sqlite_file
from steps.tracking.store import (
    StoreUnusable,
    check_reachable,
    few_retries,
    tracking_uri,
    translated,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_DATABASE = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?:")


@dataclass(frozen=True)
class OpenedStore:
    """A store as it was found.

    Attributes:
        uri: Where it is, without user and password.
        client: Reads it; None: there is no store yet.
        experiment: Name of the experiment that a step would work in now.
        experiment_id: Its id; None: there is no such experiment yet.
    """

    uri: str
    client: "MlflowClient | None"
    experiment: str
    experiment_id: str | None


def open_to_read(training: Training) -> OpenedStore:
    """Find the store and the experiment of a configuration, as `connect` does, and change nothing.

    Raises:
        StoreUnusable: It does not answer, is no MLflow store, or is one of another schema.
    """
    import mlflow

    uri = tracking_uri(training)
    shown = without_credentials(uri)
    wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME") or training.mlflow.experiment_name
    with few_retries(), translated(uri):
        check_reachable(uri)
        if _DATABASE.match(uri) and not _has_store(uri):
            return OpenedStore(shown, None, wanted, None)
        # For what is named by a `runs:/` URI.
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient(_without_writing(uri))
        found = _experiment(client, wanted)
    if found is None:
        return OpenedStore(shown, client, wanted, None)
    if found.lifecycle_stage != "active":
        raise StoreUnusable(
            f"experiment {found.name!r} of the tracking store {shown} is deleted: restore it "
            f"(mlflow experiments restore --experiment-id {found.experiment_id}), or name another "
            "by training.mlflow.experiment_name"
        )
    return OpenedStore(shown, client, str(found.name), str(found.experiment_id))


def _experiment(client: "MlflowClient", name: str) -> Any:
    """The experiment that the environment names by its id, or the one of this name; or None."""
    from mlflow.exceptions import MlflowException

    given = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if not given:
        return client.get_experiment_by_name(name)
    try:
        return client.get_experiment(given)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _has_store(uri: str) -> bool:
    """Whether a database holds a store of this MLflow's schema; False: it holds nothing yet.

    Raises:
        StoreUnusable: It holds something else.
    """
    import mlflow
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils
    from sqlalchemy import create_engine, inspect, text

    file = sqlite_file(uri)
    # To open a file is to make it, and MLflow puts the tables into one of no bytes.
    if file is not None and not (file.is_file() and file.stat().st_size):
        return False
    engine = create_engine(_without_writing(uri))
    try:
        tables = set(inspect(engine).get_table_names())
        if not tables:
            return False
        shown = without_credentials(uri)
        if not tables >= {"alembic_version", "experiments"}:
            raise StoreUnusable(
                f"the tracking store {shown} cannot be used: it is a database of something else "
                "than MLflow; correct MLFLOW_TRACKING_URI or training.mlflow.tracking_uri"
            )
        found, expected = utils._get_schema_version(engine), utils._get_latest_schema_revision()
        if found != expected:
            scripts = ScriptDirectory.from_config(utils._get_alembic_config(db_url=""))
            known = {script.revision for script in scripts.walk_revisions()}
            fix = (
                f"back it up and upgrade it (mlflow db upgrade {shown})"
                if found in known
                else "install the MLflow that made it"
            )
            age = "an older" if found in known else "a newer"
            raise StoreUnusable(
                f"the tracking store {shown} has the schema of {age} MLflow ({found}; "
                f"{mlflow.__version__}, which is installed, reads {expected}): {fix}"
            )
        with engine.connect() as connection:
            return bool(connection.execute(text("select count(*) from experiments")).scalar())
    finally:
        engine.dispose()


def _without_writing(uri: str) -> str:
    """The URI by which SQLite refuses every write; any other as it is."""
    file = sqlite_file(uri)
    if file is None:
        return uri
    # With the driver named, MLflow makes no folder "file:" where the user works.
    return f"sqlite+pysqlite:///file:{quote(str(Path(file).absolute()))}?mode=ro&uri=true"
