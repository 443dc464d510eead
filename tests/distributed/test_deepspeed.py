"""DeepSpeed's file: what the configuration knows is filled in, what contradicts it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.config.paths import PROJECT_ROOT
from steps.config.sections import Hyperparameters, Training
from steps.distributed.deepspeed import deepspeed_settings
from steps.errors import UserError

TRAINING = Training(
    hyperparameters=Hyperparameters(
        batch_size=2, gradient_accumulation_steps=3, learning_rate=1e-4, max_grad_norm=0.5
    )
)


def settled(path: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    return deepspeed_settings(path, TRAINING, dtype, ranks=4, micro_batch=2)


def written(folder: Path, **content: Any) -> Path:
    file = folder / "ds.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}, **content}))
    return file


@pytest.mark.parametrize(
    ("name", "stage"),
    [("zero2", 2), ("zero3", 3), ("zero3_offload", 3)],
)
def test_each_file_that_comes_along_takes_its_values_from_the_configuration(
    name: str, stage: int
) -> None:
    path = PROJECT_ROOT / "configs" / "deepspeed" / f"{name}.json"
    content = settled(path)
    assert content["zero_optimization"]["stage"] == stage
    assert content["train_micro_batch_size_per_gpu"] == 2
    assert content["train_batch_size"] == 2 * 3 * 4
    assert content["gradient_clipping"] == 0.5
    assert content["bf16"] == {"enabled": True} and "fp16" not in content
    assert "auto" not in json.dumps(content)


def test_float32_asks_for_neither_half_format(tmp_path: Path) -> None:
    content = settled(written(tmp_path), torch.float32)
    assert "bf16" not in content and "fp16" not in content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"gradient_accumulation_steps": 8}, "gradient_accumulation_steps is 8"),
        ({"train_batch_size": 64}, "train_batch_size is 64"),
        ({"gradient_clipping": 1.0}, "gradient_clipping is 1.0, hyperparameters.max_grad_norm"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is true, hardware.fp16 is false"),
        ({"optimizer": {"type": "Lion"}}, 'optimizer.type is "Lion"'),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 3e-5}}}, "optimizer.params.lr is 3e-05"),
        ({"optimizer": {"params": {"torch_adam": True}}}, "optimizer.params.torch_adam has no"),
        ({"scheduler": {"type": "WarmupLR"}}, 'scheduler.type is "WarmupLR"'),
    ],
)
def test_a_contradiction_is_refused_by_its_key(
    tmp_path: Path, content: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match="contradicts the configuration") as refused:
        settled(written(tmp_path, **content))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_all_contradictions_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        settled(written(tmp_path, gradient_clipping=9.0, train_batch_size=1))
    assert "gradient_clipping" in str(refused.value) and "train_batch_size" in str(refused.value)


def test_what_agrees_with_the_configuration_may_stand_there(tmp_path: Path) -> None:
    same = {"type": "AdamW", "params": {"lr": 1e-4, "eps": "auto"}}
    content = settled(written(tmp_path, gradient_clipping=0.5, optimizer=same))
    assert "optimizer" not in content


@pytest.mark.parametrize("stage", [0, None, "3"])
def test_a_file_without_a_zero_stage_is_refused(tmp_path: Path, stage: Any) -> None:
    with pytest.raises(UserError, match="stage is"):
        settled(written(tmp_path, zero_optimization={"stage": stage}))


def test_what_the_configuration_does_not_know_is_the_files_own(tmp_path: Path) -> None:
    file = written(tmp_path, fp16={"loss_scale": 128}, wall_clock_breakdown=True)
    content = settled(file, torch.float16)
    assert content["fp16"] == {"loss_scale": 128, "enabled": True}
    assert content["wall_clock_breakdown"] is True


@pytest.mark.parametrize(
    "content", [{"fp16": True}, {"optimizer": {"params": [1]}}, {"scheduler": "cosine"}]
)
def test_what_is_no_object_where_one_belongs_is_refused_by_its_key(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="expected an object") as refused:
        settled(written(tmp_path, **content))
    assert next(iter(content)) in str(refused.value)


def test_auto_for_a_whole_section_is_filled_in(tmp_path: Path) -> None:
    content = settled(written(tmp_path, bf16="auto", optimizer="auto", scheduler="auto"))
    assert content["bf16"] == {"enabled": True} and "optimizer" not in content


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        settled(tmp_path / "nowhere.json")
