"""The model of a training step without its weights: built, quantised, adapted, cut to a depth.

Everything is the real thing: the class of transformers, the linear layers of bitsandbytes, the
adapters of peft, this project's attention and loss. Only the weights are planned tensors.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from steps.config.sections import Qlora
from steps.errors import UserError
from steps.models.adapters import add_adapter
from steps.models.attention import (
    PER_DOCUMENT_SDPA,
    register_per_document_attention,
    why_not_packed,
)
from steps.models.fused import use_fused_adapters
from steps.models.heads import LogitHead, find_logit_head
from steps.models.layout import LayoutKind
from steps.models.loading import unquantised_modules
from steps.models.losses import use_loss_of_head, use_masked_loss
from steps.models.reached import reached_layers, remember_reached_layers
from steps.models.sources import Objective
from steps.planning.kernels import running_on
from steps.planning.live import LiveTensors, Planned, planned
from steps.planning.models import ModelToPlan, plain_model
from steps.planning.sizes import NF4_BLOCK, NF4_NESTED_BLOCK, StepSettings

# What a trial finds of classes that declare to take borders or padding (`steps.models.layout`).
_PADDED = {
    *("stablelm", "falcon", "bloom", "gptj", "nemotron", "gpt_neo", "gpt_oss", "mpt"),
    *("deberta", "deberta-v2", "mpnet", "esm", "longformer", "luke", "megatron-bert"),
    *("mobilebert", "squeezebert"),
}
# What peft calls the modules of its own.
ADAPTER_PARTS = (".lora_", ".modules_to_save.", ".trainable_tokens_delta.")
_SINGLE = {"convbert", "funnel", "fnet", "nystromformer"}


def declared_layout(model: Any) -> LayoutKind:
    """How documents are laid out for a model, as far as its class tells.

    `steps.models.layout.find_layout` finds it by trying, which takes weights.

    Args:
        model: A `PreTrainedModel` on any device, the meta device too.
    """
    if model.config.model_type in _SINGLE:
        return "single"
    if model.config.model_type in _PADDED or why_not_packed(model):
        return "padded"
    return "packed"


@dataclass(frozen=True)
class Depths:
    """The depths that a model is traced at, and the layers of the whole.

    Attributes:
        layers: The list of layers in the model, or None where it has none that can be cut.
        prefix: Layers before the pattern begins.
        period: Layers of the pattern.
        whole: Layers of the model.
        traced: One depth, or two that are a period apart.
    """

    layers: nn.ModuleList | None
    prefix: int
    period: int
    whole: int
    traced: tuple[int, ...]


def depths_of(model: Any) -> Depths:
    """Find a model's layers, the pattern in which they repeat, and depths that show it.

    At the lesser depth the first layer and the last ones of each kind are there, at the greater one
    those after the first, too: each can hold the peak, and all others lie on the line between them.

    Args:
        model: A `PreTrainedModel` on the meta device.
    """
    lists = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) > 3]
    lists = [one for one in lists if _is_depth(model, len(one))]
    if not lists:
        return Depths(None, 0, 1, 0, (0,))
    layers = max(lists, key=lambda one: sum(weight.numel() for weight in one.parameters()))
    kinds = [_kind(model, layer, i) for i, layer in enumerate(layers)]
    whole = len(kinds)
    prefix, period = _pattern(kinds)
    shortest = prefix + 1 + period
    fewer = shortest + (whole - shortest) % period
    if fewer + period >= whole:
        return Depths(layers, prefix, period, whole, (whole,))
    return Depths(layers, prefix, period, whole, (fewer, fewer + period))


def _is_depth(model: Any, number: int) -> bool:
    return number == getattr(model.config.get_text_config(), "num_hidden_layers", None)


def _kind(model: Any, layer: nn.Module, index: int) -> Any:
    """What tells one layer from another: its modules and sizes, and its kind of attention."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    modules = tuple((name, type(one).__name__) for name, one in layer.named_modules())
    sizes = tuple(weight.shape for weight in layer.parameters())
    return modules, sizes, kinds[index] if index < len(kinds) else ""


