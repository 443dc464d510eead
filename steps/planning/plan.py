"""What a training run takes: memory by part, time, and disk.

    model = model_to_plan(training.model)
    plan = plan_memory(model, training, micro_batch=4, length=1024)
    check_fits(model, training, micro_batch=4, length=1024, budget=16 * GIB)

Nothing here is fitted to measurements. One training step of the real model is run on tensors
that have a size and no content (see `steps.planning.step`): the classes of transformers, peft,
bitsandbytes and this project, torch's own autograd and autocast. The largest sum of living
tensors is the plan. `tests/planning/test_memory_measured.py` holds it against measured ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steps.config.sections import Training
from steps.config.tokenizer_section import NewGenes
from steps.errors import UserError
from steps.models.devices import Device, Placement
from steps.models.fused import may_be_fused
from steps.models.new_tokens import wanted_tokens
from steps.planning.loading import LoadingPlan, plan_loading
from steps.planning.models import ModelToPlan
from steps.planning.sizes import PARTS, StepSettings, optimizer_bytes, optimizer_scratch

if TYPE_CHECKING:
    from steps.models.layout import LayoutKind

GIB = 2**30
# What a process on the GPU holds beside tensors: the CUDA context with its kernels, cuBLAS's
# workspace (32 MiB from Hopper on), and what the caching allocator loses to rounding.
CUDA_CONTEXT_BYTES = 600 * 2**20
ALLOCATOR_SLACK = 0.04

# Where the search for the largest micro-batch begins.
FEW_ROWS = 5

# Weights that ZeRO-3 has whole at a time: `stage3_max_live_parameters` of the files in
# configs/deepspeed, of two bytes each.
LIVE_BYTES = 2 * 200_000_000


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of one training step at its peak.

    Attributes:
        model: The model.
        method: "lora", "qlora", "lora_8bit", "dora", "rslora" or "full".
        device: "cpu" or "cuda".
        micro_batch: Rows of one forward pass.
        length: Tokens of a row.
        parts: Bytes of each of `PARTS` at the moment of the peak.
        moment: When the peak is: "forward", "loss", "backward", "optimizer step" or, under ZeRO-3,
            "loading".
        trained_parameters: Number of weights that are trained.
        optimizer_state: Bytes of the optimiser's state, of all processes together.
        host_bytes: Pinned host memory that offloaded activations take beside the total.
        notes: What the reader has to know.
        loading: Bytes of one process at their most while ZeRO-3 gets hold of the base; else 0.
    """

    model: ModelToPlan
    method: str
    device: Device
    micro_batch: int
    length: int
    parts: dict[str, int]
    moment: str
    trained_parameters: int
    optimizer_state: int
    host_bytes: int = 0
    notes: tuple[str, ...] = ()
    loading: int = 0

    @property
    def total(self) -> int:
        """Peak in bytes, the reserve included."""
        return sum(self.parts.values())

    @property
    def tensor_bytes(self) -> int:
        """Peak in bytes of tensors alone."""
        return self.total - self.parts["reserve"]


@dataclass(frozen=True)
class DiskPlan:
    """What a training run writes, in bytes.

    Attributes:
        base_model: The pre-trained weights in the cache, once a machine.
        checkpoint: One checkpoint: trained weights and the state of the optimiser.
        local: What stands on the running step's disk at most.
        tracked: What the run leaves in the tracking store before `prune_checkpoints`; None if
            the number of optimiser steps is not known.
    """

    base_model: int
    checkpoint: int
    local: int
    tracked: int | None


@dataclass(frozen=True)
class TimePlan:
    """How long the training takes.

    Attributes:
        tokens: Tokens trained on, all epochs together.
        tokens_per_second: Measured or stated.
        hours: The quotient.
    """

    tokens: int
    tokens_per_second: float
    hours: float


