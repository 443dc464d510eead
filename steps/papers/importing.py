"""Papers in whatever format, written out in the papers layout, for people to score and edit."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zstandard

from steps.config.paper_sections import ScientificData
from steps.errors import UserError, writing_to
from steps.papers.chunks import chunks_of
from steps.papers.formats.convert import paper_fields
from steps.papers.paper import identifier_in, identify, paper_of
from steps.papers.paper_table import RejectedPaper, distinct_names, file_of, rejected_line
from steps.papers.records import RawRecord, RecordProblem
from steps.papers.stages import Progress

PAPERS_FILE = "papers.jsonl.zst"


@dataclass(frozen=True)
class Import:
    """What an import made.

    Attributes:
        num_read: Records read.
        formats: Papers written, by the format that they came in.
        rejected: Records left out, by reason.
        first_rejected: The first of them.
        unnamed: Papers written that have no identifier yet; `preprocess` will want one.
        notes: How files were read.
    """

    num_read: int
    formats: dict[str, int]
    rejected: dict[str, int]
    first_rejected: RejectedPaper | None
    unnamed: int
    notes: dict[str, int]


def import_papers(
    inputs: Sequence[Path], settings: ScientificData, output: Path, progress: Progress
) -> Import:
    """Read files of papers and write them as one file of the papers layout.

    A record that is in the papers layout already is written with all its keys. Nothing is
    cleaned, filtered or taken for a duplicate: that is what `preprocess` does.

    Args:
        inputs: Local files, see `steps.papers.inputs.resolve_inputs`.
        settings: The section `scientific_data`: its columns and limits.
        output: Folder to write `papers/papers.jsonl.zst` and `rejected.jsonl` to.
        progress: Called with the name of a stage and a count of records.

    Raises:
        UserError: A file cannot be read, or none of the records is a paper.
    """
    names = distinct_names(inputs)
    formats: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    first: RejectedPaper | None = None
    num_read = unnamed = 0
    with writing_to("the papers", "free some space, or set TMPDIR to a folder on another disk"):
        (output / "papers").mkdir(parents=True)
        with (
            (output / "papers" / PAPERS_FILE).open("wb") as file,
            zstandard.ZstdCompressor(level=9).stream_writer(file) as papers,
            (output / "rejected.jsonl").open("wb") as rejects,
        ):
            for chunk in chunks_of(inputs, settings, lambda line: notes.update([line])):
                for number, record in chunk:
                    try:
                        name, line, has_identifier = _layout_line(record)
                    except RecordProblem as problem:
                        rejected[problem.reason] += 1
                        paper = _rejection(record, problem, names[number])
                        first = first or paper
                        rejects.write(rejected_line(paper, record.data))
                    else:
                        formats[name] += 1
                        unnamed += not has_identifier
                        papers.write(line)
                num_read += len(chunk)
                progress("import", num_read)
    if not formats:
        why = f": {first.reason}, {first.detail} (record {first.record} of {first.file})" \
            if first else ""  # fmt: skip
        raise UserError(f"no paper in {', '.join(names[:5])}: {num_read} records read{why}")
    return Import(num_read, dict(formats), dict(rejected), first, unnamed, dict(notes))


def _layout_line(record: RawRecord) -> tuple[str, bytes, bool]:
    """The format of a record, its line in the papers layout, and whether it is identified.

    Raises:
        RecordProblem: It cannot be read.
    """
    source_format, fields = paper_fields(record)
    paper = paper_of(fields, source_format)
    try:
        identify(paper)
        has_identifier = True
    except RecordProblem:
        has_identifier = False
    line = dict(fields)
    if source_format != "json":
        line["source_format"] = source_format
    return paper.source_format, msgspec.json.encode(line) + b"\n", has_identifier


def _rejection(record: RawRecord, problem: RecordProblem, file: str) -> RejectedPaper:
    name = file_of(file, record)
    return RejectedPaper(
        identifier_in(record.data), problem.reason, problem.detail, name, record.number
    )
