"""Load the weights of a `Base` (see `steps.models.sources`), quantised or not."""

from typing import Any

from steps.config.sections import Quantization
from steps.errors import UserError, first_line
from steps.models.bare import on_meta_device
from steps.models.quantised import stored_quantisation
from steps.models.sources import Base, Objective

_NEW_MODULES = "_forge_new_modules"
# Architectures that multiply with the weight of `dt_proj` themselves: packed bits are no matrix.
WITH_WEIGHTS_READ_PAST_THE_LAYER = ("mamba", "falcon_mamba")


def load_model(
    base: Base,
    quantization: Quantization,
    bits: int,
    dtype: Any,
    device: str,
    *,
    storage: Any = None,
) -> Any:
    """Load the weights, quantised to 4 or 8 bits, or as `dtype` (a `torch.dtype`) for 16.

    A base that is quantised already (see `steps.models.quantised`) is loaded as it is stored.

    4-bit weights lie in tensors of `storage`; None: uint8. DeepSpeed shares out and casts what
    it takes for numbers, so there it has to be the `torch.dtype` of the computation. The packed
    bits, and what the model computes, are the same.

    A head whose weights are missing (sentence encoders come without that of masked models) is
    drawn anew, always the same, and its modules are noted for `new_modules`.

    Raises:
        UserError: The folder holds no loadable weights for the objective, or not all of them.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.utils import logging as transformers_logging

    # A bar for weights that load in a second would stand between the step's own lines.
    transformers_logging.disable_progress_bar()
    auto = AutoModelForCausalLM if base.objective == "causal" else AutoModelForMaskedLM
    # Safetensors takes "cuda" for the first GPU, whichever this process has been given.
    place = torch.cuda.current_device() if device == "cuda" else device
    arguments: dict[str, Any] = {"dtype": dtype, "device_map": {"": place}}
    # Or transformers asks on standard input whether a folder's own code may run.
    arguments["trust_remote_code"] = False
    stored = stored_quantisation(base.folder, base.name)
    bits = stored.bits if stored else bits
    if bits != 16:
        arguments |= quantised_arguments(base, quantization, bits, dtype, device, storage)
    try:
        # New weights are drawn by a generator of their own: two loads give one model, and what
        # the caller draws next does not depend on whether there were any.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, report = auto.from_pretrained(
                base.folder, use_safetensors=True, output_loading_info=True, **arguments
            )
    except SafetensorError as error:
        raise UserError(
            f"the weights of {base.name} are damaged ({first_line(error)}): fetch the model again"
        ) from None
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"{base.name} cannot be loaded as a {base.objective} language model: "
            f"{first_line(error)}. Check model.name and model.objective"
        ) from None
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise UserError(
            f"the weights of {base.name} do not have the shapes that its config.json states: fetch "
            "the model again"
        ) from None
    setattr(model, _NEW_MODULES, _modules_to_learn(model, base, set(report["missing_keys"])))
    if bits != 16:
        check_quantised(model, base)
    if stored is not None:
        _cast_unquantised(model, dtype)
    if bits == 4 and device == "cpu":
        keep_exact_scales(model)
    # The cache is for generation; in training it makes packed documents see each other.
    model.config.use_cache = False
    return model


def quantised_arguments(
    base: Base, quantization: Quantization, bits: int, dtype: Any, device: str, storage: Any
) -> dict[str, Any]:
    """The arguments under which weights are quantised, or found quantised, when they are loaded."""
    import torch
    from transformers import AutoConfig, BitsAndBytesConfig

    computes_in: str = quantization.bnb_4bit_compute_dtype
    if device == "cpu" and dtype != torch.bfloat16:
        computes_in = str(dtype).removeprefix("torch.")
    settings = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
    stored = getattr(settings, "quantization_config", None)
    if stored:
        # Not in the format that their maker computed in.
        settings.quantization_config = {**stored, "bnb_4bit_compute_dtype": computes_in}
        return {"config": settings}
    how = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        llm_int8_skip_modules=unquantised_modules(skeleton(base), base.objective),
        bnb_4bit_compute_dtype=getattr(torch, computes_in),
        bnb_4bit_use_double_quant=quantization.bnb_4bit_use_double_quant,
        bnb_4bit_quant_type=quantization.bnb_4bit_quant_type,
        bnb_4bit_quant_storage=storage,
    )
    return {"quantization_config": how}


def check_quantised(model: Any, base: Base) -> None:
    """Refuse a model whose weights were to be quantised, and none is.

    Raises:
        UserError: It has no layer of bitsandbytes.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    if not any(isinstance(module, Linear4bit | Linear8bitLt) for module in model.modules()):
        raise UserError(
            f"{base.name} ({type(model).__name__}) holds no layer that bitsandbytes quantises: set "
            "training.qlora.method=lora with load_in_4bit and load_in_8bit false"
        )


