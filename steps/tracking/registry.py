"""Registered versions: made, checked, found, and moved by alias.

A version is a models-from-code pyfunc around an adapter folder. It gets its alias only
after a fresh process has loaded it and found the logits that the trainer had.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps import config
from steps.errors import UserError
from steps.tracking.runs import StepRun
from steps.tracking.store import one_line, reason, store_errors
from steps.training.launch import RANK_VARIABLES

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from steps.training.models import Base

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous_champion"
SERVING_PACKAGES = (
    "mlflow",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "click",
    "pydantic",
    "omegaconf",
    "filelock",
    "nvidia-ml-py",
    "tqdm",
    "gguf",
)


class RegistrationError(UserError):
    """The stored model did not give the logits that the trainer had."""


@dataclass(frozen=True)
class Side:
    """A model that can be evaluated and compared.

    Attributes:
        uri: `models:/NAME/VERSION`, `runs:/ID/adapter`, or `base`.
        version: The registry version, or None.
        run_id: The run that trained it, or None for the base.
    """

    uri: str
    version: "ModelVersion | None"
    run_id: str | None

    @property
    def name(self) -> str:
        """What people see: the URI without its scheme."""
        return self.uri.removeprefix("models:/")


def register(
    run: StepRun,
    adapter: Path,
    training: config.Training,
    alias: str,
    figures: Mapping[str, float],
) -> str:
    """Log an adapter folder as a model, check it in a fresh process, register it.

    Args:
        run: The run that trained it.
        adapter: The folder, with its card as `README.md`.
        training: The configuration; names the registered model.
        alias: Set last, so that whoever finds a version by it finds a checked one.
        figures: Main figures, for the description that the registry's page shows.

    Returns:
        `models:/NAME/VERSION`.

    Raises:
        RegistrationError: The check failed; nothing was registered.
        UserError: The store went away for longer than MLflow's own retries, about four minutes.
    """
    from steps.tracking.runs import quieten_handlers

    quieten_handlers()
    try:
        model_uri, model_id = _log_model(adapter)
        check_in_fresh_process(model_uri)
        return _create_version(run, adapter, training, alias, model_uri, model_id, figures)
    except RegistrationError:
        # The bytes stay for whoever looks for the cause; their state says what they are.
        run.client.finalize_logged_model(model_id, "FAILED")
        raise
    except store_errors() as error:
        raise UserError(
            f"the model was not registered, because the tracking store failed ({reason(error)}); "
            f"training is done and the adapter is safe in runs:/{run.id}/adapter"
        ) from None


def _log_model(adapter: Path) -> tuple[str, str]:
    import mlflow

    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(config.PROJECT_ROOT / "steps" / "tracking" / "served_model.py"),
        artifacts={"adapter": str(adapter)},
        code_paths=[str(config.PROJECT_ROOT / "steps")],
        signature=_signature(),
        pip_requirements=_pinned(SERVING_PACKAGES),
    )
    return info.model_uri, info.model_id


def _create_version(
    run: StepRun,
    adapter: Path,
    training: config.Training,
    alias: str,
    model_uri: str,
    model_id: str,
    figures: Mapping[str, float],
) -> str:
    from steps.training.adapted import read_description

    name = training.mlflow.registered_model_name
    client = run.client
    _ensure_registered_model(client, name)
    base = read_description(adapter)["base"]["name"]
    shown = "; ".join(f"{key} {value:,.6g}" for key, value in figures.items())
    version = client.create_model_version(
        name,
        source=model_uri,
        run_id=run.id,
        model_id=model_id,
        description=f"{training.qlora.resolved_method} of {base}. {shown}. "
        "Card: artifacts/adapter/README.md of this model.",
    )
    client.set_registered_model_alias(name, alias, version.version)
    return f"models:/{name}/{version.version}"


def check_in_fresh_process(model_uri: str) -> None:
    """Load a stored model as a stranger would, and compare its probe logits.

    Raises:
        RegistrationError: They differ, or the model cannot be loaded.
    """
    import mlflow

    from steps.config import PROJECT_ROOT

    command = [sys.executable, "-m", "steps.tracking.check_model", model_uri]
    command += ["--tracking-uri", mlflow.get_tracking_uri()]
    # In this working folder, which the store's URI may be relative to.
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    # Nor as one of several ranks: it would wait for the others.
    alone = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    finished = subprocess.run(
        command,
        env={**alone, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if finished.returncode != 0:
        lines = (finished.stderr.strip() or finished.stdout.strip() or "no output").splitlines()
        raise RegistrationError(
            f"the stored model does not give the logits that the trainer had: {lines[-1]}; "
            "nothing was registered"
        )


def resolve_side(client: "MlflowClient", reference: str, training: config.Training) -> Side:
    """Find a model by alias, version, run or as `base`.

    Raises:
        UserError: There is no such model.
    """
    from mlflow.exceptions import MlflowException

    if reference == "base":
        return Side("base", None, None)
    name = training.mlflow.registered_model_name
    if not reference:
        reference = f"models:/{name}@{CHALLENGER}"
    try:
        if reference.startswith("models:/"):
            rest = reference.removeprefix("models:/")
            if "@" in rest:
                model, alias = rest.rsplit("@", 1)
                version = client.get_model_version_by_alias(model, alias)
            else:
                model, _, number = rest.rpartition("/")
                version = client.get_model_version(model, number)
            return Side(f"models:/{version.name}/{version.version}", version, version.run_id)
        run_id = reference.removeprefix("runs:/").split("/")[0]
        client.get_run(run_id)
        if not any(f.path == "adapter" for f in client.list_artifacts(run_id)):
            raise UserError(
                f"model {reference!r}: run {run_id} has no adapter; name a finished finetune run"
            )
    except MlflowException as error:
        raise UserError(
            f"model {reference!r} is not in the registry or the store ({one_line(error)}): give "
            "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/adapter, a run id, or base"
        ) from None
    return Side(f"runs:/{run_id}/adapter", None, run_id)


def trained_on_base(client: "MlflowClient", side: Side, base: "Base") -> bool:
    """Whether the run that trained a model says that it began with these weights."""
    from mlflow.exceptions import MlflowException

    if side.run_id is None:
        return False
    try:
        tags = client.get_run(side.run_id).data.tags
    except MlflowException:
        return False
    return (tags.get("forge.base_model"), tags.get("forge.base_sha256")) == (
        base.name,
        base.sha256,
    ) and tags.get("forge.base_revision") == base.revision


def logged_model_id(side: Side) -> str | None:
    """Id of the LoggedModel behind a version, for its metrics; None where there is none.

    The registry does not hand out the id that a version was made with, but its source names it.
    """
    if side.version is None:
        return None
    source = str(side.version.source or "")
    return source.removeprefix("models:/") if source.startswith("models:/m-") else None


def find_alias(client: "MlflowClient", name: str, alias: str) -> Side | None:
    """The version behind an alias, or None where there is none."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    try:
        version = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        absent = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
        if error.error_code == absent or "not found" in str(error):
            return None
        raise
    return Side(f"models:/{version.name}/{version.version}", version, version.run_id)


