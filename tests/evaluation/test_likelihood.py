"""Likelihood of papers under causal models."""

import numpy as np
import pytest

from steps.errors import UserError
from steps.evaluation.likelihood import score_papers, score_tokens
from steps.metrics import STRATA
from steps.models.tokenizer import start_token
from tests.support.example_papers import SENTENCES, paper_of

SETTINGS = {"context": 48, "stride": 24, "batch_tokens": 96}


def naive_nats(model, tokenizer, text, context, stride):
    """The definition itself: each token from the window that first reaches it, one by one.

    Windows begin every `stride` tokens; the last is moved back until it is full.
    """
    import torch

    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    total, begin, scored_to = 0.0, 0, 0
    while scored_to < len(ids) - 1:
        begin = max(0, min(begin, len(ids) - 1 - context))
        window = ids[begin : begin + context + 1]
        logits = model(input_ids=torch.tensor([window[:-1]]), use_cache=False).logits[0].detach()
        log_p = logits.double().log_softmax(-1)
        for place in range(1, len(window)):
            if begin + place > scored_to:
                total -= float(log_p[place - 1, window[place]])
        scored_to = begin + len(window) - 1
        begin += stride
    return total


def test_nats_are_those_of_the_definition_window_by_window(llama, byte_level_tokenizer, papers):
    frame = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    expected = [naive_nats(llama, byte_level_tokenizer, p.text, 48, 24) for p in papers]
    np.testing.assert_allclose(frame["nats"], expected, rtol=1e-5)
    assert frame["tokens"].max() > 2 * 48, "no paper was long enough for several windows"


def test_bytes_and_words_are_those_of_the_text(llama, byte_level_tokenizer, papers):
    frame = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    assert list(frame["paper_id"]) == [paper.paper_id for paper in papers]
    assert list(frame["bytes"]) == [len(paper.text.encode()) for paper in papers]
    assert list(frame["words"]) == [len(paper.text.split()) for paper in papers]


def test_strata_add_up_to_the_whole(llama, byte_level_tokenizer, papers):
    frame = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    assert (frame[[f"bytes_{name}" for name in STRATA]].sum(axis=1) == frame["bytes"]).all()
    np.testing.assert_allclose(
        frame[[f"nats_{name}" for name in STRATA]].sum(axis=1), frame["nats"], rtol=1e-12
    )
    for name in STRATA:
        assert frame[f"bytes_{name}"].sum() > 0, f"no paper holds a byte of {name}"


def test_sections_hold_all_bytes_but_the_blank_lines_between(llama, byte_level_tokenizer, papers):
    frame = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    sections = [column for column in frame.columns if column.startswith("bytes_section_")]
    assert set(sections) == {f"bytes_section_{s}" for s in ("title", "abstract", "results")}
    assert (frame["bytes"] - frame[sections].sum(axis=1) == 2).all()


def test_a_second_run_gives_the_same_bits(llama, byte_level_tokenizer, papers):
    first = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    second = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    assert first.equals(second)


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_the_size_of_a_batch_changes_nothing(llama, byte_level_tokenizer, papers, batch_tokens):
    frame = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    other = score_papers(
        llama, byte_level_tokenizer, papers, context=48, stride=24, batch_tokens=batch_tokens
    )
    numbers = [column for column in frame.columns if column.startswith("nats")]
    np.testing.assert_allclose(other[numbers], frame[numbers], rtol=1e-6, atol=1e-9)


def test_the_size_of_a_batch_changes_little_in_bfloat16(llama, byte_level_tokenizer, papers):
    import torch

    llama = llama.to(torch.bfloat16)
    frames = [
        score_papers(
            llama, byte_level_tokenizer, papers, context=48, stride=24, batch_tokens=batch_tokens
        )
        for batch_tokens in (1, 96, 4096)
    ]
    for other in frames[1:]:
        assert other["nats"].sum() == pytest.approx(frames[0]["nats"].sum(), rel=1e-3)


def test_a_vocabulary_in_parts_gives_what_the_whole_gives(
    llama, byte_level_tokenizer, papers, monkeypatch
):
    from steps.evaluation import scorer

    whole = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    # 400 entries in parts of 64: the last is smaller.
    monkeypatch.setattr(scorer, "_VOCABULARY_AT_A_TIME", {"cpu": 64})
    parts = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    np.testing.assert_allclose(parts["nats"], whole["nats"], rtol=1e-6)


def test_a_head_with_an_adapter_is_read_with_it(llama, byte_level_tokenizer, papers):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["lm_head"], init_lora_weights=False)
    adapted = get_peft_model(llama, config).eval()
    frame = score_papers(adapted, byte_level_tokenizer, papers, **SETTINGS)
    expected = [naive_nats(adapted, byte_level_tokenizer, p.text, 48, 24) for p in papers]
    np.testing.assert_allclose(frame["nats"], expected, rtol=1e-5)


def test_an_adapter_of_zeros_scores_exactly_as_the_base(llama, byte_level_tokenizer, papers):
    from peft import LoraConfig, get_peft_model

    base = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    adapted = get_peft_model(llama, LoraConfig(target_modules="all-linear", r=4))
    frame = score_papers(adapted, byte_level_tokenizer, papers, **SETTINGS)
    assert frame.equals(base)


