"""Windows of words for masked models, with the tokenizers of all families."""

from pathlib import Path

import pytest
from transformers import AddedToken

from steps.config.sections import Masking
from steps.models.tokenizer import load_tokenizer, special_tokens
from steps.training.masking import MaskedPapers
from tests.support.example_papers import SENTENCES, paper_of
from tests.support.tokenizer_families import MASKED_FAMILIES
from tests.support.windows import masked_windows

PAPER = paper_of("p", ("title", SENTENCES[1]), ("abstract", " ".join(SENTENCES[2:])))


@pytest.mark.parametrize("name", [n for n in MASKED_FAMILIES if n not in ("esm", "t5-like")])
def test_mentions_are_hidden_whole_and_every_word_in_one_window(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(MASKED_FAMILIES[name].folder(tmp_path))
    windows = list(masked_windows([PAPER], tokenizer, 48, 8))
    before, after = special_tokens(tokenizer)
    body = tokenizer(PAPER.text, add_special_tokens=False).input_ids
    hidden: list[int] = []
    for window in windows:
        assert len(window.tokens) <= 48
        assert list(window.tokens[: len(before)]) == before
        assert list(window.tokens[len(window.tokens) - len(after) :]) == after
        for unit in window.units:
            hidden += window.tokens[unit.start : unit.end].tolist()
    assert hidden == body
    entities = [
        "".join(tokenizer.decode([i]) for i in window.tokens[unit.start : unit.end].tolist())
        for window in windows
        for unit in window.units
        if unit.entity
    ]
    squeezed = "".join(entities).lower().replace(" ", "").replace("##", "")
    assert len(entities) == len(PAPER.genes) + len(PAPER.variants)
    assert "brca1p.val600glubrafmyccdk4egfrkraspten" in squeezed


def test_each_amino_acid_of_a_protein_is_hidden_alone(tmp_path: Path) -> None:
    protein = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"
    tokenizer = load_tokenizer(MASKED_FAMILIES["esm"].folder(tmp_path))
    windows = masked_windows([paper_of("p", ("title", protein))], tokenizer, 20, 4)
    units = [unit for window in windows for unit in window.units]
    assert len(units) == len(protein)
    assert all(unit.end == unit.start + 1 for unit in units)


def test_a_word_is_never_replaced_by_a_token_that_the_model_does_not_have(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(MASKED_FAMILIES["eurobert"].folder(tmp_path))
    size = len(tokenizer)
    tokenizer.add_tokens([AddedToken(f"<extra_{i}>", special=True) for i in range(size)])
    rule = Masking(probability=0.9, mask_share=0.0, random_share=1.0)
    windows = masked_windows([PAPER], tokenizer, 48, 8)
    rows = MaskedPapers(windows, tokenizer, 48, rule, 0, packed=False)
    assert max(token for row in range(len(rows)) for token in rows[row][0].tokens) < size
