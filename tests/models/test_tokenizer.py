"""The tokenizer as training needs it."""

from pathlib import Path

from steps.models.tokenizer import load_tokenizer


def test_padding_is_never_the_end_of_text(tiny_llama_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama_folder)
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "right"
