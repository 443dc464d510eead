"""The pages that are written from the code say what the code says now."""

from steps.metrics import METRICS
from tools.reference_pages import (
    CONFIGURATION,
    METRICS_PAGE,
    comments,
    configuration_page,
    formula,
    metrics_page,
)

HOW = "run python -m tools.reference_pages"


def test_the_page_of_the_configuration_is_current() -> None:
    assert CONFIGURATION.read_text(encoding="utf-8") == configuration_page(), HOW


def test_the_page_of_the_metrics_is_current() -> None:
    assert METRICS_PAGE.read_text(encoding="utf-8") == metrics_page(), HOW


def test_a_comment_holds_for_the_keys_below_it_up_to_a_blank_line() -> None:
    found = comments()
    assert found["training.qlora.lora_alpha"].text.startswith("Scale is lora_alpha / r")
    assert found["training.model.truncation"].text == found["training.model.model_type"].text
    assert found["training.qlora.r"].default == "16"


def test_formulas_are_those_that_are_computed() -> None:
    assert formula(METRICS["bits_per_byte"]) == "Σ nats / (ln 2 · Σ bytes)"
    assert formula(METRICS["perplexity"]) == "exp(Σ nats / Σ tokens)"
    assert formula(METRICS["gene_f1"]) == "2 · Σ gene_hits / (Σ genes_generated + Σ genes_expected)"
