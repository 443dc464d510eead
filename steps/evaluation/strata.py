"""The parts of a paper whose likelihood is reported apart: genes, variants, numbers, rest.

Numbers take with them what makes them statistics: `P < 0.001`, `95% CI`, `n = 12`.
"""

import re

import numpy as np
import numpy.typing as npt

from steps.evaluation.byte_spans import character_bytes
from steps.metrics import STRATA
from steps.papers.text import PaperText, Span

# A number stands by itself: not the 53 of p53, nor the 2 of IL-2, but both of "10-20" and
# the 5 of "5 kb" as well as of "5kb".
NUMBER = re.compile(r"(?<!\w)(?<![A-Za-z]-)(?<!\d[.,])\d+(?:[.,]\d+)*")
# A quantity with its relation and value, or a percentage, with the interval that it is of.
STATISTIC = re.compile(
    r"(?<![\w-])(?:[Pp](?:[- ]?values?)?|[NnFtrRZz]|R2|r2|χ2|FDR|[aA]?[OH]Rs?|RRs?|AUC|SD|SEM?)"
    r"\s?[<>=≤≥±~]\s?[-−]?(?:\d+(?:[.,]\d+)*|\.\d+)"
    r"(?:\s?[×x]\s?10\s?\^?[-−]?\d+)?%?"
    r"|(?<![\w-])\d+(?:\.\d+)?\s?%(?:\s?CIs?\b)?"
)


def byte_strata(paper: PaperText) -> "npt.NDArray[np.uint8]":
    """The stratum of each byte of a paper's text.

    Where mentions overlap, the more specific wins: variant before gene before number.

    Returns:
        uint8 `[bytes]`, an index into `STRATA`.
    """
    bytes_at = character_bytes(paper.text)
    strata = np.zeros(bytes_at[-1], dtype=np.uint8)
    for pattern in (NUMBER, STATISTIC):
        for match in pattern.finditer(paper.text):
            strata[bytes_at[match.start()] : bytes_at[match.end()]] = STRATA.index("number")
    for spans, name in ((paper.genes, "gene"), (paper.variants, "variant")):
        for span in spans:
            strata[bytes_at[span.start] : bytes_at[span.end]] = STRATA.index(name)
    return strata


def spread_over_bytes(
    values: "npt.NDArray[np.float64]", lengths: "npt.NDArray[np.int64]"
) -> "npt.NDArray[np.float64]":
    """Share each token's value out evenly over its bytes.

    A token without bytes hands its value to the byte that follows it (at the end of the
    text: to the last), so that the sum over the bytes is the sum over the tokens.

    Args:
        values: One value a token, float64 `[tokens]`.
        lengths: Bytes of each token, int64 `[tokens]`.

    Returns:
        float64 `[bytes]`.
    """
    covering = lengths > 0
    per_byte = np.repeat(values[covering] / lengths[covering], lengths[covering])
    if not covering.all() and len(per_byte):
        places = np.minimum(np.cumsum(lengths)[~covering], len(per_byte) - 1)
        np.add.at(per_byte, places, values[~covering])
    return per_byte


def section_bytes(paper: PaperText) -> "list[tuple[str, slice]]":
    """Name and byte range of each section of a paper, in reading order."""
    bytes_at = character_bytes(paper.text)

    def place(span: Span) -> slice:
        return slice(int(bytes_at[span.start]), int(bytes_at[span.end]))

    return [(section.label, place(section)) for section in paper.sections]
