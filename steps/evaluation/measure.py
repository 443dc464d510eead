"""Everything that is measured of one model on one split; knows no store."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.errors import UserError
from steps.evaluation.likelihood import TokenScore
from steps.evaluation.summary import summarise

if TYPE_CHECKING:
    import pandas as pd
    from tqdm import tqdm

    from steps.evaluation.cloze import ClozeItem
    from steps.models.adapted import AdaptedModel
    from steps.models.chat import Chat
    from steps.papers.instructions import InstructionItem
    from steps.papers.text import PaperText


GENERATION_COLUMNS = ["paper_id", "prompt", "generation", "reference"]

# Texts that the report shows token by token.
EXAMPLES = 2
EXAMPLE_CHARACTERS = 700


@dataclass
class Results:
    """What was measured.

    Attributes:
        per_paper: One row a paper of the split.
        general: The same of the general texts, or None.
        generations: One row a prompt.
        metrics: By name, without the split in front.
        rules: One row a rule of form that the model was asked to follow, or None.
        cloze: One row an item of the gene cloze, or None.
        facts: One row a fact that was asked for, or None.
    """

    per_paper: "pd.DataFrame"
    general: "pd.DataFrame | None"
    generations: "pd.DataFrame"
    metrics: dict[str, float] = field(default_factory=dict)
    rules: "pd.DataFrame | None" = None
    cloze: "pd.DataFrame | None" = None
    facts: "pd.DataFrame | None" = None


def measure(
    training: Training,
    adapted: "AdaptedModel",
    papers: "list[PaperText]",
    train_papers: "list[PaperText]",
    *,
    general_texts: "list[PaperText]",
    learned: "Sequence[PaperText]" = (),
) -> Results:
    """Score, ask and summarise; knows no tracking store.

    Args:
        training: The configuration; read are `evaluation` and `model.max_length`.
        adapted: The model.
        papers: The held-out papers.
        train_papers: The training split beside them: how frequent genes are, and what may be
            copied.
        general_texts: Texts outside the domain; may be empty.
        learned: What else the model was trained on, and may copy.
    """
    import pandas as pd

    from steps.evaluation.calibration import calibration
    from steps.evaluation.facts import facts_per_paper
    from steps.evaluation.summary import join_per_paper, with_score_bands

    settings = training.evaluation
    per_paper = _score(training, adapted, papers, "papers")
    per_paper = with_score_bands(per_paper, settings.score_bands)
    generations = pd.DataFrame(columns=GENERATION_COLUMNS)
    with adapted.autocast():
        asked, cloze = _cloze(training, adapted, papers, train_papers)
        facts = ask_facts(training, adapted, papers, train_papers)
        if facts is not None:
            asked.append(facts_per_paper(facts))
        per_paper = join_per_paper(per_paper, *asked)
        if adapted.objective == "causal" and settings.generation.prompts:
            known = [*train_papers, *learned]
            generations, scores = _generate(training, adapted, papers, known)
            per_paper = join_per_paper(per_paper, scores)
    draws = {"seed": settings.seed, "resamples": settings.bootstrap_samples}
    metrics = summarise(per_paper, **draws)
    if cloze is not None:
        metrics |= calibration(cloze, "gene_cloze", **draws)
    general = None
    if general_texts:
        general = _score(training, adapted, general_texts, "general texts")
        metrics |= _of_general(summarise(general, **draws))
    rules = _rules(training, adapted)
    metrics |= _of_rules(rules, training)
    return Results(per_paper, general, generations, metrics, rules, cloze, facts)


def measure_answers(
    training: Training,
    adapted: "AdaptedModel",
    items: "Sequence[InstructionItem]",
    *,
    general_texts: "list[PaperText]",
) -> Results:
    """Measure how a model answers; knows no tracking store.

    Args:
        training: The configuration; read are `evaluation`, `model.max_length` and
            `instructions.chat_template`, which a model that was trained to answer brings along.
        adapted: The model.
        items: Held-out items.
        general_texts: Texts outside the domain; may be empty.

    Raises:
        UserError: The model has no chat template, or it can write none of the items.
    """
    from tqdm import tqdm

    from steps.evaluation.answers import chosen_items, per_unit, score_answers, write_answers

    settings = training.evaluation
    chat = _chat(training, adapted)
    with tqdm(desc="scoring answers", unit=" tokens", unit_scale=True) as bar, adapted.autocast():
        likelihood = score_answers(
            adapted.model,
            chat,
            items,
            context=settings.context or training.model.max_length,
            batch_tokens=settings.batch_tokens,
            progress=partial(_show, bar),
        )
    if likelihood.empty:
        raise UserError(
            f"the chat template can write none of the {len(items)} items: mend them, or name "
            "another template by training.instructions.chat_template"
        )
    with tqdm(desc="answering", unit=" items") as bar, adapted.autocast():
        said = write_answers(
            adapted.model,
            chat,
            chosen_items(items, settings.answers, settings.seed),
            max_new_tokens=settings.generation.max_new_tokens,
            progress=partial(_show, bar),
        )
    per_paper = per_unit(likelihood, said)
    draws = {"seed": settings.seed, "resamples": settings.bootstrap_samples}
    metrics = summarise(per_paper, **draws)
    metrics["items"] = float(len(likelihood))
    general = _score(training, adapted, general_texts, "general texts") if general_texts else None
    if general is not None:
        metrics |= _of_general(summarise(general, **draws))
    rules = _rules(training, adapted)
    return Results(per_paper, general, said, metrics | _of_rules(rules, training), rules)


def _rules(training: Training, adapted: "AdaptedModel") -> "pd.DataFrame | None":
    """What a model makes of rules of form, where the configuration asks.

    Raises:
        UserError: It has no chat template.
    """
    if not training.evaluation.instruction_following:
        return None
    from tqdm import tqdm

    from steps.evaluation.manners import TOKENS_OF_AN_ANSWER, follow_rules, rule_prompts

    chat = _chat(training, adapted)
    with tqdm(desc="following rules", unit=" prompts") as bar, adapted.autocast():
        return follow_rules(
            adapted.model,
            chat,
            rule_prompts(),
            max_new_tokens=TOKENS_OF_AN_ANSWER,
            progress=partial(_show, bar),
        )


def _of_rules(rules: "pd.DataFrame | None", training: Training) -> dict[str, float]:
    if rules is None:
        return {}
    settings = training.evaluation
    summary = summarise(rules, seed=settings.seed, resamples=settings.bootstrap_samples)
    return {name: value for name, value in summary.items() if name.startswith("rules_followed")}


def _chat(training: Training, adapted: "AdaptedModel") -> "Chat":
    """The template by which a model is asked: its own, if it was trained to answer by it.

    Raises:
        UserError: It has none, and none is configured.
    """
    from steps.models.chat import Chat

    template = None if adapted.task == "instruction" else training.instructions.chat_template
    return Chat.of(adapted.tokenizer, template, adapted.description["base"]["name"])


def _show(bar: "tqdm[Any]", done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def _of_general(summary: dict[str, float]) -> dict[str, float]:
    likelihoods = ("bits_per_byte", "mlm_loss")
    return {f"general_{n}": value for n, value in summary.items() if n.startswith(likelihoods)}


def _score(
    training: Training, adapted: "AdaptedModel", papers: "list[PaperText]", what: str
) -> "pd.DataFrame":
    from tqdm import tqdm

    from steps.evaluation.likelihood import score_papers
    from steps.evaluation.masked import score_papers_masked

    settings = training.evaluation
    context = settings.context or training.model.max_length
    with tqdm(desc=f"scoring {what}", unit=" tokens", unit_scale=True) as bar, adapted.autocast():
        show = partial(_show, bar)
        if adapted.objective == "masked":
            return score_papers_masked(
                adapted.model,
                adapted.tokenizer,
                papers,
                context=context,
                batch_tokens=settings.batch_tokens,
                pseudo_tokens=settings.pseudo_likelihood_tokens,
                seed=settings.seed,
                progress=show,
            )
        return score_papers(
            adapted.model,
            adapted.tokenizer,
            papers,
            context=context,
            stride=settings.stride or max(1, context // 2),
            batch_tokens=settings.batch_tokens,
            progress=show,
        )


def _cloze(
    training: Training,
    adapted: "AdaptedModel",
    papers: "list[PaperText]",
    train_papers: "list[PaperText]",
) -> "tuple[list[pd.DataFrame], pd.DataFrame | None]":
    """Gene and variant cloze: sums of papers, a frame a task that has items; genes item by item."""
    from steps.evaluation.cloze import (
        choices_frame,
        cloze_frame,
        count_genes,
        gene_cloze_items,
        variant_cloze_items,
    )

    settings = training.evaluation
    if not settings.cloze_items:
        return [], None
    most = {"max_items": settings.cloze_items, "seed": settings.seed}
    tasks = {
        "gene_cloze": gene_cloze_items(papers, count_genes([*train_papers, *papers]), **most),
        "variant_cloze": variant_cloze_items(papers, **most),
    }
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
    training: Training,
    adapted: "AdaptedModel",
    papers: "list[PaperText]",
    train_papers: "list[PaperText]",
) -> "pd.DataFrame | None":
    """Ask a model for facts of held-out papers that another paper states too.

    Args:
        training: The configuration; read is `evaluation`.
        adapted: The model.
        papers: The held-out papers.
        train_papers: The training split beside them.

    Returns:
        From `steps.evaluation.facts.facts_frame`; None where there is nothing to ask.
    """
    from steps.evaluation.facts import fact_items, facts_frame

    settings = training.evaluation
    if not settings.facts.items:
        return None
    asked = fact_items(papers, train_papers, settings.facts, seed=settings.seed)
    if not asked:
        return None
    items = [each.item for each in asked]
    return facts_frame(asked, _candidate_scores(training, adapted, items, "facts"))


def _candidate_scores(
    training: Training, adapted: "AdaptedModel", items: "list[ClozeItem]", what: str
) -> list[list[float]]:
    from tqdm import tqdm

    from steps.evaluation.cloze import score_candidates_causal, score_candidates_masked

    score = score_candidates_masked if adapted.objective == "masked" else score_candidates_causal
    with tqdm(desc=f"asking {what}", unit=" tokens", unit_scale=True) as bar:
        return score(
            adapted.model,
            adapted.tokenizer,
            items,
            batch_tokens=training.evaluation.batch_tokens,
            progress=partial(_show, bar),
        )


def _generate(
    training: Training,
    adapted: "AdaptedModel",
    papers: "list[PaperText]",
    train_papers: "list[PaperText]",
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Let the model write on from titles, and count genes and copies in what it writes."""
    import pandas as pd

    from steps.evaluation.generation import (
        COPY_TOKENS,
        generate,
        generation_prompts,
        generation_scores,
    )
    from steps.papers.genes import GeneLexicon, find_genes

    settings = training.evaluation
    prompts = generation_prompts(papers, count=settings.generation.prompts, seed=settings.seed)
    if not prompts:
        return pd.DataFrame(columns=GENERATION_COLUMNS), pd.DataFrame({"paper_id": []})
    lexicon = GeneLexicon.load()
    generations = generate(
        adapted.model,
        adapted.tokenizer,
        prompts,
        max_new_tokens=settings.generation.max_new_tokens,
    )
    scores = generation_scores(
        generations,
        papers,
        [paper.text for paper in train_papers],
        adapted.tokenizer,
        lambda text: (gene.symbol for gene in find_genes(text, lexicon)),
        lexicon.spellings,
    )
    if settings.generation.max_new_tokens < COPY_TOKENS:
        # Too short to hold a copy: a share of 0 would look like a finding.
        scores = scores.drop(columns="memorised_tokens")
    return generations, scores


