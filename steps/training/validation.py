"""The figures by which checkpoints are ranked, as `evaluate` defines them."""

import math
from collections.abc import Sequence
from typing import Any

from steps.config.sections import Training
from steps.evaluation.likelihood import score_papers
from steps.evaluation.masked import score_papers_masked
from steps.models.sources import Objective
from steps.papers.text import PaperText

# A validation batch is forward only, so it can be longer than a training row.
VALIDATION_TOKENS = 2048

# Trainer's names of what it reports, and the store's.
STORE_NAMES = {
    "loss": "train/loss",
    "grad_norm": "train/gradient_norm",
    "learning_rate": "train/learning_rate",
    "eval_loss": "validation/loss",
    "eval_bits_per_byte": "validation/bits_per_byte",
    "eval_mlm_loss": "validation/mlm_loss",
    "eval_mlm_accuracy": "validation/mlm_accuracy",
}


def validation_sums(
    training: Training,
    objective: Objective,
    model: Any,
    tokenizer: Any,
    papers: Sequence[PaperText],
) -> list[float]:
    """Three sums over papers, which add up over ranks.

    Returns:
        Of a causal model nats, tokens and UTF-8 bytes; of a masked one nats, number and hits of
        the masked tokens. Zeros where there is no paper.
    """
    if not papers:
        return [0.0, 0.0, 0.0]
    context = training.model.max_length
    batch_tokens = max(VALIDATION_TOKENS, context)
    if objective == "masked":
        frame = score_papers_masked(
            model,
            tokenizer,
            papers,
            context=context,
            batch_tokens=batch_tokens,
            pseudo_tokens=0,
            seed=training.evaluation.seed,
        )
        columns = ("mlm_nats", "mlm_targets", "mlm_hits")
    else:
        frame = score_papers(
            model,
            tokenizer,
            papers,
            context=context,
            stride=max(1, context // 2),
            batch_tokens=batch_tokens,
        )
        columns = ("nats", "tokens", "bytes")
    return [float(frame[name].sum()) for name in columns]


def validation_metrics(objective: Objective, sums: Sequence[float]) -> dict[str, float]:
    """What the sums of `validation_sums` say: `loss` and `bits_per_byte`, or the masked ones."""
    if objective == "masked":
        nats, targets, hits = sums
        return {"mlm_loss": nats / targets, "mlm_accuracy": hits / targets}
    nats, tokens, size = sums
    return {"loss": nats / tokens, "bits_per_byte": nats / (math.log(2) * size)}