def _pattern(kinds: list[Any]) -> tuple[int, int]:
    """The shortest beginning and the shortest period after it, both together at their least."""
    best = (len(kinds), 1)
    for period in range(1, len(kinds) // 2 + 1):
        prefix = len(kinds) - period
        while prefix > 0 and kinds[prefix - 1] == kinds[prefix - 1 + period]:
            prefix -= 1
        if prefix + 2 * period < best[0] + 2 * best[1] and prefix + period < len(kinds):
            best = prefix, period
    return best


@dataclass
class Skeleton:
    """A model that is ready to be traced.

    Attributes:
        model: What is called with a batch: the model, or peft's wrapper of it.
        inner: The `PreTrainedModel`.
        layout: How rows are laid out for it.
        depths: The depths that it can be cut to.
    """

    model: Any
    inner: Any
    layout: LayoutKind
    depths: Depths

    def cut(self, depth: int) -> None:
        """Leave the first layers alone; only ever to fewer."""
        layers = self.depths.layers
        if layers is None or len(layers) == depth:
            return
        del layers[depth:]
        self.inner.config.get_text_config().num_hidden_layers = depth


def skeleton(model: ModelToPlan, settings: StepSettings, layout: LayoutKind | None) -> Skeleton:
    """Build the model of a training step.

    Args:
        model: What is planned.
        settings: Adapter, number format, checkpoints.
        layout: How rows are laid out; None: as the class declares.

    Raises:
        CannotPlan: Transformers cannot build the class.
        UserError: An adapter does not fit it.
    """
    qlora = Qlora.model_validate_json(settings.qlora)
    known = _cut(
        model.with_more_tokens(settings.new_tokens),
        settings.dtype if qlora.adapts else "float32",
        settings.device,
    )
    # A copy, because cutting, quantising and adapting change it.
    inner, depths = copy.deepcopy((known.inner, known.depths))
    built = Skeleton(None, inner, layout or declared_layout(inner), depths)
    remember_reached_layers(inner, known.reached)
    if model.objective == "causal":
        use_loss_of_head(inner, known.head and replace(known.head, model=inner))
    else:
        use_masked_loss(inner)
    if qlora.bits != 16:
        _quantise(inner, qlora, model.objective, settings)
    inner.config.use_cache = False
    if built.layout == "packed":
        register_per_document_attention()
        inner.set_attn_implementation(PER_DOCUMENT_SDPA)
    with _norms_of_packed_weights(getattr(torch, settings.dtype)):
        adapted = _adapted(inner, qlora, model.objective, settings)
    if settings.fused:
        use_fused_adapters(adapted)
    if settings.checkpointing:
        _checkpoint(inner, settings.offloads)
    adapted.train()
    _plan_weights(adapted, getattr(torch, settings.dtype))
    built.model = adapted
    return built


@dataclass(frozen=True)
class _Cut:
    """A model of the depth that is traced, and what a few tokens tell of it.

    Attributes:
        inner: The `PreTrainedModel` on the meta device.
        depths: Its depths.
        head: Its head, taken apart, or None.
        reached: The linear layers that a text passes.
    """

    inner: Any
    depths: Depths
    head: LogitHead | None
    reached: set[str]


@lru_cache(maxsize=4)
def _cut(model: ModelToPlan, dtype: str, device: str) -> _Cut:
    inner = plain_model(model, dtype)
    depths = depths_of(inner)
    Skeleton(None, inner, "single", depths).cut(depths.traced[-1])
    # Another one reads the tokens, as some classes keep what they computed.
    reader = copy.deepcopy(inner)
    head = None
    with running_on(device, LiveTensors(1, lambda entries: entries)):
        if model.objective == "causal":
            head = find_logit_head(reader)
        reached = reached_layers(reader, reader.dtype)
    return _Cut(inner, depths, head, reached)


def _checkpoint(inner: Any, offloads: bool) -> None:
    try:
        inner.activation_checkpointing_enable({"use_reentrant": False}, offload=offloads)
    except ValueError:
        raise UserError(
            f"{type(inner).__name__} cannot compute its activations again in the backward pass: "
            "set training.memory_optimization.gradient_checkpointing to false"
        ) from None


def _adapted(inner: Any, qlora: Qlora, objective: str, settings: StepSettings) -> Any:
    if qlora.adapts:
        tokens = inner.get_input_embeddings().weight.shape[0]
        added = range(tokens - settings.new_tokens, tokens)
        return add_adapter(inner, qlora, objective, new_tokens=added)
    # It reads a text to see which weights one reaches.
    with running_on(settings.device, LiveTensors(settings.length, lambda entries: entries)):
        return add_adapter(inner, qlora, objective)


@contextmanager
def _norms_of_packed_weights(dtype: torch.dtype) -> Iterator[None]:
    """DoRA begins with the norms of the weights, which nothing is packed of yet."""

    def unpacked(module: Any) -> torch.Tensor:
        shape = module.out_features, module.in_features
        return torch.empty(shape, dtype=dtype, device="meta")

    dora = "peft.tuners.lora.dora"
    with (
        patch(f"{dora}.dequantize_module_weight", unpacked),
        patch(f"{dora}.deepcopy", lambda module: module),
    ):
        yield


def _quantise(inner: Any, qlora: Qlora, objective: Objective, settings: StepSettings) -> None:
    """Put bitsandbytes' linear layers in place, as loading does (`steps.models.loading`)."""
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer

    on_gpu_or_half = settings.device != "cpu" or settings.dtype == "bfloat16"
    quantizer = AutoHfQuantizer.from_config(
        BitsAndBytesConfig(
            load_in_4bit=qlora.bits == 4,
            load_in_8bit=qlora.bits == 8,
            llm_int8_skip_modules=unquantised_modules(inner, objective),
            bnb_4bit_compute_dtype=getattr(torch, qlora.quantization.bnb_4bit_compute_dtype)
            if on_gpu_or_half
            else getattr(torch, settings.dtype),
            bnb_4bit_use_double_quant=qlora.quantization.bnb_4bit_use_double_quant,
            bnb_4bit_quant_type=qlora.quantization.bnb_4bit_quant_type,
        )
    )
    quantizer._process_model_before_weight_loading(inner, device_map=None)
    setattr(inner, f"is_loaded_in_{qlora.bits}bit", True)


def _plan_weights(model: Any, dtype: torch.dtype) -> None:
    """Put planned tensors in place of all weights and buffers, quantised ones packed."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is None:
                continue
            if id(weight) not in made:
                made[id(weight)] = _planned_weight(module, weight, dtype)
            module._parameters[name] = made[id(weight)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = planned(_on_meta(buffer))


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


# Peft goes by the names of bitsandbytes' classes.
_Packed4 = type("Params4bit", (Planned,), {})
_Packed8 = type("Int8Params", (Planned,), {})


def _parameter(tensor: torch.Tensor, trained: bool = False, kind: type = Planned) -> Any:
    weight: Any = planned(tensor, kind)
    weight.requires_grad_(trained)
    weight._is_param = True
    return weight


def _planned_weight(module: nn.Module, weight: Any, dtype: torch.dtype) -> Any:
    kind = type(weight).__name__
    if kind == "Params4bit":
        return _in_4_bits(weight, dtype)
    if kind == "Int8Params":
        rows, columns = weight.shape
        made = _parameter(
            torch.empty((rows, columns), dtype=torch.int8, device="meta"), kind=_Packed8
        )
        made.CB, made.SCB = None, None
        state: Any = module.state
        state.CB, state.SCB = made, planned(torch.empty(rows, device="meta"))
        return made
    return _parameter(_on_meta(weight), weight.requires_grad)


def _in_4_bits(weight: Any, dtype: torch.dtype) -> Any:
    """Two weights a byte and one scale for 64, as `bitsandbytes.functional.quantize_4bit` packs.

    The scale is float32, or with double quantisation one byte, with a float32 for 256 of them and
    one offset. Each weight has its own table of the 16 values, and of the scale's 256.
    """
    from bitsandbytes.functional import QuantState

    def tensor(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return planned(torch.empty(size, dtype=dtype, device="meta"))

    blocks = -(-weight.numel() // NF4_BLOCK)
    nested, offset, scales = None, None, tensor(blocks)
    if weight.compress_statistics:
        scales = tensor(blocks, torch.uint8)
        offset = planned(torch.empty((), device="meta"))
        nested = QuantState(
            absmax=tensor(-(-blocks // NF4_NESTED_BLOCK)),
            code=tensor(256),
            blocksize=NF4_NESTED_BLOCK,
            dtype=torch.float32,
        )
    packed = torch.empty((-(-weight.numel() // 2), 1), dtype=torch.uint8, device="meta")
    made = _parameter(packed, kind=_Packed4)
    made.quant_state = QuantState(
        absmax=scales,
        shape=weight.shape,
        code=tensor(16),
        blocksize=NF4_BLOCK,
        quant_type=weight.quant_type,
        dtype=dtype,
        offset=offset,
        state2=nested,
    )
    return made


def tensors_of(model: Any) -> Iterator[tuple[torch.Tensor, str]]:
    """Each tensor that stands before a step, with the part that it counts as."""
    adapted = hasattr(model, "get_base_model")
    for module in model.modules():
        scales = getattr(getattr(module, "state", None), "SCB", None)
        if isinstance(scales, Planned):
            yield scales, "weights"
        for weight in (*module._parameters.values(), *module._buffers.values()):
            if weight is None:
                continue
            packed = getattr(weight, "quant_state", None)
            for level in (packed, getattr(packed, "state2", None)):
                for part in ("absmax", "code", "offset"):
                    if isinstance(getattr(level, part, None), Planned):
                        yield getattr(level, part), "weights"
    for name, weight in model.named_parameters():
        own = adapted and any(part in name for part in ADAPTER_PARTS)
        yield weight, "adapter" if own else "weights"
    for buffer in model.buffers():
        yield buffer, "weights"


@contextmanager
def as_planned_for(device: str) -> Iterator[None]:
    """Have planned tensors be on a device, for the time of a block."""
    before = Planned.device_type
    Planned.device_type = device
    try:
        yield
    finally:
        Planned.device_type = before
