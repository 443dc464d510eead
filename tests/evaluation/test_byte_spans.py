"""Bytes of tokens, and the strata and sections they are counted in."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.evaluation.byte_spans import _offset_bytes, character_bytes, tokens_and_bytes
from steps.evaluation.strata import byte_strata, spread_over_bytes
from steps.metrics import STRATA
from steps.models.tokenizer import load_tokenizer
from tests.support.example_papers import SENTENCES, paper_of
from tests.support.tiny_tokenizers import GENOMICS
from tests.support.tokenizer_families import FAMILIES

TOKENIZERS = ["byte_level_tokenizer", "byte_fallback_tokenizer", "wordpiece_tokenizer"]
TEXTS = [
    *SENTENCES,
    "\n\n".join(SENTENCES),
    "日本語と🧬 é e\u0301 \u00a0 ﬁ",
    "  two  spaces ",
    "<0x41> ▁ Ġ",
    "literal </s> in the text",
]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_tokens_sum_to_the_bytes_of_the_text(name, text, request):
    tokenizer = request.getfixturevalue(name)
    ids, lengths = tokens_and_bytes(tokenizer, text)
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(lengths) == len(ids)
    assert (lengths >= 0).all()
    assert lengths.sum() == len(text.encode())


@given(text=st.text(min_size=1, max_size=30))
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_bytes_sum_up_for_any_text(name, text, request):
    if not text.isprintable():
        text = text.encode("unicode_escape").decode()
    ids, lengths = tokens_and_bytes(request.getfixturevalue(name), text)
    assert (lengths >= 0).all()
    assert lengths.sum() == (len(text.encode()) if ids else 0)


def test_tokens_of_one_character_are_told_apart(byte_level_tokenizer, byte_fallback_tokenizer):
    for tokenizer in (byte_level_tokenizer, byte_fallback_tokenizer):
        ids, lengths = tokens_and_bytes(tokenizer, "🧬")
        without_prefix = lengths[lengths > 0]
        assert list(without_prefix) == [1, 1, 1, 1], tokenizer.convert_ids_to_tokens(ids)


def test_the_space_belongs_to_the_token_that_follows(
    byte_level_tokenizer, byte_fallback_tokenizer, wordpiece_tokenizer
):
    for tokenizer in (byte_level_tokenizer, byte_fallback_tokenizer, wordpiece_tokenizer):
        _, lengths = tokens_and_bytes(tokenizer, "seen in")
        first_word = tokens_and_bytes(tokenizer, "seen")[0]
        assert lengths[: len(first_word)].sum() == len("seen")
        assert lengths[len(first_word) :].sum() == len(" in")


def test_the_space_that_sentencepiece_adds_counts_no_byte(byte_fallback_tokenizer):
    ids, lengths = tokens_and_bytes(byte_fallback_tokenizer, "seen")
    assert "".join(byte_fallback_tokenizer.convert_ids_to_tokens(ids)).startswith("\u2581")
    assert lengths.sum() == 4


def test_offsets_that_share_a_character_share_its_bytes():
    # "aé日": a token of one letter, two of é, then two of 日, all as offsets report them.
    offsets = [(0, 1), (1, 2), (1, 2), (2, 3), (2, 3)]
    assert list(_offset_bytes(offsets, "aé日")) == [1, 1, 1, 1, 2]
    # One token holds "a" and the first byte of é.
    assert list(_offset_bytes([(0, 2), (1, 2)], "aé")) == [2, 1]


def test_characters_are_one_to_four_bytes_wide():
    assert list(character_bytes("aé日🧬")) == [0, 1, 3, 6, 10]


@pytest.fixture(scope="module", params=FAMILIES)
def family_tokenizer(request, tmp_path_factory):
    return load_tokenizer(FAMILIES[request.param].folder(tmp_path_factory.mktemp("family")))


@pytest.mark.parametrize("text", [*GENOMICS, *TEXTS])
def test_bytes_sum_to_the_text_with_the_tokenizers_of_all_families(family_tokenizer, text):
    ids, lengths = tokens_and_bytes(family_tokenizer, text)
    assert ids == family_tokenizer(text, add_special_tokens=False).input_ids
    assert len(lengths) == len(ids)
    assert (lengths >= 0).all()
    assert lengths.sum() == len(text.encode())


def test_a_word_has_the_bytes_of_its_tokens_with_the_tokenizers_of_all_families(family_tokenizer):
    text = "Loss of BRCA1 – or TP53 – in naïve β-cells"
    lengths = tokens_and_bytes(family_tokenizer, text)[1]
    borders = {0, *np.cumsum(lengths).tolist()}
    for word in (" BRCA1", " TP53", " in"):
        start = text.encode().index(word.encode())
        end = start + len(word.encode())
        # The space belongs to the word, or is a token of its own.
        assert {start, start + 1} & borders and end in borders, word


def strata_of(paper):
    """Text of each stratum, its pieces joined by a bar."""
    strata, text, pieces = byte_strata(paper), paper.text.encode(), {name: [] for name in STRATA}
    before = None
    for stratum, byte in zip(strata, text, strict=True):
        name = STRATA[stratum]
        if name != before:
            pieces[name].append(b"")
        pieces[name][-1] += bytes([byte])
        before = name
    return {name: [piece.decode() for piece in found] for name, found in pieces.items()}


def test_numbers_are_those_that_stand_by_themselves():
    paper = paper_of("p", ("title", "p53 IL-2 10-20 1,204 3.5-fold 5kb (p=.05) chr17 42."))
    assert strata_of(paper)["number"] == ["10", "20", "1,204", "3.5", "5", "p=.05", "42"]


def test_statistics_are_taken_whole():
    paper = paper_of(
        "p", ("title", "n = 12, P < 0.001 (95% CI 1.2-3.4); HR=0.5 in 40%, P-value > .05")
    )
    assert strata_of(paper)["number"] == [
        "n = 12", "P < 0.001", "95% CI", "1.2", "3.4", "HR=0.5", "40%", "P-value > .05",
    ]  # fmt: skip


def test_a_variant_takes_its_numbers_and_genes_with_it():
    paper = paper_of("p", ("title", "BRAF p.Val600Glu in 12 of 30 α-cells"))
    strata = strata_of(paper)
    assert strata["gene"] == ["BRAF"]
    assert strata["variant"] == ["p.Val600Glu"]
    assert strata["number"] == ["12", "30"]


def test_a_token_across_a_border_is_shared_out_by_bytes():
    # " BRAF" as one token of 5 bytes: one fifth of its nats are the space's.
    per_byte = spread_over_bytes(np.array([10.0]), np.array([5]))
    assert per_byte[0] == pytest.approx(2.0)
    assert per_byte[1:].sum() == pytest.approx(8.0)


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 6)), min_size=1, max_size=20).filter(
        lambda tokens: any(length for _, length in tokens)
    )
)
def test_what_is_shared_out_sums_to_what_there_was(tokens):
    nats = np.array([value for value, _ in tokens])
    lengths = np.array([length for _, length in tokens])
    per_byte = spread_over_bytes(nats, lengths)
    assert len(per_byte) == lengths.sum()
    assert per_byte.sum() == pytest.approx(nats.sum(), abs=1e-9)
