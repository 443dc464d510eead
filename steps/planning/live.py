"""Tensors with a size and no content, and the mode that counts those that live.

`Planned` is torch's meta tensor (shapes, number formats, views and aliases, no content) that
autograd and autocast take for one of a CPU or a GPU, which need not be here. `LiveTensors`
runs every operation on it by torch's own meta kernels, counts the storages that come and go, and
adds what kernels allocate inside, where no dispatcher sees it (`steps.planning.kernels`).
"""

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from steps.planning.kernels import hidden_bytes
from steps.planning.sizes import PARTS

aten: Any = torch.ops.aten
_device_of: Any = torch.ops.prim.device.default
_META = torch.device("meta")

# What torch's C++ takes every planned device for: its autograd engine looks for a GPU's streams,
# and a GPU need not be here. What a GPU does otherwise is in `steps.planning.kernels`.
_HOST = torch.device("cpu")


class Planned(torch.Tensor):
    """A meta tensor that says it is on the device that is planned for."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    device_type = "cpu"
    # It has no content, whatever its device.
    is_meta = True
    # Torch's meta kernels in Python ask for the device, too, and then it is meta.
    in_kernel = False

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device that is planned for."""
        return _META if Planned.in_kernel else torch.device(Planned.device_type)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse to run outside of `LiveTensors`: there is nothing to compute on."""
        if func is _device_of:
            return _META if Planned.in_kernel else _HOST
        raise RuntimeError(f"{func} on a tensor that is only planned")


def planned(meta: torch.Tensor, kind: type[Planned] = Planned) -> torch.Tensor:
    """A planned tensor of the size, and on the storage, of a meta tensor."""
    return torch.Tensor._make_subclass(  # type: ignore[attr-defined, no-any-return]
        kind,
        meta,
        False,
        dispatch_device=True,
        device_for_backend_keys=_HOST,
    )


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operations on planned tensors, and remembers the peak of each moment by part.

    Attributes:
        part: What a new tensor counts as.
        peaks: For each moment its largest sum of living bytes, by part.
        moment_of: In the backward pass, the moment that a node of the graph belongs to.
        positions: How many entries of a mask of so many are true, where a mask picks.
        length: Tokens of a row: what the largest position is taken to be.
        pads: Whether some row of the batch is padded.
    """

    def __init__(self, length: int, positions: Callable[[int], int], pads: bool = False) -> None:
        """Begin with nothing alive.

        Args:
            length: Tokens of a row.
            positions: Of a mask's entries, those that are true.
            pads: Whether some row of the batch is padded.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.part = "activations"
        self.live = dict.fromkeys((*PARTS, "host"), 0)
        self.total = self.most_on_host = 0
        self.peaks: dict[str, dict[str, int]] = {}
        self._largest: dict[str, int] = {}
        self._moment = "forward"
        self.moment_of: Callable[[Any], str | None] | None = None
        self.length, self.positions, self.pads = length, positions, pads
        self._parts: dict[int, tuple[str, int]] = {}
        self._watched: dict[int, Any] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; torch's guard against it costs a third of the time."""
        return False

    def enter(self, moment: str) -> None:
        """Begin a moment of the step."""
        self._moment = moment
        self._note(0)

    def count(self, tensor: torch.Tensor, part: str | None = None) -> None:
        """Count a tensor's memory as living, until the last one that looks at it is gone."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._parts:
            return
        size = storage.nbytes()

        def forget(_: Any) -> None:
            gone, _size = self._parts.pop(key)
            del self._watched[key]
            self.live[gone] -= size
            self.total -= size if gone != "host" else 0

        part = part or self.part
        self._parts[key] = part, size
        self._watched[key] = weakref.ref(storage, forget)
        self.live[part] += size
        if part == "host":
            self.most_on_host = max(self.most_on_host, self.live["host"])
        else:
            self.total += size
            self._note(0)

    def move(self, tensor: torch.Tensor, part: str) -> None:
        """Count a living tensor as another part."""
        key = tensor.untyped_storage()._cdata
        before, size = self._parts[key]
        self.live[before] -= size
        self.live[part] += size
        self._parts[key] = part, size

    @contextmanager
    def counting_as(self, part: str) -> Iterator[None]:
        """Count what is made in a block as another part."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def _note(self, scratch: int) -> None:
        if self.moment_of is not None:
            self._moment = self.moment_of(torch._C._current_autograd_node()) or self._moment
        total = self.total + scratch
        if total > self._largest.get(self._moment, -1):
            self._largest[self._moment] = total
            parts = {part: size for part, size in self.live.items() if part != "host"}
            parts[self.part] += scratch
            self.peaks[self._moment] = parts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        if func is _device_of:
            return _META if Planned.in_kernel else _HOST
        kwargs = dict(kwargs or {})
        special = _SPECIAL.get(func) or _SPECIAL.get(func.name())
        if special is not None:
            answered, out = special(self, func, args, kwargs)
            if not answered:
                args, special = out, None
        if special is None:
            if _has_device(func):
                kwargs["device"] = _META
                kwargs.pop("pin_memory", None)
            out = _run_on_meta(func, types, args, kwargs)
        out = self._counted(out)
        scratch = hidden_bytes(func, args, out, Planned.device_type)
        if scratch:
            self._note(scratch)
        if isinstance(out, torch.Tensor) and out.dim() == 0:
            out.origin = func  # type: ignore[attr-defined]
        return out

    def _counted(self, out: Any) -> Any:
        if isinstance(out, torch.Tensor):
            if not isinstance(out, Planned) and out.device.type == "meta":
                out = planned(out)
            self.count(out)
            return out
        if isinstance(out, (tuple, list)):
            return type(out)(self._counted(one) for one in out)
        return out


