"""Find papers that say the same in the same words.

Near-duplicates are found in three steps, after Broder (1997), "On the resemblance and
containment of documents": each paper is the set of its word n-grams (shingles); MinHash
signatures and locality-sensitive hashing propose pairs; each proposed pair is then
compared exactly. Papers joined by a chain of such pairs form one cluster.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from steps.config.paper_sections import Deduplication

Words = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]

_WORD = re.compile(r"\w+")
# The same for ASCII, twice as fast: everything between words becomes a space.
_BETWEEN_WORDS = bytes(
    code if chr(code).isalnum() or code == ord("_") else ord(" ") for code in range(128)
).ljust(256, b" ")
# A fixed seed: the clusters must not depend on the run.
SIGNATURE_SEED = 20_240_229
# The bands are chosen so that a pair at the threshold is proposed at least this often.
LSH_RECALL = 0.99
# A pair whose estimated similarity lies this far below the threshold is not compared
# exactly: with 128 permutations that is more than five standard errors.
ESTIMATE_MARGIN = 0.2
# Papers of one title are one paper (a preprint and its published version) when this share
# of the shingles of the shorter one stands in the longer one.
SAME_TITLE_CONTAINMENT = 0.5
# Shorter titles ("Editorial", "Reply to the authors") say nothing about the content.
MIN_TITLE_WORDS = 4


def hash_words(texts: Sequence[str]) -> list[Words]:
    """Hash each text's words (lower case, no punctuation), in order: uint32 `[words]` each."""
    tokens = [split_words(text) for text in texts]
    flat = [word for words in tokens for word in words]
    hashes = np.array(RMinHash.hash_token_sets([flat])[0], dtype=np.uint64)
    short = (hashes >> np.uint64(32)).astype(np.uint32)
    ends = np.cumsum([len(words) for words in tokens])
    return np.split(short, ends[:-1]) if len(texts) else []


def split_words(text: str) -> list[str]:
    """The words of a text, lower-cased and without punctuation."""
    text = text.lower()
    if text.isascii():
        return text.encode().translate(_BETWEEN_WORDS).decode().split()
    return _WORD.findall(text)


def ngram_hashes(words: Words, n: int) -> Hashes:
    """Hashes of all runs of `n` words, in order; one hash of all where there are fewer.

    A polynomial in the word hashes modulo 2^64, mixed by the finaliser of SplitMix64
    (Steele et al., 2014) so that every bit of the result depends on every word.
    """
    n = min(n, len(words))
    if n == 0:
        return np.empty(0, dtype=np.uint64)
    count = len(words) - n + 1
    mixed = np.zeros(count, dtype=np.uint64)
    wide = words.astype(np.uint64)
    for start in range(n):
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed += wide[start : start + count]
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def signatures(papers: Sequence[Words], shingle_words: int, num_permutations: int) -> Words:
    """MinHash signatures, one row of `num_permutations` values a paper."""
    shingles = [ngram_hashes(words, shingle_words) for words in papers]
    offsets = np.cumsum([0, *(len(s) for s in shingles)], dtype=np.uint64)
    flat = np.concatenate(shingles) if shingles else np.empty(0, dtype=np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        flat, offsets, num_permutations, SIGNATURE_SEED
    )
    rows = np.array(matrix.to_rows(), dtype=np.uint32)
    return rows.reshape(len(papers), num_permutations)


def rows_per_band(threshold: float, num_permutations: int) -> int:
    """The longest band that still proposes a pair at `threshold` with `LSH_RECALL`.

    A pair of similarity s is proposed with probability 1 - (1 - s^r)^b by b bands of r rows.
    """
    best = 1
    for rows in range(1, num_permutations + 1):
        bands = num_permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= LSH_RECALL:
            best = rows
    return best


def find_clusters(
    signature_rows: Words,
    content_hashes: Hashes,
    title_hashes: Hashes,
    words_of: Callable[[int], Words],
    threshold: float,
    shingle_words: int,
) -> npt.NDArray[np.int64]:
    """Group papers that are duplicates or near-duplicates of each other.

    Args:
        signature_rows: MinHash signatures, (papers, permutations).
        content_hashes: One hash of the whole word sequence a paper.
        title_hashes: One hash of the normalised title a paper, 0 for none.
        words_of: Gives the word hashes of a paper by its number.
        threshold: Jaccard similarity from which two papers are near-duplicates.
        shingle_words: Words a shingle.

    Returns:
        For each paper the smallest number in its cluster.
    """
    width = signature_rows.shape[1]
    rows = rows_per_band(threshold, width)
    proposed = [neighbours(hash_rows(band)) for band in bands_of(signature_rows, rows)]
    proposals = Proposals(
        same_words=neighbours(content_hashes),
        bands=np.concatenate(proposed),
        same_title=neighbours(title_hashes, ignore=0),
    )
    union = join_proposed(
        len(content_hashes),
        proposals,
        signature_rows.__getitem__,
        words_of,
        threshold,
        shingle_words,
    )
    return np.array([union.find(number) for number in range(len(content_hashes))], dtype=np.int64)


