"""What a model is asked to choose: genes, variants and facts in gaps of held-out sentences."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steps.config.sections import Training
from steps.progress import ProgressLine

if TYPE_CHECKING:
    import pandas as pd

    from steps.evaluation.cloze import ClozeItem
    from steps.evaluation.facts import FactItem
    from steps.models.adapted import AdaptedModel
    from steps.papers.text import PaperText


def cloze_items_of(
    training: Training, papers: "list[PaperText]", train_papers: "list[PaperText]"
) -> "dict[str, list[ClozeItem]]":
    """Items of the gene and the variant cloze, by the name of the task; those that have some."""
    from steps.evaluation.cloze import count_genes, gene_cloze_items, variant_cloze_items

    settings = training.evaluation
    if not settings.cloze_items:
        return {}
    most = {"max_items": settings.cloze_items, "seed": settings.seed}
    tasks = {
        "gene_cloze": gene_cloze_items(papers, count_genes([*train_papers, *papers]), **most),
        "variant_cloze": variant_cloze_items(papers, **most),
    }
    return {task: items for task, items in tasks.items() if items}


def fact_items_of(
    training: Training, papers: "list[PaperText]", train_papers: "list[PaperText]"
) -> "list[FactItem]":
    """Facts of held-out papers that another paper states too, as many as are configured."""
    from steps.evaluation.facts import fact_items

    settings = training.evaluation
    if not settings.facts.items:
        return []
    return fact_items(papers, train_papers, settings.facts, seed=settings.seed)


def ask_cloze(
    training: Training, adapted: "AdaptedModel", tasks: "Mapping[str, Sequence[ClozeItem]]"
) -> "tuple[list[pd.DataFrame], pd.DataFrame | None]":
    """Gene and variant cloze: sums of papers, a frame a task that has items; genes item by item."""
    from steps.evaluation.cloze import choices_frame, cloze_frame

    chosen = {
        task: choices_frame(items, _candidate_scores(training, adapted, items, task))
        for task, items in tasks.items()
        if items
    }
    per_paper = [
        cloze_frame(tasks[task], choices["rank"].tolist(), task) for task, choices in chosen.items()
    ]
    return per_paper, chosen.get("gene_cloze")


def ask_facts(
    training: Training, adapted: "AdaptedModel", asked: "Sequence[FactItem]"
) -> "pd.DataFrame | None":
    """Ask a model for facts.

    Args:
        training: The configuration; read is `evaluation`.
        adapted: The model.
        asked: From `fact_items_of`.

    Returns:
        From `steps.evaluation.facts.facts_frame`; None where there is nothing to ask.
    """
    from steps.evaluation.facts import facts_frame

    if not asked:
        return None
    items = [each.item for each in asked]
    return facts_frame(asked, _candidate_scores(training, adapted, items, "facts"))


def _candidate_scores(
    training: Training, adapted: "AdaptedModel", items: "Sequence[ClozeItem]", what: str
) -> list[list[float]]:
    from steps.evaluation.cloze import score_candidates_causal, score_candidates_masked

    score = score_candidates_masked if adapted.objective == "masked" else score_candidates_causal
    with ProgressLine(f"asking {what.replace('_', ' ')}", "tokens") as line:
        return score(
            adapted.model,
            adapted.tokenizer,
            items,
            batch_tokens=training.evaluation.batch_tokens,
            progress=line.show,
        )
