"""Names that the store takes: checked before anything runs, for it refuses them at the end.

check_names(training)
check_alias(alias)
try_names(client, name, alias)
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.errors import UserError
from steps.tracking.names import CHAMPION, PREVIOUS

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient


def check_names(training: Training) -> None:
    """Hold the names of experiment and registered model against MLflow's own rules.

    Raises:
        UserError: A name that no MLflow store takes.
    """
    from mlflow.utils import validation

    _check(
        validation._validate_experiment_name,
        training.mlflow.experiment_name,
        "training.mlflow.experiment_name",
        "give 1 to 500 characters",
    )
    _check(
        validation._validate_model_name,
        training.mlflow.registered_model_name,
        "training.mlflow.registered_model_name",
        "give a name without / and :, such as own-lab-model",
    )


def check_alias(alias: str) -> None:
    """Hold an alias against MLflow's rules, and keep those that only decisions move; "" is none.

    Raises:
        UserError: It is reserved, or no MLflow store takes it.
    """
    from mlflow.utils import validation

    if not alias:
        return
    if alias.strip().lower() in (CHAMPION, PREVIOUS):
        raise UserError(
            f"alias {alias!r} is moved by ab_compare alone, on evidence: leave --alias out "
            "(challenger), and let ab_compare decide"
        )

    def validate(value: str) -> None:
        validation._validate_model_alias_name(value)
        validation._validate_model_alias_name_reserved(value)

    fix = "give letters, digits, _ and -, and neither latest nor a version such as v2"
    _check(validate, alias, "--alias", fix)


def try_names(client: "MlflowClient", name: str, alias: str) -> None:
    """Let the server say whether it takes the names: its rules may be stricter than MLflow's.

    The registered model is made where it is missing, without a version; the alias is asked for,
    which changes nothing.

    Raises:
        UserError: The server refuses a name, or this user.
    """
    from mlflow.exceptions import MlflowException

    from steps.tracking.store import reason

    try:
        ensure_registered_model(client, name)
    except MlflowException as error:
        raise UserError(
            f"training.mlflow.registered_model_name is {name!r}, which the registry does not take "
            f"({reason(error)}): give another name"
        ) from None
    if not alias:
        return
    try:
        client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # Absent is what it may be; anything else would come again after the training.
        if error.error_code == "INVALID_PARAMETER_VALUE" and "not found" not in str(error):
            raise UserError(
                f"--alias is {alias!r}, which the registry does not take ({reason(error)}): give "
                "another one"
            ) from None


def ensure_registered_model(client: "MlflowClient", name: str) -> None:
    """Make a registered model, unless there is one of this name."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as absent:
        if absent.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        try:
            client.create_registered_model(
                name,
                description="Language models adapted to genomics papers by ScientificLLM-Forge.",
            )
        except MlflowException as error:
            # Another run has made it in this moment.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def make_version(client: "MlflowClient", name: str, **described: Any) -> "ModelVersion":
    """Make a version; the registered model too, should it be gone since its name was tried."""
    from mlflow.exceptions import MlflowException

    try:
        return client.create_model_version(name, await_creation_for=0, **described)
    except MlflowException as absent:
        if absent.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    ensure_registered_model(client, name)
    return client.create_model_version(name, await_creation_for=0, **described)


def _check(validate: Callable[[str], None], value: str, what: str, fix: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        validate(value)
    except MlflowException as error:
        message = " ".join(str(error.message).split()).rstrip(".")
        raise UserError(f"{what} is {value!r}: {message}; {fix}") from None
