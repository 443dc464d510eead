"""What is done to each record on its own: check, clean, annotate, and reduce to hashes.

`prepare_chunk` is what the worker processes run. It depends on nothing but its arguments,
so that the result is the same in whatever process and order chunks are prepared.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import pyarrow as pa

from steps.config.paper_sections import Preprocessing, ScientificData
from steps.errors import UserError
from steps.papers.cleaning.recipe import clean_text
from steps.papers.dataset import SectionRow, paper_digest, rows_to_batch
from steps.papers.deduplication import content_hash, hash_words, signatures, title_hash
from steps.papers.filters import check_kind, check_quality, check_text
from steps.papers.formats.convert import paper_fields
from steps.papers.genes import GeneLexicon, find_genes
from steps.papers.identifiers import Identity
from steps.papers.paper import Paper, canonical_tier, identifier_in, identify, paper_of
from steps.papers.records import RawRecord, RecordProblem
from steps.papers.sections import drop_repeated_front, split_sections
from steps.papers.variants.finder import find_variants

# Places changed by cleaning, for the report: from the first papers of each chunk.
EXAMPLES_A_CHUNK = 2
PAPERS_TRIED_FOR_EXAMPLES = 16
EXAMPLE_CHARACTERS = 240
EXAMPLE_SEARCHED_CHARACTERS = 20_000
ONLY_A_TITLE = "paper without abstract and text: its title and keywords are all there is"
# A text that keeps this share of its characters has not lost a third of its words.
FEW_CUT = 0.75

Sections = list[tuple[str, str]]  # canonical name and text, in reading order


class Rejection(NamedTuple):
    """Why one record of a chunk is left out.

    Attributes:
        position: Number of the record in its chunk.
        identifier: The paper's identifier, where it has one that can be read.
        reason: Machine word, the key of the funnel.
        detail: One readable line.
    """

    position: int
    identifier: str | None
    reason: str
    detail: str


class PreparedPaper(NamedTuple):
    """What the main process needs to know of one accepted record of a chunk.

    Attributes:
        position: Number of the record in its chunk.
        paper_id: The paper's identifier.
        pmid_key: Hash of the PMID, 0 for none.
        doi_key: Hash of the DOI, 0 for none.
        other_key: Hash of the PMCID, else of another identifier, 0 for none.
        score: The quality score, or None.
        num_words: Words of all sections, separated by white space.
        num_rows: Sections.
        num_hashes: Word hashes, see `steps.papers.deduplication.hash_words`.
        title_hash: Hash of the normalised title, 0 for none.
        content_hash: Hash of all words.
        digest: Digest of the rows, 32 bytes.
        source_format: The format that it came in, a key of `FORMATS`.
        identity: All its identifiers.
        year: Of its publication, "" for none.
        license: Its licence as the source names it, "" for none.
        open_access: Whether its source says that it may be read freely.
        tables_left_out: How many tables its reader dropped.
        share_cut: Share of the words of its texts that cleaning took away.
        notes: What was read in another way than it stands.
    """

    position: int
    paper_id: str
    pmid_key: int
    doi_key: int
    other_key: int
    score: float | None
    num_words: int
    num_rows: int
    num_hashes: int
    title_hash: int
    content_hash: int
    digest: bytes
    source_format: str
    identity: Identity
    year: str
    license: str
    open_access: bool
    tables_left_out: int
    share_cut: float
    notes: tuple[str, ...]


class CleaningExample(NamedTuple):
    """A place where cleaning changed a text."""

    paper_id: str
    before: str
    after: str


@dataclass(frozen=True)
class PreparedChunk:
    """A chunk of records once each has been prepared.

    Attributes:
        rejections: The records left out.
        papers: The others, in order.
        batch: Their rows as an Arrow IPC stream of one batch.
        words: Their word hashes, uint32, one paper after the other.
        signatures: Their MinHash signatures, uint32, (papers, permutations).
        examples: Some places that cleaning changed.
    """

    rejections: list[Rejection]
    papers: list[PreparedPaper]
    batch: bytes
    words: bytes
    signatures: bytes
    examples: list[CleaningExample]


class _Accepted(NamedTuple):
    position: int
    identity: Identity
    paper: Paper
    num_words: int
    rows: list[SectionRow]
    share_cut: float
    notes: tuple[str, ...]


def prepare_chunk(chunk: Sequence[RawRecord], settings: ScientificData) -> PreparedChunk:
    """Check, clean and annotate a chunk of records.

    Args:
        chunk: The records, in any of the formats.
        settings: The section `scientific_data`.
    """
    rules = cleaning_rules(settings.preprocessing)
    rejections: list[Rejection] = []
    accepted: list[_Accepted] = []
    for position, record in enumerate(chunk):
        identity = None
        try:
            source_format, fields = paper_fields(record)
            paper = paper_of(fields, source_format)
            identity = identify(paper)
            check_kind(paper, settings)
            check_quality(paper, settings.filters)
            cleaned = clean_paper(paper, settings, rules)
            text = "\n\n".join(text for _, text in cleaned.sections)
            num_words = len(text.split())
            check_text(text, num_words, settings.filters)
        except RecordProblem as problem:
            identifier = identity.paper_id if identity else identifier_in(record.data)
            rejections.append(Rejection(position, identifier, problem.reason, problem.detail))
        else:
            rows = _annotate(paper, identity.paper_id, cleaned.sections)
            accepted.append(
                _Accepted(
                    position,
                    identity,
                    paper,
                    num_words,
                    rows,
                    cleaned.share_cut,
                    (*paper.notes, *cleaned.notes),
                )
            )

    words = hash_words(["\n\n".join(row.text for row in entry.rows) for entry in accepted])
    titles = hash_words([entry.paper.title or "" for entry in accepted])
    papers = [
        PreparedPaper(
            position=entry.position,
            paper_id=entry.identity.paper_id,
            pmid_key=key_hash(entry.identity.pmid),
            doi_key=key_hash(entry.identity.doi),
            other_key=key_hash(entry.identity.pmcid or entry.identity.other_id),
            score=entry.paper.score,
            num_words=entry.num_words,
            num_rows=len(entry.rows),
            num_hashes=len(paper_words),
            title_hash=title_hash(title_words),
            content_hash=content_hash(paper_words),
            digest=paper_digest(entry.rows),
            source_format=entry.paper.source_format,
            identity=entry.identity,
            year=(entry.paper.publication_date or "")[:4],
            license=entry.paper.license or "",
            open_access=entry.paper.open_access is True,
            tables_left_out=entry.paper.tables_left_out,
            share_cut=entry.share_cut,
            notes=entry.notes,
        )
        for entry, paper_words, title_words in zip(accepted, words, titles, strict=True)
    ]
    settled = settings.deduplication
    signature_rows = signatures(words, settled.shingle_words, settled.num_permutations)
    return PreparedChunk(
        rejections,
        papers,
        batch=_to_ipc(rows_to_batch([row for entry in accepted for row in entry.rows])),
        words=b"".join(paper_words.tobytes() for paper_words in words),
        signatures=signature_rows.tobytes(),
        examples=_cleaning_examples(accepted, settings),
    )


class CleanedPaper(NamedTuple):
    """The text of a paper, and what became of it on the way.

    Attributes:
        sections: The cleaned sections in reading order, under their canonical names.
        share_cut: Share of the words given to the cleaning that it took away.
        notes: Keys of sections that were not read.
    """

    sections: Sections
    share_cut: float
    notes: tuple[str, ...]


def clean_sections(
    paper: Paper, settings: ScientificData, rules: Mapping[str, bool] | None = None
) -> Sections:
    """The sections that `clean_paper` makes."""
    return clean_paper(paper, settings, rules).sections


def clean_paper(
    paper: Paper, settings: ScientificData, rules: Mapping[str, bool] | None = None
) -> CleanedPaper:
    """The cleaned sections of a paper in reading order, under their canonical names.

    A paper without a body (no abstract and no text) gets a "keywords" section in place of
    it: its keywords, benchmarks and validation methods as one readable line.

    Args:
        paper: The record.
        settings: The section `scientific_data`.
        rules: `cleaning_rules(settings.preprocessing)`, where the caller has them at hand.

    Raises:
        RecordProblem: With reason wrong_type, where the sections of the full text are not
            what the layout says.
    """
    rules = rules or cleaning_rules(settings.preprocessing)
    notes: list[str] = []
    title = clean_text(paper.title or "", rules)
    abstract = clean_text(paper.abstract or "", rules)
    try:
        parts = split_sections(paper.full_text or paper.text or "", notes)
    except UserError as error:
        # One paper's sections are wrong: that rejects the paper, the run goes on.
        raise RecordProblem("wrong_type", str(error)) from error
    cleaned = [(name, clean_text(text, rules)) for name, text in parts]
    raw = [paper.title or "", paper.abstract or "", *(text for _, text in parts)]
    share_cut = share_of_words_cut(raw, [title, abstract, *(text for _, text in cleaned)])
    body = drop_repeated_front([part for part in cleaned if part[1]], title, abstract)

    sections: Sections = []
    if "title" in settings.text_fields and title:
        sections.append(("title", title))
    if "abstract" in settings.text_fields and abstract:
        sections.append(("abstract", abstract))
    if "full_text" in settings.text_fields:
        sections.extend(body)
    if "captions" in settings.text_fields and paper.captions:
        # The rule that takes captions out of a text would leave nothing of them.
        of_captions = {**rules, "remove_figure_debris": False}
        sections.append(("captions", clean_text("\n\n".join(paper.captions), of_captions)))
    if not abstract and not body:
        notes.append(ONLY_A_TITLE)
        keywords = clean_text(keywords_line(paper), rules)
        sections.extend([("keywords", keywords)] if keywords else [])
    if settings.sections is not None:
        sections = [(name, text) for name, text in sections if name in settings.sections]
    kept = truncate_sections(
        [part for part in sections if part[1]], settings.preprocessing.max_paper_length
    )
    return CleanedPaper(kept, share_cut, tuple(notes))


def share_of_words_cut(before: Sequence[str], after: Sequence[str]) -> float:
    """The share of the words of some texts that is missing after they were cleaned."""
    # Counting words costs as much as a rule of the cleaning, and hardly any paper loses much.
    if sum(map(len, after)) > FEW_CUT * sum(map(len, before)):
        return 0.0
    words = sum(len(text.split()) for text in before)
    left = sum(len(text.split()) for text in after)
    return max(0.0, 1 - left / words) if words else 0.0


def cleaning_rules(preprocessing: Preprocessing) -> dict[str, bool]:
    """The switches among the preprocessing settings, by name."""
    return {k: v for k, v in preprocessing.model_dump().items() if isinstance(v, bool)}


def keywords_line(paper: Paper) -> str:
    """Keywords, benchmarks and validation methods as one readable line; "" where none."""
    sentences = []
    for label, fields in (
        ("Keywords", (paper.keywords, paper.keywords_found)),
        ("Benchmarks", (paper.benchmarks, paper.benchmarks_used)),
        ("Validation", (paper.validation_methods,)),
    ):
        items = [" ".join(item.split()) for value in fields for item in value]
        distinct = dict.fromkeys(item for item in items if item)
        if distinct:
            sentences.append(f"{label}: {', '.join(distinct)}.")
    return " ".join(sentences)


def truncate_sections(sections: Sections, max_words: int | None) -> Sections:
    """Cut a paper after `max_words` words; None cuts nothing."""
    if max_words is None:
        return sections
    kept: Sections = []
    left = max_words
    for name, text in sections:
        if left == 0:
            break
        ends = [word.end() for word in re.finditer(r"\S+", text)][:left]
        left -= len(ends)
        kept.append((name, text[: ends[-1]]))
    return kept


def _annotate(paper: Paper, paper_id: str, sections: Sections) -> list[SectionRow]:
    tier = canonical_tier(paper.tier)
    return [
        SectionRow(
            paper_id=paper_id,
            section=name,
            section_index=index,
            text=text,
            genes=find_genes(text, _lexicon()),
            variants=find_variants(text),
            score=paper.score,
            tier=tier,
            journal=paper.journal,
            publication_date=paper.publication_date,
        )
        for index, (name, text) in enumerate(sections)
    ]


@cache
def _lexicon() -> GeneLexicon:
    """The gene lexicon, loaded once a process."""
    return GeneLexicon.load(None)


def _cleaning_examples(
    accepted: Sequence[_Accepted], settings: ScientificData
) -> list[CleaningExample]:
    rules = cleaning_rules(settings.preprocessing)
    found: list[CleaningExample] = []
    for entry in accepted[:PAPERS_TRIED_FOR_EXAMPLES]:
        raw = entry.paper.abstract or entry.paper.text or entry.paper.full_text
        if isinstance(raw, str) and len(found) < EXAMPLES_A_CHUNK:
            before = raw[:EXAMPLE_SEARCHED_CHARACTERS]
            found.extend(_changed_place(entry.identity.paper_id, before, clean_text(before, rules)))
    return found


def _changed_place(paper_id: str, before: str, after: str) -> Iterator[CleaningExample]:
    """The surroundings of the first place where more than white space differs."""
    if before.split() == after.split():
        return
    first = next(
        (n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    start = max(0, first - EXAMPLE_CHARACTERS // 2)
    place = slice(start, start + EXAMPLE_CHARACTERS)
    yield CleaningExample(paper_id, before[place], after[place])


def key_hash(key: str) -> int:
    """The number by which an identifier is looked up; 0 for none."""
    if not key:
        return 0
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def _to_ipc(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data
