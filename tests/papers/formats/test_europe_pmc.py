"""Results of Europe PMC become papers, and no value of the wrong type breaks the reading."""

import copy
from typing import Any

import pytest

from steps.papers.formats import europe_pmc
from steps.papers.formats.fields import abstract_of, date_in, own_identifiers
from steps.papers.formats.json_values import name_in, text_in
from steps.papers.paper import paper_of
from steps.papers.records import RecordProblem
from tests.support.mutations import mutations

CORE: dict[str, Any] = {
    "id": "31000001",
    "source": "MED",
    "pmid": "31000001",
    "pmcid": "PMC6500001",
    "doi": "10.1234/Gen.1",
    "title": "A <i>BRCA1</i> variant of 10<sup>-8</sup>.",
    "authorString": "Doe J, Roe R.",
    "journalInfo": {"volume": "3", "journal": {"title": "Journal of Genes", "nlmid": "1"}},
    "pubYear": "2019",
    "abstractText": (
        "<h4>Background</h4>Genes with p <.05 are\n many.<h4>Methods and results: </h4> "
        "We read <i>TP53</i>.<h4>Empty</h4> <h4>Author summary</h4>Plainly said."
    ),
    "language": "eng",
    "pubTypeList": {"pubType": ["Research Support", "Journal Article"]},
    "keywordList": {"keyword": ["Brca1", " repair ", "", 7]},
    "isOpenAccess": "Y",
    "license": "cc by",
    "firstPublicationDate": "2019-05-07",
    "commentCorrectionList": {
        "commentCorrection": [{"id": "1", "source": "MED", "type": "Comment in"}]
    },
}


def test_a_core_result() -> None:
    assert europe_pmc.recognises(CORE)
    assert europe_pmc.convert(CORE) == {
        "pmid": "31000001",
        "pmcid": "PMC6500001",
        "doi": "10.1234/gen.1",
        "title": "A <i>BRCA1</i> variant of 10<sup>-8</sup>.",
        "abstract": (
            "Background: Genes with p <.05 are many.\n\nMethods and results: We read <i>TP53</i>."
        ),
        "full_text": [{"heading": "Author summary", "paragraphs": ["Plainly said."]}],
        "keywords": ["Brca1", "repair"],
        "journal": "Journal of Genes",
        "publication_date": "2019-05-07",
        "language": "en",
        "license": "cc by",
        "open_access": True,
        "publication_types": ["Research Support", "Journal Article"],
    }


def test_a_lite_result() -> None:
    lite = {
        "id": "31000002",
        "source": "MED",
        "pmid": "31000002",
        "doi": "N/A",
        "title": "Lite.",
        "journalTitle": "J Genes",
        "pubYear": "2020",
        "pubType": "journal article; research-article",
        "isOpenAccess": "N",
    }
    assert europe_pmc.recognises(lite)
    assert europe_pmc.convert(lite) == {
        "pmid": "31000002",
        "title": "Lite.",
        "journal": "J Genes",
        "publication_date": "2020",
        "open_access": False,
        "publication_types": ["journal article", "research-article"],
    }


def test_a_preprint_is_known_by_its_own_id_and_its_server() -> None:
    preprint = {
        "id": "PPR100001",
        "source": "PPR",
        "title": "WITHDRAWN: A preprint",
        "pubYear": "2021",
        "bookOrReportDetails": {"publisher": "bioRxiv", "yearOfPublication": 2021},
        "pubTypeList": {"pubType": "Preprint"},
    }
    assert europe_pmc.convert(preprint) == {
        "other_id": "PPR100001",
        "title": "WITHDRAWN: A preprint",
        "journal": "bioRxiv",
        "publication_date": "2021",
        "publication_types": ["Preprint"],
    }
    assert paper_of(europe_pmc.convert(preprint)).retracted == "withdrawn"
    assert europe_pmc.convert({**preprint, "doi": "10.1101/1"})["doi"] == "10.1101/1"
    assert "other_id" not in europe_pmc.convert({**preprint, "doi": "10.1101/1"})


