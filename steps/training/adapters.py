"""What is trained: low-rank adapters on a frozen base, or the base itself."""

import difflib
from typing import Any

from steps import config
from steps.errors import UserError


def add_adapter(model: Any, settings: config.Qlora, objective: str) -> Any:
    """Wrap a model with the adapter that the configuration describes.

    Args:
        model: A `PreTrainedModel`, quantised or not.
        settings: The section `qlora`.
        objective: "causal" or "masked".

    Returns:
        A `PeftModel` whose adapter weights are float32 (the master copy) and trainable; or
        the model itself with every weight trainable, for full fine-tuning.

    Raises:
        UserError: A target module that the model does not have.
    """
    if not settings.adapts:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model

    from peft import LoraConfig, TaskType, get_peft_model

    targets = settings.target_modules
    if not isinstance(targets, str):
        check_target_modules(model, targets)
    adapter = LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(settings.modules_to_save) or None,
        bias=settings.bias,
        use_dora=settings.resolved_method == "dora",
        use_rslora=settings.resolved_method == "rslora",
        task_type=TaskType.CAUSAL_LM if objective == "causal" else None,
    )
    return get_peft_model(model, adapter)


def check_target_modules(model: Any, wanted: tuple[str, ...]) -> None:
    """Check that each wanted name ends the name of a linear layer of the model.

    Raises:
        UserError: One does not; the message names the nearest that do.
    """
    from torch import nn

    leaves = sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
        }
    )
    full_names = [name for name, _ in model.named_modules()]
    for name in wanted:
        if not any(full == name or full.endswith(f".{name}") for full in full_names):
            near = difflib.get_close_matches(name, leaves, n=3, cutoff=0.3) or leaves
            raise UserError(
                f"qlora.target_modules names {name!r}, which this model does not have; "
                f"nearest: {', '.join(near)} (or all-linear)"
            )


def trainable_parameters(model: Any) -> int:
    """Number of weights that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
