"""Disease words, told by how they are written."""

import itertools

import pytest

from steps.papers.diseases import find_diseases, same_disease


def found_in(text):
    return [text[span.start : span.end] for span in find_diseases(text)]


@pytest.mark.parametrize(
    ("text", "diseases"),
    [
        ("Loss of RB1 causes hereditary retinoblastoma in children.", ["retinoblastoma"]),
        (
            "Families with breast cancer or von Willebrand disease.",
            ["breast cancer", "von Willebrand disease"],
        ),
        ("Tay-Sachs disease and Friedreich ataxia", ["Tay-Sachs disease", "Friedreich ataxia"]),
        ("A child with malaria.", ["malaria"]),
        ("an autosomal recessive disease, this disorder and the tumor", []),
        ("apoptosis, mitosis, diagnosis and phagocytosis", []),
        ("tumor necrosis factor and a leukemia virus", []),
        ("Mycobacterium tuberculosis infects macrophages", []),
        ("pulmonary tuberculosis", ["tuberculosis"]),
    ],
)
def test_what_is_written_like_a_disease_is_one(text, diseases):
    assert found_in(text) == diseases


@pytest.mark.parametrize(
    "writings",
    [
        ("Leukaemias", "leukemia"),
        ("Wilms' tumour", "Wilms tumor", "wilms tumors"),
        ("Huntington's disease", "Huntington disease"),
        ("muscular dystrophies", "muscular dystrophy"),
        ("cardiomyopathies", "cardiomyopathy"),
    ],
)
def test_the_writings_of_one_disease_have_one_spelling(writings):
    assert len({same_disease(written) for written in writings}) == 1


def test_no_two_diseases_overlap():
    text = "chronic lymphocytic leukemia, lymphocytic leukemia cell carcinoma disease."
    spans = find_diseases(text)
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))
