"""What sections of a configuration ask of each other."""

from typing import Any


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
        if training.distributed.uses_deepspeed and value is not None:
            raise ValueError(
                f"{key} is {value!r}, which DeepSpeed's partitioned weights and optimiser do "
                "not carry here: set distributed.backend to ddp, or leave the key out"
            )
