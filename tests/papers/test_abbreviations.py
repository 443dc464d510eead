"""Abbreviations are found with the words that they stand for."""

import pytest

from steps.papers.abbreviations import abbreviations_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("We did a genome-wide association study (GWAS) here.",
         ("GWAS", "genome-wide association study")),
        ("Expression of the heat shock protein (HSP) rose.", ("HSP", "heat shock protein")),
        ("Cells by fluorescence in situ hybridization (FISH).",
         ("FISH", "fluorescence in situ hybridization")),
        ("In all; single-nucleotide polymorphisms (SNPs) were few.",
         ("SNPs", "single-nucleotide polymorphisms")),
        ("By RNA interference (RNAi).", ("RNAi", "RNA interference")),
        ("Of these (TP53) was one.", None),
        ("In the United Kingdom (BRCA) it was.", None),
        ("A growing group (n) of people.", None),
        ("Of mice (SHP). The small heterodimer partner is.", None),
    ],
)  # fmt: skip
def test_a_definition_is_read_back_to_the_word_that_it_begins_with(
    text: str, expected: tuple[str, str] | None
) -> None:
    found = list(abbreviations_in(text))
    assert found == ([expected] if expected else [])


def test_the_first_definition_of_a_short_form_counts() -> None:
    text = "Acute kidney injury (AKI) and atypical kinase input (AKI)."
    assert list(abbreviations_in(text)) == [("AKI", "Acute kidney injury")]
