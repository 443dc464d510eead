"""A base under ZeRO-3, of which each rank reads and holds its own share alone.

    loaded = load_base(base, training, dtype, "cpu", settings)
    loaded.model, loaded.whole     # "" or why every process has loaded the whole base

DeepSpeed takes its part of a model that every process has whole. Here a parameter becomes
DeepSpeed's before it has content: its rank's range of the file is copied, the others are never
looked at, and the next parameter follows. 4-bit weights are made one parameter at a time: each rank
quantises the whole of it, keeps its part of the packed bits, and all of their scales, which
bitsandbytes has no way to share out.

transformers has a way of its own (`HfDeepSpeedConfig`): rank 0 reads all of the files and sends
every weight to every rank, and it does not know 4 bits.

A model whose files hold other tensors than its class is loaded whole as ever, and so is whatever
reads weights before DeepSpeed holds them; the run says so.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steps.allocator import give_back_freed_memory
from steps.config.sections import Qlora, Training
from steps.models.loading import (
    WITH_WEIGHTS_READ_PAST_THE_LAYER,
    check_quantised,
    keep_exact_scales,
    load_model,
    quantised_arguments,
    skeleton,
)
from steps.models.quantised import stored_quantisation
from steps.models.sources import Base
from steps.models.stored import StoredTensors

if TYPE_CHECKING:
    import torch

# Architectures whose fused kernels read weights of a layer from outside of it.
_READ_FROM_OUTSIDE = {
    *WITH_WEIGHTS_READ_PAST_THE_LAYER,
    *("mamba2", "falcon_h1", "nemotron_h", "bamba", "zamba", "zamba2", "jamba"),
}


@dataclass(frozen=True)
class LoadedBase:
    """A base in memory.

    Attributes:
        model: The `PreTrainedModel`; in shares, its parameters are DeepSpeed's and empty.
        whole: Why each process has loaded all of it under ZeRO-3; "" where none has, or without
            ZeRO-3.
    """

    model: Any
    whole: str = ""

    @property
    def note(self) -> str:
        """What the reader of a run under ZeRO-3 has to know."""
        if self.whole:
            return f"ZeRO-3: each process loads the base whole and then shares it out: {self.whole}"
        return "ZeRO-3: each process reads its own share of the base"


def load_base(
    base: Base,
    training: Training,
    dtype: "torch.dtype",
    device: str,
    settings: Mapping[str, Any] | None,
) -> LoadedBase:
    """Load the base of a training, in shares where DeepSpeed shares weights out; all ranks call it.

    Args:
        base: What to load.
        training: The configuration.
        dtype: Number format of the weights; under DeepSpeed also of what 4-bit ones lie in.
        device: "cpu" or "cuda".
        settings: From `deepspeed_settings`; None: without DeepSpeed.

    Raises:
        UserError: See `load_model`.
    """
    qlora, whole = training.qlora, ""
    if settings is not None and settings["zero_optimization"]["stage"] == 3:
        whole = why_method_reads_whole(qlora) or _why_offload_needs_whole(settings)
        if not whole and stored_quantisation(base.folder, base.name) is not None:
            whole = "its files hold quantised weights"
        if not whole:
            stored, bare = StoredTensors.of(base.folder, base.name), skeleton(base)
            whole = why_class_needs_whole(bare) or _other_tensors(bare, stored)
        if not whole:
            return LoadedBase(_Loading(base, training, dtype, device, stored).in_shares(settings))
    storage = dtype if settings is not None else None
    model = load_model(base, qlora.quantization, qlora.bits, dtype, device, storage=storage)
    return LoadedBase(model, whole)


def why_method_reads_whole(qlora: Qlora) -> str:
    """Why a way of training needs the whole base when it begins; "" where it does not."""
    if not qlora.adapts:
        return "method full trains every weight"
    if qlora.bits == 8:
        return "8-bit weights are no numbers that DeepSpeed shares out"
    if qlora.resolved_method == "dora":
        return "method dora begins with the norm of every weight"
    return ""


def why_class_needs_whole(model: Any) -> str:
    """Why a class is loaded whole, whatever its files hold; "" where it need not be.

    Args:
        model: A `PreTrainedModel` without weights.
    """
    if model.config.model_type in _READ_FROM_OUTSIDE:
        return f"kernels of {type(model).__name__} read weights past their layers"
    return ""


def _why_offload_needs_whole(settings: Mapping[str, Any]) -> str:
    offload = settings["zero_optimization"].get("offload_param") or {}
    return "its weights are offloaded to NVMe" if offload.get("device") == "nvme" else ""


def _other_tensors(model: Any, stored: StoredTensors) -> str:
    """In what the files differ from the parameters of a class; "" where they do not."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    name = type(model).__name__
    for change in get_model_conversion_mapping(model):
        for key in stored.shapes:
            if change.rename_source_key(key) != (key, None):
                return f"transformers renames or converts the stored {key} for {name}"
    own = dict(model.named_parameters())
    for key, parameter in own.items():
        if stored.shapes.get(key) != tuple(parameter.shape):
            return f"its files do not hold {key} of {name} by that name and shape"
    for key, _ in model.named_parameters(remove_duplicate=False):
        if key not in own and key in stored.shapes:
            return f"its files hold {key}, which {name} ties to another weight"
    return ""


