"""Make each form of a version, and hold it against the version at once.

    results = make_and_measure(training, source, forms, dataset_folder, released)

One form after the other, so that one model is in memory at a time; what is refused is removed.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.config.sections import Training
from steps.evaluation.generation import generation_prompts
from steps.models.adapted import AdaptedModel, load_adapted
from steps.models.adapters import unwrapped
from steps.models.lengths import longest_text
from steps.papers.text import PaperText
from steps.releasing.fidelity import Fidelity, broken, judge
from steps.releasing.forms import Form, Source
from steps.releasing.llama_cpp import FormBroken
from steps.releasing.loading import ask
from steps.releasing.make import Maker
from steps.releasing.scores import FormScores, Questions, score, stops_of
from steps.terminal import say


def make_and_measure(
    training: Training,
    source: Source,
    forms: Sequence[Form],
    papers: Sequence[PaperText],
    released: Path,
) -> list[Fidelity]:
    """Make forms below a folder, and refuse those that are not what was promoted.

    Args:
        training: The configuration.
        source: The version.
        forms: What to make.
        papers: Held-out papers.
        released: A folder that is not there yet; holds the forms that may leave, afterwards.

    Returns:
        One result a form, in order.

    Raises:
        UserError: The version cannot be loaded, or llama.cpp does not take it.
    """
    released.mkdir(parents=True)
    maker = Maker(source, forms, training.release, released.parent)
    reference = ask_version(training, source, papers)
    results = []
    for form in forms:
        folder = released / form.folder
        maker.make(form, folder, reference.stops)
        result = measure(training, source, form, folder, reference)
        say(in_a_line(result))
        if result.refusal:
            shutil.rmtree(folder)
        results.append(result)
    maker.clear()
    return results


@dataclass(frozen=True)
class Reference:
    """A version's own answers, which its forms are held against.

    Attributes:
        questions: What was asked.
        promoted: What the version answered, as it was promoted.
        merged: What its adapter answers on the weights that forms are merged onto; of a version on
            an unquantised base the same.
        stops: The tokens that end its texts, as they are written.
    """

    questions: Questions
    promoted: FormScores
    merged: FormScores
    stops: list[str]


def ask_version(training: Training, source: Source, papers: Sequence[PaperText]) -> Reference:
    """Ask the version itself, on this machine and by this code.

    Args:
        training: The configuration.
        source: The version.
        papers: Held-out papers.
    """
    adapted = load_adapted(source.folder, training.hardware)
    questions = questions_for(training, source, adapted, papers)
    objective, tokenizer = source.base.objective, adapted.tokenizer
    with adapted.autocast():
        promoted = score(adapted.model, tokenizer, objective, questions)
    stops = tokenizer.convert_ids_to_tokens(list(questions.stops))
    merged = promoted
    moves = training.release.merge_onto == "full_precision" and not source.is_stored_quantised
    if source.is_quantised and moves:
        del adapted
        whole = load_adapted(source.folder, training.hardware, bits=16)
        with whole.autocast():
            merged = score(whole.model, tokenizer, objective, questions)
    return Reference(questions, promoted, merged, stops)


def questions_for(
    training: Training, source: Source, adapted: AdaptedModel, papers: Sequence[PaperText]
) -> Questions:
    """What a version and its forms are asked: windows as in its evaluation."""
    inner, settings = unwrapped(adapted.model), training.evaluation
    context = settings.context or source.description["max_length"]
    context = min(context, longest_text(inner.config) or context)
    causal = source.base.objective == "causal"
    prompts = generation_prompts(papers, count=training.release.prompts if causal else 0)
    return Questions(
        papers,
        [prompt.prompt for prompt in prompts],
        context=context,
        stride=settings.stride or max(1, context // 2),
        batch_tokens=settings.batch_tokens,
        new_tokens=training.release.new_tokens,
        stops=stops_of(inner, adapted.tokenizer) if causal else (),
        seed=settings.seed,
    )


def measure(
    training: Training, source: Source, form: Form, folder: Path, reference: Reference
) -> Fidelity:
    """Load a form from its files, ask it, and judge it."""
    objective, promoted = source.base.objective, reference.promoted
    limit = form.max_loss(training.release.max_loss, objective)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    common: dict[str, Any] = {"limit": limit, "objective": objective, "size": size}
    try:
        measured = ask(form, folder, source, reference.questions, training.hardware)
    except FormBroken as error:
        return broken(form.name, promoted, str(error), **common)
    expected = promoted if form.name == "adapter" else reference.merged
    return judge(form.name, promoted, expected, measured, **common)


def in_a_line(result: Fidelity) -> str:
    """What the terminal says about a form."""
    size = f"{result.bytes / 1e6:,.1f} MB"
    if result.refusal:
        return f"  {result.form}: refused: {result.refusal}"
    assert result.score is not None
    assert result.difference is not None
    unit = "nats per masked token" if result.metric == "mlm_loss" else "bits per byte"
    return (
        f"  {result.form}: {result.score:.4f} {unit}, {result.difference:+.5f} beside the version "
        f"(limit {result.limit:g}), {size}"
    )
