"""A store as years of work leave it: the runs that it has, many times over.

    grow(tmp_path / "mlflow.db", runs=2000, models=5000)

Rows are written into SQLite directly, where a client would take an hour. Each copy has all that its
original has, under an id of its own and of an earlier time; only the files are not there twice.
"""

import sqlite3
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from uuid import UUID

# What hangs on a run, and on a model, by the column that names it.
OF_RUNS = ("params", "tags", "latest_metrics", "metrics")
OF_MODELS = ("logged_model_tags", "logged_model_params")
MINUTE = 60_000


def grow(database: Path, runs: int, models: int) -> None:
    """Copy runs and LoggedModels until there are so many.

    Args:
        database: A store with some of both.
        runs: Runs of all steps together.
        models: LoggedModels.
    """
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        originals = [row[0] for row in connection.execute("SELECT run_uuid FROM runs")]
        trained = connection.execute("SELECT model_id, source_run_id FROM logged_models").fetchall()
        copies: dict[str, list[str]] = {}
        number = 0
        for number, original in enumerate(islice(cycle(originals), runs - len(originals)), 1):
            copy = UUID(int=number).hex
            copies.setdefault(original, []).append(copy)
            _copy(connection, "runs", "run_uuid", original, copy)
            connection.execute(
                "UPDATE runs SET start_time = start_time - ?, end_time = end_time - ?, "
                "artifact_uri = replace(artifact_uri, ?, ?) WHERE run_uuid = ?",
                (number * MINUTE, number * MINUTE, original, copy, copy),
            )
            for table in OF_RUNS:
                _copy(connection, table, "run_uuid", original, copy)
        for place, (model, source) in enumerate(islice(cycle(trained), models - len(trained))):
            turn = copies[source]
            _copy_model(connection, model, source, turn[place // len(trained) % len(turn)], place)


def _copy_model(
    connection: sqlite3.Connection, model: str, source: str, run: str, place: int
) -> None:
    """Copy a model, as one of another run."""
    copy = f"m-{UUID(int=place).hex}"
    _copy(connection, "logged_models", "model_id", model, copy)
    connection.execute(
        "UPDATE logged_models SET source_run_id = ?, "
        "creation_timestamp_ms = creation_timestamp_ms - ? WHERE model_id = ?",
        (run, (place + 1) * MINUTE, copy),
    )
    for table in OF_MODELS:
        _copy(connection, table, "model_id", model, copy)
    connection.execute(
        "UPDATE logged_model_tags SET tag_value = replace(tag_value, ?, ?) WHERE model_id = ?",
        (source, run, copy),
    )


def _copy(
    connection: sqlite3.Connection, table: str, column: str, original: str, copy: str
) -> None:
    """Copy the rows of a table that name an id, under another."""
    names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    taken = ", ".join("?" if name == column else name for name in names)
    connection.execute(
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {taken} FROM {table} WHERE {column} = ?",
        (copy, original),
    )
