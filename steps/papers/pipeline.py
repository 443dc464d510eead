"""From files of papers to a clean, split dataset: read, check, clean, deduplicate, split.

    preparation = prepare_dataset([Path("papers.json")], config.scientific_data, Path("out"))

leaves `out/dataset/` with its `manifest.json`, and `out/rejected.jsonl` with every record
that was left out and the reason. Each record is checked, cleaned and annotated on its own,
in as many processes as there are; what needs all papers at once (duplicates, splits,
leakage) runs here on hashes. The texts wait in a scratch file, so that memory grows with
the number of papers by about a kilobyte each and not with their length.
"""

import hashlib
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import groupby
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steps.config.sections import ScientificData
from steps.errors import UserError, writing_to
from steps.papers import leakage
from steps.papers.dataset import (
    SCHEMA_VERSION,
    Contents,
    SplitDigest,
    SplitSummary,
    Spool,
    combine_digests,
    write_splits,
)
from steps.papers.deduplication import (
    Hashes,
    UnionFind,
    Words,
    find_clusters,
    hash_words,
    jaccard,
    neighbours,
)
from steps.papers.filters import check_language_name
from steps.papers.leakage import read_benchmark_texts
from steps.papers.preparation import CleaningExample, PreparedChunk, prepare_chunk
from steps.papers.scanner import RawRecord, read_records
from steps.papers.splits import (
    SPLITS,
    assign_splits,
    read_previous_splits,
    settle_clusters,
    split_alone,
)

Progress = Callable[[str, int], None]
Group = TypeVar("Group", int, str)
Chunk = list[tuple[int, RawRecord]]  # input file number and record

CHUNK_RECORDS = 256
CHUNK_BYTES = 1 << 20
# Below this a second process costs more than it saves.
MIN_BYTES_FOR_PROCESSES = 8_000_000
CHUNKS_IN_FLIGHT = 3
# Papers whose word hashes are read at once: about 200 kB of abstracts.
STRETCH_PAPERS = 256
# How much the report shows; the files hold everything.
MAX_EXAMPLES = 8
MAX_REJECTED_SHOWN = 200

LIBRARIES = ("datasets", "ftfy", "msgspec", "numpy", "py3langid", "pyarrow", "regex", "rensa")


@dataclass(frozen=True)
class RejectedPaper:
    """One rejected record as the report shows it."""

    identifier: str | None
    reason: str
    detail: str
    file: str
    record: int


@dataclass(frozen=True)
class Preparation:
    """What a preprocessing run made.

    Attributes:
        output: The folder that holds `dataset/` and `rejected.jsonl`.
        digest: Digest of the dataset, "sha256:...".
        manifest: The content of `dataset/manifest.json`.
        num_read: Records read.
        num_accepted: Papers in the dataset.
        rejected: Number of rejected records by reason.
        contents: Sections, genes and variants counted over the dataset.
        paper_words: Words of each paper of the dataset.
        paper_scores: Scores of those that have one.
        examples: Places where cleaning changed a text.
        rejected_papers: The first rejected records.
    """

    output: Path
    digest: str
    manifest: dict[str, Any]
    num_read: int
    num_accepted: int
    rejected: dict[str, int]
    contents: Contents
    paper_words: npt.NDArray[np.int64]
    paper_scores: npt.NDArray[np.float64]
    examples: list[CleaningExample]
    rejected_papers: list[RejectedPaper]


def prepare_dataset(
    inputs: Sequence[Path], settings: ScientificData, output: Path, progress: Progress | None = None
) -> Preparation:
    """Turn files of papers into a clean dataset, split by paper.

    Args:
        inputs: Local files, see `steps.papers.inputs.resolve_inputs`. The rows stand in their
            order, and the digest with them; the splits do not depend on it.
        settings: The section `scientific_data` of the configuration.
        output: Folder to write `dataset/` and `rejected.jsonl` to; made where missing, and
            an earlier dataset in it is replaced.
        progress: Called with the name of a stage and a count of papers.

    Returns:
        What was made, with counts, digest and manifest.

    Raises:
        UserError: A file cannot be read, a setting does not fit the papers, no paper is
            usable, or the output cannot be written.
    """
    report = progress or (lambda stage, done: None)
    with _writing(output):  # its model goes through a temporary file
        check_language_name(settings.filters.language)
    _check_files(inputs)
    previous = _previous_splits(settings)
    benchmark = _benchmark_ngrams(settings)
    scratch = _make_scratch(output)
    try:
        with _writing(output), _Run(inputs, settings, scratch) as run:
            run.read(report)
            run.reject_duplicate_identifiers()
            report("deduplicate", len(run.kept))
            run.find_duplicates_and_split(previous)
            report("split", len(run.kept))
            run.decontaminate(benchmark)
            leakage_report = run.measure_leakage()
            report("write", len(run.kept))
            summaries, contents = run.write(scratch / "dataset")
            return run.finish(output, summaries, contents, leakage_report)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _writing(output: Path) -> AbstractContextManager[None]:
    return writing_to(
        f"output folder {str(output)!r} or the folder of temporary files",
        "free some space, or set TMPDIR to a folder on another disk",
    )


