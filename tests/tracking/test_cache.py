"""What makes a step run anew."""

from steps.config.sections import Mlflow, Training
from steps.tracking.cache import cache_key, key_parts


def key(**mlflow: object) -> str:
    """The key of a training with these settings of the store."""
    training = Training(mlflow=Mlflow.model_validate(mlflow))
    return cache_key(key_parts("finetune", training, {"dataset": "sha256:0"}))


def test_a_training_is_used_again_where_its_version_is_of_the_same_registered_model() -> None:
    one = key(registered_model_name="one")
    assert one == key(registered_model_name="one", experiment_name="elsewhere")
    assert one != key(registered_model_name="other")


def test_what_is_not_registered_has_no_registered_model() -> None:
    names = ("one", "other")
    keys = {key(registered_model_name=name, log_model=False) for name in names}
    assert len(keys) == 1
    assert keys.isdisjoint(key(registered_model_name=name) for name in names)
