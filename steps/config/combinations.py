"""What sections of a configuration ask of each other."""

from typing import Any

# Adam's steps are taken element by element, so that a share of a weight takes those of the whole.
FSDP2_OPTIMIZERS = ("auto", "adamw", "adam", "adamw_torch", "adamw_torch_fused")


def check_optimisation(training: Any) -> None:
    """Refuse ways of training that do not fit what is trained.

    Args:
        training: A `Training`, whose module calls this one.

    Raises:
        ValueError: Two settings exclude each other; the message names both and a way out.
    """
    qlora, decay = training.qlora, training.hyperparameters.weight_decay
    ratio = training.optimizer.loraplus_lr_ratio
    if ratio is not None and not qlora.adapts:
        raise ValueError(
            f"optimizer.loraplus_lr_ratio is {ratio:g}, the learning rate of an adapter's B by "
            "that of its A, and full fine-tuning has no adapter: set it to null"
        )
    if qlora.halves_begin_alike and decay:
        raise ValueError(
            f"hyperparameters.weight_decay is {decay:g} with qlora.initialization "
            f"{qlora.initialization!r}: it would pull the base's own principal part towards 0, "
            "so set it to 0, or qlora.initialization to default"
        )
    special = {
        "qlora.initialization": None if qlora.initialization == "default" else qlora.initialization,
        "optimizer.loraplus_lr_ratio": ratio,
        "hyperparameters.embedding_learning_rate": training.hyperparameters.embedding_learning_rate,
        "tokenizer.new_tokens": training.tokenizer.new_tokens,
        "optimizer.type": "muon" if training.optimizer.type.lower() == "muon" else None,
    }
    for key, value in special.items():
        if training.distributed.shares_out and value is not None:
            name = "DeepSpeed" if training.distributed.uses_deepspeed else "FSDP2"
            raise ValueError(
                f"{key} is {value!r}, which {name}'s partitioned weights and optimiser do "
                "not carry here: set distributed.backend to ddp, or leave the key out"
            )
    if training.distributed.uses_fsdp2:
        _check_fsdp2(training)


def _check_fsdp2(training: Any) -> None:
    """Refuse what FSDP2 cannot share out by layers, or cannot be written from its shares."""
    qlora, optimizer = training.qlora, training.optimizer.type
    elsewhere = "or distributed.backend to ddp"
    if not qlora.adapts:
        raise ValueError(
            "distributed.backend is fsdp2, which trains adapters here, and qlora.method is full: "
            "set distributed.backend to deepspeed (configs/deepspeed/zero3.json)"
        )
    if qlora.bits != 16:
        raise ValueError(
            f"distributed.backend is fsdp2, and the base is stored in {qlora.bits} bits "
            f"(qlora.method {qlora.resolved_method}), whose packed bytes FSDP2 cannot cut: set "
            f"qlora.method to lora, {elsewhere}"
        )
    if optimizer.lower() not in FSDP2_OPTIMIZERS:
        raise ValueError(
            f"distributed.backend is fsdp2, and optimizer.type is {optimizer!r}, whose state it "
            f"does not share out: set it to one of {', '.join(FSDP2_OPTIMIZERS)}, {elsewhere}"
        )
    outside = {"qlora.modules_to_save": list(qlora.modules_to_save)}
    outside["qlora.bias"] = [] if qlora.bias == "none" else [qlora.bias]
    for key, value in outside.items():
        if value:
            raise ValueError(
                f"distributed.backend is fsdp2, which shares out the layers alone, and {key} "
                f"({', '.join(value)}) trains weights outside them: leave it out, {elsewhere}"
            )
    if training.hardware.fp16:
        raise ValueError(
            "distributed.backend is fsdp2, and hardware.fp16 needs a loss scale, which it does "
            f"not carry here: set hardware.fp16 to false, {elsewhere}"
        )
