"""The configuration as transformers' arguments."""

from pathlib import Path

import pytest

from steps.config.sections import Hyperparameters, MemoryOptimization, Training
from steps.models.devices import Placement
from steps.training.arguments import checkpointed_if_possible, training_arguments
from tests.support.architectures import ARCHITECTURES


def test_gradient_checkpointing_is_off_and_said_where_a_class_has_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    memory = MemoryOptimization(gradient_checkpointing=True, offload_activations=True)
    training = Training(memory_optimization=memory)
    without = set()
    for architecture in ARCHITECTURES:
        model = architecture.build()
        settled = checkpointed_if_possible(training, model)
        said = capsys.readouterr().out
        if settled is training:
            assert said == ""
            model.activation_checkpointing_enable({"use_reentrant": False})
            continue
        without.add(architecture.model_type)
        assert not settled.memory_optimization.gradient_checkpointing
        assert not settled.memory_optimization.offload_activations
        assert said.splitlines() == [
            f"note: {architecture.model_type} has no gradient checkpointing: it is off, and "
            "activations stay in memory"
        ]
        with pytest.raises(ValueError, match="does not support"):
            model.activation_checkpointing_enable({"use_reentrant": False})
    assert without == {"ctrl", "albert", "mpnet", "funnel", "squeezebert"}


def test_a_configuration_without_gradient_checkpointing_stays_as_it_is() -> None:
    plain = Training(memory_optimization=MemoryOptimization(gradient_checkpointing=False))
    (ctrl,) = [one for one in ARCHITECTURES if one.model_type == "ctrl"]
    assert checkpointed_if_possible(plain, ctrl.build()) is plain


@pytest.mark.parametrize(
    ("placement", "optimizer"),
    [
        (Placement("cuda", "float32"), "paged_adamw_8bit"),
        # bitsandbytes knows no weights that are shared out.
        (Placement("cuda", "float32", 2, 0, True), "adamw_torch"),
    ],
)
def test_auto_takes_an_optimiser_that_the_weights_allow(
    placement: Placement, optimizer: str, tmp_path: Path
) -> None:
    training = Training(hyperparameters=Hyperparameters(batch_size=1))
    arguments = training_arguments(training, tmp_path, placement, validates=False)
    assert str(arguments.optim.value).startswith(optimizer)
