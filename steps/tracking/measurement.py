"""What an evaluation measures, on one process or on several.

    adapted = load_together(job)                # rank 0; alone, the only process
    results, examples = measure_together(job, adapted)

    follow(run)                                 # the other ranks, until rank 0 is done

Rank 0 alone knows the store. It sends what is to be measured; the others load the same model and
do their share of the batches (`steps.distributed.sharing`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.distributed.collectives import broadcast, raise_on_all_ranks
from steps.distributed.sharing import sharing_out
from steps.errors import UserError
from steps.evaluation.measure import Results, TokenExample, measure, measure_answers, token_examples
from steps.evaluation.workload import Phase
from steps.progress import about, waiting

if TYPE_CHECKING:
    from steps.models.adapted import AdaptedModel
    from steps.tracking.registry.model_reference import ModelReference
    from steps.tracking.runs import StepRun


@dataclass(frozen=True)
class Measurement:
    """A model and what it is measured on.

    Attributes:
        training: The configuration.
        reference: The model.
        adapter: Its adapter folder on the machine of rank 0; None for a base.
        answers: Whether it is measured by its answers.
        examples: Papers or instruction items.
        general_texts: Texts outside the domain.
        train_papers: The training split beside the papers.
        learned: What else the model was trained on.
        further: What the first rank does with the model afterwards.
    """

    training: Training
    reference: "ModelReference"
    adapter: Path | None
    answers: bool
    examples: "Sequence[Any]"
    general_texts: "Sequence[Any]"
    train_papers: "Sequence[Any]" = field(default=())
    learned: "Sequence[Any]" = field(default=())
    further: Sequence[Phase] = ()


def load_together(job: Measurement) -> "AdaptedModel":
    """Load the model on this rank and on those that follow."""
    broadcast(job)
    with raise_on_all_ranks(), about(job.reference.short_name), waiting("loading the model"):
        return load_model_of(job.training, job.adapter)


def measure_together(
    job: Measurement, adapted: "AdaptedModel"
) -> "tuple[Results, list[TokenExample]]":
    """Measure a model, and read some texts token by token; every rank gets all of it.

    Raises:
        UserError: What cannot be measured of this model, on all ranks.
    """
    texts = list(job.general_texts)
    with raise_on_all_ranks(), sharing_out(), about(job.reference.short_name):
        if job.answers:
            results = measure_answers(
                job.training, adapted, job.examples, general_texts=texts, further=job.further
            )
            return results, []
        results = measure(
            job.training,
            adapted,
            list(job.examples),
            list(job.train_papers),
            general_texts=texts,
            learned=job.learned,
            further=job.further,
        )
        with waiting("reading some papers token by token"):
            return results, token_examples(job.training, adapted, list(job.examples))


@contextmanager
def leading() -> Iterator[None]:
    """On rank 0: let the others go once it needs them no more."""
    try:
        yield
    except UserError as error:
        # Where it is theirs too, they have ended; else they wait for what comes next.
        if not error.is_shared:
            broadcast(None)
        raise
    broadcast(None)


def follow(run: "StepRun") -> None:
    """On any other rank: measure along with rank 0 until it is done.

    Raises:
        UserError: What all ranks have met together.
    """
    from steps.tracking.registry.model_reference import fetch_adapter

    while True:
        job: Measurement | None = broadcast(None)
        if job is None:
            return
        with raise_on_all_ranks():
            adapter = job.adapter
            if adapter is not None and not adapter.is_dir():
                # Rank 0 is on another machine.
                adapter = fetch_adapter(run.client, job.reference, run.scratch)
            adapted = load_model_of(job.training, adapter)
        measure_together(job, adapted)


def load_model_of(training: Training, adapter: Path | None) -> "AdaptedModel":
    """Load an adapter folder with its base, or the base that the configuration names."""
    from steps.models.adapted import load_adapted, load_base
    from steps.models.sources import resolve_base

    if adapter is None:
        return load_base(resolve_base(training.model), hardware=training.hardware)
    return load_adapted(adapter, training.hardware)
