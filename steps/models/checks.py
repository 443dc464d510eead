"""What a base and a configuration must agree on before any weight is loaded."""

from typing import Any

from steps.config.sections import Qlora, Training
from steps.errors import UserError, first_line
from steps.models.adapters import check_adapter
from steps.models.lengths import longest_text
from steps.models.loading import skeleton
from steps.models.quantised import check_stored
from steps.models.sources import OF_TWO_STACKS, Base, read_model_config


def check_base(base: Base, training: Training, device: str) -> type:
    """Refuse what cannot work, before any weight is loaded.

    Returns:
        The class that the model is built as.

    Raises:
        UserError: Transformers does not know the architecture, it does not fit the objective,
            the windows are longer than the model, its weights are quantised in another way than
            the configuration says, nothing here can quantise, or the adapter does not fit.
    """
    from transformers import AutoConfig

    content = read_model_config(base.folder, base.name)
    try:
        settings = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if "auto_map" in content:
            raise UserError(
                f"model {base.name} brings code of its own (auto_map in its config.json), which is "
                "never run here: name a model whose architecture transformers knows"
            ) from None
        raise UserError(
            f"model {base.name} has the architecture {content.get('model_type')!r}, which "
            f"transformers cannot build ({first_line(error)}): name another model, or a newer "
            "release of transformers in conda.yaml"
        ) from None
    check_stored(base, training)
    _check_objective(base, settings)
    _check_length(base, settings, training.model.max_length)
    if training.qlora.bits != 16:
        _check_quantisation(training.qlora, device)
    model = skeleton(base)
    check_adapter(model, training.qlora, base.objective)
    return type(model)


def _check_objective(base: Base, settings: Any) -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if settings.is_encoder_decoder:
        raise UserError(f"model {base.name} ({settings.model_type}) {OF_TWO_STACKS}")
    causal = settings.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = settings.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    # BERT's kin can be built as decoders too, but were trained to look both ways.
    if masked and not getattr(settings, "is_decoder", False):
        causal = False
    if {"causal": causal, "masked": masked}[base.objective]:
        return
    other = "masked" if masked else "causal"
    way_out = (
        f"set training.model.objective to {other} or auto"
        if masked or causal
        else "name a language model"
    )
    raise UserError(
        f"model {base.name} ({settings.model_type}) is no {base.objective} language model: "
        f"{way_out}"
    )


def _check_length(base: Base, settings: Any, length: int) -> None:
    longest = longest_text(settings)
    if longest is not None and length > longest:
        raise UserError(
            f"training.model.max_length is {length}, but {base.name} was built for {longest} "
            f"tokens: set it to {longest} or less (longer papers become several windows)"
        )


def _check_quantisation(qlora: Qlora, device: str) -> None:
    wanted = f"qlora.method {qlora.resolved_method} stores weights in {qlora.bits} bits"
    instead = "use training.qlora.method=lora with load_in_4bit and load_in_8bit false"
    try:
        from bitsandbytes.cextension import BNBNativeLibrary, lib
    except ImportError as error:
        raise UserError(
            f"{wanted}, but bitsandbytes cannot be imported ({first_line(error)}): install it, "
            f"or {instead}"
        ) from None
    if device == "cpu" and qlora.bits == 8 and qlora.resolved_method == "dora":
        raise UserError(
            "qlora.method dora on 8-bit weights does not run on a CPU (bitsandbytes loses their "
            "scales): set load_in_8bit to false, or load_in_4bit to true instead"
        )
    if device == "cuda" and not (isinstance(lib, BNBNativeLibrary) and lib.compiled_with_cuda):
        raise UserError(
            f"{wanted}, but this build of bitsandbytes has no CUDA kernels for this machine: "
            f"install one that has, or {instead}"
        )
