"""The figures by which checkpoints are ranked, as `evaluate` defines them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from steps.config.sections import Training
from steps.distributed.collectives import all_reduce_sum, broadcast
from steps.distributed.ranks import Rank
from steps.evaluation.answers import score_answers
from steps.evaluation.likelihood import score_papers
from steps.evaluation.masked import score_papers_masked
from steps.metrics import VALIDATION_METRICS
from steps.models.chat import Chat
from steps.models.sharded import is_partitioned
from steps.models.sources import Task
from steps.papers.instructions import InstructionItem
from steps.papers.text import PaperText

if TYPE_CHECKING:
    import pandas as pd

# A validation batch is forward only, so it can be longer than a training row.
VALIDATION_TOKENS = 2048
PAPERS_SCORED_AT_ONCE = 2048

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


def validate(
    training: Training,
    objective: Task,
    model: Any,
    tokenizer: Any,
    papers: Sequence[PaperText | InstructionItem],
    rank: Rank,
) -> dict[str, float]:
    """Score papers or items with a model that is being trained; all ranks call it.

    Args:
        training: The configuration.
        objective: What the model is trained for.
        model: The model, unwrapped.
        tokenizer: Its tokenizer.
        papers: What is scored, the same on all ranks.
        rank: This process among those that train the model.

    Returns:
        The objective's validation metrics, by name, the same on all ranks.
    """
    # Shared-out weights come together for all ranks at once: then each scores every paper.
    shares = not is_partitioned(model)
    own = papers[rank.index :: rank.count] if shares else papers
    was_training = model.training
    model.eval()
    try:
        sums = validation_sums(training, objective, model, tokenizer, own)
    finally:
        model.train(was_training)
    # All ranks have to draw the same conclusions from them.
    return validation_metrics(objective, all_reduce_sum(sums) if shares else broadcast(sums))


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
    import pandas as pd

    if not papers:
        return [0.0, 0.0, 0.0]
    # A frame holds all that is known of a paper, and of papers there may be any number.
    starts = range(0, len(papers), PAPERS_SCORED_AT_ONCE)
    some = (list(papers[start : start + PAPERS_SCORED_AT_ONCE]) for start in starts)
    names = list(SUMMED_COLUMNS[objective])
    scored = pd.concat(
        [_scores(training, objective, model, tokenizer, one)[names] for one in some],
        ignore_index=True,
    )
    return [float(scored[name].sum()) for name in names]


def _scores(
    training: Training,
    objective: Task,
    model: Any,
    tokenizer: Any,
    papers: Sequence[PaperText | InstructionItem],
) -> "pd.DataFrame":
    """One row a paper or item."""
    context = training.model.max_length
    batch_tokens = max(VALIDATION_TOKENS, context)
    if objective == "instruction":
        chat = Chat.of(tokenizer, training.instructions.chat_template)
        items = cast(Sequence[InstructionItem], papers)
        return score_answers(model, chat, items, context=context, batch_tokens=batch_tokens)
    if objective == "masked":
        return score_papers_masked(
            model,
            tokenizer,
            cast(Sequence[PaperText], papers),
            context=context,
            batch_tokens=batch_tokens,
            pseudo_tokens=0,
            seed=training.evaluation.seed,
        )
    return score_papers(
        model,
        tokenizer,
        cast(Sequence[PaperText], papers),
        context=context,
        stride=max(1, context // 2),
        batch_tokens=batch_tokens,
    )


def validation_metrics(objective: Task, sums: Sequence[float]) -> dict[str, float]:
    """The objective's validation metrics, by name, from the totals of `SUMMED_COLUMNS`."""
    totals = dict(zip(SUMMED_COLUMNS[objective], sums, strict=True))
    return {metric.name: float(metric.value(totals)) for metric in VALIDATION_METRICS[objective]}
