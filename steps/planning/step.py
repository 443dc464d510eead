"""One training step, traced: forward and backward pass on planned tensors, and the optimiser's.

What lives at the peak of each moment (the loss, the backward pass of the last layer, …) grows by
the same bytes with each layer, or period of layers, so two small depths give every other.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.graph import _engine_run_backward

from steps.errors import first_line
from steps.models.adapters import embedding_parameters
from steps.models.attention import document_borders
from steps.models.layout import LayoutKind
from steps.models.losses import CHUNK
from steps.models.sources import Objective
from steps.planning.kernels import running_on
from steps.planning.live import LiveTensors, Planned, planned
from steps.planning.models import CannotPlan, ModelToPlan
from steps.planning.sizes import StepSettings
from steps.planning.skeleton import (
    Skeleton,
    as_planned_for,
    skeleton,
    tensors_of,
)

# More rows than these are on the line through this number and the one before, as long as their
# targets fill two chunks of the loss, beyond which all chunks are alike.
TRACED_ROWS = 4
FULL_CHUNKS = 2 * CHUNK

# Peak parts of each moment.
Moments = dict[str, dict[str, int]]
# How many tensors there are of so many weights, with so many bytes each, and whether they are
# matrices inside the model, which Muon takes.
TensorCounts = Counter[tuple[int, int, bool]]


@dataclass(frozen=True)
class TracedStep:
    """What one training step holds.

    Attributes:
        moments: Bytes of each part at the peak of each moment, without the optimiser's.
        trained: Trained tensors by weights, bytes a weight and kind: how many there are of each.
        reached: Those of them that get a gradient, and so have a state in the optimiser.
        host_bytes: The most that offloaded activations hold in the host's memory beside a GPU.
    """

    moments: Moments
    trained: TensorCounts
    reached: TensorCounts
    host_bytes: int

    @property
    def trained_parameters(self) -> int:
        """Number of weights that are trained."""
        return sum(weights * number for (weights, *_), number in self.trained.items())


@lru_cache(maxsize=256)
def traced(
    model: ModelToPlan, settings: StepSettings, layout: LayoutKind | None = None
) -> TracedStep:
    """Run one training step on planned tensors.

    Args:
        model: What is trained.
        settings: How.
        layout: How rows are laid out; None: as the model's class declares.

    Raises:
        CannotPlan: The model cannot be built, or not be run without content.
        UserError: An adapter does not fit it.
    """
    most = max(TRACED_ROWS, math.ceil(FULL_CHUNKS / max(settings.length - 1, 1)) + 1)
    if settings.rows > most:
        # All rows are alike, and a packed one costs an attention of its own.
        fewer, more = (traced(model, replace(settings, rows=n), layout) for n in (most - 1, most))
        return _further(more, fewer, settings.rows - most)
    with as_planned_for(settings.device):
        built = skeleton(model, settings, layout)
        found = []
        for depth in reversed(built.depths.traced):
            built.cut(depth)
            try:
                found.append(_Trace(built, settings, model.objective).run())
            except (RuntimeError, NotImplementedError, ValueError, IndexError) as error:
                raise CannotPlan(
                    f"a step of {type(built.inner).__name__} ({model.name}) cannot be run without "
                    f"weights and text ({first_line(error)}), so its memory cannot be planned: "
                    "train it unplanned with a stated batch_size, or choose a LLaMA or a BERT"
                ) from error
    depths = built.depths
    periods = (depths.whole - depths.traced[-1]) // depths.period
    return found[0] if len(found) == 1 else _further(found[0], found[1], periods)


def _further(more: TracedStep, fewer: TracedStep, further: int) -> TracedStep:
    """The step so many rows, or periods of layers, beyond the greater of two.

    Args:
        more: The greater.
        fewer: One row, or one period, less.
        further: How many more.
    """
    moments = {}
    for moment, parts in more.moments.items():
        grows_like = moment
        if moment not in fewer.moments:
            # At the lesser depth there is no layer between the first and the last ones. All that is
            # added comes after it, as it does after the first one, where that trains anything.
            first = f"{moment.partition(': ')[0]}: first"
            grows_like = first if first in fewer.moments else "optimizer step"
        at_more, at_fewer = more.moments[grows_like], fewer.moments[grows_like]
        moments[moment] = {
            part: size + further * (at_more[part] - at_fewer[part]) for part, size in parts.items()
        }
    return TracedStep(
        moments,
        _line_of_counts(more.trained, fewer.trained, further),
        _line_of_counts(more.reached, fewer.reached, further),
        more.host_bytes + further * (more.host_bytes - fewer.host_bytes),
    )


def _line_of_counts(more: TensorCounts, fewer: TensorCounts, further: int) -> TensorCounts:
    return Counter({size: n + further * (n - fewer[size]) for size, n in more.items()})


class _Trace:
    """One forward and backward pass at one depth."""

    def __init__(
        self,
        built: Skeleton,
        settings: StepSettings,
        objective: Objective,
        unreached: frozenset[int] = frozenset(),
    ) -> None:
        self.built, self.settings, self.objective = built, settings, objective
        self.rows = 1 if built.layout == "single" else settings.rows
        pads = built.layout == "padded" and self.rows > 1
        self.live = LiveTensors(settings.length, self._positions, pads)
        # Where each layer's operations begin in the graph, and where the last one's end.
        self.starts: list[int] = []
        self.end = 0
        self.in_backward = False
        self.unreached = unreached
        self.reached: set[int] = set()

    def run(self) -> TracedStep:
        everything = [one for one in self.built.model.parameters() if one.requires_grad]
        trained = [one for one in everything if id(one) not in self.unreached]
        self.live.enter("standing")
        for tensor, part in tensors_of(self.built.model):
            self.live.count(tensor, part)
        hooks = self._hooks(trained)
        try:
            self._forward_and_backward()
        finally:
            for hook in hooks:
                hook.remove()
        self.live.moment_of = None
        self.live.enter("optimizer step")
        self.live.peaks.pop("standing")
        for weight in trained:
            weight.grad = None
        if len(self.reached) < len(trained):
            # Some are of the class and not of this step (a vision tower): no gradient, no state.
            rest = frozenset(id(one) for one in everything) - self.reached
            return _Trace(self.built, self.settings, self.objective, rest).run()
        apart = {id(weight) for weight in embedding_parameters(self.built.inner)}
        return TracedStep(
            self.live.peaks,
            _counts(everything, apart),
            _counts(trained, apart),
            self.live.most_on_host,
        )

    def _positions(self, entries: int) -> int:
        """Targets among so many positions of a batch."""
        if self.objective == "masked":
            return min(entries, self.settings.masked(self.rows))
        return min(entries, self.rows * (self.settings.length - 1))

    def _hooks(self, trained: list[Any]) -> list[Any]:
        hooks = []
        for weight in trained:
            if self.settings.accumulates:
                gradient = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
                weight.grad = planned(gradient)
                self.live.count(weight.grad, "gradients")
            hooks.append(weight.register_post_accumulate_grad_hook(self._take_gradient))
        for layer in self.built.depths.layers or ():
            hooks.append(layer.register_forward_pre_hook(self._begin_layer))
            hooks.append(layer.register_forward_hook(self._end_layer))
        return hooks

    def _take_gradient(self, weight: Any) -> None:
        self.reached.add(id(weight))
        if not self.settings.accumulates:
            self.live.move(weight.grad, "gradients")

    def _begin_layer(self, *_: Any) -> None:
        if not self.in_backward:
            self.starts.append(torch._C._autograd._get_sequence_nr())
            self.live.enter(self._name("forward", len(self.starts) - 1))

    def _end_layer(self, *_: Any) -> None:
        depth = len(self.built.depths.layers or ())
        if not self.in_backward and len(self.starts) == depth:
            self.end = torch._C._autograd._get_sequence_nr()
            self.live.enter("loss")
            self.live.part = "logits"

    def _name(self, kind: str, layer: int) -> str:
        """The moment of a layer: by its place from the beginning or the end, or "between"."""
        depths = self.built.depths
        last = len(depths.layers or ()) - 1 - layer
        if layer < depths.prefix:
            return f"{kind}: before {layer}"
        if layer == depths.prefix:
            return f"{kind}: first"
        if last < depths.period:
            return f"{kind}: last but {last}"
        return f"{kind}: after the first"

    def _moment_of(self, node: Any) -> str | None:
        """The moment of the backward pass that a node of the graph belongs to."""
        if node is None or node.name() == "torch::autograd::AccumulateGrad":
            return None
        number = node._sequence_nr()
        if not self.starts or number < self.starts[0]:
            return "backward: embeddings"
        if number >= self.end:
            return "backward: head"
        layer = next(i for i in reversed(range(len(self.starts))) if number >= self.starts[i])
        return self._name("backward", layer)

    def _forward_and_backward(self) -> None:
        dtype, kind = self.settings.dtype, self.settings.device
        # Read by the attention, so they have content.
        borders = document_borders([self.settings.length] * self.rows)
        with running_on(kind, self.live), torch.autograd.set_multithreading_enabled(False):
            batch = self._batch(borders)
            self.live.enter("forward")
            with _autocast(dtype):
                loss = self.built.model(**batch).loss
            self.live.part = "activations"
            if self.settings.dtype == "float16":
                loss = loss * 1.0
            self.in_backward = True
            self.live.moment_of = self._moment_of
            # `loss.backward()` would switch the choice of kernels off while layers are recomputed.
            _engine_run_backward(
                (loss,),
                (torch.ones_like(loss),),
                False,
                False,
                (),
                allow_unreachable=True,
                accumulate_grad=True,
            )
            del loss, batch

    def _batch(self, borders: dict[str, Any]) -> dict[str, Any]:
        rows, length = self.rows, self.settings.length
        if self.built.layout == "packed":
            shape = (1, rows * length)
            extra: dict[str, Any] = {
                "position_ids": torch.zeros(shape, dtype=torch.int64),
                **borders,
            }
        else:
            shape = (rows, length)
            extra = {}
            if rows > 1:
                extra["attention_mask"] = torch.ones(shape, dtype=torch.int64)
        names = ("input_ids", "labels")
        return {name: torch.zeros(shape, dtype=torch.int64) for name in names} | extra


def _counts(weights: list[Any], embeddings: set[int]) -> TensorCounts:
    return Counter(
        (one.numel(), one.element_size(), one.ndim == 2 and id(one) not in embeddings)
        for one in weights
    )


@contextmanager
def _autocast(dtype: str) -> Iterator[None]:
    """`torch.autocast` for planned tensors, whatever device they are planned for.

    Torch takes them for the CPU's; code in Python that asks for CUDA's autocast sees it, too.
    """
    if dtype == "float32":
        yield
        return
    kinds = ("cpu", "cuda") if Planned.device_type == "cuda" else ("cpu",)
    before = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
    torch.autocast_increment_nesting()
    try:
        for kind in kinds:
            torch.set_autocast_enabled(kind, True)
            torch.set_autocast_dtype(kind, getattr(torch, dtype))
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        for kind, (enabled, earlier) in zip(kinds, before, strict=True):
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, earlier)
