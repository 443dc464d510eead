"""Which tracking store and experiment a step talks to, and what it finds there."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.errors import UserError
from steps.extras import require_extra
from steps.tracking.credentials import login_in_environment, without_credentials
from steps.tracking.new_store import make_sqlite_store, sqlite_file

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


DEFAULT_URI = "sqlite:///mlflow.db"

# What drivers of databases and artifact stores are called on the package index.
PACKAGES = {
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "google": "google-cloud-storage",
    "azure": "azure-storage-blob",
}

# Longest wait for one answer of a server that should be there. The first one of a new server with a
# login, on PostgreSQL, took more than four seconds on a busy machine.
REQUEST_SECONDS = 10

# Entries of one answer of a search.
_PAGE = 1000


class StoreUnusable(UserError):
    """The tracking store is not there, or takes no writes; nothing more can be stored."""


def tracking_uri(training: Training) -> str:
    """The store that a step talks to, without the login of a server.

    What `mlflow run` or the environment set comes first, then the configuration file, then a
    SQLite file in the working folder.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or training.mlflow.tracking_uri or DEFAULT_URI
    return login_in_environment(uri)


def uri_of_the_file(training: Training) -> str:
    """The store, without user and password, where the configuration file alone names it; or ""."""
    if os.environ.get("MLFLOW_TRACKING_URI") or not training.mlflow.tracking_uri:
        return ""
    return without_credentials(training.mlflow.tracking_uri)


def check_reachable(uri: str) -> None:
    """Look at a database before MLflow does, which tries a broken one for minutes.

    Raises:
        StoreUnusable: A file that is no SQLite database.
    """
    _refuse_foreign_file(uri)
    _refuse_unreachable_database(uri)


def connect(training: Training) -> "MlflowClient":
    """Point mlflow at the store and the experiment, and check that they answer.

    Raises:
        StoreUnusable: It cannot be reached or used.
    """
    import mlflow

    uri = tracking_uri(training)
    # A server that is not there must be noticed in seconds, not after minutes of retries.
    with few_retries(), translated(uri):
        check_reachable(uri)
        make_sqlite_store(uri)
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient()
        # MLflow looks a run up for the lines that it prints at its end.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        if mlflow.active_run() is None and not _environment_names_experiment():
            mlflow.set_experiment(training.mlflow.experiment_name)
        elif "MLFLOW_RUN_ID" not in os.environ:
            # Of a run that waits, the step asks next, and sees whether it answers.
            client.search_experiments(max_results=1)
    return client


