"""Files of runs, sent and fetched with no more requests than there are files.

    send(client, run_id, [(file, "figures"), (other, None)])
    fetch_file(client, run_id, "metrics.json", folder)

MLflow's own client looks the run up twice, searches its models and lists a folder before it fetches
one file, and sends a folder file by file. Behind a server each of these is a request, and on a slow
link each takes its time. Here the place of a run's artifacts is asked for once in a process, and
files travel several at a time.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from steps.extras import require_extra
from steps.tracking.credentials import without_credentials
from steps.tracking.store import few_retries, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient

A = TypeVar("A")
B = TypeVar("B")

# As many connections as MLflow's session keeps open to a host, less some for other requests.
AT_ONCE = 8
# How long a store that answers with an error of its own is asked again: a full disk stays full.
SECONDS_OF_ERRORS = 15.0
# How long one that does not answer is: it may be starting anew.
SECONDS_OF_SILENCE = 240.0
LONGEST_PAUSE = 15.0
# A server may hand a large file on to a bucket before it answers.
SECONDS_FOR_A_FILE = 120

# Of a file or folder on this disk, and the folder of the run that it goes to; None: its root.
Sent = tuple[Path, str | None]

# The places of runs by store and id, and what reaches them: a place never changes.
_places: dict[tuple[str, str], str] = {}
_repositories: "dict[tuple[str, str], ArtifactRepository]" = {}


def repository_of(client: "MlflowClient", run_id: str) -> "ArtifactRepository":
    """Where the artifacts of a run lie; the run is looked up once in a process."""
    uri = place_of(client, run_id)
    key = (client.tracking_uri, uri)
    if key not in _repositories:
        _repositories[key] = repository_at(client, uri)
    return _repositories[key]


def place_of(client: "MlflowClient", run_id: str) -> str:
    """The URI of a run's artifacts; the run is looked up once in a process."""
    key = (client.tracking_uri, run_id)
    if key not in _places:
        remember(client, client.get_run(run_id))
    return _places[key]


def remember(client: "MlflowClient", run: "Run") -> None:
    """Note where the artifacts of a run lie that is at hand anyway."""
    _places[client.tracking_uri, run.info.run_id] = str(run.info.artifact_uri)


def repository_at(client: "MlflowClient", uri: str) -> "ArtifactRepository":
    """The artifacts of a URI.

    Raises:
        UserError: They lie on S3, and what reads it is not installed.
        MlflowException: Nothing can be made of it.
    """
    if uri.startswith("s3:"):
        require_extra("s3", f"the artifact store {without_credentials(uri)}")
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri, tracking_uri=client.tracking_uri)


def send(client: "MlflowClient", run_id: str, given: Sequence[Sent]) -> None:
    """Log files, and folders with their content, several at a time.

    Args:
        client: Client of the store.
        run_id: The run.
        given: What, and where to; the content of a folder goes to that place itself.

    Raises:
        MlflowException: The artifact store does not take them.
        OSError: The same, of other clients than MLflow's.
    """
    send_to(repository_of(client, run_id), given)


def send_to(repository: "ArtifactRepository", given: Sequence[Sent]) -> None:
    """Put files into a place for artifacts, several at a time; raises as `send` does."""
    files = [sent for path, folder in given for sent in _files(path, folder)]

    def put(sent: Sent) -> None:
        repository.log_artifact(str(sent[0]), sent[1])

    _each(files, put)


def fetch_file(client: "MlflowClient", run_id: str, name: str, target: Path) -> Path:
    """Bring one file of a run into a folder, under its path in the run.

    Raises:
        MlflowException: It is not there, or the store is away.
        OSError: The same, of other clients than MLflow's.
    """
    return fetch_files(repository_of(client, run_id), [name], target)[0]


def fetch_folder(client: "MlflowClient", run_id: str, name: str, target: Path) -> Path:
    """Bring a folder of a run into another, under its path in the run.

    Raises:
        MlflowException: It is not there or empty, or the store is away.
        OSError: The same, of other clients than MLflow's.
    """
    return fetch_folder_from(repository_of(client, run_id), name, target)


