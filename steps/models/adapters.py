"""What is trained: low-rank adapters on a frozen base, or the base itself."""

import difflib
from collections.abc import Iterable
from typing import Any

from steps.config.sections import Qlora
from steps.errors import UserError
from steps.models.loading import new_modules


def add_adapter(model: Any, settings: Qlora, objective: str) -> Any:
    """Wrap a model with the adapter that the configuration describes.

    Modules whose weights were missing in the model's files (see `new_modules`) are trained
    whole and saved with the adapter.

    Args:
        model: A `PreTrainedModel` from `load_model`, quantised or not.
        settings: The section `qlora`.
        objective: "causal" or "masked".

    Returns:
        A `PeftModel` whose trained weights are float32 (the master copy); or the model itself
        with every weight in float32 and trainable, for full fine-tuning.

    Raises:
        UserError: A module is named that the model does not have or peft cannot adapt.
    """
    if not settings.adapts:
        # An update is often smaller than a bfloat16 weight can show.
        model.float()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model

    from peft import LoraConfig, TaskType, get_peft_model

    targets = settings.target_modules
    if not isinstance(targets, str):
        check_modules(model, targets, "qlora.target_modules", linear=True)
    check_modules(model, settings.modules_to_save, "qlora.modules_to_save", linear=False)
    trained_whole = [*settings.modules_to_save, *new_modules(model)]
    make_float32(model, trained_whole)
    adapter = LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        # peft would put an adapter inside a module that is trained anyway.
        exclude_modules=_names_ending_with(model, trained_whole) or None,
        modules_to_save=trained_whole or None,
        bias=settings.bias,
        use_dora=settings.resolved_method == "dora",
        use_rslora=settings.resolved_method == "rslora",
        task_type=TaskType.CAUSAL_LM if objective == "causal" else None,
    )
    try:
        return get_peft_model(model, adapter)
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"qlora.target_modules {targets!r} with method {settings.resolved_method} does not fit "
            f"this model ({reason}): use all-linear, or names of its linear layers"
        ) from None


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
