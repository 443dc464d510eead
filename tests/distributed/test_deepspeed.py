"""DeepSpeed's file: what the configuration knows is filled in, what contradicts it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.config.paths import PROJECT_ROOT
from steps.config.sections import Hyperparameters, Training
from steps.distributed.deepspeed import check_deepspeed_file, deepspeed_settings
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


def refused(path: Path) -> str:
    """The one line that refuses a file, which it names."""
    with pytest.raises(UserError) as error:
        settled(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


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
        ({"scheduler": {"params": {"warmup_num_steps": 9}}}, "scheduler.params.warmup_num_steps"),
        ({"bf16": {"enabled": False}}, "bf16.enabled is false, hardware.bf16 is true"),
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


@pytest.mark.parametrize("stage", [0, None, "3", True, "auto", 4])
def test_a_file_without_a_zero_stage_is_refused(tmp_path: Path, stage: Any) -> None:
    with pytest.raises(UserError, match="stage is"):
        settled(written(tmp_path, zero_optimization={"stage": stage}))


def test_what_the_configuration_does_not_know_is_the_files_own(tmp_path: Path) -> None:
    file = written(tmp_path, fp16={"loss_scale": 128}, wall_clock_breakdown=True)
    content = settled(file, torch.float16)
    assert content["fp16"] == {"loss_scale": 128, "enabled": True}
    assert content["wall_clock_breakdown"] is True


@pytest.mark.parametrize(
    "content",
    [
        {"fp16": True},
        {"optimizer": {"params": [1]}},
        {"scheduler": "cosine"},
        {"zero_optimization": "auto"},
        {"tensorboard": True},
    ],
)
def test_what_is_no_object_where_one_belongs_is_refused_by_its_key(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="expected an object") as refused:
        settled(written(tmp_path, **content))
    assert next(iter(content)) in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"bfloat16": {"enabled": "auto"}},
            "bfloat16 is no key that is used here; did you mean bf16",
        ),
        ({"gradient_cliping": 1.0}, "did you mean gradient_clipping?"),
        ({"overlap_comm": True}, "did you mean zero_optimization.overlap_comm?"),
        ({"amp": {"enabled": True}}, "amp is no key that is used here: remove it"),
        ({"aio": {"block_sise": 1}}, "did you mean aio.block_size?"),
        ({"steps_per_print": "auto"}, 'steps_per_print is "auto", which nothing fills in'),
        ({"train_batch_size": "8"}, 'train_batch_size is "8", expected a valid integer'),
        ({"optimizer": {"params": {"lr": "1e-4"}}}, 'lr is "1e-4", expected a number'),
        ({"bf16": {"enabled": "yes"}}, 'bf16.enabled is "yes", expected true or false'),
        ({"communication_data_type": "fp8"}, "expected 'fp16', 'bf16' or 'fp32'"),
    ],
)
def test_what_deepspeed_does_not_know_is_refused_by_its_key(
    tmp_path: Path, content: dict[str, Any], words: str
) -> None:
    assert words in refused(written(tmp_path, **content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"overlap_com": True}, "did you mean zero_optimization.overlap_comm?"),
        ({"allgather_bucket_size": "auto"}, 'allgather_bucket_size is "auto", which nothing fills'),
        ({"stage3_prefetch_bucket_size": "auto"}, "filled in under ZeRO stage 3 alone"),
        ({"reduce_bucket_size": "5e8"}, 'reduce_bucket_size is "5e8", expected a valid integer'),
        ({"reduce_bucket_size": -1}, "reduce_bucket_size is -1, expected greater than 0"),
        ({"overlap_comm": 1}, "overlap_comm is 1, expected true or false"),
        ({"offload_optimizer": "cpu"}, 'offload_optimizer is "cpu", expected an object'),
        ({"offload_optimizer": {"devise": "cpu"}}, "zero_optimization.offload_optimizer.device?"),
        ({"offload_optimizer": {"device": "disk"}}, "expected 'none', 'cpu' or 'nvme'"),
        (
            {"offload_optimizer": {"ratio": 0.5}},
            "Partial offloading only supported for ZeRO Stage 3",
        ),
    ],
)
def test_what_zero_does_not_know_is_refused_by_its_key(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    said = refused(written(tmp_path, zero_optimization={"stage": 2, **change}))
    assert words in said and "zero_optimization" in said


def test_numbers_nulls_and_values_that_the_model_decides_may_stand_there(tmp_path: Path) -> None:
    zero = {
        "stage": 3,
        "reduce_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "sub_group_size": 1e9,
        "offload_param": None,
    }
    content = settled(written(tmp_path, zero_optimization=zero, fp16=None, steps_per_print=10))
    assert content["zero_optimization"]["sub_group_size"] == 10**9
    assert "offload_param" not in content["zero_optimization"] and content["steps_per_print"] == 10


@pytest.mark.parametrize("text", ["[1]", "7", '"zero2"', "null", "{", '{"a": 1, "a": 2}'])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "ds.json"
    file.write_text(text)
    assert "JSON" in refused(file)


def test_what_is_not_settled_yet_contradicts_nothing(tmp_path: Path) -> None:
    automatic = {"hyperparameters": {"batch_size": "auto", "gradient_accumulation_steps": 3}}
    training = Training.model_validate(automatic)
    file = written(tmp_path, train_batch_size=24, train_micro_batch_size_per_gpu=2)
    check_deepspeed_file(file, training, torch.bfloat16)
    with pytest.raises(UserError, match="train_batch_size is 24"):
        check_deepspeed_file(file, TRAINING, torch.bfloat16, ranks=2)


def test_auto_for_a_whole_section_is_filled_in(tmp_path: Path) -> None:
    content = settled(written(tmp_path, bf16="auto", optimizer="auto", scheduler="auto"))
    assert content["bf16"] == {"enabled": True} and "optimizer" not in content


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        settled(tmp_path / "nowhere.json")
