"""Which optimiser trains which parameters, at which rate.

Where nothing of it is configured, transformers' Trainer makes the optimiser and its groups itself.
"""

from collections.abc import Collection
from typing import Any

import transformers

from steps.config.sections import Training
from steps.errors import UserError
from steps.models.adapters import embedding_parameters, unwrapped
from steps.training.muon import MuonWithAdamW

MUON = "muon"
# What stands in transformers' arguments where the optimiser is none of its own.
STAND_IN = "adamw_torch"

_LOW_RANK = (
    "projects the gradients of whole linear weights, which adapters make small by themselves, and "
    "comes in a package that is not among those kept here"
)
# Beginnings of transformers' names of optimisers that are refused, and why.
REFUSED = {
    "galore": _LOW_RANK,
    "apollo": _LOW_RANK,
    "lomo": "changes the weights during the backward pass, which leaves nothing to accumulate",
    "adalomo": "changes the weights during the backward pass, which leaves nothing to accumulate",
    "grokadamw": "is in the package grokadamw, which is not among those kept here",
    "schedule_free": "is in the package schedulefree, which is not among those kept here",
    "stable_adamw": "is in the package torch-optimi, which is not among those kept here",
    "adamw_anyprecision": "is in the package torchdistx, which is no longer made",
    "adamw_torch_4bit": "is in the package torchao, which is not among those kept here",
    "adamw_torch_8bit": "is in the package torchao, which is not among those kept here",
    "adamw_torch_xla": "is for TPUs",
    "adamw_torch_npu": "is for NPUs",
}


def optimizer_name(wanted: str, device: str) -> str:
    """The name of an optimiser; `auto` takes paged 8-bit AdamW on a GPU.

    Returns:
        Transformers' name, or `MUON`.

    Raises:
        UserError: There is no such optimiser, or one that is not trained with here.
    """
    from transformers.training_args import OptimizerNames

    older = {"adamw": "adamw_torch", "adam": "adamw_torch", "auto": "auto"}
    name = older.get(wanted.lower(), wanted.lower())
    if name == "auto":
        return "paged_adamw_8bit" if device == "cuda" else "adamw_torch_fused"
    for beginning, reason in REFUSED.items():
        if name.startswith(beginning):
            raise UserError(
                f"optimizer.type {wanted!r} {reason}: use auto, paged_adamw_8bit, adafactor or muon"
            )
    known = [MUON, *(member.value for member in OptimizerNames)]
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        raise UserError(f"optimizer.type is {wanted!r}; nearest known: {', '.join(near)} (or auto)")
    return name


def own_optimizer(
    training: Training,
    arguments: transformers.TrainingArguments,
    model: Any,
    decayed: Collection[str],
) -> tuple[type, dict[str, Any]] | None:
    """The optimiser and its groups, where they are not Trainer's.

    Args:
        training: The configuration.
        arguments: Of the trainer.
        model: The `PeftModel` or `PreTrainedModel` that is trained.
        decayed: Names of the parameters that weight decay is for.

    Returns:
        Its class and arguments (with `params`) for `Trainer.optimizer_cls_and_kwargs`, or None.

    Raises:
        UserError: A learning rate of embeddings is set, and none is trained.
    """
    uses_muon = training.optimizer.type.lower() == MUON
    ratio = training.optimizer.loraplus_lr_ratio
    rate_of_embeddings = training.hyperparameters.embedding_learning_rate
    if not uses_muon and ratio is None and rate_of_embeddings is None:
        return None
    groups = parameter_groups(training, model, decayed)
    if uses_muon:
        settings = {
            "lr": arguments.learning_rate,
            "betas": (arguments.adam_beta1, arguments.adam_beta2),
            "eps": arguments.adam_epsilon,
        }
        return MuonWithAdamW, {**settings, "params": groups}
    kind, settings = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return kind, {**settings, "params": groups}


def parameter_groups(
    training: Training, model: Any, decayed: Collection[str]
) -> list[dict[str, Any]]:
    """Trained parameters by what is done with them; the first group has the main learning rate.

    Args:
        training: The configuration.
        model: See `own_optimizer`.
        decayed: See `own_optimizer`.

    Raises:
        UserError: See `own_optimizer`.
    """
    values, ratio = training.hyperparameters, training.optimizer.loraplus_lr_ratio
    uses_muon = training.optimizer.type.lower() == MUON
    embeddings = {id(weight) for weight in embedding_parameters(unwrapped(model))}
    trained = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    rate_of_embeddings = values.embedding_learning_rate
    if rate_of_embeddings is not None and not any(id(one) in embeddings for _, one in trained):
        raise UserError(
            f"hyperparameters.embedding_learning_rate is {rate_of_embeddings:g}, and neither "
            "embeddings nor head are trained: name them in training.qlora.modules_to_save, or set "
            "it to null"
        )
    main = values.learning_rate
    groups: dict[tuple[float, float, bool], list[Any]] = {}
    for name, one in trained:
        rate, is_embedding = main, id(one) in embeddings
        if is_embedding:
            rate = rate_of_embeddings or main
        elif ratio is not None and (".lora_B." in name or one.ndim == 1):
            rate = main * ratio
        decay = values.weight_decay if name in decayed else 0.0
        groups.setdefault(
            (rate, decay, uses_muon and one.ndim == 2 and not is_embedding), []
        ).append(one)
    # Trainer reports the rate of the first group.
    ordered = sorted(groups.items(), key=lambda item: item[0][0] != main)
    made = [
        {"params": params, "lr": rate, "weight_decay": decay, "muon": muon}
        for (rate, decay, muon), params in ordered
    ]
    if not uses_muon:
        for group in made:
            del group["muon"]
    return made


def warm_up_from_the_first_step(scheduler: Any, steps: int) -> None:
    """Give step s of a warm-up of n steps (s + 1) / (n + 1) of the rate, in place of s / n.

    transformers' schedules begin with a rate of 0, so that the first step changes nothing: of a
    short training that is one step in six.

    Args:
        scheduler: Of the training, in the state that it begins or goes on with. One without a
            function of the step (DeepSpeed's own) stays as it is.
        steps: Of the warm-up.
    """
    scheduler = getattr(scheduler, "scheduler", scheduler)
    if steps < 1 or not hasattr(scheduler, "lr_lambdas"):
        return

    def raised(rate: Any) -> Any:
        return lambda step: (step + 1) / (steps + 1) if step < steps else rate(step)

    scheduler.lr_lambdas = [raised(rate) for rate in scheduler.lr_lambdas]
    for place, group in enumerate(scheduler.optimizer.param_groups):
        rate = scheduler.base_lrs[place] * scheduler.lr_lambdas[place](scheduler.last_epoch)
        group["lr"] = rate
        scheduler._last_lr[place] = rate
