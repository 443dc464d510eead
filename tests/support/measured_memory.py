"""Measured tensor memory of a training step on the CPU."""

import gc
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from steps.config.sections import Hyperparameters, MemoryOptimization, Qlora, Quantization, Training
from steps.models.losses import IGNORED


def measured_training(
    method: str, accumulation: int, *, checkpointing: bool, offloads: bool = False, **qlora: Any
) -> Training:
    """The configuration of a step that is measured.

    Args:
        method: "lora", "qlora" …
        accumulation: Micro-batches of an optimiser step.
        checkpointing: Compute activations again in the backward pass.
        offloads: Keep what is checkpointed in host memory.
        **qlora: Of the section `qlora`.
    """
    return Training(
        qlora=Qlora(
            method=method,  # type: ignore[arg-type]
            quantization=Quantization(load_in_4bit=method == "qlora"),
            **qlora,
        ),
        hyperparameters=Hyperparameters(gradient_accumulation_steps=accumulation),
        memory_optimization=MemoryOptimization(
            gradient_checkpointing=checkpointing, offload_activations=offloads and checkpointing
        ),
    )


def peak_bytes(step: Callable[[], None], standing: Iterable[torch.Tensor]) -> int:
    """Peak of tensor memory while `step` runs, on the CPU.

    Args:
        step: What is measured; run it once before, so that optimiser states stand.
        standing: The tensors that exist when it begins.
    """
    from torch.profiler import ProfilerActivity, profile

    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in standing}
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    live = peak = sum(storages.values())
    for _, size in sorted(events, key=lambda event: event[0]):
        live += size
        peak = max(peak, live)
    return peak


def tensors_of(model: Any, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Weights, buffers, scales of quantised weights, and moments."""
    tensors = [*model.parameters(), *model.buffers()]
    for weight in model.parameters():
        state = getattr(weight, "quant_state", None)
        for level in (state, getattr(state, "state2", None)):
            if level is not None:
                tensors += [
                    t for t in (level.absmax, level.code, level.offset) if torch.is_tensor(t)
                ]
        scales = getattr(weight, "SCB", None)
        tensors += [scales] if torch.is_tensor(scales) else []
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if torch.is_tensor(value)]
    return tensors


def mask_some(labels: torch.Tensor, share: float) -> None:
    """Leave random targets, as many as training hides on average, whatever the draw."""
    places = torch.randperm(labels.numel())[math.ceil(share * labels.numel()) :]
    labels.flatten()[places] = IGNORED
