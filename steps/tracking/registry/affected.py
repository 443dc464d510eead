"""Which registered versions were trained on papers that have been retracted since."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steps.errors import UserError
from steps.papers.retractions import Retractions
from steps.terminal import say
from steps.tracking.datasets import fetch_ledger
from steps.tracking.names import CHALLENGER, CHAMPION, PREVIOUS
from steps.tracking.registry.lineage import dataset_runs

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from steps.papers.ledger import LedgerEntry

PAPERS_NAMED = 3


@dataclass(frozen=True)
class AffectedVersion:
    """A version and the retracted papers that it was trained on.

    Attributes:
        uri: `models:/NAME/VERSION`.
        aliases: Its aliases.
        papers: Identifiers of the retracted papers in its training splits.
        unknown: Why its training papers are not, or not all, known; or "".
    """

    uri: str
    aliases: tuple[str, ...]
    papers: tuple[str, ...]
    unknown: str


def retracted_among(ledger: "Sequence[LedgerEntry]", retractions: Retractions) -> list[str]:
    """Identifiers of the training papers of a dataset that a list names."""
    return [
        entry.paper
        for entry in ledger
        if entry.split == "train" and retractions.holds(entry.identity)
    ]


def affected_versions(
    client: "MlflowClient", name: str, retractions: Retractions, scratch: Path
) -> list[AffectedVersion]:
    """The versions of a registered model that learned from retracted papers.

    Args:
        client: Client of the store.
        name: The registered model.
        retractions: The list.
        scratch: Folder for downloads.

    Returns:
        Versions that are affected, or whose training papers cannot be seen; those with the
        aliases champion, challenger and previous_champion first, then the newest.
    """
    aliases: dict[str, list[str]] = {}
    versions = list(client.search_model_versions(f"name='{name}'"))
    if versions:
        for alias, version in client.get_registered_model(name).aliases.items():
            aliases.setdefault(str(version), []).append(alias)
    retracted: dict[str, list[str]] = {}
    found = []
    for version in versions:
        runs, gaps = dataset_runs(client, version.run_id)
        papers: set[str] = set()
        for run_id in runs:
            try:
                if run_id not in retracted:
                    ledger = fetch_ledger(client, run_id, scratch)
                    retracted[run_id] = retracted_among(ledger, retractions)
                papers.update(retracted[run_id])
            except UserError as error:
                gaps.append(str(error))
        if papers or gaps:
            uri = f"models:/{name}/{version.version}"
            own = tuple(sorted(aliases.get(str(version.version), [])))
            found.append(AffectedVersion(uri, own, tuple(sorted(papers)), "; ".join(gaps)))
    return sorted(found, key=_rank)


def _rank(version: AffectedVersion) -> tuple[int, int]:
    known = (CHAMPION, CHALLENGER, PREVIOUS)
    first = min((known.index(alias) for alias in version.aliases if alias in known), default=9)
    return first, -int(version.uri.rpartition("/")[2])


def say_affected(versions: Sequence[AffectedVersion], retractions: Retractions) -> None:
    """Say which versions are affected, and what to do about the champion."""
    for line in affected_lines(versions, retractions.name):
        say(line)


def affected_lines(versions: Sequence[AffectedVersion], list_name: str) -> list[str]:
    """Which versions are affected, and what to do about the champion, in a line each.

    Args:
        versions: From `affected_versions`.
        list_name: What the list of retractions is called.
    """
    lines = []
    for version in versions:
        shown = f"{version.uri}{_with_aliases(version)}"
        if version.papers:
            lines.append(
                f"{shown} was trained on {named_papers(version.papers)}, retracted by {list_name}"
            )
        if version.unknown:
            lines.append(f"{shown}: its training papers are not all known, {version.unknown}")
    affected = [version for version in versions if version.papers]
    if any(CHAMPION in version.aliases for version in affected):
        lines.append(
            "to put the previous champion back: mlflow run . -e ab_compare -P rollback=true"
        )
        if any(PREVIOUS in version.aliases for version in affected):
            lines.append(
                "the previous champion is affected as well: train anew without these papers"
            )
    return lines


def named_papers(papers: Sequence[str]) -> str:
    """How many papers, and the first of them."""
    more = f" and {len(papers) - PAPERS_NAMED} more" if len(papers) > PAPERS_NAMED else ""
    noun = "paper" if len(papers) == 1 else "papers"
    return f"{len(papers)} {noun} ({', '.join(papers[:PAPERS_NAMED])}{more})"


def _with_aliases(version: AffectedVersion) -> str:
    return f" ({', '.join(version.aliases)})" if version.aliases else ""