@pytest.mark.parametrize(
    ("source", "own", "expected"),
    [
        ("MED", "31000001", {"pmid": "31000001"}),
        ("PMC", "PMC6500001", {"pmcid": "PMC6500001"}),
        ("AGR", "IND600", {"other_id": "agr:IND600"}),
        ("MED", "0", {}),
        ("MED", None, {}),
    ],
)
def test_the_id_is_of_the_kind_that_the_source_says(
    source: str, own: Any, expected: dict[str, str]
) -> None:
    assert europe_pmc.convert({"id": own, "source": source, "pubYear": ""}) == expected


@pytest.mark.parametrize(
    "said",
    [
        {"pubTypeList": {"pubType": ["Retracted Publication", "Journal Article"]}},
        {"pubType": "retracted publication; journal article"},
        {"commentCorrectionList": {"commentCorrection": [{"type": "Retraction in"}]}},
        {"commentCorrectionList": {"commentCorrection": {"type": "Retraction In"}}},
        {"title": "RETRACTED ARTICLE: Genes"},
    ],
)
def test_a_retracted_paper(said: dict[str, Any]) -> None:
    paper = paper_of(europe_pmc.convert({"id": "1", "source": "MED", **said}))
    assert paper.retracted == "retracted"


def test_a_notice_of_retraction_is_not_retracted_itself() -> None:
    links = {"commentCorrection": [{"type": "Retraction of"}]}
    notice = {"id": "1", "source": "MED", "commentCorrectionList": links}
    assert paper_of(europe_pmc.convert(notice)).retracted is None


def test_values_that_an_exporter_wrapped_in_lists() -> None:
    wrapped = {
        "id": ["26000001"],
        "source": ["MED"],
        "pmid": ["26000001"],
        "title": ["Wrapped"],
        "abstractText": ["We …"],
        "journalInfo": [{"journal": [{"title": ["J"]}]}],
        "keywordList": [{"keyword": ["a", "b"]}],
    }
    assert europe_pmc.recognises(wrapped)
    assert europe_pmc.convert(wrapped) == {
        "pmid": "26000001",
        "title": "Wrapped",
        "abstract": "We …",
        "journal": "J",
        "keywords": ["a", "b"],
    }


@pytest.mark.parametrize(
    "other",
    [{"id": "1", "title": "a"}, {"source": "x", "pubYear": "1"}, {"pmid": "1", "journal": "J"}],
)
def test_other_objects_are_not_taken(other: dict[str, Any]) -> None:
    assert not europe_pmc.recognises(other)


# --- values of the wrong type ------------------------------------------------------------


def test_whatever_stands_anywhere_it_is_read_or_refused() -> None:
    before = copy.deepcopy(CORE)
    read = refused = 0
    results = [value for value in mutations(CORE) if isinstance(value, dict)]
    for mutated in results:
        europe_pmc.recognises(mutated)
        try:
            europe_pmc.convert(mutated)
            read += 1
        except RecordProblem as problem:
            refused += (problem.reason, "\n" in problem.detail) == ("wrong_type", False)
    assert read + refused == len(results) and read > refused > 10
    assert before == CORE


def test_text_of_the_wrong_type_is_named() -> None:
    with pytest.raises(RecordProblem, match="abstractText is dict, expected text"):
        europe_pmc.convert({**CORE, "abstractText": {"a": "b"}})


# --- what the JSON formats share ---------------------------------------------------------


def test_placeholders_are_no_identifiers() -> None:
    for nothing in ("N/A", "nan", "-", "0", "None", "null", "", None, [], 0):
        assert own_identifiers(nothing, nothing, nothing, "") == {}
    assert own_identifiers("N/A", "-", "0", "s2:1") == {"other_id": "s2:1"}
    assert own_identifiers("12", other_id="s2:1") == {"pmid": "12"}


def test_labels_that_say_nothing_are_left_out() -> None:
    parts = [("Abstract", "One."), ("AIM:", "Two."), ("", "Three."), ("X", " ")]
    assert abstract_of(parts) == ("One.\n\nAIM: Two.\n\nThree.", [])


def test_dates_names_and_texts() -> None:
    assert date_in("2019-05-07T00:00:00Z") == "2019-05-07"
    assert date_in("2019-5") == "2019-05"
    assert date_in("2019") == "2019"
    assert date_in("in 2019") == ""
    assert name_in({"a": 7}, "a") == "7"
    assert name_in({"a": True}, "a") == ""
    assert text_in({"a": float("nan")}, "a") == ""
    assert paper_of({"title": "Withdrawn genes"}).retracted is None
