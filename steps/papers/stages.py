"""The stages of preprocessing, each a function over the table of papers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from steps.errors import UserError
from steps.papers import leakage
from steps.papers.dataset import (
    Contents,
    SplitDigest,
    SplitSummary,
    write_splits,
)
from steps.papers.deduplication import (
    Hashes,
    UnionFind,
    jaccard,
)
from steps.papers.engines.engine import Engine
from steps.papers.paper_table import PaperTable
from steps.papers.retractions import Retractions
from steps.papers.splits import (
    MIN_PAPERS_TO_FILL,
    SPLITS,
    EmptySplit,
    assign_splits,
    settle_clusters,
    split_alone,
)

# How much of files and reasons a message names.
FILES_NAMED = 5
REASONS_NAMED = 3
Progress = Callable[[str, int], None]
Group = TypeVar("Group", int, str)


def read_into(table: PaperTable, engine: Engine, report: Progress) -> None:
    """Read all records, prepare them in chunks, keep the good and list the bad."""
    parts = []
    for chunk, prepared in engine.prepare(table):
        parts.append(table.take_in(chunk, prepared))
        table.num_read += len(chunk)
        report("read", table.num_read)
    if parts:
        table.rows = np.concatenate(parts)
    table.kept = list(range(len(table.rows)))
    if table.inputs and not table.kept:
        raise UserError(_no_paper(table))


def _no_paper(table: PaperTable) -> str:
    names = ", ".join(table.input_names[:FILES_NAMED])
    more = len(table.input_names) - FILES_NAMED
    names += f" and {more} other files" if more > 0 else ""
    message = f"no usable paper in {names}: {table.num_read} records read"
    if not table.rejected:
        return f"{message}: name a file that holds papers"
    return (
        f"{message}, rejected for {main_reasons(table)}: "
        "mend the records or scientific_data.filters"
    )


def main_reasons(table: PaperTable) -> str:
    """The most frequent reasons for rejections, each with one record and what is wrong there."""
    parts = []
    for reason, count in table.rejected.most_common(REASONS_NAMED):
        paper = table.first_rejected[reason]
        parts.append(f"{reason} {count} (record {paper.record} of {paper.file}: {paper.detail})")
    more = len(table.rejected) - REASONS_NAMED
    return "; ".join(parts) + (f"; {more} other reasons" if more > 0 else "")


def reject_retracted(table: PaperTable, retractions: Retractions | None) -> Retractions | None:
    """Reject the papers that a list of retractions names.

    Returns:
        The list with all other identifiers of these papers, by which items may name them.

    Raises:
        UserError: It names all of them.
    """
    if retractions is None:
        return None
    detail = f"named in {retractions.name} (scientific_data.retracted)"
    found = [n for n in table.kept if retractions.holds(table.identities[n])]
    table.reject_kept(dict.fromkeys(found, ("retracted", detail)))
    if not table.kept:
        raise UserError(f"no paper is left: all are {detail}: check that list")
    names = {name for n in found for name in table.identities[n].names}
    return replace(retractions, identifiers=retractions.identifiers | names)


def reject_duplicate_identifiers(table: PaperTable, engine: Engine) -> None:
    """Of records that share a PMID, a DOI or a PMCID, keep the best."""
    union = UnionFind(len(table.rows))
    for pairs in engine.same_identifiers(table):
        for first, second in pairs:
            union.join(first, second)
    best = _best_of_each(table, {n: union.find(n) for n in table.kept}, {})
    problems = {}
    for n in table.kept:
        winner = best[union.find(n)]
        if n != winner:
            row = table.rows[winner]
            problems[n] = (
                "duplicate_identifier",
                f"the same identifier as record {row['record']} of "
                f"{table.input_names[row['input']]}, which is kept",
            )
    table.reject_kept(problems)
    table.distinct = table.kept


def _best_of_each(
    table: PaperTable, group_of: Mapping[int, Group], previous: Mapping[str, str]
) -> dict[Group, int]:
    """The paper to keep of each group: the better-scored, else the longer, else the first.

    Papers of an earlier dataset come before all others, so that it stays as it was.
    """

    def rank(n: int) -> tuple[bool, float, int, int]:
        row = table.rows[n]
        score = -np.inf if np.isnan(row["score"]) else row["score"]
        return table.paper_ids[n] in previous, score, row["num_words"], -n

    best: dict[Group, int] = {}
    for n, group in group_of.items():
        if group not in best or rank(n) > rank(best[group]):
            best[group] = n
    return best


def find_duplicates_and_split(
    table: PaperTable, engine: Engine, previous: Mapping[str, str]
) -> None:
    """Cluster the papers, drop duplicates, and give every cluster its split."""
    settings = table.settings
    if not table.inputs:
        return
    labels = engine.clusters(table)
    settled = settle_clusters([table.paper_ids[n] for n in table.kept], labels, previous)
    table.clusters = [""] * len(table.rows)
    for n, name in zip(table.kept, settled.names, strict=True):
        table.clusters[n] = name

    problems = {
        table.kept[place]: (
            "duplicate_across_splits",
            "new, and a near-duplicate of papers that an earlier dataset has in two splits",
        )
        for place in settled.bridging
    }
    if settings.deduplication.enabled:
        candidates = {n: table.clusters[n] for n in table.kept if n not in problems}
        best = _best_of_each(table, candidates, previous)
        for n, cluster in candidates.items():
            if n != best[cluster]:
                problems[n] = _duplicate_of(table, best[cluster], n)
    table.reject_kept(problems)

    table.splits = [""] * len(table.rows)
    names = [table.clusters[n] for n in table.kept]
    for n, split in zip(table.kept, _assign(table, names, settled.fixed), strict=True):
        table.splits[n] = split


def _assign(table: PaperTable, clusters: list[str], fixed: Mapping[str, str]) -> list[str]:
    """The split of each kept paper; all of them train where there are too few to hold any out.

    Raises:
        UserError: A split stays empty though there were papers enough: says what became of them.
    """
    try:
        return assign_splits(clusters, fixed, table.settings.split)
    except EmptySplit as error:
        if not fixed and table.num_different < MIN_PAPERS_TO_FILL:
            table.say(
                f"too few papers to hold any out ({len(clusters)}): all of them train; evaluate "
                f"and ab_compare will refuse this dataset, for it has no test split (from "
                f"{MIN_PAPERS_TO_FILL} different papers on there is one)"
            )
            return ["train"] * len(clusters)
        lost = sum(table.rejected.values())
        if not lost:
            raise
        message = f"{error}; {lost} of {table.num_read} records were rejected before"
        raise UserError(f"{message}, for {main_reasons(table)}") from None


def _duplicate_of(table: PaperTable, winner: int, n: int) -> tuple[str, str]:
    kept = f"{table.paper_ids[winner]}, which is kept"
    if table.rows["content_hash"][n] == table.rows["content_hash"][winner]:
        return "exact_duplicate", f"the same words as {kept}"
    shingle_words = table.settings.deduplication.shingle_words
    similarity = jaccard(table.words(n), table.words(winner), shingle_words)
    return "near_duplicate", f"similarity {similarity:.2f} to {kept}"


def decontaminate(table: PaperTable, benchmark: Hashes) -> None:
    """Reject training papers that share too much with the benchmark texts."""
    if not len(benchmark):
        return
    name = Path(table.settings.split.decontaminate_against or "").name
    problems = {}
    for n in table.in_split("train"):
        found = leakage.contaminated(table.words(n), benchmark)
        if found is not None:
            problems[n] = (
                "benchmark_overlap",
                f"{found[0]} of its {found[1]} word 13-grams stand in {name}",
            )
    table.reject_kept(problems)
    if not table.in_split("train"):
        raise UserError(
            f"no training paper is left: all share word 13-grams with {name}: "
            "check scientific_data.split.decontaminate_against"
        )


def measure_leakage(table: PaperTable) -> dict[str, Any]:
    """Leakage `before` (papers split one by one) and `after` (by clusters of duplicates)."""
    alone = {n: split_alone(table.paper_ids[n], table.settings.split) for n in table.distinct}
    before = _leakage_between(
        table,
        test=[n for n in table.distinct if alone[n] == "test"],
        train=[n for n in table.distinct if alone[n] == "train"],
    )
    after = _leakage_between(table, test=table.in_split("test"), train=table.in_split("train"))
    return {
        "ngram_words": leakage.NGRAM_WORDS,
        "before": asdict(before) | {"share": before.share},
        "after": asdict(after) | {"share": after.share},
    }


def _leakage_between(table: PaperTable, test: list[int], train: list[int]) -> leakage.Leakage:
    return leakage.measure_leakage(
        lambda: table.words_of(test),
        lambda: table.words_of(train),
        int(table.rows["num_hashes"][test].sum()),
    )


def write_dataset(table: PaperTable, folder: Path) -> tuple[dict[str, SplitSummary], Contents]:
    """Write the dataset; a summary of each split, and what they contain."""
    summaries = {name: _summary(table, name) for name in SPLITS}
    digests = {name: summary.digest for name, summary in summaries.items()}
    return summaries, write_splits(folder, digests, _pieces(table))


def _summary(table: PaperTable, split: str) -> SplitSummary:
    papers = table.in_split(split)
    digest = SplitDigest()
    own = table.rows["digest"][papers].tobytes()
    for place, n in enumerate(papers):
        digest.add(own[32 * place : 32 * (place + 1)], table.clusters[n])
    return SplitSummary(
        papers=len(papers),
        sections=int(table.rows["num_rows"][papers].sum()),
        words=int(table.rows["num_words"][papers].sum()),
        digest=str(digest),
        paper_ids=[table.paper_ids[n] for n in papers],
    )


def _pieces(table: PaperTable) -> Iterator[tuple[str, pa.RecordBatch, list[str]]]:
    """The rows of the kept papers batch by batch, with their split and clusters."""
    chunk_of = table.rows["chunk"].tolist()
    first_row, num_rows = table.rows["first_row"].tolist(), table.rows["num_rows"].tolist()
    for chunk, papers in groupby(table.kept, key=chunk_of.__getitem__):
        batch = pa.ipc.open_stream(table.batch_spool.read(*table.batches[chunk])).read_next_batch()
        by_split: dict[str, list[int]] = {name: [] for name in SPLITS}
        for n in papers:
            by_split[table.splits[n]].append(n)
        for split, members in by_split.items():
            rows: list[int] = []
            clusters: list[str] = []
            for n in members:
                rows.extend(range(first_row[n], first_row[n] + num_rows[n]))
                clusters.extend([table.clusters[n]] * num_rows[n])
            if rows:
                yield split, batch.take(pa.array(rows, pa.int64())), clusters