def plan_memory(
    model: ModelToPlan,
    training: Training,
    *,
    micro_batch: int,
    length: int,
    placement: Placement | None = None,
    layout: "LayoutKind | None" = None,
) -> MemoryPlan:
    """Trace one training step and report its peak by part.

    The step is the second one: the optimiser has its moments, and with accumulation the
    gradients of earlier micro-batches stand. Each row holds one document of full length,
    the most expensive case; of a masked model, `masking.probability` of its tokens are to be
    restored (of text full of mentions, more: up to `masking.entity_probability`).

    Args:
        model: The model.
        training: The configuration.
        micro_batch: Rows of one forward pass.
        length: Tokens of a row.
        placement: Where the step is, since autocast, dropout and attention keep other tensors on
            a CPU; its number format; and the processes, with what they share out between them.
            None: one process on a GPU.
        layout: How the rows of a micro-batch lie; None: as the model's class declares.

    Returns:
        The plan; `parts["reserve"]` is 0 on a CPU.
    """
    from steps.planning.step import traced

    placement = placement or placement_of(training)
    settings = step_settings(training, placement, micro_batch, length)
    step = traced(model, settings, layout)
    method = training.qlora.resolved_method
    half = placement.dtype != "float32"
    # As the trainer does: bitsandbytes' optimisers know neither ZeRO nor offload.
    shared_out = placement.zero_stage or placement.fully_sharded
    optimizer_device = "cpu" if shared_out else placement.device
    optimizer = optimizer_of(training.optimizer.type, optimizer_device)
    state = sum(n * optimizer_bytes(optimizer, *size) for size, n in step.reached.items())
    scratch = optimizer_scratch(
        optimizer, placement.device, (size for size, *_ in step.reached.elements())
    )
    loading, scaled = None, dict[str, dict[str, int]]()
    if placement.zero_stage == 3:
        width, processes = (2 if half else 4), placement.processes
        standing = step.moments["optimizer step"].get("weights", 0)
        loading = plan_loading(model, training.qlora, standing, processes, width)
        scaled["loading"] = {"weights": loading.bytes}
    for moment, held in step.moments.items():
        at_its_end = scratch if moment == "optimizer step" else 0
        scaled[moment] = _shared_between_processes(
            held | {"optimizer": state + at_its_end},
            placement,
            step.trained_parameters if half else 0,
            whole=method == "full",
            scales=loading.scales if loading else 0,
        )
    moment, parts = max(scaled.items(), key=lambda item: sum(item[1].values()))
    reserve = 0
    if placement.device == "cuda":
        reserve = CUDA_CONTEXT_BYTES + int(ALLOCATOR_SLACK * sum(parts.values()))
    whole = {part: parts.get(part, 0) for part in PARTS} | {"reserve": reserve}
    host = step.host_bytes if placement.device == "cuda" else 0
    return MemoryPlan(
        model=model,
        method=method,
        device=placement.device,
        micro_batch=micro_batch,
        length=length,
        parts=whole,
        moment=moment.partition(":")[0],
        trained_parameters=step.trained_parameters,
        optimizer_state=state,
        host_bytes=host,
        notes=_notes(model, settings, optimizer, placement, host, loading),
        loading=loading.bytes if loading else 0,
    )


def step_settings(
    training: Training, placement: Placement, micro_batch: int, length: int
) -> StepSettings:
    """What decides the memory of a step, out of the whole configuration."""
    return StepSettings(
        qlora=training.qlora.model_dump_json(),
        checkpointing=training.memory_optimization.gradient_checkpointing,
        offloads=training.memory_optimization.offload_activations,
        accumulates=training.hyperparameters.gradient_accumulation_steps > 1,
        dtype=placement.dtype,
        device=placement.device,
        rows=micro_batch,
        length=length,
        masked_share=training.masking.probability,
        fused=may_be_fused(placement),
        new_tokens=tokens_to_add(training),
    )


def tokens_to_add(training: Training) -> int:
    """Tokens that the vocabulary gets, as far as the configuration tells.

    A run knows those that the tokenizer did not have; a file may be away where a plan is made.
    """
    wanted = training.tokenizer.new_tokens
    if wanted is None:
        return 0
    if isinstance(wanted, NewGenes):
        return wanted.genes
    return len(wanted) if isinstance(wanted, tuple) else len(wanted_tokens(training.tokenizer, {}))


def largest_micro_batch(
    model: ModelToPlan,
    training: Training,
    budget: int,
    *,
    length: int,
    limit: int = 1024,
    placement: Placement | None = None,
) -> int:
    """Most rows of `length` tokens whose plan stays within `budget` bytes.

    Args:
        model: The model.
        training: The configuration.
        budget: Bytes.
        length: Tokens of a row.
        limit: Never more than this.
        placement: As in `plan_memory`.

    Returns:
        0 if not even one row fits.
    """

    def bytes_for(rows: int) -> int:
        return plan_memory(
            model, training, micro_batch=rows, length=length, placement=placement
        ).total

    # Beyond a few rows all is on a line, see `steps.planning.step`.
    return _largest(bytes_for, budget, min(FEW_ROWS, limit), limit)