def _run_on_meta(func: Any, types: Any, args: Any, kwargs: Any) -> Any:
    args = _as_meta(args)
    guards = torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction()
    # Above the CPU's and CUDA's own kernels, which are what the keys ask for.
    torch._C._set_meta_in_tls_dispatch_include(bool(types))
    Planned.in_kernel = True
    try:
        return func(*args, **kwargs)
    finally:
        Planned.in_kernel = False
        torch._C._set_meta_in_tls_dispatch_include(False)
        del guards


def _as_meta(args: Any) -> Any:
    """Real constants among planned tensors (`torch.tensor([...])` in a forward) as meta tensors."""
    if not any(
        isinstance(one, (list, tuple))
        or (isinstance(one, torch.Tensor) and not isinstance(one, Planned) and one.dim() > 0)
        for one in args
    ):
        return args
    return [
        _as_meta(one)
        if isinstance(one, (list, tuple))
        else torch.empty_like(one, device=_META)
        if isinstance(one, torch.Tensor) and not isinstance(one, Planned) and one.dim() > 0
        else one
        for one in args
    ]


_WITH_DEVICE: dict[Any, bool] = {}


def _has_device(func: Any) -> bool:
    known = _WITH_DEVICE.get(func)
    if known is None:
        known = any(argument.name == "device" for argument in func._schema.arguments)
        _WITH_DEVICE[func] = known
    return known


# Operations whose result depends on content, or that the real engine does otherwise. Each answers
# (True, result), or (False, the arguments to run the operation with).


