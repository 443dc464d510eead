"""Candidates of a gap: read with one beginning for all, scored as if each were read alone."""

import numpy as np
import pytest
import torch

from steps.evaluation import candidates, scorer
from steps.evaluation.candidates import candidate_nats
from steps.evaluation.likelihood import sequence_nats
from steps.models import attention
from tests.support.architectures import CAUSAL
from tests.support.example_papers import SENTENCES
from tests.support.tiny_architectures import tokenizer_for

# Those that read each beginning once; the others read text after text.
SHARING = {
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "gemma3", "phi", "phi3"),
    *("stablelm", "granite", "cohere", "cohere2", "opt", "nemotron", "biogpt", "gpt2"),
    *("gpt_neox", "gptj", "starcoder2", "olmo", "olmo2", "smollm3", "mixtral", "qwen3_moe"),
}


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


def tokens_read(model):
    """Counts the entries of all rows that a model's decoder gets from now on."""
    counts = []

    def note(module, arguments, options):
        ids = options["input_ids"] if "input_ids" in options else arguments[0]
        counts.append(ids.numel())

    model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    return counts


@pytest.mark.parametrize("architecture", CAUSAL, ids=str)
def test_any_class_scores_candidates_as_it_scores_each_alone(architecture):
    model, tokenizer = architecture.build(), tokenizer_for("causal")
    groups = groups_for(tokenizer)
    expected = one_by_one(model, groups)
    counts = tokens_read(model)
    made = candidate_nats(model, groups, batch_tokens=4096)
    print(architecture, sum(counts))
    for nats, alone in zip(made, expected, strict=True):
        np.testing.assert_allclose(nats, alone, atol=1e-4, rtol=1e-6)
