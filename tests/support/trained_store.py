"""A store with a dataset and a registered model of a tiny base, and the steps that made them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import mlflow
import pytest
from click.testing import CliRunner

from tests.support.project import write_tiny_config


@dataclass(frozen=True)
class Trained:
    """A store with a dataset and a registered model."""

    config: Path
    client: mlflow.MlflowClient
    dataset: str
    training: str

    def step(self, name: str, *arguments: str, code: int = 0) -> str:
        """Run a step in this process as its command line would."""
        from importlib import import_module

        command = import_module(f"steps.{name}").main
        result = CliRunner().invoke(command, ["--config", str(self.config), *arguments])
        assert result.exit_code == code, result.output
        return result.output

    def runs(self, name: str) -> list[Any]:
        """The runs of a step, the newest first."""
        experiment = self.client.get_experiment_by_name("tiny")
        return list(
            self.client.search_runs([experiment.experiment_id], f"tags.`forge.step` = '{name}'")
        )

    def used_by_comparison(self) -> Any:
        """The evaluation of version 1 that a comparison takes from the store."""
        from steps.config.file import load_config
        from steps.tracking.cache import find_reusable, key_parts
        from steps.tracking.evaluations import evaluation_inputs
        from steps.tracking.registry.model_reference import resolve_model

        training = load_config(self.config).training
        reference = resolve_model(self.client, "models:/tiny/1", training)
        digest = self.client.get_run(self.dataset).data.tags["forge.dataset_digest"]
        inputs = evaluation_inputs(training, reference, digest, "test")
        parts = key_parts("evaluate", training, inputs)
        experiment = self.client.get_experiment_by_name("tiny").experiment_id
        found, why = find_reusable(self.client, experiment, "evaluate", parts)
        assert found is not None, why
        return found

    def folder(self, uri: str) -> Path:
        """Where an artifact URI of this store is on the disk."""
        return Path(urlparse(uri).path)

    def fetch(self, run_id: str, name: str, target: Path) -> Path:
        """Download an artifact of a run."""
        return Path(self.client.download_artifacts(run_id, name, str(target)))


@contextmanager
def store_in_use(folder: Path, database: Path) -> Iterator[mlflow.MlflowClient]:
    """Work in a folder, with a store in it.

    Args:
        folder: Where everything is written.
        database: An empty tracking database, which is copied.
    """
    shutil.copy(database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("FORGE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        mlflow.set_tracking_uri(uri)
        yield mlflow.MlflowClient()
        while mlflow.active_run() is not None:
            mlflow.end_run()


@contextmanager
def trained_store(folder: Path, database: Path, base: Path, *overrides: str) -> Iterator[Trained]:
    """Preprocess the demo papers and train on them, in a store below a folder.

    Args:
        folder: Where everything is written, and the working folder meanwhile.
        database: An empty tracking database.
        base: The folder of the base model.
        *overrides: Of the configuration, for the training.
    """
    with store_in_use(folder, database) as client:
        made = Trained(write_tiny_config(folder, base), client, "", "")
        made.step("preprocess")
        made.step("finetune", *(("--overrides", " ".join(overrides)) if overrides else ()))
        (prepared,), (finetuned,) = made.runs("preprocess"), made.runs("finetune")
        yield Trained(made.config, client, prepared.info.run_id, finetuned.info.run_id)
