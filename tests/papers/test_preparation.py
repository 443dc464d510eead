"""A record becomes cleaned, annotated sections, or a rejection with its reason."""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from steps.config.paper_sections import Deduplication, Filters, Preprocessing, ScientificData
from steps.papers.filters import LANGUAGE_CONFIDENCE, detect_language
from steps.papers.paper import Paper
from steps.papers.preparation import (
    ONLY_A_TITLE,
    clean_sections,
    keywords_line,
    prepare_chunk,
    truncate_sections,
)
from steps.papers.records import RawRecord

SENTENCE = "The expression of the gene was measured in the cells of the patients, and it was high. "
PAPER: dict[str, Any] = {
    "pmid": "1",
    "title": "A study of BRCA1 in families with breast cancer",
    "abstract": f"We found the V600E mutation of BRAF in the cells. {SENTENCE}",
    "score": 81.5,
    "tier": "moderate_quality",
    "journal": "Genome Made Up",
    "publication_date": "2021-03-04",
}
EVERYTHING = ScientificData(filters=Filters(min_words=0, language=None))


def raw(*records: Any) -> list[RawRecord]:
    """Records as a reader yields them: of JSON text, or of what is written as such."""
    return [
        RawRecord(n, 0, record if isinstance(record, bytes) else json.dumps(record).encode())
        for n, record in enumerate(records)
    ]


def rejection_of(record: Any, settings: ScientificData) -> tuple[str, str | None]:
    prepared = prepare_chunk(raw(record), settings)
    assert prepared.papers == []
    (rejection,) = prepared.rejections
    assert "\n" not in rejection.detail
    return rejection.reason, rejection.identifier


def names_of(paper: Paper, settings: ScientificData = EVERYTHING) -> list[str]:
    return [name for name, _ in clean_sections(paper, settings)]


