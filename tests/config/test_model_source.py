"""What is trained is what is named, whatever a layer inherits."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from steps.config.file import load_config
from steps.errors import UserError

DIGESTS = {"a": "a" * 64, "b": "b" * 64}
VALUES: dict[str, dict[str, Any]] = {
    side: {
        "name": f"model-{side}",
        "source": f"pypi:package-{side}==1/model.gguf",
        "sha256": DIGESTS[side],
        "revision": f"revision-{side}",
    }
    for side in DIGESTS
}
KEYS = ("name", "source", "sha256", "revision")
SUBSETS = [keys for count in range(5) for keys in itertools.combinations(KEYS, count)]


def written(folder: Path, inherited: dict[str, Any], given: dict[str, Any]) -> Path:
    below, above = folder / "below.yaml", folder / "above.yaml"
    below.write_text(yaml.safe_dump({"training": {"model": inherited}}))
    above.write_text(yaml.safe_dump({"extends": "below.yaml", "training": {"model": given}}))
    return above


@pytest.mark.parametrize("inherited", SUBSETS, ids="+".join)
@pytest.mark.parametrize("given", SUBSETS, ids="+".join)
def test_no_pair_of_layers_trains_one_model_under_the_name_of_another(
    tmp_path: Path, inherited: tuple[str, ...], given: tuple[str, ...]
) -> None:
    lower = {key: VALUES["a"][key] for key in inherited}
    upper = {key: VALUES["b"][key] for key in given}
    try:
        model = load_config(written(tmp_path, lower, upper)).training.model
    except UserError:
        return
    # Whoever named the model last has said all that is known of its origin, or nothing has.
    namer = "b" if "name" in given else "a"
    for key in ("source", "sha256", "revision"):
        value = getattr(model, key)
        said_later = {VALUES["b"][key]} if key in given else set()
        assert value in {None, VALUES[namer].get(key), *said_later}, (key, value)
    if model.source is not None:
        # A package is always named by the layer that names the package.
        assert model.name == f"model-{model.source[13]}"


def test_what_is_left_behind_is_said(tmp_path: Path) -> None:
    lower = {key: VALUES["a"][key] for key in ("name", "source", "sha256")}
    loaded = load_config(written(tmp_path, lower, {"name": "gpt5"}))
    assert (loaded.training.model.name, loaded.training.model.source) == ("gpt5", None)
    (notice,) = [line for line in loaded.notices if "another model" in line]
    assert "model.source (pypi:package-a==1/model.gguf)" in notice
    assert "model.sha256" in notice


@pytest.mark.parametrize("words", ["training.model.name=gpt5", "training.model.source=null"])
def test_overrides_leave_it_behind_too(words: str) -> None:
    model = load_config("configs/demo.yaml", words).training.model
    assert (model.source, model.sha256) == (None, None)


def test_a_variant_that_names_another_model_does_not_inherit_the_source(tmp_path: Path) -> None:
    lower = {key: VALUES["a"][key] for key in ("name", "source", "sha256")}
    file = tmp_path / "variants.yaml"
    variants = {"same": {}, "other": {"model": {"name": "own-folder"}}}
    file.write_text(yaml.safe_dump({"training": {"model": lower, "variants": variants}}))
    loaded = load_config(file)
    other = load_config(file, loaded.variant_overrides("other")).training.model
    assert (other.name, other.source, other.sha256) == ("own-folder", None, None)
    same = load_config(file, loaded.variant_overrides("same")).training.model
    assert same.source == VALUES["a"]["source"]


def test_naming_the_same_model_again_changes_nothing(tmp_path: Path) -> None:
    lower = {key: VALUES["a"][key] for key in ("name", "source", "sha256")}
    model = load_config(written(tmp_path, lower, {"name": "model-a"})).training.model
    assert (model.source, model.sha256) == (VALUES["a"]["source"], DIGESTS["a"])