# What is known of each prepared paper once its text has been set aside.
PAPER = np.dtype(
    [
        ("input", np.int32),  # number of its file
        ("record", np.int64),  # number of its record in that file
        ("raw_at", np.int64),  # where its record is set aside, and how many bytes
        ("raw_size", np.int64),
        ("chunk", np.int32),  # which batch of rows, the first of its rows and how many
        ("first_row", np.int32),
        ("num_rows", np.int32),
        ("words_at", np.int64),  # where its word hashes are set aside, and how many
        ("num_hashes", np.int64),
        ("num_words", np.int64),
        ("score", np.float64),  # NaN for none
        ("pmid_key", np.uint64),  # 0 for none, as in the two below
        ("doi_key", np.uint64),
        ("title_hash", np.uint64),
        ("content_hash", np.uint64),
        ("digest", np.uint8, 32),
    ]
)


class _Run:
    """The papers of one run: a table of numbers, and files in which their texts wait.

    Papers are named by their number in `table`. `kept` lists those that are still in.
    """

    def __init__(self, inputs: Sequence[Path], settings: ScientificData, scratch: Path) -> None:
        self.inputs = list(inputs)
        self.input_names = _distinct_names(self.inputs)
        self.settings = settings
        self.scratch = scratch
        self.num_read = 0
        self.rejected: Counter[str] = Counter()
        self.rejected_papers: list[RejectedPaper] = []
        self.examples: list[CleaningExample] = []
        self.table = np.empty(0, dtype=PAPER)
        self.paper_ids: list[str] = []
        self.batches: list[tuple[int, int]] = []  # position and size of each batch of rows
        self.kept: list[int] = []
        self.distinct: list[int] = []  # those kept before near-duplicates were looked for
        self.clusters: list[str] = []
        self.splits: list[str] = []

    def __enter__(self) -> "_Run":
        self.raw_spool = Spool(self.scratch / "records")
        self.batch_spool = Spool(self.scratch / "rows")
        self.word_spool = Spool(self.scratch / "words")
        self.signature_spool = Spool(self.scratch / "signatures")
        self.rejected_file: IO[bytes] = (self.scratch / "rejected.jsonl").open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        for spool in (self.raw_spool, self.batch_spool, self.word_spool, self.signature_spool):
            spool.close()
        self.rejected_file.close()

    def words(self, n: int) -> Words:
        """The word hashes of paper `n`."""
        row = self.table[n]
        return np.frombuffer(
            self.word_spool.read(row["words_at"], 4 * row["num_hashes"]), np.uint32
        )

    def words_of(self, papers: Sequence[int]) -> Iterator[Words]:
        """The word hashes of many papers, in the order of their numbers.

        They are read a stretch of the file at a time, those between them too: for most of
        the papers of a run that is ten times as fast as one by one.
        """
        wanted = np.asarray(papers, dtype=np.int64)
        for stretch in np.split(wanted, range(STRETCH_PAPERS, len(wanted), STRETCH_PAPERS)):
            if not len(stretch):
                return
            starts = self.table["words_at"][stretch] // 4
            ends = starts + self.table["num_hashes"][stretch]
            read = self.word_spool.read(int(4 * starts[0]), int(4 * (ends[-1] - starts[0])))
            hashes = np.frombuffer(read, np.uint32)
            for start, end in zip(
                (starts - starts[0]).tolist(), (ends - starts[0]).tolist(), strict=True
            ):
                yield hashes[start:end]

    # -- reading

    def read(self, report: Progress) -> None:
        """Read all records, prepare them in chunks, keep the good and list the bad."""
        prepare = partial(prepare_chunk, settings=self.settings)
        parts = []
        for chunk, prepared in _in_order(self._chunks(), prepare, self._num_processes()):
            parts.append(self._take_in(chunk, prepared))
            self.num_read += len(chunk)
            report("read", self.num_read)
        if parts:
            self.table = np.concatenate(parts)
        self.kept = list(range(len(self.table)))
        if not self.kept:
            raise UserError(self._no_paper())

    def _chunks(self) -> Iterator[Chunk]:
        chunk: Chunk = []
        size = 0
        limits = self.settings.limits
        for number, path in enumerate(self.inputs):
            for record in read_records(
                path, limits.max_decompressed_bytes, limits.max_record_bytes
            ):
                chunk.append((number, record))
                size += len(record.data)
                if len(chunk) >= CHUNK_RECORDS or size >= CHUNK_BYTES:
                    yield chunk
                    chunk, size = [], 0
        if chunk:
            yield chunk

    def _num_processes(self) -> int:
        if self.settings.num_workers:
            return self.settings.num_workers
        if sum(path.stat().st_size for path in self.inputs) < MIN_BYTES_FOR_PROCESSES:
            return 1
        # Where a batch system grants some of the cores, only Linux says which.
        return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1

    def _take_in(self, chunk: Chunk, prepared: PreparedChunk) -> npt.NDArray[Any]:
        """Set aside what a chunk came to; the entries of its papers in the table."""
        for rejection in prepared.rejections:
            number, record = chunk[rejection.position]
            self._reject(
                RejectedPaper(
                    rejection.identifier,
                    rejection.reason,
                    rejection.detail,
                    self.input_names[number],
                    record.number,
                ),
                record.data,
            )
        self.batches.append((self.batch_spool.append(prepared.batch), len(prepared.batch)))
        words_at = self.word_spool.append(prepared.words)
        self.signature_spool.append(prepared.signatures)
        self.examples = (self.examples + prepared.examples)[:MAX_EXAMPLES]

        papers = prepared.papers
        taken = [chunk[paper.position] for paper in papers]
        self.paper_ids.extend(paper.paper_id for paper in papers)
        entries = np.zeros(len(papers), dtype=PAPER)
        entries["input"] = [number for number, _ in taken]
        entries["record"] = [record.number for _, record in taken]
        sizes = np.array([len(record.data) for _, record in taken], dtype=np.int64)
        raw_at = self.raw_spool.append(b"".join(record.data for _, record in taken))
        entries["raw_at"] = raw_at + _starts(sizes)
        entries["raw_size"] = sizes
        entries["chunk"] = len(self.batches) - 1
        for key in (
            "num_rows",
            "num_hashes",
            "num_words",
            "pmid_key",
            "doi_key",
            "title_hash",
            "content_hash",
        ):
            entries[key] = [getattr(paper, key) for paper in papers]
        entries["first_row"] = _starts(entries["num_rows"])
        entries["words_at"] = words_at + 4 * _starts(entries["num_hashes"])
        entries["score"] = [np.nan if paper.score is None else paper.score for paper in papers]
        digests = b"".join(paper.digest for paper in papers)
        entries["digest"] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
        return entries

    # -- rejecting

    def _reject(self, paper: RejectedPaper, data: bytes) -> None:
        """Count a rejected record and write it to `rejected.jsonl`, whole."""
        self.rejected[paper.reason] += 1
        if len(self.rejected_papers) < MAX_REJECTED_SHOWN:
            self.rejected_papers.append(paper)
        line: dict[str, Any] = asdict(paper)
        try:
            line["paper"] = msgspec.json.decode(data)
            encoded = msgspec.json.encode(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            # What is no strict JSON is kept as text, byte for byte.
            line["paper"] = None
            line["paper_text"] = data.decode("utf-8", "backslashreplace")
            encoded = msgspec.json.encode(line)
        self.rejected_file.write(encoded + b"\n")

    def _reject_kept(self, problems: Mapping[int, tuple[str, str]]) -> None:
        """Reject papers that had been let in, for their reasons and details."""
        for n in sorted(problems):
            row = self.table[n]
            self._reject(
                RejectedPaper(
                    self.paper_ids[n],
                    *problems[n],
                    file=self.input_names[row["input"]],
                    record=int(row["record"]),
                ),
                self.raw_spool.read(row["raw_at"], row["raw_size"]),
            )
        self.kept = [n for n in self.kept if n not in problems]

    def _no_paper(self) -> str:
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.most_common())
        message = f"no usable paper in {', '.join(self.input_names)}: {self.num_read} records read"
        if not reasons:
            return f"{message}: name a file that holds papers"
        return f"{message}, rejected for {reasons}: mend the records or scientific_data.filters"

    # -- duplicates and splits

    def reject_duplicate_identifiers(self) -> None:
        """Of records that share a PMID or a DOI, keep the best."""
        union = UnionFind(len(self.table))
        for key in ("pmid_key", "doi_key"):
            for first, second in neighbours(self.table[key], ignore=0):
                union.join(first, second)
        best = self._best_of_each({n: union.find(n) for n in self.kept}, {})
        problems = {}
        for n in self.kept:
            winner = best[union.find(n)]
            if n != winner:
                row = self.table[winner]
                problems[n] = (
                    "duplicate_identifier",
                    f"the same identifier as record {row['record']} of "
                    f"{self.input_names[row['input']]}, which is kept",
                )
        self._reject_kept(problems)
        self.distinct = self.kept

    def _best_of_each(
        self, group_of: Mapping[int, Group], previous: Mapping[str, str]
    ) -> dict[Group, int]:
        """The paper to keep of each group: the better-scored, else the longer, else the first.

        Papers of an earlier dataset come before all others, so that it stays as it was.
        """

        def rank(n: int) -> tuple[bool, float, int, int]:
            row = self.table[n]
            score = -np.inf if np.isnan(row["score"]) else row["score"]
            return self.paper_ids[n] in previous, score, row["num_words"], -n

        best: dict[Group, int] = {}
        for n, group in group_of.items():
            if group not in best or rank(n) > rank(best[group]):
                best[group] = n
        return best

    def find_duplicates_and_split(self, previous: Mapping[str, str]) -> None:
        """Cluster the papers, drop duplicates, and give every cluster its split."""
        settings = self.settings
        signature_rows = np.frombuffer(
            self.signature_spool.read(0, self.signature_spool.size), dtype=np.uint32
        ).reshape(-1, settings.deduplication.num_permutations)
        labels = find_clusters(
            signature_rows[self.kept],
            self.table["content_hash"][self.kept],
            self.table["title_hash"][self.kept],
            lambda place: self.words(self.kept[place]),
            settings.deduplication.threshold,
            settings.deduplication.shingle_words,
        )
        settled = settle_clusters([self.paper_ids[n] for n in self.kept], labels.tolist(), previous)
        self.clusters = [""] * len(self.table)
        for n, name in zip(self.kept, settled.names, strict=True):
            self.clusters[n] = name

        problems = {
            self.kept[place]: (
                "duplicate_across_splits",
                "new, and a near-duplicate of papers that an earlier dataset has in two splits",
            )
            for place in settled.bridging
        }
        if settings.deduplication.enabled:
            candidates = {n: self.clusters[n] for n in self.kept if n not in problems}
            best = self._best_of_each(candidates, previous)
            for n, cluster in candidates.items():
                if n != best[cluster]:
                    problems[n] = self._duplicate_of(best[cluster], n)
        self._reject_kept(problems)

        self.splits = [""] * len(self.table)
        names = [self.clusters[n] for n in self.kept]
        assigned = assign_splits(names, settled.fixed, settings.split)
        for n, split in zip(self.kept, assigned, strict=True):
            self.splits[n] = split

    def _duplicate_of(self, winner: int, n: int) -> tuple[str, str]:
        kept = f"{self.paper_ids[winner]}, which is kept"
        if self.table["content_hash"][n] == self.table["content_hash"][winner]:
            return "exact_duplicate", f"the same words as {kept}"
        shingle_words = self.settings.deduplication.shingle_words
        similarity = jaccard(self.words(n), self.words(winner), shingle_words)
        return "near_duplicate", f"similarity {similarity:.2f} to {kept}"

    def decontaminate(self, benchmark: Hashes) -> None:
        """Reject training papers that share too much with the benchmark texts."""
        if not len(benchmark):
            return
        name = Path(self.settings.split.decontaminate_against or "").name
        problems = {}
        for n in self._in_split("train"):
            found = leakage.contaminated(self.words(n), benchmark)
            if found is not None:
                problems[n] = (
                    "benchmark_overlap",
                    f"{found[0]} of its {found[1]} word 13-grams stand in {name}",
                )
        self._reject_kept(problems)
        if not self._in_split("train"):
            raise UserError(
                f"no training paper is left: all share word 13-grams with {name}: "
                "check scientific_data.split.decontaminate_against"
            )

    def _in_split(self, name: str) -> list[int]:
        return [n for n in self.kept if self.splits[n] == name]

    # -- leakage

    def measure_leakage(self) -> dict[str, Any]:
        """Leakage where each paper is split for itself, and that of the dataset."""
        alone = {n: split_alone(self.paper_ids[n], self.settings.split) for n in self.distinct}
        before = self._leakage(
            test=[n for n in self.distinct if alone[n] == "test"],
            train=[n for n in self.distinct if alone[n] == "train"],
        )
        after = self._leakage(test=self._in_split("test"), train=self._in_split("train"))
        return {
            "ngram_words": leakage.NGRAM_WORDS,
            "before": asdict(before) | {"share": before.share},
            "after": asdict(after) | {"share": after.share},
        }

    def _leakage(self, test: list[int], train: list[int]) -> leakage.Leakage:
        return leakage.measure_leakage(
            lambda: self.words_of(test),
            lambda: self.words_of(train),
            int(self.table["num_hashes"][test].sum()),
        )

    # -- writing

    def write(self, folder: Path) -> tuple[dict[str, SplitSummary], Contents]:
        """Write the dataset; a summary of each split, and what they contain."""
        summaries = {name: self._summary(name) for name in SPLITS}
        digests = {name: summary.digest for name, summary in summaries.items()}
        return summaries, write_splits(folder, digests, self._pieces())

    def _summary(self, split: str) -> SplitSummary:
        papers = self._in_split(split)
        digest = SplitDigest()
        own = self.table["digest"][papers].tobytes()
        for place, n in enumerate(papers):
            digest.add(own[32 * place : 32 * (place + 1)], self.clusters[n])
        return SplitSummary(
            papers=len(papers),
            sections=int(self.table["num_rows"][papers].sum()),
            words=int(self.table["num_words"][papers].sum()),
            digest=str(digest),
            paper_ids=[self.paper_ids[n] for n in papers],
        )

    def _pieces(self) -> Iterator[tuple[str, pa.RecordBatch, list[str]]]:
        """The rows of the kept papers batch by batch, with their split and clusters."""
        chunk_of = self.table["chunk"].tolist()
        first_row, num_rows = self.table["first_row"].tolist(), self.table["num_rows"].tolist()
        for chunk, papers in groupby(self.kept, key=chunk_of.__getitem__):
            batch = pa.ipc.open_stream(
                self.batch_spool.read(*self.batches[chunk])
            ).read_next_batch()
            by_split: dict[str, list[int]] = {name: [] for name in SPLITS}
            for n in papers:
                by_split[self.splits[n]].append(n)
            for split, members in by_split.items():
                rows: list[int] = []
                clusters: list[str] = []
                for n in members:
                    rows.extend(range(first_row[n], first_row[n] + num_rows[n]))
                    clusters.extend([self.clusters[n]] * num_rows[n])
                if rows:
                    yield split, batch.take(pa.array(rows, pa.int64())), clusters

    def finish(
        self,
        output: Path,
        summaries: Mapping[str, SplitSummary],
        contents: Contents,
        leakage_report: dict[str, Any],
    ) -> Preparation:
        """Write the manifest, move everything into place, and say what was made."""
        digest = combine_digests({name: summaries[name].digest for name in SPLITS})
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "dataset_digest": digest,
            "inputs": [
                {"name": name, "sha256": _sha256(path), "bytes": path.stat().st_size}
                for name, path in zip(self.input_names, self.inputs, strict=True)
            ],
            "funnel": {
                "read": self.num_read,
                "accepted": len(self.kept),
                "rejected": dict(sorted(self.rejected.items())),
            },
            "splits": {name: vars(summaries[name]) for name in SPLITS},
            "leakage": leakage_report,
            "configuration": _configuration(self.settings),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in LIBRARIES},
        }
        encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        (self.scratch / "dataset" / "manifest.json").write_bytes(encoded + b"\n")
        self.rejected_file.flush()
        _replace(self.scratch / "rejected.jsonl", output / "rejected.jsonl")
        _replace(self.scratch / "dataset", output / "dataset")
        scores = self.table["score"][self.kept]
        return Preparation(
            output=output,
            digest=digest,
            manifest=manifest,
            num_read=self.num_read,
            num_accepted=len(self.kept),
            rejected=dict(self.rejected),
            contents=contents,
            paper_words=self.table["num_words"][self.kept],
            paper_scores=scores[~np.isnan(scores)],
            examples=self.examples,
            rejected_papers=self.rejected_papers,
        )


