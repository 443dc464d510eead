"""What is trained: low-rank adapters on a frozen base, or the base itself."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from steps.config.sections import Qlora
from steps.errors import UserError
from steps.models.loading import new_modules
from steps.models.new_tokens import keep_bias_of_head, trained_rows
from steps.models.reached import linear_layers, reached_layers, reached_parameters

if TYPE_CHECKING:
    from torch import Tensor

# Architectures whose fused kernels read the weights of `out_proj` past the layer.
WITH_FUSED_OUTPUT = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")


def is_wrapped_by_peft(model: Any) -> bool:
    """Whether a model is a `PeftModel`; no base is, and scoring one does without peft's import."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def unwrapped(model: Any) -> Any:
    """The `PreTrainedModel` of a model, below peft's wrapper where it has one."""
    return model.get_base_model() if is_wrapped_by_peft(model) else model


def add_adapter(
    model: Any,
    settings: Qlora,
    objective: str,
    windows: "Sequence[Tensor] | None" = None,
    new_tokens: Sequence[int] = (),
) -> Any:
    """Wrap a model with the adapter that the configuration describes.

    Modules whose weights were missing in the model's files (see `new_modules`) are trained
    whole and saved with the adapter.

    Args:
        model: A `PreTrainedModel` from `load_model`, quantised or not.
        settings: The section `qlora`.
        objective: "causal" or "masked".
        windows: Token ids of training text, which `qlora.initialization: eva` needs.
        new_tokens: Ids whose rows of embeddings and head are trained alone.

    Returns:
        A `PeftModel` whose trained weights are float32 (the master copy); or the model itself
        with every weight in float32, and trainable where a text reaches it, for full fine-tuning.

    Raises:
        UserError: A module is named that the model does not have or peft cannot adapt, the adapter
            cannot begin as configured, or the model does not compute in its number format.
    """
    if not settings.adapts:
        return _trained_in_full(model)

    _check_names(model, settings)
    trained_whole = [*settings.modules_to_save, *new_modules(model)]
    # peft would put an adapter inside a module that is trained anyway.
    left_out = [*_names_ending_with(model, trained_whole), *_unreached_layers(model)]
    make_float32(model, trained_whole)
    adapted = _wrapped(model, settings, objective, trained_whole, left_out, new_tokens)
    _begin(adapted, settings, windows)
    if new_tokens:
        keep_bias_of_head(adapted)
        # Else peft would save the embeddings whole, since there are more than the base has.
        model.name_or_path = ""
        adapted.peft_config["default"].base_model_name_or_path = None
    return adapted


def _begin(adapted: Any, settings: Qlora, windows: "Sequence[Tensor] | None" = None) -> None:
    if settings.initialization != "default":
        # It brings torch, which the check of a configuration does without.
        from steps.models.initialisation import begin_adapter

        begin_adapter(adapted, settings, windows)


def check_adapter(model: Any, settings: Qlora, objective: str) -> None:
    """Refuse an adapter that does not fit a model, without its weights.

    Args:
        model: From `skeleton`; it is of no use afterwards.
        settings: The section `qlora`.
        objective: "causal" or "masked".

    Raises:
        UserError: See `add_adapter`; what shows in a forward pass alone does not show here.
    """
    if settings.adapts:
        _check_names(model, settings)
        left_out = _names_ending_with(model, settings.modules_to_save)
        _begin(_wrapped(model, settings, objective, settings.modules_to_save, left_out), settings)


def _check_names(model: Any, settings: Qlora) -> None:
    """Check that the modules that a configuration names are there.

    Raises:
        UserError: One is not; the message names the nearest that are.
    """
    targets = settings.target_modules
    if not isinstance(targets, str):
        check_modules(model, targets, "qlora.target_modules", linear=True)
    check_modules(model, settings.modules_to_save, "qlora.modules_to_save", linear=False)


def _wrapped(
    model: Any,
    settings: Qlora,
    objective: str,
    trained_whole: Sequence[str],
    left_out: Sequence[str],
    new_tokens: Sequence[int] = (),
) -> Any:
    """A model with an adapter on it, besides the modules that are trained whole or left out."""
    from peft import LoraConfig, TaskType, get_peft_model

    targets = settings.target_modules
    left_out = [*left_out, *_fused_layers(model)]
    of_attention = _layers_of_attention(model, left_out)
    adapter = LoraConfig(
        r=settings.adapter_rank,
        lora_alpha=settings.adapter_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=left_out or None,
        modules_to_save=list(trained_whole) or None,
        trainable_token_indices=_trained_rows(model, new_tokens, trained_whole),
        bias=settings.bias,
        use_dora=settings.resolved_method == "dora",
        use_rslora=settings.resolved_method == "rslora",
        task_type=TaskType.CAUSAL_LM if objective == "causal" else None,
    )
    is_skeleton = model.device.type == "meta"
    try:
        return get_peft_model(model, adapter, low_cpu_mem_usage=is_skeleton)
    except ValueError as error:
        raise UserError(_why_it_does_not_fit(model, settings, str(error), of_attention)) from None


