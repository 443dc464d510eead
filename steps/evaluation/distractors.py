"""What else is offered beside the answer of a cloze item: like it in type, length and frequency.

similar_symbols(GeneName("HER2", "ERBB2"), 1, counts["human"], named={"ERBB2"}, seed=0)
changed_variants("V600E", paper.text, seed=0)
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from steps.evaluation.seeds import generator_for

DISTRACTORS = 9


class GeneName(NamedTuple):
    """A symbol as it is written, and the gene that it stands for (its official symbol)."""

    symbol: str
    gene: str


def is_symbol(surface: str) -> bool:
    """A symbol as it is written (TP53, Trp53, C9orf72), not a name in words."""
    return 2 <= len(surface) <= 12 and surface.replace("-", "").isalnum() and surface[0].isupper()


def similar_symbols(
    answer: GeneName,
    own_mentions: int,
    counts: Mapping[GeneName, int],
    named: set[str],
    seed: int,
) -> tuple[str, ...]:
    """The symbols closest to the answer in length, then in frequency; () if there are too few.

    None is of a gene that the paper names: it might be right as well.
    """
    generator = generator_for(seed, "distractors", answer.symbol)
    frequency = math.log1p(max(0, counts.get(answer, 0) - own_mentions))
    # One spelling may stand for two genes.
    right = {name.symbol for name in counts if name.gene in named}
    mentions: Counter[str] = Counter()
    for name, count in counts.items():
        if name.symbol not in right and is_symbol(name.symbol):
            mentions[name.symbol] += count
    return nearest(answer.symbol, frequency, mentions, generator)


def nearest(
    answer: str,
    frequency: float,
    mentions: Mapping[str, int],
    generator: np.random.Generator,
    unlike: Callable[[str], int] = lambda word: 0,
) -> tuple[str, ...]:
    """The words that are most like the answer, then closest in length, then in frequency.

    Args:
        answer: The answer.
        frequency: Logarithm of one more than its mentions.
        mentions: Mentions of each word that may be offered.
        generator: Decides ties.
        unlike: In how many respects a word is written in another way than the answer.

    Returns:
        As many as there are distractors of an item; () if there are too few words.
    """
    others = sorted(mentions)
    if len(others) < DISTRACTORS:
        return ()
    ties = generator.random(len(others))
    distance = [
        (
            unlike(word),
            abs(len(word) - len(answer)),
            abs(math.log1p(mentions[word]) - frequency),
            tie,
        )
        for word, tie in zip(others, ties, strict=True)
    ]
    closest = sorted(range(len(others)), key=lambda place: distance[place])[:DISTRACTORS]
    return tuple(others[place] for place in closest)


_THREE_LETTERS = re.findall(
    "[A-Z][a-z]{2}", "AlaArgAsnAspCysGlnGluGlyHisIleLeuLysMetPheProSerThrTrpTyrVal"
)
_ONE_LETTER = list("ACDEFGHIKLMNPQRSTVWY")
_BASES = list("ACGT")


def _protein(residues: list[str]) -> re.Pattern[str]:
    one = "|".join(residues)
    return re.compile(rf"(?:p\.)?\(?(?P<first>{one})(?P<position>\d+)(?P<second>{one})\)?")


_SUBSTITUTIONS = [
    (_THREE_LETTERS, _protein(_THREE_LETTERS)),
    (_ONE_LETTER, _protein(_ONE_LETTER)),
    (
        _BASES,
        re.compile(
            r"(?:[cgmnr]\.)?[-*]?(?P<position>\d+)(?:[+-]\d+)?(?P<first>[ACGT])>(?P<second>[ACGT])"
        ),
    ),
]
# A base has only three others, so from this try on the position changes as well.
_TRIES_WITH_ONE_CHANGE = 30


def changed_variants(answer: str, text: str, seed: int) -> tuple[str, ...]:
    """Nine other substitutions written like the answer; () if it is no substitution."""
    readings = [
        (alphabet, match)
        for alphabet, pattern in _SUBSTITUTIONS
        if (match := pattern.fullmatch(answer))
    ]
    if not readings:
        return ()
    alphabet, found = readings[0]
    generator = generator_for(seed, "distractors", answer)

    def another(part: str) -> str:
        if part == "position":
            digits = len(found["position"])
            return f"{generator.integers(10 ** (digits - 1), 10**digits)}"
        return str(generator.choice(alphabet))

    made: list[str] = []
    turns = itertools.cycle(["position", "first", "second"])
    for attempt in itertools.count():
        parts = found.groupdict()
        turn = next(turns)
        parts[turn] = another(turn)
        if attempt >= _TRIES_WITH_ONE_CHANGE:
            parts["position"] = another("position")
        candidate = _rewritten(found, parts)
        silent = parts["first"] == parts["second"]
        if not silent and candidate not in (answer, *made) and candidate not in text:
            made.append(candidate)
        if len(made) == DISTRACTORS:
            break
    return tuple(made)


def _rewritten(found: re.Match[str], parts: Mapping[str, str]) -> str:
    """The matched text with its named groups replaced, all else as it was."""
    text = found.string
    for name in sorted(parts, key=found.start, reverse=True):
        text = text[: found.start(name)] + parts[name] + text[found.end(name) :]
    return text
