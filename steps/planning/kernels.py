"""What kernels allocate inside, where no dispatcher sees it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode

from steps.planning.sizes import NF4_BLOCK

aten: Any = torch.ops.aten

# Elementwise operations of two tensors, which the CPU's `TensorIterator` computes in one format.
_ELEMENTWISE = {
    aten.add.Tensor,
    aten.add_.Tensor,
    aten.sub.Tensor,
    aten.sub_.Tensor,
    aten.mul.Tensor,
    aten.mul_.Tensor,
    aten.div.Tensor,
    aten.div_.Tensor,
}


def hidden_bytes(func: Any, args: Any, out: Any, device: str) -> int:
    """Bytes that one operation's kernel takes for itself, beside its result.

    Args:
        func: The operation.
        args: Its arguments.
        out: Its result.
        device: "cpu" or "cuda".
    """
    if device == "cpu" and func in _ELEMENTWISE:
        return _widened(args)
    rule = _RULES.get(func.overloadpacket._qualified_op_name)
    hidden: int = 0 if rule is None else rule(args, out, device)
    return hidden


def _widened(args: Any) -> int:
    """The copies of narrower operands, for the time of the operation.

    CUDA's elementwise kernels read them as they are.
    """
    a, b = args[0], args[1]
    if not isinstance(b, torch.Tensor) or a.dtype == b.dtype or 0 in (a.dim(), b.dim()):
        return 0
    common = torch.promote_types(a.dtype, b.dtype)
    return int(sum(x.numel() * common.itemsize for x in (a, b) if x.dtype != common))


def _product_with_4_bits(args: Any, out: Any, device: str) -> int:
    """The dequantised weight, and with double quantisation its scales."""
    weights: int = math.prod(args[2])
    width: int = args[0].element_size()
    return weights * width + 4 * math.ceil(weights / NF4_BLOCK)


def _flash_backward(args: Any, out: Any, device: str) -> int:
    """CUDA's flash attention sums the queries' gradient up in float32."""
    return 4 * int(args[1].numel()) if device == "cuda" else 0


def _int8_product(args: Any, out: Any, device: str) -> int:
    """The product in int32, before the scales are applied."""
    product = out[0] if isinstance(out, tuple) else out
    return 4 * int(product.numel())


_RULES = {
    "bitsandbytes::int8_mixed_scaled_mm": _int8_product,
    "bitsandbytes::int8_scaled_mm": _int8_product,
    "bitsandbytes::gemm_4bit": _product_with_4_bits,
    "aten::_scaled_dot_product_flash_attention_backward": _flash_backward,
    "aten::_scaled_dot_product_efficient_attention_backward": _flash_backward,
}


@contextmanager
def running_on(device: str, live: Any) -> Iterator[None]:
    """Run what is in a block on planned tensors, as on a device that need not be here.

    Args:
        device: "cpu" or "cuda".
        live: The `LiveTensors` that count.
    """
    with live, ChosenKernels(device), _as_if_on_gpu(device, live), _few_blocks_of_the_loss():
        yield


@contextmanager
def _few_blocks_of_the_loss() -> Iterator[None]:
    """Leave out all blocks of the chunked loss but two: they follow one another, and are alike."""

    def first_two(length: int, size: int) -> range:
        return range(0, min(length, 2 * size), size)

    with patch("steps.models.losses.starts_of_blocks", first_two):
        yield


# Of torch's random number generator on a CPU.
RANDOM_STATE_BYTES = 5056


def _random_state() -> torch.Tensor:
    return torch.empty(RANDOM_STATE_BYTES, dtype=torch.uint8)


# The oldest GPU with bfloat16: what newer ones choose takes no more memory.
_AMPERE = (8, 0)


@contextmanager
def _as_if_on_gpu(device: str, live: Any) -> Iterator[None]:
    """Let Python code that asks for a GPU find one, for the time of a block.

    `torch.autocast` turns itself off where there is none, also where a checkpointed layer is
    computed again; and what is offloaded would stay where it is.

    Args:
        device: On "cpu" a checkpointed layer keeps the state of the random numbers, in memory that
            counts there.
        live: The mode that counts what lies in host memory.
    """
    if device == "cpu":
        with patch("torch.get_rng_state", _random_state), patch("torch.set_rng_state"):
            yield
        return

    def to_host(tensor: Any) -> Any:
        with live.counting_as("host"):
            return torch.empty_like(tensor)

    def offload(*_: Any, **__: Any) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(to_host, torch.empty_like)

    with (
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch("torch.cuda.is_bf16_supported", lambda *_, **__: True),
        patch("torch.cuda.get_device_capability", lambda *_: _AMPERE),
        patch("transformers.modeling_utils.save_on_cpu", offload),
    ):
        yield


class ChosenKernels(TorchFunctionMode):
    """Dropout and attention by the kernels that the planned device would choose.

    Torch chooses them by the device's hardware, which need not be here.
    """

    def __init__(self, device: str) -> None:
        """Choose for "cpu" or "cuda"."""
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function."""
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention:
            named = [kwargs.pop(name) for name in ("query", "key", "value") if name in kwargs]
            args = [*args, *named]
            return _attention(self.device, args[:3], *args[3:], **kwargs)
        if self.device == "cuda":
            # Or torch would look for the GPU.
            args = [_on_host(one) for one in args]
            kwargs = {name: _on_host(one) for name, one in kwargs.items()}
            if func is torch.nn.functional.dropout:
                return _fused_dropout(*args, **kwargs)
            if func in _IN_FLOAT32 and torch.is_autocast_enabled("cuda"):
                args = [_as_float32(one) for one in args]
                kwargs = {name: _as_float32(one) for name, one in kwargs.items()}
        return func(*args, **kwargs)