def _cast_unquantised(model: Any, dtype: Any) -> None:
    """Bring what a quantised base holds in full to `dtype`: transformers leaves it as stored."""
    from bitsandbytes.nn import Int8Params, Params4bit

    kept = model._keep_in_fp32_modules_strict or ()
    for name, parameter in model.named_parameters():
        packed = isinstance(parameter, Params4bit | Int8Params)
        if not packed and not any(part in name.split(".") for part in kept):
            parameter.data = parameter.data.to(dtype)


def new_modules(model: Any) -> tuple[str, ...]:
    """Modules of a model from `load_model` whose weights were not in its files."""
    names: tuple[str, ...] = getattr(model, _NEW_MODULES, ())
    return names


def skeleton(base: Base) -> Any:
    """The model of a base on the meta device: every module, and no weight."""
    from transformers import AutoConfig

    settings = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
    return without_weights(settings, base.objective)


def without_weights(settings: Any, objective: Objective, dtype: Any = None) -> Any:
    """A model on the meta device.

    Args:
        settings: Its configuration, as `AutoConfig` reads it.
        objective: "causal" or "masked".
        dtype: Number format that its weights would have (`torch.dtype`); None: as configured.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.initialization import no_init_weights

    auto = AutoModelForCausalLM if objective == "causal" else AutoModelForMaskedLM
    with on_meta_device(), no_init_weights():
        model = auto.from_config(settings, dtype=dtype, trust_remote_code=False)
    # Weights that are tied are one weight on any device.
    model.tie_weights()
    return model


def unquantised_modules(model: Any, objective: Objective) -> list[str] | None:
    """Names of the modules that stay as they are where the others are quantised.

    Args:
        model: A `PreTrainedModel`, with or without weights.
        objective: "causal" or "masked".

    Returns:
        None for what transformers leaves out itself: a causal model's head.
    """
    if objective == "masked":
        # The head is small, may have to be trained, and is where rounding shows.
        return [name for name, _ in model.named_children() if name != model.base_model_prefix]
    if model.config.model_type in WITH_WEIGHTS_READ_PAST_THE_LAYER:
        return ["lm_head", "dt_proj"]
    return None


def _modules_to_learn(model: Any, base: Base, missing: set[str]) -> tuple[str, ...]:
    """The modules that hold missing weights, if they are a masked model's head.

    The output projection shares the weights of the word embeddings, so it is not among them
    (a trained copy would be the largest part of the adapter); its bias stays 0.

    Raises:
        UserError: Weights are missing that no fine-tuning makes up for.
    """
    head = f"{model.base_model_prefix}."
    broken = sorted(name for name in missing if base.objective == "causal" or name.startswith(head))
    if broken:
        raise UserError(
            f"the files of {base.name} lack {len(broken)} of the weights that its config.json "
            f"calls for (such as {broken[0]}): fetch the model again, or check model.objective"
        )
    modules = dict(model.named_modules())
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    owners = sorted({name.rpartition(".")[0] for name in missing})
    return tuple(
        name
        for name in owners
        if not any(modules[name].children())
        and not (tied and modules[name] is model.get_output_embeddings())
    )


def objective_of(model: Any) -> Objective:
    """What a loaded model was built to learn, by its class.

    Args:
        model: A `PreTrainedModel`, wrapped by peft or not.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    masked = type(inner).__name__ in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()
    return "masked" if masked else "causal"


def keep_exact_scales(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights when they are first used for inference.

    On CPUs with AVX512-BF16 it then rounds the quantisation scales to bfloat16, for good: the
    model that was validated is no longer the one that was trained, and the stored adapter, loaded
    again, gives other logits (measured: up to 1.2 on SmolLM2-135M).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
