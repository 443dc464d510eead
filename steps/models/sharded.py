"""What is different when DDP or DeepSpeed holds the model: its wrapper, and shared-out weights.

Under ZeRO-3 a parameter is empty on every rank until DeepSpeed brings its parts together; that
takes all ranks at once, so whatever needs whole weights is done by all of them in step.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


DDP = "DistributedDataParallel"
DEEPSPEED = "DeepSpeedEngine"


def is_partitioned(model: "nn.Module") -> bool:
    """Whether ZeRO-3 has shared out the parameters of a model."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def whole_shape(parameter: "nn.Parameter") -> tuple[int, ...]:
    """The shape that a parameter has, or would have if it were not shared out."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def gathered_parameters(
    parameters: "Iterable[nn.Parameter]", *, changing: bool = False
) -> AbstractContextManager[Any]:
    """Have parameters whole inside the block, on every rank; all ranks enter it together.

    Args:
        parameters: Which ones; those that are not shared out stay as they are.
        changing: Keep what rank 0 makes of them in the block.
    """
    shared_out = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not shared_out:
        return nullcontext()
    from deepspeed import zero

    context: AbstractContextManager[Any] = zero.GatheredParameters(
        shared_out, modifier_rank=0 if changing else None
    )
    return context


def copy_parameters(parameters: "Mapping[str, nn.Parameter]") -> "dict[str, torch.Tensor]":
    """Copies of whole parameters on the CPU, by name; under ZeRO-3 all ranks call it."""
    with gathered_parameters(parameters.values()):
        return {name: one.detach().to("cpu", copy=True) for name, one in parameters.items()}


def set_parameters(
    parameters: "Mapping[str, nn.Parameter]", weights: "Mapping[str, torch.Tensor]"
) -> None:
    """Give parameters the weights of the same name; those without stay as they are."""
    import torch

    named = {name: one for name, one in parameters.items() if name in weights}
    with torch.no_grad(), gathered_parameters(named.values(), changing=True):
        for name, parameter in named.items():
            parameter.copy_(weights[name])


def whole_weights(trainer: Any) -> dict[str, "torch.Tensor"] | None:
    """All weights of a model that ZeRO-3 shares out, on rank 0's CPU; all ranks call it.

    Args:
        trainer: A transformers `Trainer` that has trained the model whole.

    Returns:
        None where the model's own `state_dict` will do.
    """
    if not is_partitioned(trainer.model):
        return None
    return dict(trainer.accelerator.get_state_dict(trainer.deepspeed))


def share_out_use_of(head: "nn.Module", model: Any) -> None:
    """Have ZeRO-3 gather a head's weights for a loss that uses them outside the head's forward.

    Args:
        head: The output head, or the copy that peft trains in its place.
        model: The `PreTrainedModel`, not wrapped by peft, before DeepSpeed takes it.
    """
    from deepspeed import zero

    for parameter in head.parameters():
        zero.register_external_parameter(model, parameter)


def wrapper_name(wrapped: Any) -> str:
    """What holds the model in a run: "none", DDP, or DeepSpeed with its stage and offload."""
    kind = type(wrapped).__name__
    if kind == DDP:
        return DDP
    if kind != DEEPSPEED:
        return "none"
    parts = [f"{DEEPSPEED} ZeRO-{wrapped.zero_optimization_stage()}"]
    for what, offload in (
        ("optimizer", wrapped.zero_offload_optimizer()),
        ("weights", wrapped.zero_offload_param()),
    ):
        # An enumeration whose members are texts.
        device = getattr(offload, "device", "none")
        if getattr(device, "value", device) != "none":
            parts.append(f"{what} on {getattr(device, 'value', device)}")
    return ", ".join(parts)


def check_wrapper(wrapped: Any, processes: int, stage: int | None) -> None:
    """Make sure that what trains is what was asked for: Trainer can fall back without a word.

    Args:
        wrapped: `Trainer.model_wrapped`, once it is prepared.
        processes: How many train together.
        stage: ZeRO stage, or None without DeepSpeed.

    Raises:
        RuntimeError: It is something else, so that ranks would train models of their own.
    """
    name = wrapper_name(wrapped)
    expected = f"{DEEPSPEED} ZeRO-{stage}" if stage else DDP if processes > 1 else "none"
    # A launcher that starts a single process makes a group of one, in which DDP changes nothing.
    alone = processes == 1 and not stage and name == DDP
    if not name.startswith(expected) and not alone:
        raise RuntimeError(
            f"the model is held by {name}, expected {expected} for {processes} process(es)"
        )
