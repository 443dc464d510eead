"""Which datasets a model was trained on, as the tracking store shows it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steps.errors import UserError
from steps.papers.item_splits import read_split
from steps.papers.stored_papers import read_papers
from steps.tracking.datasets import StoredDataset, fetch_dataset
from steps.tracking.names import RESUMED_TAG
from steps.tracking.registry.model_reference import ModelReference
from steps.tracking.store import one_line

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class Lineage:
    """What a model has been trained on.

    Attributes:
        datasets: The datasets of its training run and of the runs that this one went on from.
        gap: What of it the store cannot show, in words, or "".
    """

    datasets: tuple[StoredDataset, ...]
    gap: str

    def trained_papers(self) -> set[str]:
        """Identifiers of the papers in the training splits, and of items that name none."""
        papers = {
            paper
            for dataset in self.datasets
            for paper in dataset.manifest["splits"]["train"]["paper_ids"]
        }
        items = {
            item.unit
            for dataset in self.datasets
            if "instructions" in dataset.manifest
            for item in read_split(dataset.folder, "train")
        }
        return papers | items

    def trained_texts(self) -> Iterator[str]:
        """The texts of those papers and items, dataset by dataset."""
        for dataset in self.datasets:
            for paper in read_papers(dataset.folder, "train"):
                yield paper.text
            if "instructions" in dataset.manifest:
                for item in read_split(dataset.folder, "train"):
                    yield item.text


def training_lineage(
    client: "MlflowClient", reference: ModelReference, stored: StoredDataset, scratch: Path
) -> Lineage:
    """Follow a model's training run, and those that it was resumed from, to their datasets.

    Args:
        client: Client of the store.
        reference: The model; a base model has no lineage here.
        stored: A dataset that is on this machine already.
        scratch: Where to put the others.
    """
    datasets: dict[str, StoredDataset] = {}
    runs, gaps = dataset_runs(client, reference.run_id)
    for dataset_run in runs:
        if dataset_run == stored.run_id:
            datasets[dataset_run] = stored
            continue
        try:
            datasets[dataset_run] = fetch_dataset(client, dataset_run, scratch / dataset_run)
        except UserError as error:
            gaps.append(str(error))
    return Lineage(tuple(datasets.values()), "; ".join(gaps))


def dataset_runs(client: "MlflowClient", run_id: str | None) -> tuple[list[str], list[str]]:
    """Follow a training run, and those that it was resumed from, to the runs of their datasets.

    Args:
        client: Client of the store.
        run_id: The training run.

    Returns:
        The preprocess runs, and what the store cannot show, in words.
    """
    from mlflow.exceptions import MlflowException

    found: list[str] = []
    gaps: list[str] = []
    seen: set[str] = set()
    while run_id and run_id not in seen:
        seen.add(run_id)
        try:
            tags = client.get_run(run_id).data.tags
        except MlflowException as error:
            gaps.append(f"training run {run_id} is gone ({one_line(error)})")
            break
        dataset_run = tags.get("forge.dataset_run")
        if dataset_run is None:
            gaps.append(f"training run {run_id} does not say which dataset it used")
        elif dataset_run not in found:
            found.append(dataset_run)
        # The run, and the step of the checkpoint that was gone on from.
        run_id = tags.get(RESUMED_TAG, "").partition(":")[0] or None
    return found, gaps
