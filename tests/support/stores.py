"""Small stores of earlier commits: how they are packed, and unpacked somewhere else.

    earlier = unpack_store(Path("tests/fixtures/stores/7dc8622.tar.gz"), folder)
    mlflow.set_tracking_uri(earlier.uri)

A store is a folder with `mlflow.db`, the artifacts (`mlruns`), the base model (`model`), the
configuration (`config.yaml`) and the facts (`store.json`). MLflow writes absolute paths into all
of it. In the archive each of them begins with a placeholder, which gives way to the folder that
the store is unpacked into. `make_store.py` makes such archives.
"""

import sqlite3
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

PROJECT = Path(__file__).resolve().parent.parent.parent
# What stands in an archive for the folder of the store, and for that of the project.
STORE_PLACEHOLDER = "@STORE@"
PROJECT_PLACEHOLDER = "@PROJECT@"
DATABASE = "mlflow.db"
MODEL = "model"
CONFIG = "config.yaml"
FACTS = "store.json"

_TEXT_FILES = (".json", ".yaml", ".yml", ".txt", ".md")
_TEXT_NAMES = ("MLmodel", "registered_model_meta")


class Killed(msgspec.Struct, frozen=True):
    """The training run that was killed in the middle.

    Attributes:
        run: Its id.
        overrides: What it was started with, besides the store's configuration.
        checkpoint: Step of its newest whole checkpoint.
        steps: Optimiser steps of the whole training.
        losses: `train/loss` by step, of the same training untouched.
    """

    run: str
    overrides: str
    checkpoint: int
    steps: int
    losses: dict[int, float]


class Facts(msgspec.Struct, frozen=True):
    """What was true of a store when it was made.

    Attributes:
        commit: Of the project that made it.
        registered_model: Name of the registered model; its version 1 is the champion.
        runs: Id of the finished run of each step.
        bits_per_byte: On the test split, of `champion` and `base`.
        prompt: What the champion was asked.
        answer: What it answered, in `new_tokens` tokens.
        new_tokens: How long that answer was to be.
        killed: The run that was killed.
    """

    commit: str
    registered_model: str
    runs: dict[str, str]
    bits_per_byte: dict[str, float]
    prompt: str
    answer: str
    new_tokens: int
    killed: Killed


@dataclass(frozen=True)
class StoredStore:
    """An unpacked store.

    Attributes:
        folder: Where it lies now.
        facts: What was true of it.
    """

    folder: Path
    facts: Facts

    @property
    def uri(self) -> str:
        """Its tracking URI."""
        return f"sqlite:///{self.folder / DATABASE}"

    @property
    def config(self) -> Path:
        """The configuration that its runs were made with."""
        return self.folder / CONFIG

    @property
    def model(self) -> Path:
        """The base model."""
        return self.folder / MODEL

    @property
    def champion(self) -> str:
        """URI of the registered version."""
        return f"models:/{self.facts.registered_model}@champion"


def unpack_store(archive: Path, folder: Path) -> StoredStore:
    """Unpack a store, as if it had been made where it lies now.

    Args:
        archive: From `make_store.py`.
        folder: Where to; made where missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    relocate(folder, {STORE_PLACEHOLDER: str(folder), PROJECT_PLACEHOLDER: str(PROJECT)})
    facts = msgspec.json.decode((folder / FACTS).read_bytes(), type=Facts)
    return StoredStore(folder, facts)


def relocate(folder: Path, replacements: Mapping[str, str]) -> None:
    """Replace texts in everything of a store that holds paths.

    The files of checkpoints stay as they are: their manifests list the SHA-256 of each, and no
    reader goes by the paths in them.

    Args:
        folder: Of the store.
        replacements: The new text of each; in this order.
    """
    _relocate_database(folder / DATABASE, replacements)
    for file in _text_files(folder):
        before = after = file.read_text(encoding="utf-8")
        for old, new in replacements.items():
            after = after.replace(old, new)
        if after != before:
            file.write_text(after, encoding="utf-8")


def _relocate_database(database: Path, replacements: Mapping[str, str]) -> None:
    connection = sqlite3.connect(database)
    with connection:
        for table, column in _columns(connection):
            for old, new in replacements.items():
                # `replace` would make texts of numbers.
                is_text = f"typeof(\"{column}\") = 'text'"
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) '
                    f'WHERE {is_text} AND instr("{column}", ?)',
                    (old, new, old),
                )
    connection.close()


def _columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return [
        (table, column[1])
        for (table,) in tables
        for column in connection.execute(f'PRAGMA table_info("{table}")').fetchall()
    ]


def _text_files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        is_text = file.suffix in _TEXT_FILES or file.name in _TEXT_NAMES
        if is_text and file.is_file() and "checkpoints" not in file.relative_to(folder).parts:
            yield file
