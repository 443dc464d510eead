"""A new SQLite store, made whole or not at all, however many steps start at once."""

import hashlib
import os
import tempfile
from pathlib import Path


def make_sqlite_store(uri: str) -> None:
    """Make the database of a SQLite URI where there is none yet.

    MLflow makes its tables in some sixty steps in the database itself: of several processes that
    start at once all do so, and one that is killed leaves a database that no process can use. Here
    one makes it beside, under a lock of this machine, and renames it when it is whole.

    Args:
        uri: A tracking URI; others than those of a SQLite file are left alone.
    """
    from filelock import FileLock

    database = sqlite_file(uri)
    if database is None or _has_content(database) or not database.parent.is_dir():
        return
    name = hashlib.sha256(str(database.resolve()).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"forge-new-store-{os.getuid()}-{name}.lock"
    with FileLock(lock):
        if _has_content(database):
            return
        # Under the lock, whatever lies there is of a process that was killed.
        for leftover in database.parent.glob(f".{database.name}.*.new*"):
            leftover.unlink(missing_ok=True)
        beside = database.with_name(f".{database.name}.{os.getpid()}.new")
        _make(f"sqlite:///{beside.absolute()}")
        beside.replace(database)


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI; None for any other store, and for one in memory."""
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite:"):
        return None
    database = make_url(uri).database
    if not database or database == ":memory:" or database.startswith("file:"):
        return None
    return Path(database)


def from_every_folder(uri: str) -> str:
    """The URI of a store as processes in other working folders need it."""
    file = sqlite_file(uri)
    return uri if file is None or file.is_absolute() else f"sqlite:///{file.absolute()}"


def _has_content(database: Path) -> bool:
    # A size of 0 is what opening alone leaves.
    return database.exists() and database.stat().st_size > 0


def _make(uri: str) -> None:
    from mlflow.tracking._tracking_service.utils import _get_sqlalchemy_store

    # With the default experiment, which several processes would otherwise make as well.
    store = _get_sqlalchemy_store(uri, None)
    store._dispose_engine()
