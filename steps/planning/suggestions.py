"""Which micro-batch to take, and what to change where a run does not fit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from steps.config.dotted import parse_overrides
from steps.config.sections import Training
from steps.errors import UserError
from steps.models.devices import Device, Placement
from steps.planning.models import ModelToPlan
from steps.planning.plan import (
    ALLOCATOR_SLACK,
    GIB,
    MemoryPlan,
    largest_micro_batch,
    plan_memory,
)

# What `batch_size: auto` takes at most, and the sizes in GiB that cards come in.
AUTO_ROWS = 16
GPU_SIZES = (16, 24, 32, 40, 48, 80, 96, 141, 192)


def with_auto_batch_size(
    model: ModelToPlan,
    training: Training,
    budget: int,
    *,
    length: int,
    earlier: int | None = None,
    placement: Placement | None = None,
) -> Training:
    """The configuration with `batch_size: auto` worked out, whether it fits or not.

    With `auto`, `gradient_accumulation_steps` counts the rows of an optimiser step. The
    micro-batch becomes the largest that fits, divides that number (so that every card takes
    the same optimiser steps) and is at most `AUTO_ROWS` (beyond that nothing gets faster).

    Args:
        model: The model.
        training: The configuration.
        budget: Bytes.
        length: Tokens of a row.
        earlier: The micro-batch that `auto` became in the run that is resumed; it is kept,
            because the order in which rows are summed decides the last bits.
        placement: As in `plan_memory`.

    Returns:
        A configuration whose `batch_size` is a number: 1 if nothing fits.
    """
    values = training.hyperparameters
    if values.batch_size != "auto":
        return training
    rows_per_step = values.gradient_accumulation_steps
    rows = earlier
    if rows is None:
        # Most of the budget goes to rows, so whether gradients of earlier ones stand matters: plan
        # as if they did, which they do unless one micro-batch is the whole step.
        fitting = largest_micro_batch(
            model,
            training,
            budget,
            length=length,
            limit=min(AUTO_ROWS, rows_per_step),
            placement=placement,
        )
        rows = next(n for n in range(max(fitting, 1), 0, -1) if rows_per_step % n == 0)
    settled = {"batch_size": rows, "gradient_accumulation_steps": rows_per_step // rows}
    return training.model_copy(update={"hyperparameters": values.model_copy(update=settled)})


@dataclass(frozen=True)
class Suggestion:
    """A change that makes a run fit.

    Attributes:
        overrides: The dotted overrides to give.
        price: What the change costs, in words.
        total: Planned bytes with it.
    """

    overrides: str
    price: str
    total: int


def check_fits(
    model: ModelToPlan,
    training: Training,
    budget: int,
    *,
    micro_batch: int,
    length: int,
    source: str = "",
    placement: Placement | None = None,
) -> MemoryPlan:
    """Plan, and refuse what cannot fit.

    Args:
        model: The model.
        training: The configuration.
        budget: Bytes.
        micro_batch: Rows of one forward pass.
        length: Tokens of a row.
        source: Where the budget is from, for the message.
        placement: As in `plan_memory`.

    Returns:
        The plan that fits.

    Raises:
        UserError: It does not fit; the message names up to three changes that make it fit,
            cheapest first, each of which has been planned.
    """
    plan = plan_memory(model, training, micro_batch=micro_batch, length=length, placement=placement)
    if plan.total <= budget:
        return plan
    found = suggestions(
        model, training, budget, micro_batch=micro_batch, length=length, placement=placement
    )
    where_from = f" ({source})" if source else ""
    raise UserError(
        f"{model.name}, {plan.method}, {micro_batch} x {length} tokens needs {_gib(plan.total)}, "
        f"and there are {_gib(budget)}{where_from}. {in_words(found)}"
    )


def in_words(found: Sequence[Suggestion]) -> str:
    """Suggestions as one sentence."""
    if not found:
        return (
            "No setting makes it fit: take a smaller model or a larger GPU "
            "(memory_optimization.gpu_memory_gb)"
        )
    options = "; ".join(
        f"({i}) {suggestion.overrides} [{_gib(suggestion.total)}; {suggestion.price}]"
        for i, suggestion in enumerate(found, 1)
    )
    return f"Cheapest ways to make it fit: {options}"


def _gib(size: int) -> str:
    """Small models need a second digit, or two sizes would read the same."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / GIB:.3f} GiB"


