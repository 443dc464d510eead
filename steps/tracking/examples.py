"""What a model is measured on: papers, or items, that it was not trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.errors import UserError

if TYPE_CHECKING:
    from steps.tracking.datasets import StoredDataset
    from steps.tracking.registry.lineage import Lineage
    from steps.tracking.registry.model_reference import ModelReference


def is_asked(training: Training, adapter: Path | None) -> bool:
    """Whether a model is measured by its answers: so configured, or so trained.

    Args:
        training: The configuration.
        adapter: The adapter's folder; None for a base.
    """
    from steps.models.adapted import read_description

    if training.model.objective == "instruction":
        return True
    return adapter is not None and read_description(adapter).get("task") == "instruction"


def read_examples(stored: "StoredDataset", split: str, *, answers: bool) -> "list[Any]":
    """The papers of a split, or its instruction items.

    Raises:
        UserError: There are none.
    """
    from steps.papers.item_splits import read_split
    from steps.papers.stored_papers import read_papers

    found: list[Any] = (
        read_split(stored.folder, split) if answers else read_papers(stored.folder, split)
    )
    if found:
        return found
    what = f"split {split!r} of dataset {stored.digest[:19]}… holds no"
    if answers:
        raise UserError(
            f"{what} instruction item: name items of its papers in training.instructions.data_file "
            "(by pmid or paper_id), or items of no paper, and run preprocess again"
        )
    raise UserError(
        f"{what} paper: preprocess at least 10 different papers, with "
        f"training.scientific_data.split.{split}_fraction above 0"
    )


def check_trained_papers(
    training: Training,
    reference: "ModelReference",
    scored: "list[str]",
    split: str,
    lineage: "Lineage",
) -> int:
    """Look for papers of the split that the model was trained on.

    Args:
        training: The configuration.
        reference: The model.
        scored: The papers that are scored, and items that name none.
        split: Where they are from.
        lineage: What the model was trained on.

    Returns:
        How many there are: 0, unless `evaluation.allow_trained_papers` is set.

    Raises:
        UserError: There are some, or the lineage cannot be seen, and that key is not set.
    """
    scored = sorted(set(scored))
    seen = sorted(lineage.trained_papers().intersection(scored))
    if training.evaluation.allow_trained_papers:
        return len(seen)
    way_out = (
        "set training.evaluation.allow_trained_papers=true to see the figures all the same, on "
        "which nothing is ever promoted"
    )
    if seen:
        raise UserError(
            f"{reference.name} was trained on {len(seen)} of the {len(scored)} papers of split "
            f"{split!r} (such as {seen[0]}): score another split, or {way_out}"
        )
    if lineage.gap:
        raise UserError(
            f"{reference.name}: its training papers are unknown, so it may know papers of split "
            f"{split!r}: {lineage.gap}; or {way_out}"
        )
    return 0
