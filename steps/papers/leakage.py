"""How much of the test text stands in the training text, and benchmark texts in it.

Overlap is counted in word 13-grams, as Brown et al. (2020), appendix C, do for GPT-3.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from steps.config.paper_sections import Limits
from steps.errors import UserError
from steps.papers.deduplication import Hashes, Words, ngram_hashes
from steps.papers.formats.papers_json import read_lines, read_records

NGRAM_WORDS = 13
# The 13-grams of the test split are held in memory; above this many, one in k is.
MAX_NGRAMS_HELD = 500_000
FIRST_BITS = 22
SHIFT = np.uint64(64 - FIRST_BITS)
# A training paper is contaminated when it shares this many 13-grams with the benchmark
# texts (ten: 22 words in a row) or this share of its own, whichever comes first.
CONTAMINATING_NGRAMS = 10
CONTAMINATING_SHARE = 0.1


@dataclass(frozen=True)
class Leakage:
    """How much of the test text occurs in the training text.

    Attributes:
        test_ngrams: Different 13-grams of the test papers that were looked up.
        shared_ngrams: Those of them that occur in a training paper.
        one_in: 1 when all 13-grams were looked up, k when a k-th of them, chosen by hash.
    """

    test_ngrams: int
    shared_ngrams: int
    one_in: int

    @property
    def share(self) -> float:
        """Share of the test 13-grams that occur in the training text."""
        return self.shared_ngrams / self.test_ngrams if self.test_ngrams else 0.0


def measure_leakage(
    test: Callable[[], Iterable[Words]], train: Callable[[], Iterable[Words]], test_words: int
) -> Leakage:
    """Share of the different test 13-grams that occur in the training papers.

    Args:
        test: Gives the word hashes of the test papers.
        train: Gives those of the training papers.
        test_words: Words of all test papers, from which the sampling follows.
    """
    one_in = max(1, -(-test_words // MAX_NGRAMS_HELD))
    parts = [_sample(ngrams, one_in) for ngrams in _ngram_blocks(test())]
    wanted = np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.uint64)
    shared = int(ngrams_seen(wanted, train(), one_in).sum()) if len(wanted) else 0
    return Leakage(len(wanted), shared, one_in)


def ngrams_seen(wanted: Hashes, train: Iterable[Words], one_in: int = 1) -> npt.NDArray[np.bool_]:
    """Which 13-grams occur in the training papers.

    Args:
        wanted: Sorted different hashes of them, at least one.
        train: The word hashes of the training papers.
        one_in: k where `wanted` is a k-th of all, chosen by hash.
    """
    seen = np.zeros(len(wanted), dtype=bool)
    # Nearly all 13-grams of the training papers are in no test paper. A table of what their
    # first bits may be tells most of them apart in the processor's cache; the search through
    # the sorted list, which leaves it at every step, is kept for the others.
    first_bits = np.zeros(1 << FIRST_BITS, dtype=bool)
    first_bits[wanted >> SHIFT] = True
    for ngrams in _ngram_blocks(train):
        candidates = _sample(ngrams, one_in)
        candidates = candidates[first_bits[candidates >> SHIFT]]
        at = np.minimum(np.searchsorted(wanted, candidates), len(wanted) - 1)
        seen[at[wanted[at] == candidates]] = True
    return seen


def contaminated(words: Words, benchmark: Hashes) -> tuple[int, int] | None:
    """Whether a paper shares too many 13-grams with the benchmark texts.

    Args:
        words: Word hashes of the paper.
        benchmark: Sorted different 13-gram hashes of the benchmark texts.

    Returns:
        Shared and all 13-grams of the paper, or None for a clean paper.
    """
    if len(words) < NGRAM_WORDS or not len(benchmark):
        return None
    ngrams = np.unique(ngram_hashes(words, NGRAM_WORDS))
    at = np.minimum(np.searchsorted(benchmark, ngrams), len(benchmark) - 1)
    shared = int(np.count_nonzero(benchmark[at] == ngrams))
    if shared >= CONTAMINATING_NGRAMS or shared >= CONTAMINATING_SHARE * len(ngrams):
        return shared, len(ngrams)
    return None


def benchmark_ngrams(texts: Iterable[Words]) -> Hashes:
    """Sorted different 13-gram hashes of the benchmark texts."""
    parts = list(_ngram_blocks(texts))
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.uint64)


def read_benchmark_texts(path: Path, limits: Limits) -> list[str]:
    """The texts that must not be trained on.

    Args:
        path: JSON or JSON Lines, of which every string in a record counts as text, or
            plain text with one text a line; any of them compressed.
        limits: The section `scientific_data.limits`.

    Raises:
        UserError: The file cannot be read or holds no text.
    """
    try:
        texts = _read_texts(path, limits)
    except UserError as error:
        raise UserError(f"scientific_data.split.decontaminate_against: {error}") from error
    if not any(texts):
        raise UserError(
            f"scientific_data.split.decontaminate_against: {path.name}: holds no text: "
            "name a file with texts, or null"
        )
    return texts


def _read_texts(path: Path, limits: Limits) -> list[str]:
    sizes = limits.max_decompressed_bytes, limits.max_record_bytes
    if path.name.removesuffix(".gz").removesuffix(".zst").endswith(".txt"):
        return [line.data.decode("utf-8", "replace") for line in read_lines(path, *sizes)]
    texts = []
    for record in read_records(path, *sizes):
        try:
            texts.append("\n".join(_strings(msgspec.json.decode(record.data))))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(
                f"{path.name}: record {record.number} at byte {record.offset} is malformed JSON "
                f"({error}): mend or export the file again"
            ) from error
    return texts


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _ngram_blocks(papers: Iterable[Words], block_words: int = 1 << 17) -> Iterator[Hashes]:
    """13-gram hashes of many papers at a time; no 13-gram reaches from one into the next."""
    block: list[Words] = []
    held = 0
    for words in papers:
        if len(words) >= NGRAM_WORDS:
            block.append(words)
            held += len(words)
        if held >= block_words:
            yield _ngrams_within(block)
            block, held = [], 0
    if block:
        yield _ngrams_within(block)


def _ngrams_within(block: list[Words]) -> Hashes:
    ngrams = ngram_hashes(np.concatenate(block), NGRAM_WORDS)
    inside = np.ones(len(ngrams) + NGRAM_WORDS - 1, dtype=bool)
    for end in np.cumsum([len(words) for words in block]):
        inside[end - NGRAM_WORDS + 1 : end] = False
    return ngrams[inside[: len(ngrams)]]


def _sample(ngrams: Hashes, one_in: int) -> npt.NDArray[np.uint64]:
    return ngrams if one_in == 1 else ngrams[ngrams % np.uint64(one_in) == 0]
