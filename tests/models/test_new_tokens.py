"""Tokens that are added: found as words, begun as means, trained and stored as rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steps.config.sections import Model, Qlora, Quantization
from steps.config.tokenizer_section import NewGenes, Tokenizer
from steps.errors import UserError
from steps.models.adapters import add_adapter
from steps.models.heads import find_logit_head
from steps.models.loading import load_model
from steps.models.new_tokens import (
    NewTokens,
    add_new_tokens,
    give_embeddings,
    make_room,
    wanted_tokens,
)
from steps.models.sources import Base, resolve_base
from steps.models.token_spans import check_spans, encode
from steps.models.tokenizer import load_tokenizer

GENES = ("BRCA1", "TP53 = tumour suppressor", "CFTR")
TEXT = "Variants of BRCA1, (TP53) and BRCA10 meet CFTR."
QLORA = Qlora(method="lora", r=4, lora_dropout=0.0, quantization=Quantization(load_in_4bit=False))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["llama", "tied llama", "llama said to be tied", "bert"])
def folder(
    request: pytest.FixtureRequest, tiny_llama_folder: Path, tiny_bert_folder: Path, tmp_path: Path
) -> Path:
    """Embeddings with a head of its own, with one that shares them, and with a bias on that."""
    from transformers import BertForMaskedLM, LlamaForCausalLM

    if request.param == "llama":
        return tiny_llama_folder
    if request.param == "bert":
        source, model = tiny_bert_folder, BertForMaskedLM.from_pretrained(tiny_bert_folder)
        torch.nn.init.normal_(model.cls.predictions.bias)
    else:
        source = tiny_llama_folder
        model = LlamaForCausalLM.from_pretrained(source, tie_word_embeddings=True)
        if request.param == "tied llama":
            model.lm_head.weight = model.model.embed_tokens.weight
    model.save_pretrained(tmp_path / request.param)
    load_tokenizer(source).save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def base_of(folder: Path) -> Base:
    return resolve_base(Model(name=str(folder)))


def plain(folder: Path) -> Any:
    return load_model(base_of(folder), Quantization(), 16, torch.float32, "cpu")


def prepared(folder: Path) -> tuple[Any, Any, NewTokens]:
    """An adapted model with new tokens, its tokenizer, and the tokens."""
    tokenizer = load_tokenizer(folder)
    added = add_new_tokens(tokenizer, GENES, "tiny")
    model = plain(folder)
    give_embeddings(model, added)
    adapted = add_adapter(model, QLORA, base_of(folder).objective, new_tokens=added.ids)
    return adapted, tokenizer, added


def test_a_new_token_is_found_as_a_whole_word_and_spans_what_it_stands_for(folder: Path) -> None:
    plain_ids = encode(load_tokenizer(folder), "Variants of BRCA10 meet").ids
    tokenizer = load_tokenizer(folder)
    added = add_new_tokens(tokenizer, GENES, "tiny")
    check_spans(tokenizer)
    encoded = encode(tokenizer, TEXT)
    stood_for = {
        tokenizer.convert_ids_to_tokens(number): TEXT[start:end]
        for number, (start, end) in zip(encoded.ids, encoded.spans, strict=True)
        if number in added.ids
    }
    assert stood_for == {"BRCA1": "BRCA1", "TP53": "TP53", "CFTR": "CFTR"}
    assert sum(number in added.ids for number in encoded.ids) == 3
    # Words without a new token are cut as ever.
    assert encode(tokenizer, "Variants of BRCA10 meet").ids == plain_ids


def test_a_new_row_begins_as_the_mean_of_its_pieces_and_the_others_stay(folder: Path) -> None:
    before, own = plain(folder), load_tokenizer(folder)
    model, _, added = prepared(folder)
    described = {"BRCA1": "BRCA1", "TP53": "tumour suppressor", "CFTR": "CFTR"}
    inner = model.get_base_model()
    for got, had in (
        (inner.get_input_embeddings().weight, before.get_input_embeddings().weight),
        (inner.get_output_embeddings().weight, before.get_output_embeddings().weight),
    ):
        assert torch.equal(got[: len(had)], had)
        for number, text in zip(added.ids, added.texts, strict=True):
            expected = had[encode(own, described[text]).ids].mean(0)
            torch.testing.assert_close(got[number], expected)


def test_a_text_without_new_tokens_is_read_as_by_the_base(folder: Path) -> None:
    before = plain(folder)
    model, _, _ = prepared(folder)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = before(input_ids=ids).logits
        found = model.eval()(input_ids=ids).logits
    # Of BERT's head too, whose bias peft's layer forgets.
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected, rtol=0, atol=1e-5)


def test_only_the_new_rows_are_trained_and_stored(folder: Path, tmp_path: Path) -> None:
    model, tokenizer, added = prepared(folder)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    rows = {n: p for n, p in model.named_parameters() if "trainable_tokens" in n}
    first = {name: one.detach().clone() for name, one in rows.items()}
    ids = torch.tensor(encode(tokenizer, TEXT).ids)[None]
    model(input_ids=ids).logits.square().mean().backward()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    optimizer.step()
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert rows and all(not torch.equal(one, first[name]) for name, one in rows.items())
    model.save_pretrained(tmp_path / "adapter")
    # A second time, when peft has had an occasion to note where the base lies.
    model.save_pretrained(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    others = [weight for name, weight in stored.items() if ".lora_" not in name]
    assert len(others) == len(rows)
    assert all(len(weight) == len(added.ids) for weight in others)


def test_the_head_of_a_causal_model_is_still_taken_apart(tiny_llama_folder: Path) -> None:
    model, tokenizer, _ = prepared(tiny_llama_folder)
    inner = model.get_base_model().eval()
    head = find_logit_head(inner)
    assert head is not None
    ids = torch.tensor(encode(tokenizer, TEXT).ids)[None]
    with torch.no_grad():
        # With the rows as they are when it is asked, not as they were when it was found.
        for name, one in model.named_parameters():
            if "trainable_tokens" in name:
                one.normal_()
        hidden = head.hidden_states(inner.forward, input_ids=ids)
        torch.testing.assert_close(hidden @ head.weight.T, inner(input_ids=ids).logits)


def test_room_for_more_tokens_is_zeros_and_draws_nothing(folder: Path) -> None:
    model = plain(folder)
    size = model.get_input_embeddings().weight.shape[0]
    torch.manual_seed(3)
    expected = torch.rand(1, generator=torch.Generator().manual_seed(3))
    make_room(model, size + 7)
    assert torch.equal(torch.rand(1), expected)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert module.weight.shape[0] == size + 7
        assert not module.weight[size:].any()


def test_genes_come_by_frequency_and_a_file_by_its_lines(tmp_path: Path) -> None:
    counts = {"TP53": 5, "BRCA1": 9, "ABL1": 5, "HLA A": 50}
    genes = wanted_tokens(Tokenizer(new_tokens=NewGenes(genes=3)), counts)
    assert genes == ("BRCA1", "ABL1", "TP53")
    file = tmp_path / "tokens.txt"
    file.write_text("BRCA1\n\nTP53 = tumour suppressor\n")
    assert wanted_tokens(Tokenizer(new_tokens=str(file)), {}) == GENES[:2]
    file.write_text("BRCA1 gene\n")
    with pytest.raises(UserError, match=r"tokens.txt holds 'BRCA1 gene': a token is one word"):
        wanted_tokens(Tokenizer(new_tokens=str(file)), {})
    with pytest.raises(UserError, match="is not a file"):
        wanted_tokens(Tokenizer(new_tokens=str(tmp_path / "none")), {})
    with pytest.raises(UserError, match="none is marked in the training papers"):
        wanted_tokens(Tokenizer(new_tokens=NewGenes(genes=3)), {})


def test_what_cannot_be_added_is_refused_in_one_line(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(tiny_llama_folder)
    add_new_tokens(tokenizer, GENES, "tiny")
    with pytest.raises(UserError, match=r"the tokenizer of model tiny has each of .* already"):
        add_new_tokens(tokenizer, GENES, "tiny")
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(UserError, match="cannot take tokens"):
        add_new_tokens(tokenizer, ("ABL1",), "tiny")
    whole = QLORA.model_copy(update={"modules_to_save": ("embed_tokens",)})
    with pytest.raises(UserError, match=r"trains embed_tokens whole, and tokenizer.new_tokens"):
        add_adapter(plain(tiny_llama_folder), whole, "causal", new_tokens=(3,))
