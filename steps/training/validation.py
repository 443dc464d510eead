"""The figures by which checkpoints are ranked, as `evaluate` defines them."""

from collections.abc import Sequence
from typing import Any, cast

from steps.config.sections import Training
from steps.evaluation.answers import score_answers
from steps.evaluation.likelihood import score_papers
from steps.evaluation.masked import score_papers_masked
from steps.metrics import VALIDATION_METRICS
from steps.models.chat import Chat
from steps.models.sources import Task
from steps.papers.instructions import InstructionItem
from steps.papers.text import PaperText

# A validation batch is forward only, so it can be longer than a training row.
VALIDATION_TOKENS = 2048

# Trainer's names of what it reports, and the store's.
STORE_NAMES = {
    "loss": "train/loss",
    "replay_loss": "train/replay_loss",
    "study_loss": "train/study_loss",
    "grad_norm": "train/gradient_norm",
    "learning_rate": "train/learning_rate",
    **{
        f"eval_{metric.name}": f"validation/{metric.name}"
        for metrics in VALIDATION_METRICS.values()
        for metric in metrics
    },
}
# What each objective's metrics are made of, in the order of the sums.
SUMMED_COLUMNS = {
    "causal": ("nats", "tokens", "bytes"),
    "masked": ("mlm_nats", "mlm_targets", "mlm_hits"),
    "instruction": ("answer_nats", "answer_tokens", "answer_bytes"),
}


def validation_sums(
    training: Training,
    objective: Task,
    model: Any,
    tokenizer: Any,
    papers: Sequence[PaperText | InstructionItem],
) -> list[float]:
    """Sums over papers or items, which add up over ranks.

    Returns:
        The totals of `SUMMED_COLUMNS`; zeros where there is no paper.
    """
    if not papers:
        return [0.0, 0.0, 0.0]
    context = training.model.max_length
    batch_tokens = max(VALIDATION_TOKENS, context)
    if objective == "instruction":
        chat = Chat.of(tokenizer, training.instructions.chat_template)
        items = cast(Sequence[InstructionItem], papers)
        frame = score_answers(model, chat, items, context=context, batch_tokens=batch_tokens)
    elif objective == "masked":
        frame = score_papers_masked(
            model,
            tokenizer,
            cast(Sequence[PaperText], papers),
            context=context,
            batch_tokens=batch_tokens,
            pseudo_tokens=0,
            seed=training.evaluation.seed,
        )
    else:
        frame = score_papers(
            model,
            tokenizer,
            cast(Sequence[PaperText], papers),
            context=context,
            stride=max(1, context // 2),
            batch_tokens=batch_tokens,
        )
    return [float(frame[name].sum()) for name in SUMMED_COLUMNS[objective]]


def validation_metrics(objective: Task, sums: Sequence[float]) -> dict[str, float]:
    """The objective's validation metrics, by name, from the totals of `SUMMED_COLUMNS`."""
    totals = dict(zip(SUMMED_COLUMNS[objective], sums, strict=True))
    return {metric.name: float(metric.value(totals)) for metric in VALIDATION_METRICS[objective]}