# What autocast computes in float32 on CUDA, and on a CPU in the format that comes
# (`AT_FORALL_FP32` in torch's autocast_mode.h), of what language models use.
_IN_FLOAT32 = {
    torch.nn.functional.layer_norm,
    torch.nn.functional.group_norm,
    torch.nn.functional.softmax,
    torch.nn.functional.log_softmax,
    torch.nn.functional.cross_entropy,
    torch.nn.functional.softplus,
    torch.softmax,
    torch.log_softmax,
    torch.pow,
    torch.rsqrt,
    torch.exp,
    torch.log,
    torch.cumsum,
    torch.norm,
    torch.Tensor.softmax,
    torch.Tensor.pow,
    torch.Tensor.__pow__,
    torch.Tensor.rsqrt,
    torch.Tensor.exp,
    torch.Tensor.log,
    torch.Tensor.cumsum,
}


def _on_host(value: Any) -> Any:
    on_gpu = isinstance(value, torch.device) and value.type == "cuda"
    return torch.device("cpu") if on_gpu else value


def _as_float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value


def _fused_dropout(x: Any, p: float = 0.5, training: bool = True, *_: Any, **__: Any) -> Any:
    """CUDA keeps a mask of one byte; the CPU's plain path one in the tensor's own format."""
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x


def _attention(
    device: str,
    vectors: Sequence[Any],
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """`scaled_dot_product_attention` as `_fused_sdp_choice` decides on a CPU or since Ampere."""
    query, key, value = vectors
    plain = torch.nn.functional.scaled_dot_product_attention
    learned_mask = attn_mask is not None and attn_mask.requires_grad
    same_width = query.shape[-1] == value.shape[-1]
    broadcast = not enable_gqa and query.shape[-3] != key.shape[-3]
    on_cpu = device == "cpu" and (dropout_p > 0 or not same_width)
    if learned_mask or broadcast or on_cpu:
        return plain(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if attn_mask is not None and attn_mask.dtype != query.dtype:
        # Of a boolean mask a copy with 0 and minus infinity.
        attn_mask = torch.empty_like(attn_mask, dtype=query.dtype)
    if device == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )[0]
    half = query.dtype in (torch.float16, torch.bfloat16)
    if attn_mask is None and half and same_width and query.shape[-1] <= 256:
        return aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    if enable_gqa and key.shape[-3] != query.shape[-3]:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]
