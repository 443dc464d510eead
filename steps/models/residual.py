"""An adapter that was trained on a base model, put onto the instruct model made of that base.

Further training of an instruct model on papers costs it its manners. What the base has learned of
papers is a difference of weights, and an instruct model is another difference from the same base:
the two add up (Jindal et al. 2024, arXiv:2410.10739). A LoRA adapter is such a difference as it
stands, so nothing is computed: the same A and B stand on other frozen weights.
"""

from typing import Any

from steps.config.sections import Model, Training
from steps.errors import UserError
from steps.models.adapted import AdaptedModel, describe
from steps.models.adapters import add_adapter
from steps.models.loading import load_model, skeleton
from steps.models.sharded import set_parameters
from steps.models.sources import Base, resolve_base
from steps.models.tokenizer import load_tokenizer

KEY = "training.merge.instruct_residual"


def instruct_model(training: Training) -> Model | None:
    """The section `model` of the instruct model; None where the adapter stays on its base."""
    merge = training.merge
    if merge.instruct_residual is None:
        return None
    named = {"name": merge.instruct_residual, "source": merge.source}
    pinned = {"sha256": merge.sha256, "revision": merge.revision}
    return training.model.model_copy(update=named | pinned)


def resolve_instruct(training: Training, base: Base) -> Base | None:
    """Find the instruct model and check that an adapter of the base fits it.

    Args:
        training: The configuration.
        base: What is trained on.

    Returns:
        None where the configuration names none.

    Raises:
        UserError: It is not there, is of another shape or vocabulary, or what is trained is no
            difference of weights.
    """
    model = instruct_model(training)
    if model is None:
        return None
    qlora = training.qlora
    for what, wrong in (
        (f"qlora.method {qlora.resolved_method}", not qlora.adapts),
        ("qlora.modules_to_save", bool(qlora.modules_to_save)),
        (f"qlora.bias {qlora.bias}", qlora.bias != "none"),
        ("DoRA, which scales the weights that it stands on,", qlora.resolved_method == "dora"),
        (
            "qlora.initialization loftq, which makes up for what the base's own weights lost,",
            qlora.initialization == "loftq",
        ),
        ("tokenizer.new_tokens", training.tokenizer.new_tokens is not None),
        ("DeepSpeed or FSDP2", training.distributed.shares_out),
    ):
        if wrong:
            raise UserError(
                f"{KEY} does not go with {what}: what is added to the instruct model has to be a "
                "plain adapter; use training.qlora.method=lora or qlora, or set the key to null"
            )
    instruct = resolve_base(model)
    if instruct.sha256 is not None and instruct.sha256 == base.sha256:
        raise UserError(f"{KEY} names the base itself ({base.name}): name its instruct model")
    _check_same_shape(base, instruct)
    _check_same_vocabulary(base, instruct)
    return instruct


def _check_same_shape(base: Base, instruct: Base) -> None:
    one, other = (
        {name: tuple(weight.shape) for name, weight in skeleton(model).named_parameters()}
        for model in (base, instruct)
    )
    different = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    # More tokens in the instruct model move no adapter.
    outside = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_out.weight")
    inside = sorted(name for name in different if not name.endswith(outside))
    if inside:
        name = inside[0]
        raise UserError(
            f"{KEY}: {instruct.name} is not made of {base.name}: {name} is "
            f"{one.get(name, 'missing')} in the base and {other.get(name, 'missing')} there; name "
            "the instruct model of this very base"
        )


def _check_same_vocabulary(base: Base, instruct: Base) -> None:
    one, other = (load_tokenizer(model.folder).get_vocab() for model in (base, instruct))
    moved = sorted(token for token, number in one.items() if other.get(token, number) != number)
    if moved or len(one.keys() - other.keys()) > len(one) // 100:
        example = f" (such as {moved[0]!r})" if moved else ""
        raise UserError(
            f"{KEY}: {instruct.name} has another vocabulary than {base.name}{example}, so it is "
            "not made of it: name the instruct model of this very base"
        )


def onto_instruct(training: Training, instruct: Base, trained: AdaptedModel) -> AdaptedModel:
    """The trained adapter on the instruct model, ready to be saved and asked.

    Args:
        training: The configuration.
        instruct: From `resolve_instruct`.
        trained: The model that was trained; stays as it is.
    """
    weights = {
        name: weight.detach()
        for name, weight in trained.model.named_parameters()
        if weight.requires_grad
    }
    model: Any = load_model(
        instruct,
        training.qlora.quantization,
        training.qlora.bits,
        trained.dtype,
        trained.device,
    )
    model = add_adapter(model, training.qlora.as_saved, instruct.objective)
    parameters = {n: one for n, one in model.named_parameters() if one.requires_grad}
    assert parameters.keys() == weights.keys()
    set_parameters(parameters, weights)
    description = describe(training, instruct, trained.dtype)
    description["trained_on"] = trained.description["base"]
    tokenizer = load_tokenizer(instruct.folder)
    if trained.task == "instruction":
        # It answers by the template that it was trained with.
        tokenizer.chat_template = trained.tokenizer.chat_template
    return AdaptedModel(
        model,
        tokenizer,
        instruct.objective,
        trained.dtype,
        trained.device,
        description,
    )