@dataclass(frozen=True)
class _Loading:
    """What one base is loaded by."""

    base: Base
    training: Training
    dtype: Any
    device: str
    stored: StoredTensors

    def in_shares(self, settings: Mapping[str, Any]) -> Any:
        """Build the model without content, and fill in one parameter's share after the other."""
        from deepspeed import comm, zero

        model = self._without_content()
        self._remember_reached(model)
        if self.training.qlora.bits == 4:
            self._replace_by_4bit(model)
        kept_whole = {id(one) for one in self._kept_whole(model)}
        # Over the group that there is; or DeepSpeed would take itself to be alone.
        comm.init_distributed(auto_mpi_discovery=False)
        # DeepSpeed writes into what it is given.
        shares = zero.Init(config_dict_or_path=copy.deepcopy(dict(settings)))
        if shares.mem_efficient_linear:
            # As it does where it takes the parameters itself: torch's would keep gathered ones.
            shares._enable_mem_efficient_linear()
        modules = dict(model.named_modules())
        for key, found in list(model.named_parameters()):
            owner, _, attribute = key.rpartition(".")
            module = modules[owner]
            is_packed = _is_4bit(module) and attribute == "weight"
            whole = self._packed(model, key) if is_packed else None
            if whole is None and id(found) in kept_whole:
                whole = self._like(found, self.stored.read(key, self._format_of(found)))
            if id(found) not in kept_whole:
                whole = self._share(shares, key, found, whole)
            if whole is not found:
                setattr(module, attribute, whole)
        if self.training.qlora.bits == 4 and self.device == "cpu":
            keep_exact_scales(model)
        return model

    def _without_content(self) -> Any:
        """The model as transformers builds it, on one number in place of each weight."""
        import torch
        from transformers.utils import logging as transformers_logging

        bare = skeleton(self.base)
        parameters = dict(bare.named_parameters())
        content = {
            key: torch.zeros((), dtype=self.dtype).expand(shape)
            if key in parameters
            else self.stored.read(key)
            for key, shape in self.stored.shapes.items()
        }
        transformers_logging.disable_progress_bar()
        with torch.random.fork_rng(devices=[]):
            model = type(bare).from_pretrained(
                None,
                config=bare.config,
                state_dict=content,
                dtype=self.dtype,
                device_map={"": "cpu"},
            )
        # As `load_model` does.
        model.config.use_cache = False
        _name_as_loaded(model, self.base)
        for one in model.parameters():
            one.data = torch.zeros((), dtype=one.dtype, device=self.device).expand(one.shape)
        for buffer in model.buffers():
            buffer.data = buffer.data.to(self.device)
        return model

    def _remember_reached(self, model: Any) -> None:
        """Let a text pass through the model, which takes no memory while weights have no content.

        The CPU multiplies by a weight of one repeated number a hundred times slower in 16 bits; of
        float32, autocast makes an ordinary one for as long as its layer computes.
        """
        import torch

        from steps.models.reached import reached_layers, remember_reached_layers

        formats = [(one, one.dtype) for one in model.parameters()]

        def empty(one: Any, dtype: Any) -> None:
            one.data = torch.zeros((), dtype=dtype, device=self.device).expand(one.shape)

        for one, _ in formats:
            empty(one, torch.float32)
        reached = reached_layers(model, self.dtype)
        for one, dtype in formats:
            empty(one, dtype)
        remember_reached_layers(model, reached)

    def _replace_by_4bit(self, model: Any) -> None:
        """Put layers of bitsandbytes, on the meta device, where `load_model` would."""
        from transformers.quantizers.auto import AutoHfQuantizer

        quantization = self.training.qlora.quantization
        arguments = quantised_arguments(
            self.base, quantization, 4, self.dtype, self.device, self.dtype
        )
        quantizer = AutoHfQuantizer.from_config(
            arguments["quantization_config"], pre_quantized=False
        )
        quantizer.preprocess_model(model, dtype=self.dtype, device_map=None)
        model.hf_quantizer = quantizer
        quantizer.postprocess_model(model)
        check_quantised(model, self.base)

    def _kept_whole(self, model: Any) -> Iterator[Any]:
        """What is copied or grows before DeepSpeed holds the model: parts that are trained."""
        trained = self.training.qlora.modules_to_save
        for name, module in model.named_modules():
            if any(f".{name}".endswith(f".{one}") for one in trained):
                yield from module.parameters()
        if self.training.tokenizer.new_tokens is not None:
            for module in (model.get_input_embeddings(), model.get_output_embeddings()):
                yield from module.parameters() if module is not None else ()

    def _format_of(self, parameter: Any) -> Any:
        """The number format that a parameter gets; some classes keep parts in float32."""
        return self.dtype if parameter.is_meta else parameter.dtype

    def _like(self, parameter: Any, content: "torch.Tensor") -> Any:
        """A parameter with other content; a tied one has to stay the same object."""
        from torch import nn

        placed = content.to(self.device)
        if parameter.is_meta:
            return nn.Parameter(placed, requires_grad=parameter.requires_grad)
        parameter.data = placed
        return parameter

    def _packed(self, model: Any, key: str) -> Any:
        """The packed bits of one weight, with their scales."""
        weight = self.stored.read(key, self.dtype).to(self.device)
        packed = model.hf_quantizer.get_quantize_ops().convert({key: [weight]}, model=model)
        return packed[key]

    def _share(self, shares: Any, key: str, found: Any, packed: Any) -> Any:
        """A parameter of which this rank holds its share.

        Args:
            shares: DeepSpeed's `zero.Init`.
            key: The name of the parameter.
            found: As the model has it, without content.
            packed: What it is quantised; None: it is not.
        """
        import torch

        if packed is not None:
            shares._convert_to_deepspeed_param(packed)
            packed.partition()
            # What quantising took is several times what stays of it.
            give_back_freed_memory()
            return packed
        from torch import nn

        # Memory that nothing is written to is none: of all of it, one rank's range is filled.
        whole = torch.empty(found.shape, dtype=self._format_of(found))
        parameter = found
        if found.is_meta:
            parameter = nn.Parameter(whole, requires_grad=found.requires_grad)
        parameter.data = whole
        shares._convert_to_deepspeed_param(parameter)
        start, end = 0, parameter.ds_numel
        if shares.zero_param_process_group is None:
            size = parameter.aligned_size() // parameter.ds_zero_partition_world_size
            start = min(size * parameter.ds_zero_partition_rank, end)
            end = min(start + size, end)
        self.stored.copy_into(whole, key, start, end)
        parameter.partition()
        # The device tells peft where its adapters belong.
        parameter.data = torch.empty(0, dtype=whole.dtype, device=self.device)
        return parameter


def _name_as_loaded(model: Any, base: Base) -> None:
    """Give a model what transformers takes from its folder besides the weights."""
    from transformers import GenerationConfig

    model.config.name_or_path = model.name_or_path = str(base.folder)
    if model.can_generate() and (base.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(base.folder)


def _is_4bit(module: Any) -> bool:
    return type(module).__name__ == "Linear4bit"