def longest_context(
    model: ModelToPlan,
    training: Training,
    budget: int,
    *,
    micro_batch: int = 1,
    limit: int = 2**20,
    placement: Placement | None = None,
) -> int:
    """Most tokens a row may have for its plan to stay within `budget` bytes.

    Learned positions (BERT) end where they end; rotary ones can be trained further, so only
    memory limits them here.

    Args:
        model: The model.
        training: The configuration.
        budget: Bytes.
        micro_batch: Rows of one forward pass.
        limit: Never more than this.
        placement: As in `plan_memory`.

    Returns:
        0 if not even one token fits.
    """
    if model.learns_positions and model.max_positions is not None:
        limit = min(limit, model.max_positions)

    def bytes_for(length: int) -> int:
        return plan_memory(
            model, training, micro_batch=micro_batch, length=length, placement=placement
        ).total

    return _largest(bytes_for, budget, min(training.model.max_length, limit), limit)


def disk_plan(
    model: ModelToPlan,
    training: Training,
    *,
    optimizer_steps: int | None = None,
    memory: MemoryPlan | None = None,
) -> DiskPlan:
    """Bytes that a run writes.

    Args:
        model: The model.
        training: The configuration.
        optimizer_steps: Steps of the whole run, to count its checkpoints.
        memory: The plan of a step, if there is one already; None: one process on a GPU.
    """
    plan = memory or plan_memory(model, training, micro_batch=1, length=8)
    stored = 2 if training.qlora.adapts else 4
    checkpoint = 4 * plan.trained_parameters + plan.optimizer_state
    kept = training.output.save_total_limit
    saves = None
    if optimizer_steps is not None and training.logging.save_strategy == "steps":
        saves = math.ceil(optimizer_steps / training.logging.save_steps)
    elif training.logging.save_strategy == "epoch":
        saves = math.ceil(training.hyperparameters.num_epochs)
    elif training.logging.save_strategy == "no":
        saves = 0
    # One more than kept: the new checkpoint is whole before the old one goes.
    standing = (saves or 1) if kept is None else kept + 1
    local = (standing if saves is None else min(standing, saves)) * checkpoint
    tracked = None if saves is None else saves * checkpoint + 4 * plan.trained_parameters
    return DiskPlan(model.parameters * stored, checkpoint, local, tracked)


def time_plan(tokens: int, tokens_per_second: float) -> TimePlan:
    """Hours for `tokens` (all epochs together) at a measured or stated rate.

    Raises:
        UserError: The rate is not positive.
    """
    if not tokens_per_second > 0:
        raise UserError(f"--tokens-per-second is {tokens_per_second}: give a number above 0")
    return TimePlan(tokens, tokens_per_second, tokens / tokens_per_second / 3600)