def rows_of(batch: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.ipc.open_stream(io.BytesIO(batch)).read_all().to_pylist()
    return rows


def test_a_paper_becomes_rows_with_its_metadata_and_mentions() -> None:
    prepared = prepare_chunk(raw(PAPER), ScientificData())
    title, abstract = rows_of(prepared.batch)
    assert (title["section"], title["section_index"]) == ("title", 0)
    assert (abstract["section"], abstract["section_index"]) == ("abstract", 1)
    assert title["text"] == PAPER["title"]
    for row in (title, abstract):
        assert row["paper_id"] == "1"
        assert row["score"] == 81.5
        assert row["tier"] == "medium_quality"
        assert row["journal"] == "Genome Made Up"
        assert row["publication_date"] == "2021-03-04"
    assert [title["text"][g["start"] : g["end"]] for g in title["genes"]] == ["BRCA1"]
    assert [abstract["text"][v["start"] : v["end"]] for v in abstract["variants"]] == ["V600E"]


def test_the_chunk_reports_words_and_hashes_of_each_accepted_paper() -> None:
    other = PAPER | {"pmid": "2", "abstract": SENTENCE * 3}
    chunk = raw(PAPER, b"broken", other)
    prepared = prepare_chunk(
        chunk, ScientificData(deduplication=Deduplication(num_permutations=64))
    )
    assert [r.position for r in prepared.rejections] == [1]
    assert [paper.position for paper in prepared.papers] == [0, 2]
    rows = rows_of(prepared.batch)
    for paper in prepared.papers:
        texts = [row["text"] for row in rows if row["paper_id"] == paper.paper_id]
        assert paper.num_words == sum(len(text.split()) for text in texts)
        assert paper.num_rows == len(texts)
    words = np.frombuffer(prepared.words, dtype=np.uint32)
    assert len(words) == sum(paper.num_hashes for paper in prepared.papers)
    assert len(prepared.signatures) == 2 * 64 * 4


def test_a_chunk_of_nothing_but_rejections_is_fine() -> None:
    prepared = prepare_chunk(raw(b"1", b"{}"), ScientificData())
    assert [r.reason for r in prepared.rejections] == ["wrong_type", "no_identifier"]
    assert (prepared.papers, prepared.words, prepared.signatures) == ([], b"", b"")
    assert rows_of(prepared.batch) == []


# --- sections ------------------------------------------------------------------------------


def test_full_text_comes_as_a_string_a_list_or_a_table() -> None:
    body = {"Introduction": "We begin.", "Methods": "We measured."}
    shapes: list[Any] = [
        "Introduction\n\nWe begin.\n\nMethods\n\nWe measured.",
        [{"heading": name, "text": text} for name, text in body.items()],
        body,
    ]
    for shape in shapes:
        sections = clean_sections(Paper(pmid="1", title="T", full_text=shape), EVERYTHING)
        assert sections == [
            ("title", "T"),
            ("introduction", "We begin."),
            ("methods", "We measured."),
        ]


def test_the_flattened_form_is_learned_from() -> None:
    text = f"{PAPER['title']}\n\n{SENTENCE}"
    sections = clean_sections(Paper(pmid="1", title=PAPER["title"], text=text), EVERYTHING)
    assert sections == [("title", PAPER["title"]), ("other", SENTENCE.strip())]


def test_a_text_without_a_title_is_enough() -> None:
    assert names_of(Paper(doi="10.1/x", text=SENTENCE)) == ["other"]


def test_an_abstract_that_the_full_text_repeats_stands_once() -> None:
    full_text = {"Abstract": SENTENCE, "Results": "Something else was seen."}
    paper = Paper(pmid="1", title="T", abstract=SENTENCE, full_text=full_text)
    assert names_of(paper) == ["title", "abstract", "results"]


def test_a_paper_without_a_body_gets_a_readable_line_of_keywords() -> None:
    paper = Paper(
        pmid="1",
        title="T",
        keywords_found=["deep learning", " gene\texpression ", "deep learning", ""],
        benchmarks_used=["ClinVar"],
        validation_methods=["cross-validation"],
    )
    assert clean_sections(paper, EVERYTHING) == [
        ("title", "T"),
        (
            "keywords",
            "Keywords: deep learning, gene expression. Benchmarks: ClinVar. "
            "Validation: cross-validation.",
        ),
    ]
    assert keywords_line(Paper(pmid="1", keywords=[" ", ""])) == ""


def test_a_paper_with_a_body_keeps_its_keywords_out_of_the_text() -> None:
    assert names_of(Paper(pmid="1", abstract=SENTENCE, keywords_found=["x"])) == ["abstract"]


def test_fields_and_sections_can_be_left_out() -> None:
    full_text = {"Introduction": "We begin.", "Methods": "We measured."}
    paper = Paper(pmid="1", title="T", abstract=SENTENCE, full_text=full_text)
    only_front = EVERYTHING.model_copy(update={"text_fields": ("title", "abstract")})
    assert names_of(paper, only_front) == ["title", "abstract"]
    only_methods = EVERYTHING.model_copy(update={"sections": ("methods",)})
    assert names_of(paper, only_methods) == ["methods"]


def test_cleaning_follows_its_switches() -> None:
    paper = Paper(pmid="1", abstract="It was shown before [12,13].")
    kept = EVERYTHING.model_copy(update={"preprocessing": Preprocessing(remove_citations=False)})
    assert clean_sections(paper, EVERYTHING) == [("abstract", "It was shown before.")]
    assert clean_sections(paper, kept) == [("abstract", "It was shown before [12,13].")]


def test_a_long_paper_is_cut_after_so_many_words() -> None:
    sections = [("title", "one two"), ("abstract", "three  four\n\nfive"), ("methods", "six")]
    assert truncate_sections(sections, None) == sections
    assert truncate_sections(sections, 4) == [("title", "one two"), ("abstract", "three  four")]
    assert truncate_sections(sections, 5) == sections[:2]
    assert truncate_sections(sections, 99) == sections


def test_values_in_sections_that_are_no_text_are_noted_and_reject_nothing() -> None:
    prepared = prepare_chunk(raw(PAPER | {"full_text": [1, {"Methods": 4}]}), EVERYTHING)
    (paper,) = prepared.papers
    assert paper.notes == ("int in the full text, not read",) * 2


def test_a_paper_of_no_more_than_a_title_is_noted() -> None:
    bare = {"pmid": "1", "title": "Genome foundation models", "keywords": ["DNA", "language"]}
    (paper,) = prepare_chunk(raw(bare), EVERYTHING).papers
    assert paper.notes == (ONLY_A_TITLE,)


def test_captions_are_a_section_of_their_own_where_they_are_asked_for() -> None:
    paper = Paper(title="T", abstract="A", captions=["Figure 1. One.", "Table 1. Two."])
    assert names_of(paper) == ["title", "abstract"]
    asked = EVERYTHING.model_copy(update={"text_fields": ("title", "abstract", "captions")})
    assert clean_sections(paper, asked)[2] == ("captions", "Figure 1. One.\n\nTable 1. Two.")


@pytest.mark.parametrize(
    ("fields", "settings", "reason"),
    [
        ({"retracted": True}, ScientificData(), "retracted"),
        ({"title": "WITHDRAWN: x"}, ScientificData(), "withdrawn"),
        ({"publication_types": ["Review"]},
         ScientificData(filters=Filters(exclude_publication_types=("review",))),
         "publication_type_not_wanted"),
        ({}, ScientificData(filters=Filters(licenses=("cc-by",))), "no_license"),
        ({"license": "CC BY-NC 4.0"}, ScientificData(filters=Filters(licenses=("cc-by",))),
         "license_not_wanted"),
    ],
)  # fmt: skip
def test_a_paper_of_a_kind_that_is_not_wanted_is_rejected(
    fields: dict[str, Any], settings: ScientificData, reason: str
) -> None:
    assert rejection_of(PAPER | fields, settings) == (reason, "1")


def test_a_retracted_paper_can_be_kept() -> None:
    kept = ScientificData(retracted="keep")
    assert len(prepare_chunk(raw(PAPER | {"retracted": True}), kept).papers) == 1


@pytest.mark.parametrize(
    "licence",
    ["cc-by", "CC BY", "CC-BY 4.0", "cc by v4.0", "https://creativecommons.org/licenses/by/4.0/",
     "http://creativecommons.org/licenses/by/2.0", "CC BY 4.0 International",
     "Creative Commons Attribution License"],
)  # fmt: skip
def test_a_licence_has_one_name_however_it_is_written(licence: str) -> None:
    wanted = ScientificData(filters=Filters(licenses=("CC-BY",)))
    assert len(prepare_chunk(raw(PAPER | {"license": licence}), wanted).papers) == 1


# --- filters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "filters", "reason"),
    [
        (PAPER, Filters(min_score=90), "score_too_low"),
        (PAPER | {"score": None}, Filters(min_score=90), "no_score"),
        (PAPER, Filters(tiers=("gold_standard",)), "tier_not_wanted"),
        (PAPER | {"tier": None}, Filters(tiers=("gold_standard",)), "no_tier"),
        (PAPER | {"tier": "platinum"}, Filters(), "unknown_tier"),
        (PAPER, Filters(min_words=1000), "too_few_words"),
        ({"pmid": "1", "score": 3}, Filters(min_words=0), "no_text"),
        ({"pmid": "1", "title": " "}, Filters(min_words=0), "no_text"),
    ],
)
def test_a_filter_gives_its_reason(record: Any, filters: Filters, reason: str) -> None:
    assert rejection_of(record, ScientificData(filters=filters)) == (reason, "1")


