"""Draws: by the seed and the prompt alone, from the distribution that was asked for."""

import numpy as np
import pytest
import torch

from steps.evaluation.generation import write_on
from steps.evaluation.sampling import Draws, Sampling, generators
from tests.support.example_papers import SENTENCES

WARM = Sampling(temperature=1.0, seed=1)


@pytest.fixture
def ids(byte_level_tokenizer):
    """Prompts of unequal length."""
    return [[0, *byte_level_tokenizer(text).input_ids] for text in SENTENCES[:4]]


def written(llama, tokenizer, prompts, sampling=WARM, **settings):
    limits = [10] * len(prompts)
    return write_on(llama, tokenizer, prompts, max_new_tokens=limits, sampling=sampling, **settings)


def test_a_prompt_draws_the_same_alone_in_a_batch_and_in_another_order(
    llama, byte_level_tokenizer, ids
):
    together = written(llama, byte_level_tokenizer, ids, batch_size=4)
    assert together == [written(llama, byte_level_tokenizer, [one])[0] for one in ids]
    assert together[::-1] == written(llama, byte_level_tokenizer, ids[::-1], batch_size=2)


def test_samples_of_a_prompt_differ_and_the_first_ones_stay_when_more_are_asked_for(
    llama, byte_level_tokenizer, ids
):
    three = written(llama, byte_level_tokenizer, ids[:1] * 3)
    assert len({tuple(one) for one in three}) == 3
    assert written(llama, byte_level_tokenizer, ids[:1] * 2) == three[:2]


def test_another_seed_draws_otherwise_and_no_temperature_is_greedy(
    llama, byte_level_tokenizer, ids
):
    drawn = written(llama, byte_level_tokenizer, ids)
    assert drawn != written(llama, byte_level_tokenizer, ids, Sampling(temperature=1.0, seed=2))
    greedy = written(llama, byte_level_tokenizer, ids, None)
    assert drawn != greedy
    assert greedy == written(llama, byte_level_tokenizer, ids, Sampling(seed=9))
    # The coldest draw is the most probable token.
    assert greedy == written(llama, byte_level_tokenizer, ids, Sampling(temperature=1e-4))


def frequencies(sampling: Sampling, logits: list[float], count: int = 20_000) -> torch.Tensor:
    """How often each token is drawn."""
    draws = Draws(sampling, [np.random.default_rng(n) for n in range(count)])
    only = draws(torch.zeros(count, 1, dtype=torch.long), torch.tensor([logits] * count))
    assert torch.equal((only == 0).sum(dim=1), torch.ones(count, dtype=torch.long))
    return (only == 0).double().mean(dim=0)


def test_tokens_are_drawn_as_often_as_their_probability_says():
    logits = [2.0, 1.0, 0.0, -torch.inf]
    for temperature in (0.5, 1.0, 2.0):
        expected = (torch.tensor(logits).double() / temperature).softmax(dim=0)
        drawn = frequencies(Sampling(temperature=temperature), logits)
        torch.testing.assert_close(drawn, expected, rtol=0, atol=0.015)
        assert drawn[3] == 0


def test_top_p_leaves_the_fewest_tokens_that_hold_the_share():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    drawn = frequencies(Sampling(temperature=1.0, top_p=0.75), logits)
    expected = torch.tensor([0.5, 0.3, 0.0, 0.0]).double() / 0.8
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0.015)
    assert drawn[2] == drawn[3] == 0


def test_each_prompt_has_its_own_generator_whatever_stands_before_it():
    def first(prompts):
        return [one.random() for one in generators(WARM, prompts)]

    here = first([[1, 2], [3], [1, 2]])
    assert len(set(here)) == 3
    assert first([[3], [1, 2]]) == [here[1], here[0]]
