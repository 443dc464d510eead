"""FSDP2 on the CPU: shared-out layers learn as whole ones do, and any number of ranks goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from steps.checkpoints.format import CheckpointInfo, validate_checkpoint
from tests.support.rank_trainings import Trained, specification, trained

FSDP2 = {"enabled": True, "backend": "fsdp2"}
# Forward passes of a step over all ranks.
PASSES = 4


def said(folder: Path, model: Path, name: str, ranks: int, **changes: Any) -> dict[str, Any]:
    """A training of ten steps whose batch does not depend on how many ranks share it."""
    sections = {
        "logging": {"log_steps": 3, "eval_steps": 6, "save_steps": 4},
        "output": {"save_total_limit": None},
        "distributed": changes.pop("distributed", FSDP2),
    }
    common = {"steps": 10, "accumulation": PASSES // ranks, "sections": sections}
    return specification(folder, model, name, **common, **changes)


def names(folder: Path) -> dict[str, list[int]]:
    """What an adapter file holds: names and shapes."""
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def dtensors(run: dict[str, Any]) -> set[str]:
    """Names of the parameters that were shared out."""
    result = json.loads((Path(run["out"]) / "losses.json").read_text())
    return set(result["dtensors"])


def test_two_ranks_with_shared_out_layers_learn_what_one_whole_model_does(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    alone = said(tmp_path, tiny_llama_folder, "alone", 1, distributed={})
    shared = said(tmp_path, tiny_llama_folder, "shared", 2)
    one, two = trained(alone, 1), trained(shared, 2)
    two.assert_equals(one)
    assert (one.wrapper, two.wrapper) == ("none", "FSDP2")
    assert not dtensors(alone)
    # All weights of the layers, the adapter's among them, and nothing else.
    assert dtensors(shared) >= two.weights.keys()
    assert all(".layers." in name for name in dtensors(shared))
    checkpoint = tmp_path / "shared" / "checkpoint-8"
    assert isinstance(validate_checkpoint(checkpoint), CheckpointInfo)
    assert names(checkpoint) == names(tmp_path / "alone" / "checkpoint-8")


@pytest.mark.slow
@pytest.mark.parametrize("now", [1, 2, 4])
def test_a_checkpoint_of_two_ranks_is_gone_on_from_by_any_number(
    tiny_llama_folder: Path, tmp_path: Path, now: int
) -> None:
    dropout = 0.2 if now == 2 else 0.0
    untouched = trained(said(tmp_path, tiny_llama_folder, "untouched", 2, dropout=dropout), 2)
    checkpoint = str(tmp_path / "untouched" / "checkpoint-4")
    run = said(tmp_path, tiny_llama_folder, "resumed", now, resume=checkpoint, dropout=dropout)
    resumed = trained(run, now)
    assert resumed.steps_done == 6 and resumed.wrapper == "FSDP2"
    resumed.assert_equals(untouched)
    if now == 2:
        assert_same(resumed, untouched)


def assert_same(one: Trained, other: Trained) -> None:
    """Weights and losses agree bit for bit."""
    assert one.losses == other.losses
    assert all((one.weights[name] == weight).all() for name, weight in other.weights.items())
