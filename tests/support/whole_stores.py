"""Fixtures: a store that an earlier commit made, and one that was just trained into."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import ROOT
from tests.support.stores import StoredStore, unpack_store
from tests.support.trained_store import Trained, trained_store

ARCHIVE = ROOT / "tests" / "fixtures" / "stores" / "e557ad4.tar.gz"


@pytest.fixture(scope="module")
def unpacked_store(tmp_path_factory: pytest.TempPathFactory) -> StoredStore:
    """A store with a champion and a training that was killed."""
    return unpack_store(ARCHIVE, tmp_path_factory.mktemp("earlier"))


@pytest.fixture
def there(unpacked_store: StoredStore, monkeypatch: pytest.MonkeyPatch) -> StoredStore:
    """That store, as the one that steps talk to."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", unpacked_store.uri)
    monkeypatch.setenv("FORGE_CACHE", str(unpacked_store.folder / "cache"))
    monkeypatch.setenv("FORGE_BASE_MODELS", str(unpacked_store.model))
    return unpacked_store


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, _migrated_database: Path, tiny_llama_folder: Path
) -> Iterator[Trained]:
    """A store with a dataset and a registered version, the one in use while a module is run."""
    folder = tmp_path_factory.mktemp("trained")
    with trained_store(folder, _migrated_database, tiny_llama_folder) as made:
        yield made