@contextmanager
def writing_to_store() -> Iterator[None]:
    """Turn what the store says against a first write into one line.

    Raises:
        StoreUnusable: The store is read-only, full, or gone.
    """
    import mlflow

    with translated(mlflow.get_tracking_uri()):
        yield


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn what a store says into one line.

    Raises:
        StoreUnusable: It cannot be reached or used.
    """
    unusable: tuple[type[Exception], ...] = (*store_errors(), ImportError)
    try:
        yield
    except ModuleNotFoundError as error:
        package = PACKAGES.get(str(error.name).partition(".")[0], str(error.name))
        raise StoreUnusable(
            f"the tracking store {without_credentials(uri)}, or where it keeps its artifacts, "
            f"needs the package {package}: pip install {package}"
        ) from None
    except unusable as error:
        raise StoreUnusable(
            f"the tracking store {without_credentials(uri)} cannot be used: {reason(error)}; start "
            "or mend it, or correct MLFLOW_TRACKING_URI or training.mlflow.tracking_uri"
        ) from None


def _refuse_foreign_file(uri: str) -> None:
    """Look at a SQLite file before MLflow does, which tries a broken one for two minutes."""
    database = sqlite_file(uri)
    if database is None or not database.is_file():
        return
    with database.open("rb") as file:
        start = file.read(16)
    if start and start != b"SQLite format 3\0":
        raise StoreUnusable(
            f"the tracking store {uri} cannot be used: {database} is not a SQLite database; "
            "correct MLFLOW_TRACKING_URI or training.mlflow.tracking_uri"
        )


def _refuse_unreachable_database(uri: str) -> None:
    """Ask a database server once: MLflow asks a wrong password or host again for minutes."""
    from sqlalchemy import create_engine, make_url

    if not re.match(r"(postgresql|mysql)(\+\w+)?:", uri):
        return
    if make_url(uri).get_driver_name() == "psycopg":
        require_extra("postgres", f"the tracking store {without_credentials(uri)}")
    engine = create_engine(uri, connect_args={"connect_timeout": REQUEST_SECONDS})
    try:
        with engine.connect():
            pass
    finally:
        engine.dispose()


def _environment_names_experiment() -> bool:
    names = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
    return any(os.environ.get(name) for name in names)


@contextmanager
def few_retries(seconds: int = REQUEST_SECONDS, retries: int = 1) -> Iterator[None]:
    """Notice in seconds that a store is away; limits set in the environment stay as they are.

    MLflow tries each request seven times with growing pauses, four minutes in all, and waits
    two minutes for an answer.

    Args:
        seconds: Longest wait for one answer.
        retries: How often MLflow itself asks again.
    """
    patience = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
    }
    added = {name: value for name, value in patience.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def store_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises when its store is away, broken or refuses a request."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # OSError: connections, and artifact folders that cannot be written.
    return (MlflowException, SQLAlchemyError, OSError)


def reason(error: BaseException) -> str:
    """Why a request to the store failed, in one short line."""
    text = " ".join(str(error).split())
    code = re.search(r"error code (\d{3}) != 200", text) or re.search(r"^(\d{3}) \w+ Error", text)
    number = code[1] if code else ""
    if number == "401" or "UNAUTHENTICATED" in text:
        return (
            "it asks for a login (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or MLFLOW_TRACKING_TOKEN"
        )
    if number == "403" or "PERMISSION_DENIED" in text:
        return "it refuses this user (403): ask for the right to write to the experiment"
    if number and number[0] in "34":
        return f"no MLflow server answers there ({number}): check host and path"
    if "not in a valid JSON format" in text:
        return "no MLflow server answers there (a page instead of JSON): check host and path"
    if ("too many 500 error" in text or number == "500") and "mlflow-artifacts" in text:
        return "its artifacts cannot be stored (500): its disk may be full; look into its log"
    if "too many 500 error" in text or number.startswith("5"):
        return f"it answers with a server error ({number or 500}): look into its log"
    if "timeout exception" in text or "timed out" in text:
        return "it does not answer in time"
    if "Max retries exceeded" in text or "Connection" in type(error).__name__:
        cause = re.search(r"\[Errno -?\d+\] [^'\")(]+", text)
        return f"it does not answer ({cause[0].strip() if cause else 'no connection'})"
    if "readonly database" in text:
        return "it is read-only"
    if "password authentication failed" in text or "Access denied for user" in text:
        return "the database refuses this user and password"
    # SQLAlchemy puts its class in front, and appends the statement and a link.
    text = re.sub(r"^\(\w+(\.\w+)+\) ", "", re.split(r" \[SQL:| \(Background on", text)[0])
    return _shortened(text)


def experiment_id() -> str:
    """Id of the experiment in use: the active run's, or the one that was set."""
    import mlflow

    run = mlflow.active_run()
    if run is not None:
        return str(run.info.experiment_id)
    given = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if given:
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    experiment = mlflow.get_experiment_by_name(name) if name else None
    if experiment is None:
        from mlflow.tracking.fluent import _get_experiment_id

        return str(_get_experiment_id())
    return str(experiment.experiment_id)


def find_run(client: "MlflowClient", run_id: str) -> "Run | None":
    """A run by its id, deleted ones too; None where the store has none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def all_pages(search: Any, *arguments: Any, most: int | None = None, **keywords: Any) -> list[Any]:
    """What a search finds, asked for a thousand at a time.

    Args:
        search: A search of MLflow's client that takes `max_results` and `page_token`.
        *arguments: For it.
        most: Entries after which no further ones are asked for; None: all.
        **keywords: For it.
    """
    found: list[Any] = []
    token = None
    while most is None or len(found) < most:
        size = _PAGE if most is None else min(_PAGE, most - len(found))
        page = search(*arguments, **keywords, max_results=size, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            break
    return found


def metric_by_step(client: "MlflowClient", run_id: str, name: str) -> dict[int, float]:
    """A metric of a run by step, in their order; of several values at one step the last counts."""
    points = sorted(client.get_metric_history(run_id, name), key=lambda p: (p.step, p.timestamp))
    return {point.step: point.value for point in points}


def newest_run(client: "MlflowClient", filters: str) -> "Run | None":
    """The newest finished run of this experiment that satisfies an mlflow filter."""
    runs = client.search_runs(
        [experiment_id()],
        f"attributes.status = 'FINISHED' and {filters}",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0] if runs else None


def one_line(error: BaseException) -> str:
    """An error's message in one short line."""
    return _shortened(" ".join(str(error).split()))


def _shortened(text: str) -> str:
    return text if len(text) < 200 else f"{text[:200]}…"
