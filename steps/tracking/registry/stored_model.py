"""The model that a registered version is made of: a models-from-code pyfunc around an adapter.

MLflow's own `log_model` sends a file at a time, hundreds of them for the source of this project,
looks up the history of each metric of the run, and copies its parameters one request after another.
Here the source travels as one archive, which Python imports from as it is, and the files together.
"""

import re
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steps.config.dotted import flatten
from steps.config.paths import PROJECT_ROOT
from steps.config.sections import Training
from steps.tracking.artifacts import repository_at, send_to
from steps.tracking.credentials import masked
from steps.tracking.runs import StepRun

# Marks the LoggedModel that a version is made of; before there was the tag, the name did.
KIND_TAG = "forge.kind"
SERVED_MODEL = PROJECT_ROOT / "steps" / "tracking" / "registry" / "served_model.py"
# The source of this project, as `served_model.py` looks for it.
SOURCE = "steps.zip"
# The same source is the same bytes: no archive knows an earlier time.
MADE = (1980, 1, 1, 0, 0, 0)
# What the page of a model shows of its training: MLflow takes a hundred with the model itself.
SECTIONS = ("model", "qlora", "hyperparameters", "optimizer", "scheduler")
MOST_PARAMS = 100
# Longest value of one.
MAX_PARAM = 500

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


def store_model(run: StepRun, adapter: Path, training: Training) -> tuple[str, str]:
    """Store an adapter folder as a model of a run.

    Args:
        run: The run that trained it.
        adapter: The folder.
        training: The configuration.

    Returns:
        The URI and the id of the LoggedModel.

    Raises:
        MlflowException: The store does not take it; `store_errors` has what else is raised.
    """
    from mlflow.entities import LoggedModelOutput

    from steps.models.adapted import read_description

    base = read_description(adapter)["base"]["name"].rstrip("/").rpartition("/")[2]
    # MLflow refuses a name with any of these characters.
    name = re.sub(r"""[/:.%"']""", "-", f"{base}-{training.qlora.resolved_method}")
    stored = run.client.create_logged_model(
        run.experiment_id,
        name=name,
        source_run_id=run.id,
        tags={KIND_TAG: "version"},
        params=_params(training),
    )
    run.client.log_outputs(run.id, [LoggedModelOutput(stored.model_id, 0)])
    with TemporaryDirectory(dir=run.scratch) as folder:
        files = Path(folder) / "model"
        _save(files, stored, run.id, adapter)
        send_to(repository_at(run.client, stored.artifact_location), [(files, None)])
    run.client.finalize_logged_model(stored.model_id, "READY")
    return f"models:/{stored.model_id}", str(stored.model_id)


def write_source(file: Path) -> None:
    """Write the source of this project as an archive that Python can import from."""
    steps = PROJECT_ROOT / "steps"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(steps.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                name = path.relative_to(PROJECT_ROOT).as_posix()
                archive.writestr(
                    zipfile.ZipInfo(name, MADE), path.read_bytes(), zipfile.ZIP_DEFLATED
                )


def _save(folder: Path, stored: Any, run_id: str, adapter: Path) -> None:
    """Write the files of the model, as `mlflow.pyfunc.log_model` would store them."""
    import mlflow
    from mlflow.models import Model

    with TemporaryDirectory(dir=folder.parent) as scratch:
        source = Path(scratch) / SOURCE
        write_source(source)
        mlflow.pyfunc.save_model(
            folder,
            mlflow_model=Model(
                artifact_path=stored.artifact_location,
                model_uuid=stored.model_id,
                run_id=run_id,
                model_id=stored.model_id,
            ),
            python_model=str(SERVED_MODEL),
            artifacts={"adapter": str(adapter)},
            code_paths=[str(source)],
            signature=_signature(),
            pip_requirements=_pinned(SERVING_PACKAGES),
        )


def _params(training: Training) -> dict[str, str]:
    """How it was trained."""
    content = masked(training.model_dump(mode="json", include=set(SECTIONS)))
    values = [pair for section in SECTIONS for pair in flatten(section, content[section])]
    return {key: str(value)[:MAX_PARAM] for key, value in values[:MOST_PARAMS]}


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
