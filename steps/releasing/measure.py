"""Make each form of a version, and hold it against the version at once.

    results = make_and_measure(training, source, forms, dataset_folder, released)

One form after the other, so that one model is in memory at a time; what is refused is removed.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.config.sections import Training
from steps.evaluation.generation import generation_prompts
from steps.models.adapted import load_adapted
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
    promoted, questions, stops = score_promoted(training, source, papers)
    results = []
    for form in forms:
        folder = released / form.folder
        maker.make(form, folder, stops)
        result = measure(training, source, form, folder, promoted, questions)
        say(in_a_line(result))
        if result.refusal:
            shutil.rmtree(folder)
        results.append(result)
    maker.clear()
    return results


def score_promoted(
    training: Training, source: Source, papers: Sequence[PaperText]
) -> tuple[FormScores, Questions, list[str]]:
    """Ask the version itself, on this machine and by this code.

    Returns:
        Its answers, the questions, and the tokens that end its texts as they are written.
    """
    adapted = load_adapted(source.folder, training.hardware)
    inner: Any = adapted.model
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    settings, objective = training.evaluation, source.base.objective
    context = settings.context or source.description["max_length"]
    context = min(context, longest_text(inner.config) or context)
    causal = objective == "causal"
    prompts = generation_prompts(papers, count=training.release.prompts if causal else 0)
    stops = stops_of(inner, adapted.tokenizer) if causal else ()
    questions = Questions(
        papers,
        [prompt.prompt for prompt in prompts],
        context=context,
        stride=settings.stride or max(1, context // 2),
        batch_tokens=settings.batch_tokens,
        new_tokens=training.release.new_tokens,
        stops=stops,
        seed=settings.seed,
    )
    with adapted.autocast():
        answers = score(adapted.model, adapted.tokenizer, objective, questions)
    return answers, questions, adapted.tokenizer.convert_ids_to_tokens(list(stops))


def measure(
    training: Training,
    source: Source,
    form: Form,
    folder: Path,
    promoted: FormScores,
    questions: Questions,
) -> Fidelity:
    """Load a form from its files, ask it, and judge it."""
    objective = source.base.objective
    limit = form.max_loss(training.release.max_loss, objective)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    try:
        measured = ask(form, folder, source, questions, training.hardware)
    except FormBroken as error:
        return broken(form.name, promoted, str(error), limit=limit, objective=objective, size=size)
    # In full precision, an adapter of a quantised base may well be better than it was.
    may_gain = source.is_quantised
    return judge(
        form.name,
        promoted,
        measured,
        limit=limit,
        objective=objective,
        may_gain=may_gain,
        size=size,
    )


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