def fetch_adapter(client: "MlflowClient", side: Side, scratch: Path) -> Path:
    """Bring the adapter folder of a side to this machine.

    Raises:
        UserError: Its bytes are gone.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = side.uri if side.version is None else f"{side.uri}/artifacts/adapter"
    try:
        if side.version is None:
            return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(scratch)))
        folder = Path(mlflow.artifacts.download_artifacts(side.uri, dst_path=str(scratch)))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"model {side.uri}: its weights cannot be fetched from {uri} ({one_line(error)}); "
            "was the artifact deleted? Register it again with finetune"
        ) from None
    adapter = folder / "artifacts" / "adapter"
    if not adapter.is_dir():
        found = [path.parent for path in folder.rglob("base.json")]
        if not found:
            raise UserError(
                f"model {side.uri} holds no adapter: its weights were deleted, or finetune did not "
                "make it; name another version, or register it again with finetune"
            )
        adapter = found[0]
    return adapter


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    # Params that are not in the signature are dropped without a word, and a request would then
    # write on without end.
    return ModelSignature(
        # One column without a name is what a plain list of texts fits.
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema(
            [ParamSpec("max_new_tokens", "long", 64), ParamSpec("temperature", "double", 0.0)]
        ),
    )


def _pinned(packages: tuple[str, ...]) -> list[str]:
    from importlib.metadata import version

    # A local build tag (+cpu) names no release of the index.
    return [f"{package}=={version(package).partition('+')[0]}" for package in packages]


def _ensure_registered_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(
            name, description="Language models adapted to genomics papers by ScientificLLM-Forge."
        )
