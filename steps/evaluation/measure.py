"""Everything that is measured of one model on one split; knows no store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from steps.config.sections import Training
from steps.errors import UserError
from steps.evaluation.asking import ask_cloze, ask_facts, cloze_items_of, fact_items_of
from steps.evaluation.calibration import calibration
from steps.evaluation.facts import facts_per_paper
from steps.evaluation.likelihood import TokenScore
from steps.evaluation.summary import summarise
from steps.evaluation.workload import (
    Cut,
    Phase,
    cloze_phase,
    fit_to_budget,
    reading_phase,
    writing_phase,
)
from steps.progress import ProgressLine

if TYPE_CHECKING:
    import pandas as pd

    from steps.evaluation.generation import Prompt
    from steps.models.adapted import AdaptedModel
    from steps.models.chat import Chat
    from steps.papers.instructions import InstructionItem
    from steps.papers.text import PaperText

Part = TypeVar("Part")

# Names of phases that a budget may cut; those of cloze tasks are the tasks' own.
GENERATION = "generation"
FACTS = "fact_cloze"
ANSWERS = "answers"
# Behind the name of a phase: the metric that says how much of it a budget has left.
MEASURED_SHARE = "_measured_share"
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
        cuts: What a budget has left out, by the name of the phase.
        tasks: One row an item of the harness' tasks, or None.
        cloze: One row an item of the gene cloze, or None.
        facts: One row a fact that was asked for, or None.
        retracted: Papers that the model was trained on and that were retracted since.
    """

    per_paper: "pd.DataFrame"
    general: "pd.DataFrame | None"
    generations: "pd.DataFrame"
    metrics: dict[str, float] = field(default_factory=dict)
    rules: "pd.DataFrame | None" = None
    cuts: dict[str, Cut] = field(default_factory=dict)
    tasks: "pd.DataFrame | None" = None
    cloze: "pd.DataFrame | None" = None
    facts: "pd.DataFrame | None" = None
    retracted: tuple[str, ...] = ()