class Proposals(NamedTuple):
    """Pairs of papers that may be duplicates, `[pairs, 2]` each; one may stand there again.

    Attributes:
        same_words: With one hash of all words: these are duplicates.
        bands: With one band of their signatures.
        same_title: With one title.
    """

    same_words: Pairs
    bands: Pairs
    same_title: Pairs


def join_proposed(
    size: int,
    proposals: Proposals,
    signature_of: Callable[[int], Words],
    words_of: Callable[[int], Words],
    threshold: float,
    shingle_words: int,
) -> "UnionFind":
    """Join the proposed pairs that are duplicates when they are compared exactly.

    The sets are the same in whatever order the pairs come: each is judged by itself.

    Args:
        size: Number of papers.
        proposals: The pairs.
        signature_of: Gives the MinHash signature of a paper by its number.
        words_of: Gives the word hashes of a paper by its number.
        threshold: Jaccard similarity from which two papers are near-duplicates.
        shingle_words: Words a shingle.
    """
    union = UnionFind(size)
    for first, second in proposals.same_words.tolist():
        union.join(first, second)
    for first, second in np.unique(proposals.bands, axis=0).tolist():
        if union.find(first) == union.find(second):
            continue
        estimate = float(np.mean(signature_of(first) == signature_of(second)))
        if estimate < threshold - ESTIMATE_MARGIN:
            continue
        if jaccard(words_of(first), words_of(second), shingle_words) >= threshold:
            union.join(first, second)
    for first, second in np.unique(proposals.same_title, axis=0).tolist():
        if union.find(first) == union.find(second):
            continue
        if containment(words_of(first), words_of(second), shingle_words) >= SAME_TITLE_CONTAINMENT:
            union.join(first, second)
    return union


def text_clusters(words: Sequence[Words], rule: Deduplication) -> list[int]:
    """For each text without a title the number of the first one that it is a near-duplicate of.

    Args:
        words: Word hashes of each text.
        rule: How near-duplicates are found.
    """
    clusters: list[int] = find_clusters(
        signatures(words, rule.shingle_words, rule.num_permutations),
        np.array([content_hash(each) for each in words], dtype=np.uint64),
        np.zeros(len(words), dtype=np.uint64),
        words.__getitem__,
        rule.threshold,
        rule.shingle_words,
    ).tolist()
    return clusters


def neighbours(keys: Hashes, ignore: int | None = None) -> Pairs:
    """Pairs of papers with one key: each with the one before it and with the first.

    A bucket of n papers gives fewer than 2n pairs instead of n²/2, so that the work stays
    linear where thousands of papers are alike.

    Returns:
        Array (pairs, 2), the smaller number first.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(keys) else order
    firsts = np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    later = np.flatnonzero(np.arange(len(keys)) > firsts)
    if ignore is not None:
        later = later[ordered[later] != ignore]
    pairs = np.r_[np.c_[order[later - 1], order[later]], np.c_[order[firsts[later]], order[later]]]
    return np.asarray(pairs, dtype=np.int64).reshape(-1, 2)


def jaccard(first: Words, second: Words, shingle_words: int) -> float:
    """|A ∩ B| / |A ∪ B| of the shingles of two papers."""
    a = np.unique(ngram_hashes(first, shingle_words))
    b = np.unique(ngram_hashes(second, shingle_words))
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(1, len(a) + len(b) - shared)


def containment(first: Words, second: Words, shingle_words: int) -> float:
    """|A ∩ B| / min(|A|, |B|) of the shingles of two papers."""
    a = np.unique(ngram_hashes(first, shingle_words))
    b = np.unique(ngram_hashes(second, shingle_words))
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(1, min(len(a), len(b)))


def title_hash(title_words: Words) -> int:
    """One hash of a normalised title; 0 for a title too short to tell papers apart."""
    if len(title_words) < MIN_TITLE_WORDS:
        return 0
    return content_hash(title_words)


def content_hash(words: Words) -> int:
    """One hash of the word sequence of a paper."""
    return int.from_bytes(hashlib.sha256(words.tobytes()).digest()[:8], "little")


class UnionFind:
    """Disjoint sets of numbers; a set is named by its smallest member."""

    def __init__(self, size: int) -> None:
        """Start with `size` sets of one member each."""
        self._parent = list(range(size))

    def find(self, number: int) -> int:
        """The smallest member of the set of `number`."""
        root = number
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[number] != root:
            self._parent[number], number = root, self._parent[number]
        return root

    def join(self, first: int, second: int) -> None:
        """Make one set of the sets of two numbers."""
        a, b = self.find(int(first)), self.find(int(second))
        self._parent[max(a, b)] = min(a, b)


def bands_of(signature_rows: Words, rows: int) -> Iterator[Words]:
    """The bands of signatures, `[papers, rows]` each; a rest that fills no band is left out."""
    for start in range(0, signature_rows.shape[1] - rows + 1, rows):
        yield signature_rows[:, start : start + rows]


def hash_rows(rows: Words) -> Hashes:
    """One hash a row of a matrix, so that equal rows share it."""
    mixed = np.zeros(len(rows), dtype=np.uint64)
    for column in range(rows.shape[1]):
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        mixed += rows[:, column].astype(np.uint64)
    return mixed