def test_an_overfitted_model_finds_its_text_more_likely_than_the_neighbour(
    llama, byte_level_tokenizer
):
    import torch

    known, unknown = (
        paper_of("known", ("title", SENTENCES[0])),
        paper_of("unknown", ("title", SENTENCES[1])),
    )
    ids = torch.tensor([[0, *byte_level_tokenizer(known.text)["input_ids"]]])
    optimizer = torch.optim.AdamW(llama.parameters(), lr=3e-3)
    llama.train()
    for _ in range(30):
        loss = llama(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    frame = score_papers(llama, byte_level_tokenizer, [known, unknown], **SETTINGS)
    per_byte = frame["nats"] / frame["bytes"]
    assert per_byte[0] < 0.5 * per_byte[1]


def test_the_model_comes_back_as_it_was(llama, byte_level_tokenizer, papers):
    llama.train()
    before = llama.config._attn_implementation
    score_papers(llama, byte_level_tokenizer, papers[:1], **SETTINGS)
    assert llama.training
    assert llama.config._attn_implementation == before


def test_dropout_is_off_while_scoring_a_model_in_training(llama, byte_level_tokenizer, papers):
    from peft import LoraConfig, get_peft_model

    base = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    config = LoraConfig(target_modules="all-linear", lora_dropout=0.5, init_lora_weights=False)
    adapted = get_peft_model(llama, config).train()
    first = score_papers(adapted, byte_level_tokenizer, papers, **SETTINGS)
    assert first.equals(score_papers(adapted, byte_level_tokenizer, papers, **SETTINGS))
    assert not np.allclose(first["nats"], base["nats"]), "the adapter had no effect at all"


@pytest.mark.parametrize("family", ["gemma2", "granite", "gpt2"])
def test_families_with_other_heads_and_positions_score_by_the_definition(
    family, byte_level_tokenizer, papers
):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": len(byte_level_tokenizer), "num_attention_heads": 4}
    shape |= {"hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 1}
    special = {
        # Caps its logits, and its attention scores, which SDPA cannot.
        "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64},
        # Divides its logits after the head.
        "granite": {"intermediate_size": 64, "num_key_value_heads": 2, "logits_scaling": 8.0},
        # Learned absolute positions.
        "gpt2": {},
    }
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **shape, **special[family], initializer_range=0.2)
    ).eval()
    frame = score_papers(model, byte_level_tokenizer, papers, **SETTINGS)
    expected = [naive_nats(model, byte_level_tokenizer, p.text, 48, 24) for p in papers]
    np.testing.assert_allclose(frame["nats"], expected, rtol=1e-5)


def test_virtual_tokens_of_prompt_tuning_are_read_and_not_scored(
    llama, byte_level_tokenizer, papers
):
    from peft import PromptTuningConfig, get_peft_model

    base = score_papers(llama, byte_level_tokenizer, papers, **SETTINGS)
    tuned = get_peft_model(llama, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    frame = score_papers(tuned, byte_level_tokenizer, papers, **SETTINGS)
    assert list(frame["tokens"]) == list(base["tokens"])
    assert not np.allclose(frame["nats"], base["nats"])


def test_the_shown_tokens_join_to_the_text_and_sum_to_the_score(
    llama, byte_level_tokenizer, papers
):
    for paper in papers:
        scores = score_tokens(llama, byte_level_tokenizer, paper, context=48, stride=24)
        frame = score_papers(llama, byte_level_tokenizer, [paper], **SETTINGS)
        assert "".join(score.text for score in scores) == paper.text
        assert sum(s.nats for s in scores) == pytest.approx(frame["nats"][0], rel=1e-6)
        assert any(score.in_gene for score in scores)


def test_progress_ends_at_the_whole(llama, byte_level_tokenizer, papers):
    calls = []
    score_papers(
        llama,
        byte_level_tokenizer,
        papers,
        **SETTINGS,
        progress=lambda done, all_tokens: calls.append((done, all_tokens)),
    )
    assert len(calls) > 1
    assert calls[-1][0] == calls[-1][1]


def test_eos_stands_in_where_there_is_no_bos(byte_level_tokenizer):
    import copy

    tokenizer = copy.deepcopy(byte_level_tokenizer)
    tokenizer.bos_token = None
    assert start_token(tokenizer) == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="neither a BOS nor an EOS"):
        start_token(tokenizer)


@pytest.mark.parametrize(
    ("context", "stride", "reason"),
    [
        (513, 24, "expected 1 to 512"),
        (0, 1, "context of 0"),
        (48, 49, "stride of 49"),
        (48, 0, "stride of 0"),
    ],
)
def test_windows_that_cannot_be_are_refused(
    llama, byte_level_tokenizer, papers, context, stride, reason
):
    with pytest.raises(UserError, match=reason):
        score_papers(
            llama, byte_level_tokenizer, papers, context=context, stride=stride, batch_tokens=64
        )


def test_no_paper_is_refused(llama, byte_level_tokenizer):
    with pytest.raises(UserError, match="no paper to score"):
        score_papers(llama, byte_level_tokenizer, [], **SETTINGS)