def token_examples(
    training: Training, adapted: "AdaptedModel", papers: "list[PaperText]"
) -> "list[TokenExample]":
    """The beginnings of a few gene-rich papers, token by token, with and without the adapter."""
    from steps.evaluation.likelihood import score_tokens

    if adapted.objective == "masked":
        return []
    window = {"context": training.model.max_length, "stride": training.model.max_length // 2}
    richest = sorted(papers, key=lambda paper: (-len(paper.genes), paper.paper_id))
    examples = []
    for paper in richest[:EXAMPLES]:
        beginning = _beginning(paper)
        with adapted.autocast():
            tokens = score_tokens(adapted.model, adapted.tokenizer, beginning, **window)
            before = None
            if hasattr(adapted.model, "disable_adapter"):
                with adapted.model.disable_adapter():
                    before = score_tokens(adapted.model, adapted.tokenizer, beginning, **window)
        examples.append(TokenExample(paper.paper_id, tokens, before))
    return examples


def _beginning(paper: "PaperText") -> "PaperText":
    from dataclasses import replace

    end = min(len(paper.text), EXAMPLE_CHARACTERS)
    genes = tuple(gene for gene in paper.genes if gene.end <= end)
    sections = tuple(replace(s, end=min(s.end, end)) for s in paper.sections if s.start < end)
    return replace(paper, text=paper.text[:end], sections=sections, genes=genes, variants=())


@dataclass(frozen=True)
class TokenExample:
    """A text as one model or two read it.

    Attributes:
        paper_id: The paper that it is from.
        tokens: From `steps.evaluation.likelihood.score_tokens` with the evaluated model.
        base_tokens: The same from the base, or None.
    """

    paper_id: str
    tokens: Sequence[TokenScore]
    base_tokens: Sequence[TokenScore] | None = None