def _in_order(
    chunks: Iterator[Chunk], prepare: Callable[[Sequence[bytes]], PreparedChunk], num_processes: int
) -> Iterator[tuple[Chunk, PreparedChunk]]:
    """Prepare chunks in several processes and give them back in their order."""
    if num_processes == 1:
        for chunk in chunks:
            yield chunk, prepare([record.data for _, record in chunk])
        return
    waiting: deque[tuple[Chunk, Future[PreparedChunk]]] = deque()
    # Spawned, not forked: a fork of a process with threads (Arrow, MLflow) can hang.
    with ProcessPoolExecutor(
        num_processes, mp_context=get_context("spawn"), initializer=_follow_the_main_process
    ) as pool:
        try:
            for chunk in chunks:
                data = [record.data for _, record in chunk]
                waiting.append((chunk, pool.submit(prepare, data)))
                if len(waiting) > CHUNKS_IN_FLIGHT * num_processes:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _starts(sizes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Where pieces of these sizes begin when they follow each other."""
    starts: npt.NDArray[np.int64] = np.cumsum(sizes, dtype=np.int64) - sizes
    return starts


def _follow_the_main_process() -> None:
    """Leave Ctrl-C to the main process, and end when it has been killed.

    Otherwise a worker waits for its next chunk for ever: it holds both ends of the queue.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = parent_process()

    def wait_and_leave() -> None:
        if main is not None:
            main.join()
            os._exit(1)

    threading.Thread(target=wait_and_leave, daemon=True).start()


def _previous_splits(settings: ScientificData) -> dict[str, str]:
    location = settings.split.previous_manifest
    return {} if location is None else read_previous_splits(Path(location))


def _benchmark_ngrams(settings: ScientificData) -> Hashes:
    location = settings.split.decontaminate_against
    texts = [] if location is None else read_benchmark_texts(Path(location), settings.limits)
    return leakage.benchmark_ngrams(hash_words(texts))


def _check_files(inputs: Sequence[Path]) -> None:
    if not inputs:
        raise UserError("no file of papers is named: name a file, a folder or a pattern")
    for path in inputs:
        if not path.is_file():
            what = "is no regular file" if path.exists() else "does not exist"
            raise UserError(f"papers {str(path)!r} {what}: name a file of papers")


def _make_scratch(output: Path) -> Path:
    """A scratch folder beside the results, on the disk that has to hold them anyway."""
    dataset = output / "dataset"
    if dataset.exists() and not (dataset / "manifest.json").is_file():
        raise UserError(
            f"{str(dataset)!r} exists and holds no manifest.json, so it is no dataset of an "
            "earlier run that may be replaced: name another output folder, or remove it"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".preparing-", dir=output))
    except OSError as error:
        raise UserError(
            f"output folder {str(output)!r} cannot be written ({error.strerror}): "
            "name a folder that you may write to"
        ) from error


def _replace(made: Path, target: Path) -> None:
    """Move a file or folder into place, over what an earlier run left there."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    made.replace(target)


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    """Base names; with their folder where two are the same."""
    counts = Counter(path.name for path in paths)
    return [
        path.name if counts[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in paths
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _configuration(settings: ScientificData) -> dict[str, Any]:
    """The settings that can change the dataset, without paths of this machine."""
    dump = settings.model_dump(mode="json", exclude={"num_workers"})
    dump["data_file"] = Path(settings.data_file).name
    for key in ("previous_manifest", "decontaminate_against"):
        if dump["split"][key] is not None:
            dump["split"][key] = Path(dump["split"][key]).name
    return dump
