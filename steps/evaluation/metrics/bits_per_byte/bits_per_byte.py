"""Bits per byte, a module of the `evaluate` library.

    metric = evaluate.load("steps/evaluation/metrics/bits_per_byte")
    metric.compute(nats=[410.2, 388.0], bytes=[600, 540])

Formula: sum of nats / (ln 2 * sum of UTF-8 bytes), over all papers at once: a mean of the
papers' own ratios would give the bytes of short papers more weight. Source: Gao et al.
(2020), The Pile, section 3.1, equation for BPB; comparable across tokenizers.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

# `evaluate` copies this file away and takes along what it imports from beside it, which is a
# link to the one table in steps/metrics.py.
from .table import METRICS

_CITATION = "Gao et al. 2020, The Pile: An 800GB Dataset of Diverse Text, arXiv:2101.00027"


class BitsPerByte(evaluate.Metric):  # type: ignore[misc]
    """Bits that a language model needs for a byte of text."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Bits that a language model needs for a byte of text; lower is better.",
            citation=_CITATION,
            inputs_description=(
                "nats: negative log-likelihood of each paper; bytes: its UTF-8 bytes"
            ),
            features=datasets.Features(
                {"nats": datasets.Value("float64"), "bytes": datasets.Value("int64")}
            ),
        )

    def _compute(self, nats: Any, bytes: Any) -> dict[str, float]:
        totals = {"nats": np.sum(nats), "bytes": np.sum(bytes)}
        return {"bits_per_byte": float(METRICS["bits_per_byte"].value(totals))}
