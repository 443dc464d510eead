"""Near-duplicates are found, unlike papers are left alone, and the work stays linear."""

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.papers.deduplication import (
    UnionFind,
    Words,
    containment,
    content_hash,
    find_clusters,
    hash_words,
    jaccard,
    neighbours,
    ngram_hashes,
    rows_per_band,
    signatures,
    split_words,
    title_hash,
)

VOCABULARY = [f"word{n}" for n in range(3000)]


def made_up_text(rng: random.Random, words: int = 150) -> str:
    return " ".join(rng.choices(VOCABULARY, k=words))


def with_edits(text: str, edits: int, rng: random.Random) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), edits):
        words[place] = "changed"
    return " ".join(words)


def clusters_of(
    texts: list[str], titles: list[str] | None = None, threshold: float = 0.8, shingle: int = 5
) -> list[int]:
    words = hash_words(texts)
    title_hashes = [title_hash(t) for t in hash_words(titles)] if titles else [0] * len(texts)
    labels = find_clusters(
        signatures(words, shingle, 128),
        np.array([content_hash(w) for w in words], dtype=np.uint64),
        np.array(title_hashes, dtype=np.uint64),
        lambda n: words[n],
        threshold,
        shingle,
    )
    return [int(label) for label in labels]


def brute_force(texts: list[str], threshold: float, shingle: int) -> list[int]:
    """Every pair compared, on shingles that are tuples of words."""
    shingles = []
    for text in texts:
        words = text.lower().split()
        shingles.append({tuple(words[i : i + shingle]) for i in range(len(words) - shingle + 1)})
    union = UnionFind(len(texts))
    for a, b in combinations(range(len(texts)), 2):
        both = len(shingles[a] & shingles[b])
        if both / len(shingles[a] | shingles[b]) >= threshold:
            union.join(a, b)
    return [union.find(n) for n in range(len(texts))]


def test_words_are_compared_without_case_and_punctuation() -> None:
    first, second, third = hash_words(["The p53-gene, (BRCA1).", "the P53 gene brca1", "other"])
    assert first.tolist() == second.tolist()
    assert len(third) == 1


@given(st.text(st.characters(max_codepoint=127)))
def test_the_words_of_plain_text_are_those_of_any_text(text: str) -> None:
    assert split_words(text) == split_words(f"{text} β")[:-1]


def test_hashing_keeps_texts_apart_even_empty_ones() -> None:
    assert [len(words) for words in hash_words(["", "a b c", "", "d"])] == [0, 3, 0, 1]
    assert hash_words([]) == []


def test_ngrams_are_equal_exactly_where_the_words_are() -> None:
    words = hash_words(["a b c d a b c e"])[0]
    hashes = ngram_hashes(words, 3)
    assert len(hashes) == 6
    assert hashes[0] == hashes[4]
    assert len(set(hashes.tolist())) == 5
    assert len(ngram_hashes(words, 20)) == 1
    assert len(ngram_hashes(words[:0], 3)) == 0


def test_similarity_is_that_of_the_shingle_sets() -> None:
    first, second = hash_words(["a b c d e f g h", "c d e f g h i j"])
    # Shingles of three: 6 each, c..h give 4 shared.
    assert jaccard(first, second, 3) == 4 / 8
    assert containment(first, second, 3) == 4 / 6


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_clusters_are_those_of_comparing_every_pair(threshold: float) -> None:
    rng = random.Random(7)
    texts = []
    for _ in range(40):
        original = made_up_text(rng)
        # From nearly the same to clearly another paper, on both sides of each threshold.
        texts += [original, *(with_edits(original, edits, rng) for edits in (1, 3, 5, 8, 15))]
    rng.shuffle(texts)
    assert clusters_of(texts, threshold=threshold) == brute_force(texts, threshold, 5)


def test_papers_of_one_title_and_similar_text_are_one() -> None:
    rng = random.Random(3)
    preprint = made_up_text(rng, 120)
    published = with_edits(preprint, 8, rng) + " " + made_up_text(rng, 60)
    title = "A long title that tells papers apart"
    assert clusters_of([preprint, published]) == [0, 1], "not alike enough by themselves"
    assert clusters_of([preprint, published], [title, title.upper() + "."]) == [0, 0]
    other = made_up_text(rng, 120)
    assert clusters_of([preprint, other], [title, title]) == [0, 1], "one title, other text"


def test_a_title_that_many_papers_have_joins_nothing() -> None:
    rng = random.Random(3)
    text = made_up_text(rng, 120)
    longer = with_edits(text, 8, rng) + " " + made_up_text(rng, 60)
    assert clusters_of([text, longer], ["Editorial", "Editorial"]) == [0, 1]
    assert title_hash(hash_words(["Reply to authors"])[0]) == 0


def test_texts_shorter_than_a_shingle_are_compared_whole() -> None:
    assert clusters_of(["one two", "One, two!", "one three"]) == [0, 0, 2]


def test_a_large_bucket_gives_few_pairs() -> None:
    keys = np.array([5] * 1000 + [6, 7, 7], dtype=np.uint64)
    pairs = neighbours(keys)
    assert len(pairs) < 2 * len(keys)
    union = UnionFind(len(keys))
    for first, second in pairs:
        union.join(first, second)
    assert {union.find(n) for n in range(1000)} == {0}
    assert union.find(1000) == 1000
    assert union.find(1002) == 1001


def test_thousands_of_copies_form_one_cluster() -> None:
    rng = random.Random(1)
    text = made_up_text(rng, 60)
    copies = [text] * 500 + [with_edits(text, 1, rng) for _ in range(500)]
    assert set(clusters_of([*copies, made_up_text(rng, 60)])) == {0, 1000}


def test_no_keys_give_no_pairs() -> None:
    assert neighbours(np.empty(0, dtype=np.uint64)).shape == (0, 2)


@pytest.mark.parametrize("permutations", [16, 64, 128, 256])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_bands_propose_pairs_at_the_threshold_nearly_always(
    threshold: float, permutations: int
) -> None:
    rows = rows_per_band(threshold, permutations)
    bands = permutations // rows
    found = 1 - (1 - threshold**rows) ** bands
    longer = 1 - (1 - threshold ** (rows + 1)) ** (permutations // (rows + 1) or 0)
    assert found >= 0.99
    assert rows == permutations or longer < 0.99, "a longer band would propose fewer others"


def test_signatures_estimate_the_similarity() -> None:
    rng = random.Random(5)
    text = made_up_text(rng, 400)
    pair: list[Words] = hash_words([text, with_edits(text, 20, rng)])
    rows = signatures(pair, 5, 512)
    true = jaccard(pair[0], pair[1], 5)
    estimate = float(np.mean(rows[0] == rows[1]))
    assert 0.4 < true < 0.8
    assert abs(estimate - true) < 4 * (true * (1 - true) / 512) ** 0.5
