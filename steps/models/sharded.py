"""What is different when DDP, FSDP2 or DeepSpeed holds the model: wrapper, and shared-out weights.

Under ZeRO-3 a parameter is empty on every rank until DeepSpeed brings its parts together; that
takes all ranks at once, so whatever needs whole weights is done by all of them in step.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from steps.models.fully_sharded import set_shared, whole

if TYPE_CHECKING:
    import torch
    from torch import nn

    from steps.models.devices import Placement


DDP = "DistributedDataParallel"
FSDP2 = "FSDP2"
DEEPSPEED = "DeepSpeedEngine"


def is_partitioned(model: "nn.Module") -> bool:
    """Whether ZeRO-3 or FSDP2 has shared out parameters of a model."""
    return any(hasattr(one, "ds_id") or is_dtensor(one) for one in model.parameters())


def is_dtensor(parameter: "torch.Tensor") -> bool:
    """Whether FSDP2 has shared a parameter out."""
    return hasattr(parameter, "full_tensor")


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


@contextmanager
def whole_in_forward(model: "nn.Module") -> Iterator[None]:
    """Let a model whose weights are shared out compute before DeepSpeed holds it.

    Each module has its own weights whole while it computes. All ranks enter the block, and give
    the model the same to do.

    Args:
        model: Loaded in shares (`steps.models.shares`), not trained yet; or any other, to which
            nothing is done.
    """
    if not is_partitioned(model):
        yield
        return
    gathered: dict[int, list[AbstractContextManager[Any]]] = {}

    def gather(module: "nn.Module", _: Any) -> None:
        context = gathered_parameters(module.parameters(recurse=False))
        context.__enter__()
        gathered.setdefault(id(module), []).append(context)

    def release(module: "nn.Module", _: Any, __: Any) -> None:
        gathered[id(module)].pop().__exit__(None, None, None)

    handles = []
    for module in model.modules():
        if any(hasattr(one, "ds_id") for one in module.parameters(recurse=False)):
            handles.append(module.register_forward_pre_hook(gather))
            # After an error too: a trial may end in one.
            handles.append(module.register_forward_hook(release, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def copy_parameters(parameters: "Mapping[str, nn.Parameter]") -> "dict[str, torch.Tensor]":
    """Copies of whole parameters on the CPU, by name; where shared out, all ranks call it."""
    with gathered_parameters(parameters.values()):
        return {n: whole(one.detach()).to("cpu", copy=True) for n, one in parameters.items()}


def set_parameters(
    parameters: "Mapping[str, nn.Parameter]", weights: "Mapping[str, torch.Tensor]"
) -> None:
    """Give parameters the weights of the same name; those without stay as they are."""
    import torch

    named = {name: one for name, one in parameters.items() if name in weights}
    with torch.no_grad(), gathered_parameters(named.values(), changing=True):
        for name, parameter in named.items():
            if is_dtensor(parameter):
                set_shared(parameter, weights[name])
            else:
                parameter.copy_(weights[name])


def whole_weights(trainer: Any) -> dict[str, "torch.Tensor"] | None:
    """The weights to save of a model that is shared out, on rank 0's CPU; all ranks call it.

    Args:
        trainer: A transformers `Trainer` that has trained the model whole under ZeRO-3, or an
            adapter under FSDP2.

    Returns:
        None where the model's own `state_dict` will do.
    """
    if not is_partitioned(trainer.model):
        return None
    if trainer.placement.fully_sharded:
        return copy_parameters(trainer.trained())
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
    """What holds the model: "none", DDP, FSDP2, or DeepSpeed with its stage and offload."""
    kind = type(wrapped).__name__
    if any(is_dtensor(one) for one in wrapped.parameters()):
        return FSDP2
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


def check_wrapper(wrapped: Any, placement: "Placement") -> None:
    """Make sure that what trains is what was asked for: Trainer can fall back without a word.

    Args:
        wrapped: `Trainer.model_wrapped`, once it is prepared.
        placement: What was asked for.

    Raises:
        RuntimeError: It is something else, so that ranks would train models of their own.
    """
    name, processes, stage = wrapper_name(wrapped), placement.processes, placement.zero_stage
    expected = f"{DEEPSPEED} ZeRO-{stage}" if stage else DDP if processes > 1 else "none"
    if placement.fully_sharded:
        expected = FSDP2
    # A launcher that starts a single process makes a group of one, in which DDP changes nothing.
    alone = processes == 1 and not stage and name == DDP
    if not name.startswith(expected) and not alone:
        raise RuntimeError(
            f"the model is held by {name}, expected {expected} for {processes} process(es)"
        )
