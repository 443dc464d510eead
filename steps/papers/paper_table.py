"""The table of a run's papers: numbers in memory, texts in files."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt

from steps.config.paper_sections import ScientificData
from steps.papers.chunks import Chunk
from steps.papers.dataset import (
    ByteSpool,
)
from steps.papers.deduplication import (
    Words,
)
from steps.papers.identifiers import Identity
from steps.papers.preparation import CleaningExample, PreparedChunk
from steps.papers.records import RawRecord

# Papers whose word hashes are read at once: about 200 kB of abstracts.
STRETCH_PAPERS = 256
# How much the report shows; the files hold everything.
MAX_EXAMPLES = 8
MAX_REJECTED_SHOWN = 200
# A paper that loses a larger share of its words to cleaning is named.
HEAVY_CUT = 1 / 3
# Reasons of rejections for which another record of the same paper is kept.
DUPLICATES = (
    "duplicate_identifier", "exact_duplicate", "near_duplicate", "duplicate_across_splits",
)  # fmt: skip


@dataclass(frozen=True)
class RejectedPaper:
    """One rejected record as the report shows it."""

    identifier: str | None
    reason: str
    detail: str
    file: str
    record: int


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
        ("pmid_key", np.uint64),  # 0 for none, as in the three below
        ("doi_key", np.uint64),
        ("other_key", np.uint64),
        ("title_hash", np.uint64),
        ("content_hash", np.uint64),
        ("digest", np.uint8, 32),
    ]
)


class PaperTable:
    """The papers of one run: a table of numbers, and files in which their texts wait.

    Papers are named by their row. The stages fill it, take papers out, and give each its
    cluster and its split.

    Attributes:
        inputs: The files that papers are read from.
        input_names: How messages and records name them.
        settings: The section `scientific_data`.
        scratch: The folder of the files.
        num_read: Records read so far.
        rejected: Number of rejected records by reason.
        rejected_papers: The first of them, for the report.
        first_rejected: The first rejected record of each reason.
        examples: Places where cleaning changed a text, for the report.
        notes: How files and records were read in another way than they stand, with counts.
        formats: The format that each row came in.
        licenses: The licence of each row, "" for none.
        identities: All identifiers of each row.
        years: The year of publication of each row, "" for none.
        open_access: Prepared papers whose source says that they may be read freely.
        tables_left_out: Tables of all prepared papers that their readers dropped.
        heavily_cut: Papers that lost more than `HEAVY_CUT` of their words to cleaning.
        rows: What is known of each prepared paper, `[papers]` of `PAPER`.
        paper_ids: Identifier of each row.
        batches: Position and size of each batch of rows in the file.
        kept: The rows that are still in.
        distinct: Those kept before near-duplicates were looked for.
        clusters: Name of each row's cluster of near-duplicates.
        splits: Each row's split.
    """

    def __init__(self, inputs: Sequence[Path], settings: ScientificData, scratch: Path) -> None:
        self.inputs = list(inputs)
        self.input_names = distinct_names(self.inputs)
        self.settings = settings
        self.scratch = scratch
        self.num_read = 0
        self.rejected: Counter[str] = Counter()
        self.rejected_papers: list[RejectedPaper] = []
        self.first_rejected: dict[str, RejectedPaper] = {}
        self.examples: list[CleaningExample] = []
        self.notes: Counter[str] = Counter()
        self.formats: list[str] = []
        self.licenses: list[str] = []
        self.identities: list[Identity] = []
        self.years: list[str] = []
        self.open_access = 0
        self.tables_left_out = 0
        self.heavily_cut: list[tuple[str, float]] = []
        self.rows = np.empty(0, dtype=PAPER)
        self.paper_ids: list[str] = []
        self.batches: list[tuple[int, int]] = []  # position and size of each batch of rows
        self.kept: list[int] = []
        self.distinct: list[int] = []  # those kept before near-duplicates were looked for
        self.clusters: list[str] = []
        self.splits: list[str] = []

    def __enter__(self) -> "PaperTable":
        self.raw_spool = ByteSpool(self.scratch / "records")
        self.batch_spool = ByteSpool(self.scratch / "rows")
        self.word_spool = ByteSpool(self.scratch / "words")
        self.signature_spool = ByteSpool(self.scratch / "signatures")
        self.rejected_file: IO[bytes] = (self.scratch / "rejected.jsonl").open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        for spool in (self.raw_spool, self.batch_spool, self.word_spool, self.signature_spool):
            spool.close()
        self.rejected_file.close()

    def words(self, n: int) -> Words:
        """The word hashes of paper `n`."""
        row = self.rows[n]
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
            starts = self.rows["words_at"][stretch] // 4
            ends = starts + self.rows["num_hashes"][stretch]
            read = self.word_spool.read(int(4 * starts[0]), int(4 * (ends[-1] - starts[0])))
            hashes = np.frombuffer(read, np.uint32)
            for start, end in zip(
                (starts - starts[0]).tolist(), (ends - starts[0]).tolist(), strict=True
            ):
                yield hashes[start:end]

    def take_in(self, chunk: Chunk, prepared: PreparedChunk) -> npt.NDArray[Any]:
        """Store a prepared chunk; the table rows of its papers, `[papers]` of `PAPER`."""
        for rejection in prepared.rejections:
            number, record = chunk[rejection.position]
            self.reject(
                RejectedPaper(
                    rejection.identifier,
                    rejection.reason,
                    rejection.detail,
                    file_of(self.input_names[number], record),
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
        self.formats.extend(sys.intern(paper.source_format) for paper in papers)
        self.licenses.extend(sys.intern(paper.license) for paper in papers)
        self.identities.extend(paper.identity for paper in papers)
        self.years.extend(sys.intern(paper.year) for paper in papers)
        for paper in papers:
            self.notes.update(paper.notes)
            self.open_access += paper.open_access
            self.tables_left_out += paper.tables_left_out
            if paper.share_cut > HEAVY_CUT and len(self.heavily_cut) < MAX_REJECTED_SHOWN:
                self.heavily_cut.append((paper.paper_id, paper.share_cut))
        entries = np.zeros(len(papers), dtype=PAPER)
        entries["input"] = [number for number, _ in taken]
        entries["record"] = [record.number for _, record in taken]
        sizes = np.array([len(record.data) for _, record in taken], dtype=np.int64)
        raw_at = self.raw_spool.append(b"".join(record.data for _, record in taken))
        entries["raw_at"] = raw_at + starts_of(sizes)
        entries["raw_size"] = sizes
        entries["chunk"] = len(self.batches) - 1
        for key in (
            "num_rows",
            "num_hashes",
            "num_words",
            "pmid_key",
            "doi_key",
            "other_key",
            "title_hash",
            "content_hash",
        ):
            entries[key] = [getattr(paper, key) for paper in papers]
        entries["first_row"] = starts_of(entries["num_rows"])
        entries["words_at"] = words_at + 4 * starts_of(entries["num_hashes"])
        entries["score"] = [np.nan if paper.score is None else paper.score for paper in papers]
        digests = b"".join(paper.digest for paper in papers)
        entries["digest"] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
        return entries

    @property
    def num_different(self) -> int:
        """Records read, without those that are duplicates of others."""
        return self.num_read - sum(self.rejected[reason] for reason in DUPLICATES)

    def say(self, line: str) -> None:
        """Note how a file is read."""
        self.notes[line] += 1

    def reject(self, paper: RejectedPaper, data: bytes) -> None:
        """Count a rejected record and write it to `rejected.jsonl`, whole."""
        self.rejected[paper.reason] += 1
        self.first_rejected.setdefault(paper.reason, paper)
        if len(self.rejected_papers) < MAX_REJECTED_SHOWN:
            self.rejected_papers.append(paper)
        self.rejected_file.write(rejected_line(paper, data))

    def reject_kept(self, problems: Mapping[int, tuple[str, str]]) -> None:
        """Reject papers that had been let in, for their reasons and details."""
        for n in sorted(problems):
            row = self.rows[n]
            self.reject(
                RejectedPaper(
                    self.paper_ids[n],
                    *problems[n],
                    file=self.input_names[row["input"]],
                    record=int(row["record"]),
                ),
                self.raw_spool.read(row["raw_at"], row["raw_size"]),
            )
        self.kept = [n for n in self.kept if n not in problems]

    def in_split(self, name: str) -> list[int]:
        """The kept rows of a split."""
        return [n for n in self.kept if self.splits[n] == name]


def file_of(name: str, record: RawRecord) -> str:
    """How messages call the file of a record: in a bundle, with the file that it stands in."""
    return f"{name}:{record.member}" if record.member else name


def rejected_line(paper: RejectedPaper, data: bytes) -> bytes:
    """A line of `rejected.jsonl`: why the record was left out, and the record, whole."""
    line: dict[str, Any] = asdict(paper)
    try:
        line["paper"] = msgspec.json.decode(data)
        encoded = msgspec.json.encode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # What is no strict JSON is kept as text, byte for byte.
        line["paper"] = None
        line["paper_text"] = data.decode("utf-8", "backslashreplace")
        encoded = msgspec.json.encode(line)
    return encoded + b"\n"


def starts_of(sizes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Where pieces of these sizes begin when they follow each other."""
    starts: npt.NDArray[np.int64] = np.cumsum(sizes, dtype=np.int64) - sizes
    return starts


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Base names; with their folder where two are the same."""
    counts = Counter(path.name for path in paths)
    return [
        path.name if counts[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in paths
    ]
