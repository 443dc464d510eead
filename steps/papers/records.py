"""What a reader of papers yields: the bytes of a record, or why one cannot be used."""

from typing import Any, NamedTuple, TypedDict


class RecordProblem(Exception):
    """One record cannot be used; it is rejected and the run goes on.

    Attributes:
        reason: Short code, such as no_text, by which the report counts rejections.
        detail: One readable line.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason and the detail."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RawRecord(NamedTuple):
    """The bytes of one record and where they stood.

    Attributes:
        number: Number of the record in its file, counted from 0.
        offset: First byte of the record in the decompressed file.
        data: The record as it stands in the file, not yet checked: its JSON text, or the XML of
            its element. The row of a table comes as JSON in the papers layout.
        source_format: Which format that is, a key of `steps.papers.formats.FORMATS`.
        member: In a bundle, the file that the record stands in; else "".
        problem: Reason and detail where what the file holds cannot be cut into records: the
            record is rejected as it is.
    """

    number: int
    offset: int
    data: bytes
    source_format: str = "json"
    member: str = ""
    problem: tuple[str, str] | None = None


class PaperFields(TypedDict, total=False):
    """A paper in the papers layout, as the converter of a format makes it.

    What the format does not say is left out. Text may hold `<sup>` and `<sub>`, which the
    cleaning resolves; other markup, citation markers and tables are gone already.

    Attributes:
        pmid: PubMed identifier, digits.
        pmcid: PubMed Central identifier, "PMC1234".
        doi: The paper's own.
        other_id: Where there is none of these: "arxiv:2101.00001", "s2:123", "sha1:...".
        title: Without markup.
        abstract: Parts of a structured one as paragraphs "LABEL: text", a blank line between.
        full_text: Sections {"heading", "paragraphs": [...], "sections": [...]} in their order.
        captions: Captions of figures and tables.
        keywords: As the authors gave them.
        journal: Name of the journal, or of the book or server.
        publication_date: YYYY, YYYY-MM or YYYY-MM-DD.
        language: ISO 639-1 where the format gives that or 639-2.
        license: URL or name of the licence.
        open_access: Whether the source says that it may be read freely.
        publication_types: Such as Review, Case Reports, Retraction of Publication.
        retracted: "retracted" or "withdrawn" where the source says that of the paper.
        tables_left_out: How many tables were dropped.
        score: Quality score.
        tier: Quality tier.
    """

    pmid: str
    pmcid: str
    doi: str
    other_id: str
    title: str
    abstract: str
    full_text: list[Any]
    captions: list[str]
    keywords: list[str]
    journal: str
    publication_date: str
    language: str
    license: str
    open_access: bool
    publication_types: list[str]
    retracted: str
    tables_left_out: int
    score: float
    tier: str