def _item(mode: LiveTensors, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    """`tensor.item()`: what the batch would answer, whose masks are all ones only if none pads."""
    tensor = args[0]
    if not isinstance(tensor, Planned):
        return False, args
    if tensor.dtype == torch.bool:
        origin = getattr(tensor, "origin", None)
        # `mask.all()`, and `mask.sum() == mask.numel()`, which transformers takes for it.
        asks_for_all = getattr(origin, "overloadpacket", None) in (aten.all, aten.eq)
        return True, asks_for_all and not mode.pads
    return True, 1.0 if tensor.dtype.is_floating_point else mode.length


def _picked(mode: LiveTensors, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    """Indexing by a mask: as many entries as the batch's targets."""
    indices = args[1]
    if not any(one is not None and one.dtype == torch.bool for one in indices):
        return False, args
    made: list[Any] = []
    for one in indices:
        if one is None or one.dtype != torch.bool:
            made.append(one)
        else:
            number = mode.positions(one.numel())
            made += [torch.empty(number, dtype=torch.int64, device=_META)] * one.dim()
    return False, (args[0], made, *args[2:])


def _nonzero(mode: LiveTensors, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    number = mode.positions(args[0].numel())
    return True, torch.empty((number, args[0].dim()), dtype=torch.int64, device=_META)


def _in_8_bits(mode: LiveTensors, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    """`int8_vectorwise_quant`: how many columns hold outliers is in the content; none here."""
    rows = args[0].numel() // args[0].shape[-1]
    return True, (
        torch.empty(args[0].shape, dtype=torch.int8, device=_META),
        torch.empty(rows, dtype=torch.float32, device=_META),
        torch.empty(0, dtype=torch.int64, device=_META),
    )


def _product_in_8_bits(mode: LiveTensors, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    """`int8_mixed_scaled_mm`, without outliers."""
    shape = (*args[1].shape[:-1], args[2].shape[0])
    nothing = torch.empty(0, dtype=torch.int64, device=_META)
    return True, (torch.empty(shape, dtype=args[0].dtype, device=_META), nothing)


def _experts(mode: LiveTensors, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    """`_grouped_mm`, of which the meta kernel knows CUDA's number format alone."""
    a, b = args[:2]
    if a.dim() == 2 and b.dim() == 2:
        groups = (args[2] if len(args) > 2 else kwargs["offs"]).shape[0]
        shape: tuple[int, ...] = (groups, a.shape[0], b.shape[1])
    else:
        shape = (*a.shape[:-1], b.shape[-1])
    return True, _new(shape, a.dtype)


def _copy_to(mode: LiveTensors, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    """`to(device)` of what is there already: no copy."""
    dtype = kwargs.get("dtype")
    same = dtype in (None, args[0].dtype) and kwargs.get("memory_format") is None
    if kwargs.get("device") is not None and isinstance(args[0], Planned) and same:
        return True, _run_on_meta(aten.alias.default, (Planned,), args[:1], {})
    return False, args


def _engine_sum(mode: LiveTensors, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    """Where gradients meet, the engine adds in place what nobody else refers to.

    A dispatch mode switches that off, so it is done here: the sum is the first operand's memory.
    """
    if mode.moment_of is None or not _called_by_engine():
        return _elementwise(mode, func, args, kwargs)
    first = args[0]
    assert isinstance(first, torch.Tensor)
    storage = first.untyped_storage()
    accumulates = torch._C._current_autograd_node().name() == "torch::autograd::AccumulateGrad"
    alone = torch._C._storage_Use_Count(storage._cdata) <= _USES_OF_A_SOLE_GRADIENT
    if accumulates or alone:
        return True, _run_on_meta(aten.alias.default, (Planned,), (first,), {})
    return False, args


# Torch's own meta kernels of these are in Python, and take 0.1 to 2 ms; there are thousands in a
# step.


def _elementwise(mode: LiveTensors, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    """A function of one tensor, or of two of one shape."""
    a, b = args[0], args[1] if len(args) > 1 else None
    if not isinstance(a, Planned) or kwargs or len(args) > 2 or not a.dtype.is_floating_point:
        return False, args
    dtype = a.dtype
    # A number, or a tensor that holds one, changes neither shape nor format.
    if isinstance(b, torch.Tensor) and b.dim() > 0:
        if a.shape != b.shape or not b.is_contiguous():
            return False, args
        dtype = torch.promote_types(a.dtype, b.dtype)
    if not a.is_contiguous():
        return False, args
    return True, _new(a.shape, dtype)


def _dropout(mode: LiveTensors, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    return True, (_new(args[0].shape, args[0].dtype), _new(args[0].shape, torch.bool))


def _like_first(mode: LiveTensors, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    if kwargs or not isinstance(args[0], Planned) or not args[0].is_contiguous():
        return False, args
    return True, _new(args[0].shape, args[0].dtype)


def _new(shape: Any, dtype: torch.dtype) -> torch.Tensor:
    guard = torch._C.DisableTorchFunction()
    try:
        return torch.empty(shape, dtype=dtype, device=_META)
    finally:
        del guard


# The storage's own tensor, and the handle by which its uses are counted.
_USES_OF_A_SOLE_GRADIENT = 2


def _called_by_engine() -> bool:
    frame = sys._getframe(2)
    while frame.f_code.co_filename.endswith(("_compile.py", "eval_frame.py", "live.py")):
        assert frame.f_back is not None
        frame = frame.f_back
    return frame.f_code.co_name == "_engine_run_backward"


_SPECIAL: dict[Any, Callable[[LiveTensors, Any, Any, Any], tuple[bool, Any]]] = {
    aten._local_scalar_dense.default: _item,
    aten.index.Tensor: _picked,
    aten._unsafe_index.Tensor: _picked,
    aten.index_put.default: _picked,
    aten.index_put_.default: _picked,
    aten._index_put_impl_.default: _picked,
    aten.nonzero.default: _nonzero,
    aten._grouped_mm.default: _experts,
    aten._to_copy.default: _copy_to,
    aten.add.Tensor: _engine_sum,
    aten.mul.Tensor: _elementwise,
    aten.neg.default: _elementwise,
    aten.rsqrt.default: _elementwise,
    aten.pow.Tensor_Scalar: _elementwise,
    aten.silu.default: _elementwise,
    aten.gelu.default: _elementwise,
    aten.native_dropout.default: _dropout,
    aten.native_dropout_backward.default: _like_first,
    aten.empty_like.default: _like_first,
    # By name: bitsandbytes takes a second to import, and most plans do without.
    "bitsandbytes::int8_vectorwise_quant": _in_8_bits,
    "bitsandbytes::int8_mixed_scaled_mm": _product_in_8_bits,
}
