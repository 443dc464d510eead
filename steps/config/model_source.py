"""Which weights a layered configuration means: a name and its source belong together.

A file that extends another, or an override, may name another model. What the layer before said of
its own model's source, digest and revision then does not apply: it would train the one model and
register it under the name of the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from steps.errors import UserError

# What of the section `model` says where the weights of its name come from.
ORIGIN = ("source", "sha256", "revision")


def without_stale_origin(
    layers: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[list[str], list[str]]:
    """Find what a model inherits that was said of another one.

    Args:
        layers: Name and content of each file and of the overrides, the first of them first.

    Returns:
        Keys of the section `model` that are not to be inherited, and one line for each layer
        that left some behind.

    Raises:
        UserError: A layer says where a package with weights is, and not which model they are.
    """
    known: dict[str, Any] = {}
    stale: set[str] = set()
    notices = []
    for layer, content in layers:
        given = _model_section(content)
        renamed = "name" in given and given["name"] != known.get("name")
        moved = "source" in given and given["source"] != known.get("source")
        if moved and _is_package(given["source"]) and not given.get("name"):
            raise UserError(
                f"{layer}: training.model.source is {given['source']!r}, and no model.name "
                "beside it says which model that is: give it, for the name is what gets registered"
            )
        if renamed or moved:
            left = [key for key in ORIGIN if known.get(key) is not None and key not in given]
            if left:
                shown = ", ".join(f"model.{key} ({known[key]})" for key in left)
                notices.append(
                    f"{layer} means another model than {known.get('name')}: {shown} of that one "
                    f"{'does' if len(left) == 1 else 'do'} not apply, give your own if needed"
                )
            stale |= set(left)
            known = {key: value for key, value in known.items() if key not in left}
        stale -= {key for key in given if key in ORIGIN}
        known |= given
    return sorted(stale), notices


def origin_of_overlay(overlay: Mapping[str, Any]) -> dict[str, Any]:
    """What a variant that names another model sets of its origin, so that none is inherited."""
    given = overlay.get("model")
    if not isinstance(given, Mapping) or not {"name", "source"} & given.keys():
        return {}
    return {key: None for key in ORIGIN if key not in given}


def _model_section(content: Mapping[str, Any]) -> Mapping[str, Any]:
    training = content.get("training")
    model = training.get("model") if isinstance(training, Mapping) else None
    return model if isinstance(model, Mapping) else {}


def _is_package(source: Any) -> bool:
    return isinstance(source, str) and source.startswith("pypi:")
