"""The tokenizers of all families, as training and evaluation need them."""

import json
from pathlib import Path
from typing import Any

import pytest

from steps.errors import UserError
from steps.models.sources import Base
from steps.models.tokenizer import (
    check_tokenizer,
    continuation,
    end_token,
    load_tokenizer,
    special_tokens,
    start_token,
)
from tests.support.architectures import ARCHITECTURES
from tests.support.tiny_tokenizers import GENOMICS, described_bytes, merged_bytes
from tests.support.tokenizer_families import CAUSAL_FAMILIES, FAMILIES, MASKED_FAMILIES


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    """Each family."""
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(family: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder of the family."""
    written: Path = family.folder(tmp_path_factory.mktemp("family"))
    return written


def base_of(folder: Path, objective: Any = "causal") -> Base:
    """The description of a model's folder."""
    return Base("tiny", "folder", None, None, objective, "", folder)


def sized(folder: Path, vocabulary: int, **settings: Any) -> Path:
    """The folder with a config.json that states how many embeddings its model has."""
    content = {"model_type": "gpt2", "vocab_size": vocabulary, **settings}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def written(folder: Path, *special: str, **names: Any) -> Path:
    """A folder with a byte-level tokenizer and no config.json that states anything."""
    described_bytes(*special, tokenizer_class="PreTrainedTokenizerFast", **names)(folder)
    return sized(folder, 450)


def test_a_text_comes_back_from_its_tokens(family: Any, folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    for text in family.texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert family.same(back) == family.same(text)
        assert tokenizer.unk_token_id not in ids


def test_a_tokenizer_that_is_saved_is_the_same_when_it_is_loaded(
    family: Any, folder: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    for text in (*GENOMICS, *family.texts):
        assert again(text).input_ids == tokenizer(text).input_ids
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "mask_token_id", "padding_side")
    for name in names:
        assert getattr(again, name) == getattr(tokenizer, name), name


def test_padding_is_on_the_right_and_never_an_ordinary_word(family: Any, folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.padding_side == "right"
    token = tokenizer.pad_token
    assert token.startswith(("<", "[")) and token.endswith((">", "]"))
    for text in family.texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.pad_token_id not in ids
        shown = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert family.same(shown) == family.same(text)


@pytest.mark.parametrize("name", CAUSAL_FAMILIES)
def test_a_paper_opens_as_the_model_knows_it_and_closes_with_eos(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(CAUSAL_FAMILIES[name].folder(tmp_path))
    assert tokenizer.convert_ids_to_tokens(start_token(tokenizer)) == CAUSAL_FAMILIES[name].opening
    assert end_token(tokenizer) == tokenizer.eos_token_id


@pytest.mark.parametrize("name", MASKED_FAMILIES)
def test_around_a_text_stands_what_the_tokenizer_puts_there(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(MASKED_FAMILIES[name].folder(tmp_path))
    sides = tuple(tokenizer.convert_ids_to_tokens(side) for side in special_tokens(tokenizer))
    assert sides == MASKED_FAMILIES[name].around
    for text in MASKED_FAMILIES[name].texts:
        before, after = special_tokens(tokenizer)
        plain = tokenizer(text, add_special_tokens=False).input_ids
        assert [*before, *plain, *after] == tokenizer(text).input_ids


@pytest.mark.parametrize("name", CAUSAL_FAMILIES)
def test_what_is_written_after_a_prompt_joins_it(name: str, tmp_path: Path) -> None:
    family = CAUSAL_FAMILIES[name]
    tokenizer = load_tokenizer(family.folder(tmp_path))
    start, end = start_token(tokenizer), end_token(tokenizer)
    text = "Loss of growth, CAT! in 42 of 107"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    joined = []
    for cut in range(len(ids)):
        prompt = continuation(tokenizer, [start], ids[:cut])
        # CTRL marks the piece of a word that goes on; no prompt ends in one.
        if text.startswith(prompt) or (family.same is not str and "@@" not in prompt):
            joined.append(prompt + continuation(tokenizer, [start, *ids[:cut]], [*ids[cut:], end]))
    assert len(joined) > 5
    for whole in joined:
        assert family.same(whole).replace(" ", "") == family.same(text).replace(" ", "")
        assert family.same is not str or whole == text


@pytest.mark.parametrize("name", [name for name in FAMILIES if "bare" in name or "-v3" in name])
def test_a_bare_sentencepiece_model_gives_the_pieces_of_sentencepiece(
    name: str, tmp_path: Path
) -> None:
    from sentencepiece import SentencePieceProcessor

    folder = FAMILIES[name].folder(tmp_path)
    tokenizer = load_tokenizer(folder)
    model = SentencePieceProcessor(model_file=str(next(folder.glob("*.model"))))
    for text in (*GENOMICS, "the gene is lost"):
        assert tokenizer(text, add_special_tokens=False).input_ids == model.encode(text)
        assert tokenizer(text).is_fast


def test_digits_are_split_as_the_tokenizer_json_says(tmp_path: Path) -> None:
    # transformers builds StarCoder2's tokenizer as GPT-2's, which keeps numbers together.
    from transformers import AutoTokenizer

    folder = CAUSAL_FAMILIES["starcoder2"].folder(tmp_path)
    as_loaded = AutoTokenizer.from_pretrained(folder).tokenize("in 107 of 1204")
    ours = load_tokenizer(folder).tokenize("in 107 of 1204")
    assert "1204" in "".join(as_loaded) and len(as_loaded) < len(ours)
    assert [token for token in ours if token.isdigit()] == list("1071204")


def test_a_tokenizer_made_from_its_file_keeps_what_else_is_stated(tmp_path: Path) -> None:
    folder = CAUSAL_FAMILIES["starcoder2"].folder(tmp_path)
    names = json.loads((folder / "tokenizer_config.json").read_text())
    stated = {"chat_template": "{{ messages }}", "model_max_length": 321}
    extra = {"additional_special_tokens": ["<fim>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, **stated, **extra}))
    tokenizer = load_tokenizer(folder)
    assert type(tokenizer).__name__ == "TokenizersBackend"
    assert {name: getattr(tokenizer, name) for name in stated} == stated
    assert len(tokenizer.tokenize("<fim>")) == 1
    assert tokenizer.eos_token == "<|endoftext|>"


@pytest.mark.parametrize("model", ARCHITECTURES, ids=str)
def test_a_folder_without_a_tokenizer_is_refused_in_one_line(model: Any, tmp_path: Path) -> None:
    # transformers makes an empty one for 40 of these classes.
    model.config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded: none of tokenizer.json.* is there"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_knows_no_word_is_refused(tmp_path: Path) -> None:
    folder = MASKED_FAMILIES["bert"].folder(tmp_path)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    with pytest.raises(UserError, match="knows no word: add its tokenizer.json"):
        load_tokenizer(folder)


def test_a_tokenizer_json_that_was_cut_off_is_refused_in_one_line(tmp_path: Path) -> None:
    file = CAUSAL_FAMILIES["falcon"].folder(tmp_path) / "tokenizer.json"
    file.write_text(file.read_text()[:-100])
    with pytest.raises(UserError, match="cannot be loaded: tokenizer.json: "):
        load_tokenizer(tmp_path)


def test_a_sentencepiece_model_that_is_damaged_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = CAUSAL_FAMILIES["llama-bare"].folder(tmp_path)
    (folder / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match="tokenizer of model .* cannot be loaded"):
        load_tokenizer(folder)


# --- padding ------------------------------------------------------------------------------


def test_eos_pads_where_nothing_else_does_and_nothing_vanishes(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(written(tmp_path, "<|endoftext|>", eos_token="<|endoftext|>"))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    ids = tokenizer('CAT! "it" #1').input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == 'CAT! "it" #1'


def test_without_eos_the_unknown_token_pads_and_then_any_special_one(tmp_path: Path) -> None:
    with_unknown = written(tmp_path, "[X]", "[UNK]", unk_token="[UNK]")
    assert load_tokenizer(with_unknown).pad_token == "[UNK]"
    assert load_tokenizer(written(tmp_path, "[X]")).pad_token == "[X]"


def test_padding_of_its_own_stays(tmp_path: Path) -> None:
    names = {"eos_token": "</s>", "pad_token": "[PAD]"}
    assert load_tokenizer(written(tmp_path, "</s>", "[PAD]", **names)).pad_token == "[PAD]"


def test_padding_that_the_model_has_no_embedding_for_is_not_used(tmp_path: Path) -> None:
    folder = written(tmp_path, "</s>", eos_token="</s>", pad_token="[PAD]")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token == "</s>"
    assert "1 special tokens that the model does not have ([PAD])" in check_tokenizer(
        tokenizer, base_of(folder)
    )


# --- BOS and EOS --------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("stated", [1, [1, 0]])
def test_eos_is_what_the_model_states_where_the_tokenizer_names_none(
    file: str, stated: Any, tmp_path: Path
) -> None:
    folder = written(tmp_path, "<one>", "<two>")
    content = json.loads((folder / "config.json").read_text()) if file == "config.json" else {}
    (folder / file).write_text(json.dumps({**content, "eos_token_id": stated, "bos_token_id": 0}))
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<one>", "<two>")
    assert check_tokenizer(tokenizer, base_of(folder)) == ""
    tokenizer.save_pretrained(tmp_path / "adapter")
    assert load_tokenizer(tmp_path / "adapter").eos_token == "<two>"


@pytest.mark.parametrize("stated", [5, 10**6, -1, None, []])
def test_an_ordinary_word_never_ends_a_paper(stated: Any, tmp_path: Path) -> None:
    folder = sized(written(tmp_path, "<unk>", unk_token="<unk>"), 450, eos_token_id=stated)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token is None
    with pytest.raises(UserError, match="neither a BOS nor an EOS token.*tokenizer_config.json"):
        check_tokenizer(tokenizer, base_of(folder))


def test_a_causal_model_needs_a_token_to_close_a_paper_with(tmp_path: Path) -> None:
    folder = written(tmp_path, "<s>", bos_token="<s>")
    with pytest.raises(UserError, match="no EOS token.*set eos_token in its tokenizer_config.json"):
        check_tokenizer(load_tokenizer(folder), base_of(folder))
    assert check_tokenizer(load_tokenizer(folder), base_of(folder, "masked")) == ""


# --- embeddings ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [{"vocab_size": 448}, {"text_config": {"vocab_size": 448}}])
def test_tokens_beyond_the_embeddings_are_refused(size: dict[str, Any], tmp_path: Path) -> None:
    folder = written(tmp_path, "</s>", eos_token="</s>")
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", **size}))
    with pytest.raises(UserError, match="has 450 tokens, the model 448 "):
        check_tokenizer(load_tokenizer(folder), base_of(folder))


def test_more_embeddings_than_tokens_are_fine(tmp_path: Path) -> None:
    folder = sized(written(tmp_path, "</s>", eos_token="</s>"), 512)
    assert check_tokenizer(load_tokenizer(folder), base_of(folder)) == ""


def test_special_tokens_beyond_the_embeddings_pass_if_nothing_uses_them(tmp_path: Path) -> None:
    folder = written(tmp_path, "</s>", eos_token="</s>", mask_token="<mask>")
    tokenizer = load_tokenizer(folder)
    assert "(<mask>)" in check_tokenizer(tokenizer, base_of(folder))
    with pytest.raises(UserError, match="has 451 tokens, the model 450 "):
        check_tokenizer(tokenizer, base_of(folder, "masked"))


def test_an_added_word_beyond_the_embeddings_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(written(tmp_path, "</s>", eos_token="</s>"))
    tokenizer.add_tokens(["BRCA1"])
    with pytest.raises(UserError, match="has 451 tokens, the model 450 .*BRCA1"):
        check_tokenizer(tokenizer, base_of(tmp_path))


# --- tokenizers that cannot be traced -------------------------------------------------------


def test_tokens_that_cannot_be_traced_to_a_text_are_refused_by_name(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    with pytest.raises(UserError, match="ByT5Tokenizer does not tell which part of a text"):
        check_tokenizer(ByT5Tokenizer(), base_of(sized(tmp_path, 512)))


def test_a_bare_vocabulary_that_its_class_adds_padding_to_pads_with_eos(tmp_path: Path) -> None:
    merged_bytes("<|endoftext|>")(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPTNeoXTokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox", "vocab_size": 450}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.pad_token == "<|endoftext|>"
    assert "<|padding|>" in check_tokenizer(tokenizer, base_of(tmp_path))