def fetch_folder_from(repository: "ArtifactRepository", name: str, target: Path) -> Path:
    """Bring a folder of a place for artifacts into another; raises as `fetch_folder` does."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    found = files_below(repository, name)
    if not found:
        raise MlflowException(f"no artifact {name}", error_code=RESOURCE_DOES_NOT_EXIST)
    fetch_files(repository, found, target)
    return target / name


def files_below(repository: "ArtifactRepository", name: str) -> list[str]:
    """The paths of all files of a folder, those of its folders too."""
    with as_store_errors():
        entries = repository.list_artifacts(name)
    folders = [entry.path for entry in entries if entry.is_dir]
    found = [entry.path for entry in entries if not entry.is_dir]
    for inside in _each(folders, lambda folder: files_below(repository, folder)):
        found += inside
    return found


def fetch_files(repository: "ArtifactRepository", names: Sequence[str], target: Path) -> list[Path]:
    """Bring files of a place for artifacts into a folder, several at a time."""

    def get(name: str) -> Path:
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        # What `download_artifacts` calls for each file, after it has asked whether it is a folder.
        repository._download_file(name, str(file))
        return file

    return _each(names, get)


def list_files(client: "MlflowClient", run_id: str, folder: str | None = None) -> list[Any]:
    """What stands in a folder of a run, as MLflow's `FileInfo`s."""
    with as_store_errors():
        return list(repository_of(client, run_id).list_artifacts(folder))


def _files(path: Path, folder: str | None) -> Iterator[Sent]:
    if not path.is_dir():
        yield path, folder
        return
    for file in sorted(path.rglob("*")):
        if file.is_file():
            inside = file.parent.relative_to(path).as_posix()
            parts = [part for part in (folder, inside) if part and part != "."]
            yield file, "/".join(parts) or None


def _each(things: Sequence[A], work: Callable[[A], B]) -> list[B]:
    """Do the same with several things at a time, each tried again while that may help."""
    if not things:
        return []
    # Where somebody else tries again, or has asked for few attempts, one has to do here.
    patient = "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    given_up = threading.Event()

    def attempt(thing: A) -> B:
        if given_up.is_set():
            raise CancelledError
        return work(thing)

    def patiently(thing: A) -> B:
        patience, pause = _Patience(), 1.0
        while True:
            try:
                with as_store_errors():
                    return attempt(thing)
            except store_errors() as error:
                left = patience.left_after(error) if patient else 0.0
                if given_up.is_set() or left < pause:
                    given_up.set()
                    raise
            given_up.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    # A server that has answered 500 closes the connection, so that MLflow's own second attempt
    # meets a broken one and hides the answer.
    with few_retries(SECONDS_FOR_A_FILE, retries=0):
        if len(things) == 1:
            return [patiently(things[0])]
        with ThreadPoolExecutor(min(AT_ONCE, len(things)), "artifacts") as pool:
            done = [pool.submit(patiently, thing) for thing in things]
        # What failed by itself explains what was given up for it.
        failures = [one.exception() for one in done]
        causes = [error for error in failures if error and not isinstance(error, CancelledError)]
        if causes:
            raise causes[0]
        return [one.result() for one in done]


class _Patience:
    """How long a request that fails is made again: that hangs on what the server says."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._first_error: float | None = None

    def left_after(self, error: Exception) -> float:
        """Seconds for which it is worth to go on after this failure; 0 where it is not."""
        text, now = str(error), time.monotonic()
        # 502 to 504 come from a gateway whose server is away.
        if re.search(r"too many 50[0157] error|\b50[0157] Server Error|error code 50[0157]", text):
            self._first_error = self._first_error or now
        elif re.search(r"NewConnectionError|[Tt]imed? ?out|too many 50[234]|\b50[234] ", text):
            self._first_error = None
        elif not re.search(r"Max retries exceeded|Connection", text):
            return 0.0
        # A connection that breaks off is what follows either.
        if self._first_error is not None:
            return self._first_error + SECONDS_OF_ERRORS - now
        return self._begun + SECONDS_OF_SILENCE - now


@contextmanager
def as_store_errors() -> Iterator[None]:
    """Turn what the client of S3 raises into what MLflow does.

    Raises:
        MlflowException: The bucket refuses, or cannot be reached.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("botocore.", "boto3.")):
            raise
        from mlflow.exceptions import MlflowException

        raise MlflowException(f"S3: {error}") from error