@pytest.mark.parametrize("name", ["medium_quality", "moderate_quality"])
@pytest.mark.parametrize("wanted", ["medium_quality", "moderate_quality"])
def test_the_two_names_of_one_tier_are_one_to_the_filter(name: str, wanted: Any) -> None:
    settings = ScientificData(filters=Filters(tiers=(wanted,)))
    prepared = prepare_chunk(raw(PAPER | {"tier": name}), settings)
    assert len(prepared.papers) == 1


GERMAN = (
    "Die Genexpression in den Leberzellen wurde in dieser Studie untersucht, und die Ergebnisse "
    "zeigen eine deutliche Veränderung zwischen den Gruppen der Patienten und der Kontrollen."
)
FRENCH = (
    "Le gène est impliqué dans la réparation du génome et sa mutation augmente le risque de "
    "cancer chez les femmes, comme nous le montrons dans cette étude de plusieurs familles."
)


@pytest.mark.parametrize("text", [GERMAN, FRENCH])
def test_a_paper_in_another_language_is_rejected(text: str) -> None:
    assert rejection_of({"pmid": "1", "abstract": text}, ScientificData())[0] == "other_language"


def test_the_language_can_be_another_or_any() -> None:
    record = raw({"pmid": "1", "abstract": GERMAN})
    for language in ("de", None):
        settings = ScientificData(filters=Filters(language=language))
        assert len(prepare_chunk(record, settings).papers) == 1
    assert (
        rejection_of(PAPER, ScientificData(filters=Filters(language="de")))[0] == "other_language"
    )


def test_a_title_full_of_symbols_is_not_taken_for_another_language() -> None:
    for title in ("BRCA1/BRCA2 mutations", "TP53 R175H", "miR-21 targets PTEN", "CD4+ T"):
        language, confidence = detect_language(title, "en")
        assert language == "en" or confidence < LANGUAGE_CONFIDENCE


# --- examples ------------------------------------------------------------------------------


def test_only_places_that_cleaning_changed_are_examples() -> None:
    plain = PAPER | {"pmid": "1", "abstract": f"{SENTENCE} \n {SENTENCE}"}
    cited = PAPER | {
        "pmid": "2",
        "abstract": SENTENCE * 5 + f"It was shown before [12,13]. {SENTENCE}",
    }
    chunk = raw(plain, cited)
    (example,) = prepare_chunk(chunk, ScientificData()).examples
    assert example.paper_id == "2"
    assert "[12,13]" in example.before
    assert "[12,13]" not in example.after
    assert len(example.before) <= 240
