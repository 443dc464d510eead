"""LoRA on a frozen layer as one autograd function: less to compute, and less to remember.

peft composes an adapted layer of five operations, each of which autograd watches. Under bfloat16
it copies the input to float32 and back for every layer that reads it, keeps each copy, and adds
the adapter's share in a pass of its own. Here a layer is one function that keeps its input as it
came and the r numbers a token between A and B, and adds the adapter's share inside the product.
A gated MLP (LLaMA's) is one function over its three layers: what lies between the activation and
the last layer is computed again in the backward pass, from what has to be kept anyway.

    counts = fuse_adapters(model, placement)    # a PeftModel; changes no weight

The weights, the modules and what is saved are peft's, unchanged. Without gradients (validation,
generation) a layer runs peft's own code, and so it does for whatever is not covered here: DoRA, an
8-bit base, a bias that is trained, several adapters. Dropout is drawn here as well: torch draws a
random number for each element, which on a CPU takes a third of a training step (see `draw_mask`).
"""

import types
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from steps.models.devices import Placement


@dataclass(frozen=True)
class FusedCounts:
    """What was fused.

    Attributes:
        layers: Adapted layers that are one function each, those of fused MLPs included.
        mlps: MLPs whose three layers are one function.
        left: How many layers run peft's code, by the reason.
    """

    layers: int = 0
    mlps: int = 0
    left: Mapping[str, int] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of a run has to know about it."""
        if not self.left:
            return ()
        reasons = ", ".join(f"{reason} ({number})" for reason, number in self.left.items())
        left = sum(self.left.values())
        return (
            f"{left} of {self.layers + left} adapted layers run peft's own code, slower and with "
            f"more memory, because of {reasons}",
        )


def fuse_adapters(model: Any, placement: Placement) -> FusedCounts:
    """Let the adapted layers of a model compute as one function each while they are trained.

    Args:
        model: A `PeftModel`; where it is none, or its adapter no LoRA, nothing is done.
        placement: Under ZeRO-3 and FSDP2 nothing is done: weights are gathered inside their
            modules alone.
    """
    return use_fused_adapters(model) if may_be_fused(placement) else FusedCounts()


def may_be_fused(placement: Placement) -> bool:
    """Whether weights are at hand outside their modules."""
    return placement.zero_stage != 3 and not placement.fully_sharded


def use_fused_adapters(model: Any) -> FusedCounts:
    """`fuse_adapters`, whatever the placement."""
    from peft.tuners.lora import LoraLayer

    left: Counter[str] = Counter()
    layers = 0
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        reason = why_not_fused(module)
        if reason:
            left[reason] += 1
            continue
        _bind(module, _layer_forward)
        layers += 1
    mlps = [module for module in model.modules() if _is_gated_mlp(module)]
    for module in mlps:
        _bind(module, _mlp_forward)
    return FusedCounts(layers, len(mlps), dict(left))


def why_not_fused(layer: Any) -> str:
    """Why peft's own code is to compute an adapted layer; "" where the fused function may.

    Args:
        layer: A `LoraLayer`.
    """
    base = layer.get_base_layer()
    if "forward" in vars(base) or ("forward" in vars(layer) and not _is_bound(layer)):
        return "a forward pass that somebody has changed"
    if not (_is_linear(base) or _is_4bit(base)):
        return f"a base layer of type {type(base).__name__}"
    if len(layer.active_adapters) != 1 or set(layer.lora_A) != set(layer.active_adapters):
        return "several adapters"
    (name,) = layer.active_adapters
    if name in layer.lora_variant:
        return type(layer.lora_variant[name]).__name__.removesuffix("LinearVariant")
    if type(layer.lora_dropout[name]) not in (nn.Identity, nn.Dropout):
        return f"a dropout of type {type(layer.lora_dropout[name]).__name__}"
    if layer.lora_bias.get(name):
        return "a bias of the adapter"
    if any(weight.requires_grad for weight in base.parameters()):
        return "a base layer that is trained"
    return ""


def _is_linear(module: nn.Module) -> bool:
    # Not a subclass: those multiply in ways of their own.
    return type(module) is nn.Linear


def _is_4bit(module: nn.Module) -> bool:
    return type(module).__name__ == "Linear4bit"


def _bind(module: nn.Module, fused: Any) -> None:
    """Let a module try the fused function first, and else compute as its class does."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != 1:
            return type(self).forward(self, *args, **kwargs)
        return fused(self, args[0])

    forward.is_fused = True  # type: ignore[attr-defined]
    # Bound to the module, and no more: a deep copy of a model computes with its own weights.
    module.forward = types.MethodType(forward, module)  # type: ignore[method-assign]


