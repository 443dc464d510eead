"""The stage of preprocessing that reads instruction items and splits them by their papers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steps.digests import file_sha256
from steps.errors import UserError
from steps.papers.deduplication import UnionFind, neighbours
from steps.papers.instructions import InstructionItem, read_items
from steps.papers.item_splits import overlap_with_test_papers, split_items, write_items
from steps.papers.paper_table import PaperTable, RejectedPaper, rejected_line
from steps.papers.preparation import key_hash
from steps.papers.records import RawRecord, RecordProblem
from steps.papers.retractions import Retractions
from steps.papers.stages import Progress


def prepare_items(
    table: PaperTable,
    files: Sequence[Path],
    report: Progress,
    retractions: Retractions | None = None,
) -> dict[str, Any]:
    """Read items, split them, and write them beside the papers.

    Args:
        table: The papers, with their splits; bad items go to its `rejected.jsonl`.
        files: Files of items.
        report: Called with the stage's name and a count of items.
        retractions: Papers that were taken back; items about them are left out.

    Returns:
        What the manifest states of them.

    Raises:
        UserError: A file cannot be read, or none of its records is an item.
    """
    rejected: Counter[str] = Counter()
    first: list[str] = []

    def reject(record: RawRecord, file: Path, problem: RecordProblem) -> None:
        rejected[problem.reason] += 1
        if not first:
            first.append(f"record {record.number} of {file.name}: {problem.detail}")
        bad = RejectedPaper(None, problem.reason, problem.detail, file.name, record.number)
        table.rejected_file.write(rejected_line(bad, record.data))

    items: list[InstructionItem] = []
    try:
        for item in read_items(files, table.settings.limits, reject, retractions):
            items.append(item)
            if len(items) % 1000 == 0:
                report("items", len(items))
    except UserError as error:
        raise UserError(f"training.instructions.data_file: {error}") from error
    report("items", len(items))
    if not items:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common(3))
        example = f" ({first[0]})" if first else ""
        raise UserError(
            f"no usable instruction item in {', '.join(file.name for file in files[:5])}: "
            f"rejected for {reasons or 'nothing, as there is no record'}{example}: mend the "
            "records, or set training.instructions.data_file to null"
        )
    papers = _Papers(table)
    made = split_items(map(papers.named_as_kept, items), papers.splits, table.settings)
    named = {item.paper_id for item in made.items if item.paper_id}
    test_papers = table.in_split("test")
    return {
        **write_items(table.scratch / "dataset", made),
        "read": len(items) + sum(rejected.values()),
        "rejected": dict(sorted(rejected.items())),
        "duplicates": len(made.duplicates),
        "papers_named": len(named),
        "papers_not_in_dataset": len(named - papers.splits.keys()),
        "training_items_overlapping_test_papers": overlap_with_test_papers(
            made, lambda: table.words_of(test_papers)
        ),
        "inputs": [
            {"name": file.name, "sha256": file_sha256(file), "bytes": file.stat().st_size}
            for file in files
        ],
    }


class _Papers:
    """The papers of a table by any identifier, also those left out as duplicates of others."""

    def __init__(self, table: PaperTable) -> None:
        keys = ("pmid_key", "doi_key", "other_key")
        union = UnionFind(len(table.rows))
        for key in keys:
            for first, second in neighbours(table.rows[key], ignore=0):
                union.join(first, second)
        kept_of_cluster = {table.clusters[n]: n for n in table.kept}
        kept_of_group = {
            union.find(n): kept_of_cluster[cluster]
            for n, cluster in enumerate(table.clusters)
            if cluster in kept_of_cluster
        }
        self._paper_of: dict[int, str] = {}
        for n in range(len(table.rows)):
            kept = kept_of_group.get(union.find(n))
            if kept is not None:
                for key in keys:
                    self._paper_of[int(table.rows[key][n])] = table.paper_ids[kept]
        self.splits = {table.paper_ids[n]: table.splits[n] for n in table.kept}

    def named_as_kept(self, item: InstructionItem) -> InstructionItem:
        """The item under the identifier that its paper has in the dataset."""
        found = (self._paper_of.get(key_hash(name)) for name in item.identifiers)
        paper = next((one for one in found if one is not None), None)
        return item if paper is None else replace(item, paper_id=paper)