def suggestions(
    model: ModelToPlan,
    training: Training,
    budget: int,
    *,
    micro_batch: int,
    length: int,
    placement: Placement | None = None,
) -> list[Suggestion]:
    """Up to three changes, or sets of changes, that make a run fit, the cheapest first.

    Cheapest first: those that leave the result as it is, then those that cost time, then
    those that change what is learned. Sets are tried only where no part of them is enough,
    and each set in its mildest form that fits. What is planned is the printed override.
    Where fewer than three are found, the smallest card that holds the run as it is follows.
    """
    start = with_overrides(
        training,
        f"training.hyperparameters.batch_size={micro_batch} training.model.max_length={length}",
    )

    def total_with(changes: Sequence[_Change]) -> int:
        changed = with_overrides(start, " ".join(change.overrides for change in changes))
        rows, tokens = changed.hyperparameters.batch_size, changed.model.max_length
        assert isinstance(rows, int)
        return plan_memory(
            model, changed, micro_batch=rows, length=tokens, placement=placement
        ).total

    def at_least_with(changes: Sequence[_Change]) -> float:
        """Without tracing each number of tokens: activations shrink with it, and nothing more."""
        others = " ".join(change.overrides for change in changes if change.tokens == 1)
        plan = plan_memory(
            model,
            with_overrides(start, others),
            micro_batch=micro_batch,
            length=length,
            placement=placement,
        )
        gone = 1 - math.prod(change.tokens for change in changes)
        passing = plan.parts["activations"] + plan.parts["logits"]
        return plan.total - (1 + ALLOCATOR_SLACK) * gone * passing

    plan_here = plan_memory(
        model, start, micro_batch=micro_batch, length=length, placement=placement
    )
    kinds = _possible_changes(training, micro_batch, length, plan_here.device)
    sets = [set(names) for size in (1, 2, 3, 4) for names in combinations(kinds, size)]
    sets.sort(key=lambda names: sum(kinds[name][0].cost for name in names))
    found: dict[frozenset[str], Suggestion] = {}
    for names in sets:
        if {"lora", "qlora"} <= names or any(fewer <= names for fewer in found):
            continue
        strengths = [kinds[name] for name in sorted(names, key=list(kinds).index)]
        if at_least_with([changes[-1] for changes in strengths]) > budget:
            continue
        for chosen in sorted(product(*strengths), key=lambda set_: sum(c.cost for c in set_)):
            if at_least_with(chosen) > budget:
                continue
            total = total_with(chosen)
            if total <= budget:
                overrides = " ".join(change.overrides for change in chosen)
                price = ", ".join(change.price for change in chosen)
                found[frozenset(names)] = Suggestion(overrides, price, total)
                break
        if len(found) == 3:
            break
    cards = [gib for gib in GPU_SIZES if budget < plan_here.total <= gib * GIB]
    if len(found) < 3 and cards and plan_here.device == "cuda":
        overrides = f"training.memory_optimization.gpu_memory_gb={cards[0]}"
        found[frozenset({"card"})] = Suggestion(
            overrides, f"a GPU of {cards[0]} GB", plan_here.total
        )
    return list(found.values())


def with_overrides(training: Training, overrides: str) -> Training:
    """A configuration with dotted overrides applied to it, and checked."""
    content = training.model_dump()

    def apply(changes: dict[str, Any], section: dict[str, Any]) -> None:
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(section.get(key), dict):
                apply(value, section[key])
            else:
                section[key] = value

    apply(parse_overrides(overrides, Training.model_fields).get("training", {}), content)
    return Training.model_validate(content)


@dataclass(frozen=True)
class _Change:
    """A change of the configuration.

    Attributes:
        overrides: The change.
        price: What it costs, in words.
        cost: What it costs, in comparison to others.
        tokens: The share of a micro-batch's tokens that is left.
    """

    overrides: str
    price: str
    cost: float
    tokens: float = 1.0


def _possible_changes(
    training: Training, micro_batch: int, length: int, device: Device
) -> dict[str, list[_Change]]:
    """The kinds of change that this configuration leaves room for, each from mild to strong."""
    qlora = training.qlora
    accumulation = training.hyperparameters.gradient_accumulation_steps
    kinds: dict[str, list[_Change]] = {"rows": [], "length": []}
    halvings = range(1, micro_batch.bit_length())
    for rows, n in ((micro_batch >> n, n) for n in halvings):
        steps = accumulation * math.ceil(micro_batch / rows)
        overrides = (
            f"training.hyperparameters.batch_size={rows} "
            f"training.hyperparameters.gradient_accumulation_steps={steps}"
        )
        price, left = "same result, a little slower", rows / micro_batch
        kinds["rows"].append(_Change(overrides, price, 0.05 + 0.02 * n, left))
    quantises_moments = device == "cuda" and "8bit" not in training.optimizer.type
    if quantises_moments and training.optimizer.type != "auto":
        overrides = "training.optimizer.type=paged_adamw_8bit"
        kinds["optimizer"] = [_Change(overrides, "moments in 8 bits", 0.2)]
    if not training.memory_optimization.gradient_checkpointing:
        overrides = "training.memory_optimization.gradient_checkpointing=true"
        kinds["checkpointing"] = [_Change(overrides, "same result, a third more time", 0.3)]
    elif device == "cuda" and not training.memory_optimization.offload_activations:
        overrides = "training.memory_optimization.offload_activations=true"
        kinds["offload"] = [_Change(overrides, "same result, slower by the copies", 0.4)]
    if qlora.adapts and qlora.resolved_method in ("lora", "lora_8bit"):
        overrides = "training.qlora.method=qlora"
        kinds["qlora"] = [_Change(overrides, "base weights in 4 bits", 0.6)]
    if qlora.adapts and qlora.r > 8:
        kinds["rank"] = [_Change("training.qlora.r=8", "a smaller adapter", 0.8)]
    for n in (1, 2, 3, 4):
        if length >> n >= 128:
            overrides = f"training.model.max_length={length >> n}"
            price, left = "papers in shorter windows", (length >> n) / length
            kinds["length"].append(_Change(overrides, price, 1 + 0.3 * n, left))
    if not qlora.adapts:
        for name, price, cost in (
            ("lora", "adapters in place of all weights", 2.0),
            ("qlora", "adapters on a base in 4 bits", 2.4),
        ):
            overrides = f"training.qlora.enabled=true training.qlora.method={name}"
            kinds[name] = [_Change(overrides, price, cost)]
    return {name: changes for name, changes in kinds.items() if changes}