def _is_bound(module: nn.Module) -> bool:
    return getattr(vars(module).get("forward"), "is_fused", False)


def _layer_forward(layer: Any, x: Tensor) -> Tensor:
    dtype = _computes_in(layer, x)
    if dtype is None:
        plain: Tensor = type(layer).forward(layer, x)
        return plain
    adapted = _Adapted.of(layer)
    output = _LoraLinear.apply(x, adapted, dtype, *adapted.weights)  # type: ignore[no-untyped-call]
    assert isinstance(output, Tensor)
    return output


def _mlp_forward(mlp: Any, x: Tensor) -> Tensor:
    layers = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    formats = {_computes_in(layer, x) for layer in layers}
    if len(formats) > 1 or None in formats:
        plain: Tensor = type(mlp).forward(mlp, x)
        return plain
    adapted = tuple(_Adapted.of(layer) for layer in layers)
    weights = [weight for one in adapted for weight in one.weights]
    output = _LoraGatedMlp.apply(x, adapted, formats.pop(), *weights)  # type: ignore[no-untyped-call]
    assert isinstance(output, Tensor)
    return output


def _computes_in(layer: Any, x: Tensor) -> torch.dtype | None:
    """The number format of a fused product; None: peft's code has to do it.

    Without gradients nothing is gained, and scores stay those of whoever loads the adapter.
    """
    if not torch.is_grad_enabled() or layer.disable_adapters or layer.merged:
        return None
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    (name,) = layer.active_adapters
    base = layer.get_base_layer()
    stored = x.dtype if _is_4bit(base) else base.weight.dtype
    same = x.dtype == layer.lora_A[name].weight.dtype == stored
    return x.dtype if same else None


def _is_gated_mlp(module: Any) -> bool:
    """Whether a module is down(silu(gate(x)) * up(x)) on three layers that are fused already."""
    names = ("gate_proj", "up_proj", "down_proj")
    parts = dict(module.named_children())
    if set(parts) != {*names, "act_fn"}:
        return False
    if not all(_is_bound(parts[name]) for name in names):
        return False
    return _computes_gated_product(module)


def _computes_gated_product(module: Any) -> bool:
    """Try an MLP's class on small numbers: what stands between its layers is its own affair."""
    width, inner = 2, 3
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.no_grad():
        trial = types.SimpleNamespace(
            gate_proj=nn.Linear(width, inner),
            up_proj=nn.Linear(width, inner),
            down_proj=nn.Linear(inner, width),
            act_fn=module.act_fn,
            config=getattr(module, "config", None),
        )
        x = torch.tensor([[0.5, -1.5], [2.0, 0.25]])
        expected = trial.down_proj(functional.silu(trial.gate_proj(x)) * trial.up_proj(x))
        try:
            found = type(module).forward(trial, x)
        except (AttributeError, TypeError, RuntimeError):
            return False
    return isinstance(found, Tensor) and torch.allclose(found, expected, atol=1e-6)


_STEPS_OF_DROPOUT = 2**16


def share_left_out(dropout: float) -> float:
    """The probability of dropout as it is drawn: the nearest multiple of 2^-16."""
    return round(dropout * _STEPS_OF_DROPOUT) / _STEPS_OF_DROPOUT


