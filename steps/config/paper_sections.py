"""The section scientific_data: from papers to a dataset."""

from typing import Annotated, Literal

from pydantic import Field

from steps.config.base import Fraction, Positive, Section

Tier = Literal[
    "gold_standard",
    "high_quality",
    "medium_quality",
    "moderate_quality",
    "low_quality",
    "filtered_out",
]
SectionName = Literal[
    "title",
    "abstract",
    "introduction",
    "methods",
    "results",
    "discussion",
    "conclusion",
    "keywords",
    "captions",
    "other",
]


class Preprocessing(Section):
    """The cleaning rules, each with its switch."""

    repair_unicode: bool = True
    decode_entities: bool = True
    strip_latex: bool = True
    strip_tags: bool = True
    expand_ligatures: bool = True
    remove_running_heads: bool = True
    remove_page_numbers: bool = True
    join_broken_words: bool = True
    remove_reference_list: bool = True
    remove_acknowledgements: bool = True
    remove_figure_debris: bool = True
    remove_publisher_notes: bool = True
    remove_links: bool = True
    remove_emails: bool = True
    remove_citations: bool = True
    normalize_scientific_notation: bool = True
    normalize_units: bool = True
    normalize_whitespace: bool = True
    handle_special_tokens: bool = True
    max_paper_length: Positive | None = None


class Filters(Section):
    """Which papers are let in."""

    min_score: float | None = None
    tiers: tuple[Tier, ...] | None = None
    min_words: Annotated[int, Field(ge=0)] = 5
    language: str | None = "en"
    licenses: tuple[str, ...] | None = None
    exclude_publication_types: tuple[str, ...] = ()


class Deduplication(Section):
    """Near-duplicate removal by MinHash."""

    enabled: bool = True
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    # A paper costs four bytes a permutation, in the worker as in the table of all papers.
    num_permutations: Annotated[int, Field(gt=0, le=4096)] = 128
    shingle_words: Positive = 3


class Split(Section):
    """The split by paper."""

    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.15
    salt: str = "scientificllm-forge"
    previous_manifest: str | None = None
    decontaminate_against: str | None = None


class Columns(Section):
    """The columns of a table of papers, by field; null: guessed by the usual names."""

    title: str | None = None
    abstract: str | None = None
    full_text: str | None = None
    pmid: str | None = None
    pmcid: str | None = None
    doi: str | None = None
    score: str | None = None
    tier: str | None = None
    journal: str | None = None
    publication_date: str | None = None
    keywords: str | None = None
    license: str | None = None
    language: str | None = None


class Limits(Section):
    """What a single input may cost."""

    max_decompressed_bytes: Positive = 20_000_000_000
    max_record_bytes: Positive = 50_000_000


class ScientificData(Section):
    """From papers to a dataset."""

    data_file: str | None = "high_quality_papers.json"
    columns: Columns = Columns()
    text_fields: tuple[Literal["title", "abstract", "full_text", "captions"], ...] = (
        "title",
        "abstract",
        "full_text",
    )
    sections: tuple[SectionName, ...] | None = None
    preprocessing: Preprocessing = Preprocessing()
    filters: Filters = Filters()
    retracted: str = "reject"
    deduplication: Deduplication = Deduplication()
    split: Split = Split()
    limits: Limits = Limits()
    num_workers: Annotated[int, Field(ge=0)] = 0
    engine: Literal["auto", "local", "ray"] = "auto"

    @property
    def retraction_list(self) -> str | None:
        """Where a list of retracted papers is, if one is named."""
        return None if self.retracted in ("reject", "keep") else self.retracted
