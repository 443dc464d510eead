"""Overlap of test and training text is counted in 13-grams, within papers only."""

import random

import numpy as np
import pytest

from steps.papers import leakage
from steps.papers.deduplication import Words, hash_words
from steps.papers.leakage import benchmark_ngrams, contaminated, measure_leakage


def made_up(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(words))


def measure(test: list[str], train: list[str]) -> leakage.Leakage:
    test_words, train_words = hash_words(test), hash_words(train)
    return measure_leakage(
        lambda: test_words, lambda: train_words, sum(len(words) for words in test_words)
    )


def test_the_share_is_that_of_the_different_13_grams() -> None:
    copied, own = made_up(1, 50), made_up(2, 100)
    # 50 words hold 38 13-grams; the 150 words of the test paper hold 138.
    result = measure([f"{copied} {own}"], [made_up(3, 80), f"{made_up(4, 80)} {copied}"])
    assert (result.shared_ngrams, result.test_ngrams, result.one_in) == (38, 138, 1)
    assert result.share == 38 / 138


def test_a_run_across_two_papers_is_no_13_gram() -> None:
    text = made_up(1, 26).split()
    halves = [" ".join(text[:13]), " ".join(text[13:])]
    result = measure([" ".join(text)], halves)
    assert (result.shared_ngrams, result.test_ngrams) == (2, 14)


def test_repeated_13_grams_count_once() -> None:
    text = made_up(1, 20)
    assert measure([text, text, text], [text]).test_ngrams == 8


def test_papers_below_13_words_hold_nothing_to_share() -> None:
    result = measure([made_up(1, 12)], [made_up(1, 12)])
    assert (result.test_ngrams, result.share) == (0, 0.0)


def test_many_blocks_give_the_result_of_one() -> None:
    texts = [made_up(seed, 200) for seed in range(30)]
    small = list(leakage._ngram_blocks(hash_words(texts), block_words=300))
    large = list(leakage._ngram_blocks(hash_words(texts), block_words=10**9))
    assert len(small) > 10
    assert np.array_equal(np.concatenate(small), np.concatenate(large))


def test_a_sample_estimates_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    test = [made_up(seed, 400) for seed in range(40)]
    train = test[:10] + [made_up(seed, 400) for seed in range(100, 130)]
    whole = measure(test, train)
    monkeypatch.setattr(leakage, "MAX_NGRAMS_HELD", 2000)
    sampled = measure(test, train)
    assert (whole.one_in, sampled.one_in) == (1, 8)
    assert sampled.test_ngrams < whole.test_ngrams / 6
    assert sampled.share == pytest.approx(whole.share, abs=0.04)


def words_of(text: str) -> Words:
    return hash_words([text])[0]


def test_a_training_paper_that_holds_a_benchmark_text_is_contaminated() -> None:
    question = made_up(1, 30)
    benchmark = benchmark_ngrams(hash_words([made_up(2, 40), question]))
    paper = f"{made_up(3, 1000)} {question} {made_up(4, 1000)}"
    assert contaminated(words_of(paper), benchmark) == (18, 2018)
    assert contaminated(words_of(made_up(3, 1000)), benchmark) is None


def test_a_short_paper_is_contaminated_by_its_share() -> None:
    sentence = made_up(1, 15)
    benchmark = benchmark_ngrams(hash_words([sentence]))
    assert contaminated(words_of(f"{sentence} {made_up(2, 20)}"), benchmark) == (3, 23)
    assert contaminated(words_of(f"{sentence} {made_up(2, 200)}"), benchmark) is None


def test_no_benchmark_contaminates_nothing() -> None:
    assert contaminated(words_of(made_up(1, 50)), benchmark_ngrams([])) is None
