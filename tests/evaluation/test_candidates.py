"""Candidates of a gap: read with one beginning for all, scored as if each were read alone."""

import numpy as np
import pytest
import torch

from steps.evaluation.candidates import candidate_nats
from steps.evaluation.likelihood import sequence_nats
from steps.evaluation.scorer import Scorer
from steps.models import branches
from tests.support.architectures import CAUSAL
from tests.support.example_papers import SENTENCES
from tests.support.tiny_architectures import tokenizer_for


def groups_for(tokenizer):
    """Sentences with a gap, some longer than the sliding windows of the tiny models."""
    fillings = ("TP53", "PTEN", "an oncogene of which little is known", "X")
    sentences = [(SENTENCES[0], "TP53"), (SENTENCES[1], SENTENCES[1].split()[2])]
    sentences.append((" ".join(SENTENCES[:3]), SENTENCES[2].split()[1]))
    groups = []
    for sentence, gap in sentences:
        before, _, after = sentence.partition(gap)
        texts = [before + filling + after for filling in fillings]
        groups.append([[0, *tokenizer(text, add_special_tokens=False).input_ids] for text in texts])
    return groups


def one_by_one(model, groups):
    """The plain path: the nats of each text, read whole."""
    longest = max(len(text) for group in groups for text in group)
    return [
        [
            float(
                sequence_nats(model, [text], context=longest, stride=longest, batch_tokens=4096)[
                    0
                ].sum()
            )
            for text in group
        ]
        for group in groups
    ]


@pytest.mark.parametrize("architecture", CAUSAL, ids=str)
def test_any_class_scores_candidates_as_it_scores_each_alone(architecture):
    model, tokenizer = architecture.build(), tokenizer_for("causal")
    groups = groups_for(tokenizer)
    made = candidate_nats(model, groups, batch_tokens=4096)
    for nats, alone in zip(made, one_by_one(model, groups), strict=True):
        np.testing.assert_allclose(nats, alone, atol=1e-4, rtol=1e-6)
        assert np.argsort(nats).tolist() == np.argsort(alone).tolist()


@pytest.fixture
def rows_of_branches(monkeypatch):
    """Tokens of each row in which beginnings are shared."""
    rows = []
    read = Scorer.read_branched

    def noted(self, groups):
        rows.append(sum(group.tokens for group in groups))
        return read(self, groups)

    monkeypatch.setattr(Scorer, "read_branched", noted)
    return rows


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "gpt_neox", "gemma3_text"])
def test_what_candidates_have_in_common_is_read_once(name, rows_of_branches):
    (architecture,) = (one for one in CAUSAL if str(one) == name)
    groups = groups_for(tokenizer_for("causal"))
    candidate_nats(architecture.build(), groups, batch_tokens=4096)
    # The last token of a text is only predicted.
    beginnings = [
        tuple(text[:n]) for group in groups for text in group for n in range(1, len(text))
    ]
    assert len(set(beginnings)) <= sum(rows_of_branches) < 0.7 * len(beginnings)
    assert len(rows_of_branches) == 1


@pytest.mark.parametrize("name", ["mamba", "gemma2", "bloom"])
def test_a_model_that_does_not_bear_it_reads_text_after_text(name, rows_of_branches):
    (architecture,) = (one for one in CAUSAL if str(one) == name)
    candidate_nats(architecture.build(), groups_for(tokenizer_for("causal")), batch_tokens=4096)
    assert rows_of_branches == []


def test_branches_that_see_one_another_are_noticed(
    llama, byte_level_tokenizer, monkeypatch, rows_of_branches
):
    def all_see_all(queries, keys, window, device):
        return torch.ones(queries, keys, dtype=torch.bool, device=device)

    groups = groups_for(byte_level_tokenizer)
    monkeypatch.setattr(branches, "_seen", all_see_all)
    made = candidate_nats(llama, groups, batch_tokens=4096)
    assert rows_of_branches == []
    for nats, alone in zip(made, one_by_one(llama, groups), strict=True):
        np.testing.assert_allclose(nats, alone, atol=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 60, 300])
def test_the_size_of_a_batch_changes_no_candidate(
    llama, byte_level_tokenizer, batch_tokens, rows_of_branches
):
    groups = groups_for(byte_level_tokenizer)
    whole = candidate_nats(llama, groups, batch_tokens=4096)
    parts = candidate_nats(llama, groups, batch_tokens=batch_tokens)
    assert len(rows_of_branches) > 2
    for nats, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(nats, expected, rtol=1e-6, atol=1e-6)


def test_texts_longer_than_the_model_reads_are_scored_in_windows(rows_of_branches):
    (architecture,) = (one for one in CAUSAL if str(one) == "gpt2")
    model = architecture.build(n_positions=48)
    groups = groups_for(tokenizer_for("causal"))
    assert max(len(text) for group in groups for text in group) > 48
    assert all(len(nats) == 4 for nats in candidate_nats(model, groups, batch_tokens=4096))
    assert rows_of_branches == []


def test_an_adapter_is_scored_with_its_base(llama, byte_level_tokenizer):
    from peft import LoraConfig, get_peft_model

    groups = groups_for(byte_level_tokenizer)
    before = candidate_nats(llama, groups, batch_tokens=4096)
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(llama, config)
    made = candidate_nats(adapted, groups, batch_tokens=4096)
    assert not np.allclose(made[0], before[0], atol=1e-2)
    np.testing.assert_allclose(made[0], one_by_one(adapted, groups)[0], atol=1e-4)
