"""Where the tokens of tokenizers written in Python stand in a text."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.models.token_spans import Encoded, encode
from steps.models.tokenizer import load_tokenizer
from tests.support.tiny_tokenizers import GENOMICS
from tests.support.tokenizer_families import FAMILIES

WRITTEN_IN_PYTHON = ("biogpt", "ctrl", "esm")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tokenizers that have no fast form."""
    folder = tmp_path_factory.mktemp("families")
    return {
        name: load_tokenizer(FAMILIES[name].folder(folder / name)) for name in WRITTEN_IN_PYTHON
    }


def spelled(text: str, encoded: Encoded) -> list[str]:
    """The characters of each word."""
    words: dict[Any, list[int]] = {}
    for word, span in zip(encoded.words, encoded.spans, strict=True):
        words.setdefault(word, []).extend(range(*span))
    return ["".join(text[i] for i in sorted(set(places))) for places in words.values()]


@pytest.mark.parametrize("name", WRITTEN_IN_PYTHON)
def test_every_character_belongs_to_the_token_that_it_was_made_of(
    tokenizers: dict[str, Any], name: str
) -> None:
    tokenizer = tokenizers[name]
    assert not tokenizer.is_fast
    for text in GENOMICS:
        encoded = encode(tokenizer, text)
        assert encoded.ids == tokenizer(text, add_special_tokens=False).input_ids
        covered = {i for span in encoded.spans for i in range(*span)}
        assert covered >= {i for i, c in enumerate(text) if not c.isspace()}
        assert all(start < end for start, end in encoded.spans)


def test_moses_escapes_are_the_characters_that_they_stand_for(tokenizers: dict[str, Any]) -> None:
    text = "cell's \"A&B\" [5'-end] <i> ABT-263 &amp; R\x07NA"
    words = spelled(text, encode(tokenizers["biogpt"], text))
    assert words[:10] == ["cell", "'s", '"', "A", "&", "B", '"', "[", "5", "'"]
    assert "".join(words) == text.replace(" ", "").replace("\x07", "")
    assert {"-", "ABT", "263"} <= set(words)


def test_words_end_where_their_marks_say(tokenizers: dict[str, Any]) -> None:
    text = "Loss of BRCA1 in cells"
    assert spelled(text, encode(tokenizers["biogpt"], text)) == text.split()
    assert spelled(text, encode(tokenizers["ctrl"], text)) == text.split()


def test_each_amino_acid_is_a_word(tokenizers: dict[str, Any]) -> None:
    encoded = encode(tokenizers["esm"], "MKTAYIAK")
    assert encoded.words == list(range(8))
    assert encoded.spans == [(i, i + 1) for i in range(8)]


@pytest.mark.parametrize("name", WRITTEN_IN_PYTHON)
@given(text=st.text(max_size=40))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_spans_follow_each_other_in_any_text(
    tokenizers: dict[str, Any], name: str, text: str
) -> None:
    encoded = encode(tokenizers[name], text)
    assert len(encoded.ids) == len(encoded.spans) == len(encoded.words)
    assert all(0 <= start <= end <= len(text) for start, end in encoded.spans)
    ends = [end for _, end in encoded.spans]
    assert ends == sorted(ends)
