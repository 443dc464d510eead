"""A base with an adapter as a configuration asks for, for benchmarks that train without a store."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from steps.config.sections import Training
    from steps.models.devices import Device
    from steps.models.sources import Base


@dataclass(frozen=True)
class Trainable:
    """What a trainer is given.

    Attributes:
        base: What the model was made of.
        model: The base with its adapter.
        tokenizer: Its tokenizer.
        device: "cpu" or "cuda".
        dtype: Number format of the computation.
    """

    base: "Base"
    model: Any
    tokenizer: Any
    device: "Device"
    dtype: "torch.dtype"


def load_trainable(training: "Training") -> Trainable:
    """Load the base of a configuration and put its adapter on, seeded."""
    import torch

    from steps.models.adapters import add_adapter
    from steps.models.devices import pick_device, pick_dtype
    from steps.models.loading import load_model
    from steps.models.sources import resolve_base
    from steps.models.tokenizer import load_tokenizer

    base = resolve_base(training.model)
    device = pick_device(training.hardware.device)
    dtype = pick_dtype(training.hardware, device)
    torch.manual_seed(training.hyperparameters.seed)
    model = load_model(base, training.qlora.quantization, training.qlora.bits, dtype, device)
    model = add_adapter(model, training.qlora, base.objective)
    return Trainable(base, model, load_tokenizer(base.folder), device, dtype)