def draw_mask(x: Tensor, dropout: float) -> Tensor:
    """Draw which elements dropout leaves, from torch's generator, in 16 bits an element.

    Four elements share a random number of 64 bits. `bernoulli_` draws one for each, 8 times slower
    on a CPU: 10 ms for 1,816 tokens of width 576, of which a model has hundreds.

    Args:
        x: The input; its shape and device count.
        dropout: The probability that an element is left out; `share_left_out` is used.

    Returns:
        1 for an element that is left and 0 for others, uint8, in the shape of `x`.
    """
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    numbers.random_(torch.iinfo(torch.int64).min, None)
    least = torch.iinfo(torch.int16).min + round(dropout * _STEPS_OF_DROPOUT)
    left = numbers.view(torch.int16)[: x.numel()] >= least
    return left.view(torch.uint8).view(x.shape)


def _thinned(x: Tensor, mask: Tensor | None) -> Tensor:
    """Dropout as it was drawn, not scaled up; of an input and of its gradient alike."""
    return x if mask is None else x * mask


@dataclass(frozen=True)
class _Kept:
    """What a layer needs for its backward pass besides its input.

    Attributes:
        inner: x A^T of the thinned x, tokens by r.
        mask: 1 where dropout has left x and 0 elsewhere, in bytes; None: there is no dropout.
    """

    inner: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class _Adapted:
    """One adapted layer, taken apart: y = base(x) + scale * (dropout(x) A^T) B^T.

    Hu et al. 2021, arXiv:2106.09685, section 4.1. In the methods, tensors are matrices of tokens by
    width in one number format.
    """

    base: Any
    a: Tensor
    b: Tensor
    scaling: float
    dropout: float

    @classmethod
    def of(cls, layer: Any) -> "_Adapted":
        (name,) = layer.active_adapters
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        thins = layer.lora_dropout[name]
        dropout = thins.p if isinstance(thins, nn.Dropout) and thins.training else 0.0
        return cls(layer.get_base_layer(), a, b, layer.scaling[name], dropout)

    @property
    def weights(self) -> tuple[Tensor, Tensor]:
        return self.a, self.b

    @property
    def scale(self) -> float:
        """What stands before the product; what dropout leaves is scaled up here."""
        return self.scaling / (1 - share_left_out(self.dropout))

    def output(self, x: Tensor) -> tuple[Tensor, _Kept]:
        """The layer's output, and what its backward pass needs."""
        mask = draw_mask(x, self.dropout) if self.dropout else None
        inner = _thinned(x, mask) @ self.a.to(x.dtype).T
        y = self.base(x) if _is_4bit(self.base) else self._product(x)
        return y.addmm_(inner, self.b.to(x.dtype).T, alpha=self.scale), _Kept(inner, mask)

    def _product(self, x: Tensor) -> Tensor:
        bias = self.base.bias
        return functional.linear(
            x, self.base.weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        )

    def gradients(
        self, slope: Tensor, x: Tensor, kept: _Kept, into: Tensor | None, wanted: bool = True
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gradients of x, A and B, given that of the output.

        Args:
            slope: The gradient of the output.
            x: What the layer was given.
            kept: From `output`.
            into: The gradient of x so far, which this one is added to; None: there is none.
            wanted: Whether the gradient of x is.
        """
        slope_of_inner = (slope @ self.b.to(slope.dtype)).mul_(self.scale)
        of_a = slope_of_inner.T @ _thinned(x, kept.mask)
        of_b = (slope.T @ kept.inner).mul_(self.scale)
        if not wanted:
            return None, of_a.to(self.a.dtype), of_b.to(self.b.dtype)
        weight, a = self._frozen_weight(slope.dtype), self.a.to(slope.dtype)
        into = slope @ weight if into is None else into.addmm_(slope, weight)
        if kept.mask is None:
            into.addmm_(slope_of_inner, a)
        else:
            into.add_(_thinned(slope_of_inner @ a, kept.mask))
        return into, of_a.to(self.a.dtype), of_b.to(self.b.dtype)

    def _frozen_weight(self, dtype: torch.dtype) -> Tensor:
        if not _is_4bit(self.base):
            weight: Tensor = self.base.weight
            return weight.to(dtype)
        from bitsandbytes.functional import dequantize_4bit

        packed = self.base.weight
        dequantised: Tensor = dequantize_4bit(packed.data, packed.quant_state)
        return dequantised.to(dtype)


def _as_matrix(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.reshape(-1, x.shape[-1]).to(dtype)


def _shaped_like(y: Tensor, x: Tensor) -> Tensor:
    """The rows of `y` in the batch of `x`, and no view: Longformer divides it in its place."""
    shaped: Tensor = torch.ops.aten._unsafe_view(y, [*x.shape[:-1], y.shape[-1]])
    return shaped


class _LoraLinear(torch.autograd.Function):
    """`_Adapted` as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layer: _Adapted, dtype: torch.dtype, a: Tensor, b: Tensor
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            given = _as_matrix(x, dtype)
            y, kept = layer.output(given)
        # As it came, where it needed no cast: then several layers keep one tensor.
        ctx.save_for_backward(x if x.dtype == dtype else given, kept.inner, kept.mask)
        ctx.layer, ctx.dtype, ctx.given_dtype, ctx.shape = layer, dtype, x.dtype, x.shape
        return _shaped_like(y, x)

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, *kept = ctx.saved_tensors
        given, slope = _as_matrix(x, ctx.dtype), _as_matrix(slopes[0], ctx.dtype)
        wanted = ctx.needs_input_grad[0]
        of_x, of_a, of_b = ctx.layer.gradients(slope, given, _Kept(*kept), None, wanted)
        if of_x is not None:
            of_x = of_x.view(ctx.shape).to(ctx.given_dtype)
        return of_x, None, None, of_a, of_b


class _LoraGatedMlp(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)), each layer as `_Adapted`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layers: tuple[_Adapted, _Adapted, _Adapted],
        dtype: torch.dtype,
        *weights: Tensor,
    ) -> Tensor:
        gate, up, down = layers
        with torch.autocast(x.device.type, enabled=False):
            given = _as_matrix(x, dtype)
            gated, of_gate = gate.output(given)
            raised, of_up = up.output(given)
            y, of_down = down.output(functional.silu(gated).mul_(raised))
        small = [tensor for kept in (of_gate, of_up, of_down) for tensor in (kept.inner, kept.mask)]
        ctx.save_for_backward(x if x.dtype == dtype else given, gated, raised, *small)
        ctx.layers, ctx.dtype, ctx.given_dtype, ctx.shape = layers, dtype, x.dtype, x.shape
        return _shaped_like(y, x)

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, gated, raised, *small = ctx.saved_tensors
        kept_gate, kept_up, kept_down = _Kept(*small[:2]), _Kept(*small[2:4]), _Kept(*small[4:])
        gate, up, down = ctx.layers
        given, slope = _as_matrix(x, ctx.dtype), _as_matrix(slopes[0], ctx.dtype)
        activated = functional.silu(gated)
        of_product, *of_down = down.gradients(slope, activated * raised, kept_down, None)
        assert of_product is not None
        of_raised = activated.mul_(of_product)
        of_gated = torch.ops.aten.silu_backward(of_product.mul_(raised), gated)
        wanted = ctx.needs_input_grad[0]
        of_x, *of_up = up.gradients(of_raised, given, kept_up, None, wanted)
        of_x, *of_gate = gate.gradients(of_gated, given, kept_gate, of_x, wanted)
        if of_x is not None:
            of_x = of_x.view(ctx.shape).to(ctx.given_dtype)
        return of_x, None, None, *of_gate, *of_up, *of_down