def measure(
    training: Training,
    adapted: "AdaptedModel",
    papers: "list[PaperText]",
    train_papers: "list[PaperText]",
    *,
    general_texts: "list[PaperText]",
    learned: "Sequence[PaperText]" = (),
    further: Sequence[Phase] = (),
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
        further: What the caller does with the model afterwards, for the time that is stated.
    """
    import pandas as pd

    from steps.evaluation.summary import join_per_paper, with_score_bands

    settings = training.evaluation
    cloze = cloze_items_of(training, papers, train_papers)
    facts = fact_items_of(training, papers, train_papers)
    prompts = _prompts(training, adapted, papers)
    phases = [
        reading_phase(training, adapted, "papers", papers, "papers"),
        *(cloze_phase(adapted, name, items) for name, items in cloze.items()),
        cloze_phase(adapted, FACTS, [fact.item for fact in facts]),
        *_phases_of_prompts(training, adapted, prompts),
        *_further_phases(training, adapted, general_texts),
        *further,
    ]
    texts = [paper.text for paper in papers]
    cuts = fit_to_budget(training, adapted, phases, texts, [p.prompt for p in prompts])
    cloze = {name: _kept(items, name, cuts) for name, items in cloze.items()}
    facts = _kept(facts, FACTS, cuts)
    prompts = _kept(prompts, GENERATION, cuts)

    per_paper = _score(training, adapted, papers, "papers")
    per_paper = with_score_bands(per_paper, settings.score_bands)
    generations = pd.DataFrame(columns=GENERATION_COLUMNS)
    with adapted.autocast():
        asked, choices = ask_cloze(training, adapted, cloze)
        told = ask_facts(training, adapted, facts)
        if told is not None:
            asked.append(facts_per_paper(told))
        per_paper = join_per_paper(per_paper, *asked)
        if prompts:
            known = [*train_papers, *learned]
            generations, scores = _generate(training, adapted, papers, known, prompts)
            per_paper = join_per_paper(per_paper, scores)
    draws = {"seed": settings.seed, "resamples": settings.bootstrap_samples}
    metrics = summarise(per_paper, **draws)
    if choices is not None:
        metrics |= calibration(choices, "gene_cloze", **draws)
    general = _score(training, adapted, general_texts, "general texts") if general_texts else None
    if general is not None:
        metrics |= _of_general(summarise(general, **draws))
    rules = _rules(training, adapted)
    metrics |= _of_rules(rules, training) | _of_cuts(cuts)
    made = Results(per_paper, general, generations, metrics, rules, cuts)
    return replace(made, cloze=choices, facts=told)


def measure_answers(
    training: Training,
    adapted: "AdaptedModel",
    items: "Sequence[InstructionItem]",
    *,
    general_texts: "list[PaperText]",
    further: Sequence[Phase] = (),
) -> Results:
    """Measure how a model answers; knows no tracking store.

    Args:
        training: The configuration; read are `evaluation`, `model.max_length` and
            `instructions.chat_template`, which a model that was trained to answer brings along.
        adapted: The model.
        items: Held-out items.
        general_texts: Texts outside the domain; may be empty.
        further: As in `measure`.

    Raises:
        UserError: The model has no chat template, or it can write none of the items.
    """
    from steps.evaluation.answers import chosen_items, per_unit, score_answers, write_answers

    settings = training.evaluation
    chat = _chat(training, adapted)
    asked = chosen_items(items, settings.answers, settings.seed)
    cuts = _fit_answers(training, adapted, items, asked, general_texts, further)
    asked = _kept(asked, ANSWERS, cuts)
    with ProgressLine("scoring answers", "tokens") as line, adapted.autocast():
        likelihood = score_answers(
            adapted.model,
            chat,
            items,
            context=settings.context or training.model.max_length,
            batch_tokens=settings.batch_tokens,
            progress=line.show,
        )
    if likelihood.empty:
        raise UserError(
            f"the chat template can write none of the {len(items)} items: mend them, or name "
            "another template by training.instructions.chat_template"
        )
    with ProgressLine("answering", "items") as line, adapted.autocast():
        said = write_answers(
            adapted.model,
            chat,
            asked,
            max_new_tokens=settings.generation.max_new_tokens,
            progress=line.show,
        )
    per_paper = per_unit(likelihood, said)
    draws = {"seed": settings.seed, "resamples": settings.bootstrap_samples}
    metrics = summarise(per_paper, **draws)
    metrics["items"] = float(len(likelihood))
    general = _score(training, adapted, general_texts, "general texts") if general_texts else None
    if general is not None:
        metrics |= _of_general(summarise(general, **draws))
    rules = _rules(training, adapted)
    metrics |= _of_rules(rules, training) | _of_cuts(cuts)
    return Results(per_paper, general, said, metrics, rules, cuts)


def _fit_answers(
    training: Training,
    adapted: "AdaptedModel",
    items: "Sequence[InstructionItem]",
    asked: "Sequence[InstructionItem]",
    general_texts: "list[PaperText]",
    further: Sequence[Phase],
) -> dict[str, Cut]:
    """Say how long scoring and asking takes, and cut what is asked to the budget."""
    from steps.papers.text import PaperText

    whole = ["\n".join(message.content for message in item.messages) for item in items]
    questions = ["\n".join(message.content for message in one.messages[:-1]) for one in asked]
    read = reading_phase(
        training, adapted, "items", [PaperText("", text, ()) for text in whole], "items"
    )
    new_tokens = training.evaluation.generation.max_new_tokens
    phases = [read, *_further_phases(training, adapted, general_texts), *further]
    if questions:
        phases.append(writing_phase(adapted, ANSWERS, questions, new_tokens))
    return fit_to_budget(training, adapted, phases, whole, questions)


def _rules(training: Training, adapted: "AdaptedModel") -> "pd.DataFrame | None":
    """What a model makes of rules of form, where the configuration asks.

    Raises:
        UserError: It has no chat template.
    """
    if not training.evaluation.instruction_following:
        return None
    from steps.evaluation.manners import TOKENS_OF_AN_ANSWER, follow_rules, rule_prompts

    chat = _chat(training, adapted)
    with ProgressLine("following rules", "prompts") as line, adapted.autocast():
        return follow_rules(
            adapted.model,
            chat,
            rule_prompts(),
            max_new_tokens=TOKENS_OF_AN_ANSWER,
            progress=line.show,
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


def _phases_of_prompts(
    training: Training, adapted: "AdaptedModel", prompts: "Sequence[Prompt]"
) -> list[Phase]:
    texts = [prompt.prompt for prompt in prompts]
    new_tokens = training.evaluation.generation.max_new_tokens
    return [writing_phase(adapted, GENERATION, texts, new_tokens)] if texts else []


def _further_phases(
    training: Training, adapted: "AdaptedModel", general_texts: "list[PaperText]"
) -> list[Phase]:
    """What is measured of papers and of answers alike."""
    phases = [reading_phase(training, adapted, "general texts", general_texts, "texts")]
    if training.evaluation.instruction_following:
        from steps.evaluation.manners import TOKENS_OF_AN_ANSWER, rule_prompts

        asked = [prompt.text for prompt in rule_prompts()]
        phases.append(writing_phase(adapted, "rules", asked, TOKENS_OF_AN_ANSWER, can_be_cut=False))
    return [phase for phase in phases if phase.parts]


def _kept(parts: "Sequence[Part]", name: str, cuts: Mapping[str, Cut]) -> "list[Part]":
    return list(parts[: cuts[name].kept] if name in cuts else parts)


def _of_cuts(cuts: Mapping[str, Cut]) -> dict[str, float]:
    """How much of each phase was measured, where a budget has cut some."""
    return {f"{name}{MEASURED_SHARE}": cut.kept / cut.wanted for name, cut in cuts.items()}


def _of_general(summary: dict[str, float]) -> dict[str, float]:
    likelihoods = ("bits_per_byte", "mlm_loss")
    return {f"general_{n}": value for n, value in summary.items() if n.startswith(likelihoods)}


def _score(
    training: Training, adapted: "AdaptedModel", papers: "list[PaperText]", what: str
) -> "pd.DataFrame":
    from steps.evaluation.likelihood import score_papers
    from steps.evaluation.masked import score_papers_masked

    settings = training.evaluation
    context = settings.context or training.model.max_length
    with ProgressLine(f"scoring {what}", "tokens") as line, adapted.autocast():
        if adapted.objective == "masked":
            return score_papers_masked(
                adapted.model,
                adapted.tokenizer,
                papers,
                context=context,
                batch_tokens=settings.batch_tokens,
                pseudo_tokens=settings.pseudo_likelihood_tokens,
                seed=settings.seed,
                progress=line.show,
            )
        return score_papers(
            adapted.model,
            adapted.tokenizer,
            papers,
            context=context,
            stride=settings.stride or max(1, context // 2),
            batch_tokens=settings.batch_tokens,
            progress=line.show,
        )


def _prompts(
    training: Training, adapted: "AdaptedModel", papers: "list[PaperText]"
) -> "list[Prompt]":
    """The titles to go on from; none for a masked model."""
    from steps.evaluation.generation import generation_prompts

    settings = training.evaluation
    if adapted.objective != "causal" or not settings.generation.prompts:
        return []
    return generation_prompts(papers, count=settings.generation.prompts, seed=settings.seed)


def _generate(
    training: Training,
    adapted: "AdaptedModel",
    papers: "list[PaperText]",
    train_papers: "list[PaperText]",
    prompts: "Sequence[Prompt]",
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Let the model write on from titles, and count genes and copies in what it writes."""
    from steps.evaluation.generation import COPY_TOKENS, generate, generation_scores
    from steps.papers.genes import GeneLexicon, find_genes

    settings = training.evaluation
    lexicon = GeneLexicon.load()
    with ProgressLine("writing on from titles", "prompts") as line:
        generations = generate(
            adapted.model,
            adapted.tokenizer,
            prompts,
            max_new_tokens=settings.generation.max_new_tokens,
            progress=line.show,
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