def _largest(bytes_for: Callable[[int], int], budget: int, start: int, limit: int) -> int:
    """Largest n in 1..limit with `bytes_for(n) <= budget`, for a nearly linear function.

    Each call of it traces a step, so few are made: along the line through the last two, until what
    is left of the budget is less than the line says of one more.
    """
    low, high = 0, limit + 1
    known = {start: bytes_for(start)}
    guess = min(max(1, start // 4 if known[start] > budget else 8 * start), limit)
    newest = start
    while True:
        if known[newest] <= budget:
            low = max(low, newest)
        else:
            high = min(high, newest)
        if guess not in known:
            known[guess] = bytes_for(guess)
        before, newest = newest, guess
        if known[newest] <= budget:
            low = max(low, newest)
        else:
            high = min(high, newest)
        if high - low <= 1:
            return low
        slope = 1
        if newest != before:
            slope = max(1, math.ceil((known[newest] - known[before]) / (newest - before)))
        guess = newest + (budget - known[newest]) // slope
        if guess == newest and newest == low:
            return low
        guess = min(max(guess, low + 1), high - 1)


def placement_of(training: Training, device: Device = "cuda") -> Placement:
    """Where one process would train, as far as the configuration alone can say.

    For `bf16: auto` that is bfloat16 on a GPU and float32 on a CPU.
    """
    hardware = training.hardware
    if hardware.fp16:
        return Placement(device, "float16")
    half = device == "cuda" if hardware.bf16 == "auto" else hardware.bf16
    return Placement(device, "bfloat16" if half else "float32")


def optimizer_of(wanted: str, device: Device) -> str:
    """The rule of `steps.training.optimizers.optimizer_name`, whose module imports torch."""
    name = {"adamw": "adamw_torch", "adam": "adamw_torch"}.get(wanted.lower(), wanted.lower())
    if name == "auto":
        return "paged_adamw_8bit" if device == "cuda" else "adamw_torch_fused"
    return name


def _shared_between_processes(
    parts: dict[str, int],
    placement: Placement,
    trained_in_half: int,
    *,
    whole: bool,
    scales: int = 0,
) -> dict[str, int]:
    """What one of several processes holds.

    DDP adds its communication buckets. DeepSpeed keeps trained weights and their gradients in
    half precision where it computes in it, and in the optimiser a float32 copy and two moments:
    2 + 2 + 12 bytes a weight, of which each stage shares out one term more (Rajbhandari et al.
    2020, arXiv:1910.02054). Under stage 3 some weights are whole at any time.

    Args:
        parts: What a single process holds at one moment.
        placement: Processes, and the ZeRO stage by which they share.
        trained_in_half: Trained weights, where the computation is in half precision; else 0.
        whole: Every weight is trained.
        scales: Bytes of the scales of 4-bit weights, which are not shared out.
    """
    shared = dict(parts)
    world_size, zero_stage = placement.processes, placement.zero_stage
    if placement.fully_sharded:
        # As under stage 3, but adapters and moments stay in float32.
        zero_stage = 3
        trained_in_half = 0
    if zero_stage == 0:
        if world_size > 1:
            shared["gradients"] = 2 * shared.get("gradients", 0)
        return shared
    if trained_in_half:
        shared["weights" if whole else "adapter"] = 2 * trained_in_half
        if shared.get("gradients"):
            shared["gradients"] = 2 * trained_in_half
        shared["optimizer"] = 12 * trained_in_half
        if whole:
            # Weights that are in half precision already leave autocast nothing to cast.
            cast = 2 * trained_in_half
            shared["activations"] = max(0, shared.get("activations", 0) - cast)
    at_once = min(shared.get("weights", 0), LIVE_BYTES) if zero_stage == 3 else 0
    stages = {"optimizer": 1, "gradients": 2, "weights": 3, "adapter": 3}
    for part, stage in stages.items():
        if zero_stage >= stage:
            kept = scales if part == "weights" else 0
            shared[part] = math.ceil((shared.get(part, 0) - kept) / world_size) + kept
    if world_size > 1:
        shared["weights"] = shared.get("weights", 0) + at_once
    return shared


def _notes(
    model: ModelToPlan,
    settings: StepSettings,
    optimizer: str,
    placement: Placement,
    host: int,
    loading: LoadingPlan | None,
) -> tuple[str, ...]:
    notes = []
    longest = model.max_positions
    if longest is not None and settings.length > longest:
        notes.append(
            f"{settings.length} tokens are more than the {longest} positions"
            if model.learns_positions
            else f"the model was trained on contexts of up to {longest} tokens"
        )
    if model.objective == "masked":
        notes.append(
            f"logits of {settings.masked_share:.0%} of the tokens (masking.probability); text full "
            "of gene and variant mentions has more"
        )
    if optimizer.startswith("paged"):
        notes.append("the optimiser's paged state may move to the host's memory under pressure")
    if settings.offloads and settings.device == "cpu":
        notes.append("offload_activations gains nothing on a CPU: host memory is all there is")
    elif settings.offloads:
        notes.append(f"{host / GIB:.2f} GiB of activations wait in pinned host memory")
    kind = f"ZeRO-{placement.zero_stage}" if placement.zero_stage else "DDP"
    kind = "FSDP2" if placement.fully_sharded else kind
    if placement.processes > 1:
        notes.append(
            f"one of {placement.processes} processes, {kind}; ZeRO's communication buffers are "
            "not counted"
        )
    if placement.fully_sharded:
        notes.append(
            "FSDP2 is counted roughly, as ZeRO-3 is: that embeddings and head stay whole on each "
            "process is not counted"
        )
        notes.append(
            "FSDP2 shares the weights out once each process has loaded them whole: the GPU has "
            "to hold them for that moment"
        )
    if loading is not None:
        notes.append(loading.note)
    return tuple(notes)