def _trained_rows(
    model: Any, new_tokens: Sequence[int], trained_whole: Sequence[str]
) -> dict[str, list[int]] | None:
    """The rows of embeddings and head that are trained alone.

    Raises:
        UserError: The embeddings or the head are trained whole as well.
    """
    rows = trained_rows(model, new_tokens)
    for name in rows or ():
        if twice := [one for one in trained_whole if f".{name}".endswith(f".{one}")]:
            raise UserError(
                f"qlora.modules_to_save trains {twice[0]} whole, and tokenizer.new_tokens rows of "
                "it alone: leave the one or the other out"
            )
    return rows


def _trained_in_full(model: Any) -> Any:
    """A model with each weight that a text reaches trainable, in float32."""
    computes_in = model.dtype
    # An update is often smaller than a bfloat16 weight can show.
    model.float()
    model.requires_grad_(True)
    reached = {id(parameter) for parameter in reached_parameters(model, computes_in)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in reached)
    return model


def _unreached_layers(model: Any) -> list[str]:
    """Linear layers that no text reaches, where an adapter would learn nothing."""
    reached = reached_layers(model, model.dtype)
    return sorted(linear_layers(model).keys() - reached - {_name_of_head(model)})


def _fused_layers(model: Any) -> list[str]:
    """Linear layers whose weights fused kernels read past the layer; peft refuses them."""
    if model.config.model_type not in WITH_FUSED_OUTPUT:
        return []
    return [name for name in linear_layers(model) if name.rpartition(".")[2] == "out_proj"]


def _name_of_head(model: Any) -> str:
    """The output projection, which the loss may read past its layer; peft leaves it out itself."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), "")


def _why_it_does_not_fit(model: Any, settings: Qlora, said: str, of_attention: list[str]) -> str:
    """One line on why peft has refused an adapter, with what works instead."""
    name, method = type(model).__name__, settings.resolved_method
    if "ParamWrapper" in said:
        what = "lora_dropout" if "lora_dropout" in said else f"method {method}"
        fix = "training.qlora.lora_dropout=0"
        if method == "dora":
            plain = {4: "qlora", 8: "lora_8bit", 16: "lora"}[settings.bits]
            fix = f"training.qlora.method={plain} {fix}"
        return (
            f"qlora: {name} holds its experts as 3-D parameters, on which peft has no {what}: set "
            f"{fix}, or leave the experts out by training.qlora.target_modules="
            f"[{','.join(of_attention)}]"
        )
    reason = said.strip().splitlines()[0].rstrip(".")
    return (
        f"qlora.target_modules {settings.target_modules!r} with method {method} does not fit "
        f"{name} ({reason}): use all-linear, or names of its linear layers"
    )


def _layers_of_attention(model: Any, left_out: Sequence[str]) -> list[str]:
    """Last parts of the names of linear layers inside attention, of those that can be adapted."""
    names = [name for name in linear_layers(model).keys() - left_out if "attn" in name]
    return sorted({name.rpartition(".")[2] for name in names})


def make_float32(model: Any, names: Iterable[str]) -> None:
    """Hold modules in float32, because their weights are trained and stored as such.

    Args:
        model: A `PreTrainedModel` before peft has wrapped it; peft copies the modules as they are.
        names: Ends of module names, as in `modules_to_save`.
    """
    from torch import nn

    modules = dict(model.named_modules())
    head = model.get_output_embeddings()
    for name in _names_ending_with(model, names):
        shared = head is not None and head.weight is model.get_input_embeddings().weight
        if shared and head in modules[name].modules():
            # The head gets weights of its own: embeddings in float32 would make all that follows
            # them float32.
            head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        modules[name].float()


def _names_ending_with(model: Any, names: Iterable[str]) -> list[str]:
    wanted = tuple(names)
    return [
        full
        for full, _ in model.named_modules()
        if any(full == name or full.endswith(f".{name}") for name in wanted)
    ]


def check_modules(model: Any, wanted: Iterable[str], key: str, *, linear: bool) -> None:
    """Check that each wanted name ends the name of a module of the model.

    Args:
        model: A `PreTrainedModel`.
        wanted: Names from the configuration.
        key: Where they are from, for the message.
        linear: Propose linear layers only.

    Raises:
        UserError: One does not; the message names the nearest that do.
    """
    from torch import nn

    leaves = sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if (isinstance(module, nn.Linear) if linear else any(True for _ in module.parameters()))
        }
        - {""}
    )
    for name in wanted:
        if not _names_ending_with(model, [name]):
            near = difflib.get_close_matches(name, leaves, n=3, cutoff=0.3) or leaves[:12]
            also = " (or all-linear)" if linear else ""
            raise UserError(
                f"{key} names {name!r}, which this model does not have; "
                f"nearest: {', '.join(near)}{also}"
            )


def trainable_parameters(model: Any) -> int:
    """Number of weights that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def embedding_parameters(model: Any) -> list[Any]:
    """Parameters of the word embeddings and of the head that makes logits, copies included.

    Args:
        model: A `PreTrainedModel`, not wrapped by peft (adapted in its modules or not).
    """
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return [weight for module in modules if module is not None for weight in module.parameters()]
