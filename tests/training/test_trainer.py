"""ModelTrainer: accumulation does not change the result, training learns, bad runs stop."""

from pathlib import Path
from typing import Any

import pytest
import torch

from steps.config.sections import Training
from steps.errors import UserError
from steps.models.adapters import add_adapter, trainable_parameters
from steps.models.loading import load_model
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from steps.training.optimizers import optimizer_name
from steps.training.trainer import ModelTrainer
from tests.support.tiny_runs import assert_accumulation_changes_nothing, build_trainer, papers
from tests.support.tiny_runs import small_training as settings


def trainer(training: Training, folder: Path, **keywords: Any) -> ModelTrainer:
    validation = keywords.pop("validation", papers(2))
    return build_trainer(training, folder, papers(12), validation, **keywords)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_accumulation_changes_neither_the_losses_nor_the_adapter(
    tiny_llama_folder: Path, tmp_path: Path, seed: int
) -> None:
    def build(rows: int, accumulation: int) -> ModelTrainer:
        training = settings(
            tiny_llama_folder,
            batch_size=rows,
            gradient_accumulation_steps=accumulation,
            # Larger steps enlarge what Adam makes of rounding: it divides gradients of 1e-9 by
            # their own size.
            learning_rate=1e-3,
            seed=seed,
        )
        return trainer(training, tmp_path / f"{rows}", validation=[])

    assert_accumulation_changes_nothing(build)


def test_training_lowers_the_loss_and_ends_on_the_best_validated_adapter(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    one = trainer(settings(tiny_llama_folder, max_steps=12), tmp_path)
    before = one.evaluate()
    one.train()
    after = one.evaluate()
    assert after["eval_bits_per_byte"] < before["eval_bits_per_byte"] - 0.05
    seen = [e["eval_bits_per_byte"] for e in one.state.log_history if "eval_bits_per_byte" in e]
    # The curve begins with what the base can.
    assert seen[0] == before["eval_bits_per_byte"]
    assert after["eval_bits_per_byte"] == pytest.approx(min(seen), abs=1e-6)


def test_only_adapters_are_trained_and_saved(tiny_llama_folder: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    one = trainer(settings(tiny_llama_folder), tmp_path)
    one.train()
    folder = tmp_path / "checkpoint-4"
    with safe_open(folder / "adapter_model.safetensors", "pt") as tensors:
        count = sum(tensors.get_tensor(key).numel() for key in tensors.keys())  # noqa: SIM118
    assert count == trainable_parameters(one.model)
    assert (folder / "manifest.json").is_file()


def test_a_diverging_run_stops_and_names_the_step_and_the_knob(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    one = trainer(
        settings(tiny_llama_folder, learning_rate=1e38, max_grad_norm=1e9, max_steps=20), tmp_path
    )
    with pytest.raises(UserError, match=r"at step \d+ .*learning_rate"):
        one.train()


def test_an_empty_training_split_is_refused(tiny_llama_folder: Path, tmp_path: Path) -> None:
    training = settings(tiny_llama_folder)
    with pytest.raises(UserError, match="holds no paper"):
        ModelTrainer(training, None, None, [], [], tmp_path)


def test_an_unknown_optimiser_is_named_with_its_neighbours() -> None:
    assert optimizer_name("AdamW", "cpu") == "adamw_torch"
    assert optimizer_name("auto", "cuda") == "paged_adamw_8bit"
    with pytest.raises(UserError, match="nearest known: adamw_torch"):
        optimizer_name("adamw_troch", "cpu")


def test_a_script_needs_nothing_but_a_configuration_a_model_and_papers(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    """As in the docstring of `steps.training.trainer`: no context, so one process, no store."""
    training = settings(tiny_llama_folder)
    base = resolve_base(training.model)
    plain = load_model(base, training.qlora.quantization, 4, torch.bfloat16, "cpu")
    model = add_adapter(plain, training.qlora, base.objective)
    one = ModelTrainer(
        training, model, load_tokenizer(base.folder), papers(12), papers(2), tmp_path / "run"
    )
    one.train()
    one.save_model(str(tmp_path / "adapter"))
    assert one.steps_done == 4
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size > 0
