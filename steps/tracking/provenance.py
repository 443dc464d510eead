"""Of whose papers a model is made: their licences, and which were retracted since.

made_of = training_papers(client, reference, scratch)
refuse_licences(made_of, training.release.allowed_licenses)
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from steps.config.sections import Training
from steps.errors import UserError
from steps.papers.ledger import LedgerEntry, read_ledger
from steps.papers.licences import license_name
from steps.papers.retractions import Retractions, read_retractions
from steps.terminal import say
from steps.tracking.datasets import fetch_ledger
from steps.tracking.inputs import find_retraction_list
from steps.tracking.registry.affected import named_papers, retracted_among
from steps.tracking.registry.lineage import dataset_runs

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from steps.tracking.registry.lineage import Lineage
    from steps.tracking.registry.model_reference import ModelReference

# How many licences and papers a message names.
NAMED = 3


@dataclass(frozen=True)
class TrainingPapers:
    """The papers that a model was trained on.

    Attributes:
        entries: One a paper, from the ledgers of its datasets.
        gaps: What the store cannot show of them, in words.
        retracted: Those that a list of retractions names.
        retracted_by: The list's name, or "".
    """

    entries: list[LedgerEntry]
    gaps: list[str] = field(default_factory=list)
    retracted: list[str] = field(default_factory=list)
    retracted_by: str = ""

    def sentences(self) -> str:
        """What a reader of a card has to know."""
        counts = Counter(entry.licence for entry in self.entries)
        licences = ", ".join(f"{name} {count}" for name, count in counts.most_common())
        said = f"Trained on {len(self.entries)} papers; licences: {licences or 'not known'}."
        if self.gaps:
            said += f" Not all of them are known: {'; '.join(self.gaps)}."
        if self.retracted:
            said += f" Retracted since ({self.retracted_by}): {', '.join(self.retracted)}."
        return said


def training_papers(
    client: "MlflowClient", reference: "ModelReference", training: Training, scratch: Path
) -> TrainingPapers:
    """The papers that a version was trained on, also in the runs that it was resumed from.

    Args:
        client: Client of the store.
        reference: The version.
        training: The configuration, which may name a list of retractions.
        scratch: Folder for downloads.

    Raises:
        UserError: The list of retractions cannot be read.
    """
    retractions = configured_retractions(training, scratch)
    runs, gaps = dataset_runs(client, reference.run_id)
    entries: dict[str, LedgerEntry] = {}
    for run_id in runs:
        try:
            ledger = fetch_ledger(client, run_id, scratch)
        except UserError as error:
            gaps.append(str(error))
            continue
        entries |= {entry.paper: entry for entry in ledger if entry.split == "train"}
    if retractions is None:
        return TrainingPapers(list(entries.values()), gaps)
    named = [name for name, entry in entries.items() if retractions.holds(entry.identity)]
    return TrainingPapers(list(entries.values()), gaps, named, retractions.name)


def configured_retractions(training: Training, scratch: Path) -> Retractions | None:
    """The list of retractions that the configuration names, or None.

    Raises:
        UserError: It is not there or cannot be read.
    """
    file = find_retraction_list(training, scratch / "retracted")
    return None if file is None else read_retractions(file, training.scientific_data.limits)


def retracted_papers(
    training: Training, lineage: "Lineage", model: str, scratch: Path
) -> tuple[str, ...]:
    """Training papers of a model that were retracted since; says so.

    Args:
        training: The configuration, which may name a list of retractions.
        lineage: What the model was trained on.
        model: What people call it.
        scratch: Folder for downloads.
    """
    retractions = configured_retractions(training, scratch)
    if retractions is None:
        return ()
    ledgers = [read_ledger(dataset.folder) for dataset in lineage.datasets]
    found = sorted({name for one in ledgers for name in retracted_among(one, retractions)})
    if found:
        say(f"{model} was trained on {named_papers(found)}, retracted by {retractions.name}")
    return tuple(found)


def refuse_licences(papers: TrainingPapers, allowed: Sequence[str] | None) -> None:
    """Refuse a release whose training papers hold other licences than those that are allowed.

    Args:
        papers: What was trained on.
        allowed: Licences as people write them; None: any.

    Raises:
        UserError: There are others, or not all papers are known.
    """
    if allowed is None:
        return
    names = {license_name(name) for name in allowed}
    others = [entry for entry in papers.entries if entry.licence not in names]
    fix = (
        "train on a dataset of scientific_data.filters.licenses, or change release.allowed_licenses"
    )
    if others:
        counts = Counter(entry.licence for entry in others).most_common(NAMED)
        shown = ", ".join(f"{name} {count}" for name, count in counts)
        raise UserError(
            f"{len(others)} of the {len(papers.entries)} training papers hold licences that "
            f"release.allowed_licenses does not name ({shown}; such as {others[0].paper}): {fix}"
        )
    if papers.gaps:
        raise UserError(
            f"not all training papers are known ({'; '.join(papers.gaps)}), and "
            f"release.allowed_licenses is set: {fix}"
        )
