"""A model as the user names it: an alias, a version, a run, or `base`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steps.config.sections import Training
from steps.digests import folder_sha256
from steps.errors import UserError
from steps.terminal import say
from steps.tracking.artifacts import (
    fetch_files,
    fetch_folder,
    files_below,
    list_files,
    repository_at,
)
from steps.tracking.names import (
    ADAPTER_DIGEST_TAG,
    ADAPTER_FOLDER,
    BASE_CONFIG_TAG,
    BASE_MODEL_TAG,
    BASE_SHA256_TAG,
    CHALLENGER,
    CHAMPION,
    OBJECTIVE_TAG,
)
from steps.tracking.store import one_line

# Where the adapter stands in the model of a version.
STORED_ADAPTER = f"artifacts/{ADAPTER_FOLDER}"

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from steps.models.sources import Base


@dataclass(frozen=True)
class ModelReference:
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
        """What people see: `NAME/VERSION` of a version; else the URI as it is."""
        return self.uri.removeprefix("models:/")

    @property
    def short_name(self) -> str:
        """What fits before a progress bar: `version 3`; else the name."""
        return self.name if self.version is None else f"version {self.version.version}"


def resolve_model(client: "MlflowClient", reference: str, training: Training) -> ModelReference:
    """Find a model by alias, version, run or as `base`; by "" the challenger, else the champion.

    Raises:
        UserError: There is no such model.
    """
    from mlflow.exceptions import MlflowException

    if reference == "base":
        return ModelReference("base", None, None)
    if not reference:
        return _newest_alias(client, training.mlflow.registered_model_name)
    try:
        if reference.startswith("models:/"):
            rest = reference.removeprefix("models:/")
            if "@" in rest:
                model, alias = rest.rsplit("@", 1)
                version = client.get_model_version_by_alias(model, alias)
            else:
                model, _, number = rest.rpartition("/")
                version = client.get_model_version(model, number)
            return ModelReference(
                f"models:/{version.name}/{version.version}", version, version.run_id
            )
        run_id = reference.removeprefix("runs:/").split("/")[0]
        client.get_run(run_id)
        if not any(f.path == ADAPTER_FOLDER for f in list_files(client, run_id)):
            raise UserError(
                f"model {reference!r}: run {run_id} has no adapter; name a finished finetune run"
            )
    except MlflowException as error:
        raise UserError(
            f"model {reference!r} is not in the registry or the store ({one_line(error)}): give "
            "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/adapter, a run id, or base"
        ) from None
    return ModelReference(f"runs:/{run_id}/adapter", None, run_id)


def _newest_alias(client: "MlflowClient", name: str) -> ModelReference:
    """The challenger; the champion where there is none, as after a promotion.

    Raises:
        UserError: There is neither.
    """
    challenger = find_alias(client, name, CHALLENGER)
    if challenger is not None:
        return challenger
    champion = find_alias(client, name, CHAMPION)
    if champion is None:
        raise UserError(
            f"no version of {name!r} has the alias {CHALLENGER} or {CHAMPION}: run finetune first, "
            "or name a model (models:/NAME/VERSION, runs:/ID/adapter, a run id, or base)"
        )
    say(f"{name} has no {CHALLENGER}: the {CHAMPION}, {champion.name}, is taken")
    return champion


def trained_on_base(client: "MlflowClient", reference: ModelReference, base: "Base") -> bool:
    """Whether the run that trained a model says that it began with these weights."""
    from mlflow.exceptions import MlflowException

    if reference.run_id is None:
        return False
    try:
        tags = client.get_run(reference.run_id).data.tags
    except MlflowException:
        return False
    began = tuple(tags.get(tag) for tag in (BASE_MODEL_TAG, BASE_SHA256_TAG, "forge.base_revision"))
    # Runs of earlier commits do not say with which config.json.
    configuration = tags.get(BASE_CONFIG_TAG, base.config_sha256)
    return (*began, configuration) == (base.name, base.sha256, base.revision, base.config_sha256)


def trained_objective(client: "MlflowClient", reference: ModelReference) -> str | None:
    """The objective that a model was trained for, by the tag of its run; None: unknown."""
    from mlflow.exceptions import MlflowException

    if reference.run_id is None:
        return None
    try:
        tags: dict[str, str] = client.get_run(reference.run_id).data.tags
    except MlflowException:
        return None
    return tags.get(OBJECTIVE_TAG)


def logged_model_id(reference: ModelReference) -> str | None:
    """Id of the LoggedModel behind a version, for its metrics; None where there is none.

    The registry does not hand out the id that a version was made with, but its source names it.
    """
    if reference.version is None:
        return None
    source = str(reference.version.source or "")
    return source.removeprefix("models:/") if source.startswith("models:/m-") else None


def find_alias(client: "MlflowClient", name: str, alias: str) -> ModelReference | None:
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
    return ModelReference(f"models:/{version.name}/{version.version}", version, version.run_id)


def fetch_adapter(client: "MlflowClient", reference: ModelReference, scratch: Path) -> Path:
    """Bring the adapter folder of a model to this machine.

    Raises:
        UserError: Its bytes are gone, or not those that finetune wrote.
    """
    from mlflow.exceptions import MlflowException

    uri = reference.uri if reference.version is None else f"{reference.uri}/artifacts/adapter"
    try:
        folder = _fetch_files(client, reference, scratch)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"model {reference.uri}: its weights cannot be fetched from {uri} ({one_line(error)}); "
            "was the artifact deleted? Register it again with finetune"
        ) from None
    adapter = folder if reference.version is None else folder / STORED_ADAPTER
    if not adapter.is_dir():
        found = [path.parent for path in folder.rglob("base.json")]
        if not found:
            raise UserError(
                f"model {reference.uri} holds no adapter: its weights were deleted, or finetune "
                "did not make it; name another version, or register it again with finetune"
            )
        adapter = found[0]
    _check_digest(client, reference, adapter)
    return adapter


def _fetch_files(client: "MlflowClient", reference: ModelReference, scratch: Path) -> Path:
    """Fetch the adapter of a model; a whole version where it is not in its place there."""
    import mlflow

    if reference.version is None:
        return fetch_folder(client, str(reference.run_id), ADAPTER_FOLDER, scratch)
    model_id = logged_model_id(reference)
    if model_id is not None:
        repository = repository_at(client, client.get_logged_model(model_id).artifact_location)
        found = files_below(repository, STORED_ADAPTER)
        if found:
            fetch_files(repository, found, scratch / model_id)
            return scratch / model_id
    # It lies elsewhere in models that were logged before.
    return Path(mlflow.artifacts.download_artifacts(reference.uri, dst_path=str(scratch)))


def _check_digest(client: "MlflowClient", reference: ModelReference, adapter: Path) -> None:
    """Hold an adapter against the digest that finetune noted.

    Raises:
        UserError: They differ.
    """
    if reference.version is not None:
        tags = reference.version.tags
    else:
        tags = client.get_run(str(reference.run_id)).data.tags
    noted = tags.get(ADAPTER_DIGEST_TAG)
    if noted is None:
        say(f"{reference.name} was stored without a digest, so that a change would not be noticed")
    elif noted != folder_sha256(adapter):
        raise UserError(
            f"{reference.name}: its files are not those that finetune wrote (digest "
            f"{folder_sha256(adapter)[:12]}…, noted {noted[:12]}…): they were changed or damaged; "
            "name another version, or train it again"
        )
