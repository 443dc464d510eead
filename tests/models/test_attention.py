"""Packed rows must give what single documents give, when scoring and when training."""

import pytest
import torch

from steps.models.attention import (
    document_borders,
    per_document_attention,
)

LENGTHS = [20, 1, 37, 6]


def packed_row(lengths=LENGTHS, vocabulary=300):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, vocabulary, (1, sum(lengths)), generator=generator)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return ids, {"position_ids": positions, "use_cache": False}


def logits_alone(model, ids, lengths=LENGTHS):
    parts = ids.split(lengths, dim=1)
    return torch.cat([model(input_ids=part, use_cache=False).logits for part in parts], dim=1)


def mistral_with_a_short_window():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    return MistralForCausalLM(MistralConfig(vocab_size=300, sliding_window=5, **shape)).eval()


def test_packed_logits_are_those_of_single_documents(llama):
    ids, arguments = packed_row()
    with torch.no_grad():
        alone = logits_alone(llama, ids)
        with per_document_attention(llama):
            packed = llama(input_ids=ids, **arguments, **document_borders(LENGTHS)).logits
    assert torch.allclose(packed, alone, atol=1e-4, rtol=0)


def test_a_sliding_window_is_kept_within_documents():
    model = mistral_with_a_short_window()
    ids, arguments = packed_row()
    with torch.no_grad():
        alone = logits_alone(model, ids)
        with per_document_attention(model):
            packed = model(input_ids=ids, **arguments, **document_borders(LENGTHS)).logits
            model.config.sliding_window = None
            without = model(input_ids=ids[:, :20], use_cache=False).logits
    assert torch.allclose(packed, alone, atol=1e-4, rtol=0)
    assert not torch.allclose(without, alone[:, :20], atol=1e-2), "the window had no effect"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_a_packed_row_are_those_of_single_documents(llama, checkpointing):
    ids, arguments = packed_row()
    llama.train()
    logits_alone(llama, ids).square().mean().backward()
    alone = {name: p.grad.clone() for name, p in llama.named_parameters()}
    llama.zero_grad()
    if checkpointing:
        llama.activation_checkpointing_enable({"use_reentrant": False})
    with per_document_attention(llama):
        packed = llama(input_ids=ids, **arguments, **document_borders(LENGTHS)).logits
        packed.square().mean().backward()
    for name, parameter in llama.named_parameters():
        assert torch.allclose(parameter.grad, alone[name], atol=1e-4, rtol=1e-3), name


def test_without_borders_each_row_is_one_document(llama):
    ids, _ = packed_row()
    rows = ids[:, :40].reshape(2, 20)
    with torch.no_grad():
        expected = llama(input_ids=rows, use_cache=False).logits
        with per_document_attention(llama):
            got = llama(input_ids=rows, use_cache=False).logits
    assert torch.allclose(got, expected, atol=1e-5)


def test_padding_is_still_masked(llama):
    ids, _ = packed_row()
    padded = torch.cat([torch.full((1, 4), 2), ids[:, :10]], dim=1)
    mask = torch.tensor([[0] * 4 + [1] * 10])
    with torch.no_grad(), per_document_attention(llama):
        alone = llama(input_ids=ids[:, :10], use_cache=False).logits
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        got = llama(input_ids=padded, attention_mask=mask, position_ids=positions).logits[:, 4:]
    assert torch.allclose(got, alone, atol=1e-4)


def test_generation_is_the_same_as_with_plain_sdpa(llama):
    ids, _ = packed_row()
    prompts = torch.cat([ids[:, :12], torch.cat([torch.full((1, 5), 2), ids[:, 12:19]], 1)])
    arguments = {"attention_mask": (prompts != 2).long(), "max_new_tokens": 8, "do_sample": False}
    expected = llama.generate(prompts, **arguments)
    with per_document_attention(llama):
        got = llama.generate(prompts, **arguments)
    assert torch.equal(got, expected)


def test_packed_documents_without_borders_are_refused(llama):
    ids, arguments = packed_row()
    with per_document_attention(llama), pytest.raises(ValueError, match="cu_seq_lens_q is missing"):
        llama(input_ids=ids, **arguments)


def test_borders_that_do_not_fit_the_row_are_refused(llama):
    ids, arguments = packed_row()
    with per_document_attention(llama), pytest.raises(ValueError, match="expected 0 to 64"):
        llama(input_ids=ids, **arguments, **document_borders([20, 30]))


def test_an_encoder_keeps_its_documents_apart_too(bert):
    vocabulary = bert.config.vocab_size
    ids, arguments = packed_row(vocabulary=vocabulary)
    with torch.no_grad():
        alone = torch.cat([bert(input_ids=part).logits for part in ids.split(LENGTHS, 1)], 1)
        with per_document_attention(bert):
            packed = bert(
                input_ids=ids, position_ids=arguments["position_ids"], **document_borders(LENGTHS)
            ).logits
    assert torch.allclose(packed, alone, atol=1e-4)
