"""Bits per byte from pseudo-likelihoods, a module of the `evaluate` library.

    metric = evaluate.load("steps/evaluation/metrics/pseudo_bits_per_byte")
    metric.compute(pseudo_nats=[41.2, 38.8], pseudo_bytes=[160, 154])

Formula: sum of the negative log-likelihoods of tokens masked one at a time / (ln 2 * sum of
their UTF-8 bytes), over all papers at once. Source: pseudo-log-likelihood of Salazar et al.
(2020), Masked Language Model Scoring, equation 1, divided by bytes instead of tokens. It is no
likelihood of the text, so it never compares with a causal model's bits per byte.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

# `evaluate` copies this file away and takes along what it imports from beside it, which is a
# link to the one table in steps/metrics.py.
from .table import METRICS

_CITATION = "Salazar, Liang, Nguyen & Kirchhoff 2020, ACL, doi:10.18653/v1/2020.acl-main.240"


class PseudoBitsPerByte(evaluate.Metric):  # type: ignore[misc]
    """Bits that a masked language model needs for a byte of a token that it does not see."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Bits needed for a byte of tokens masked one at a time; lower is better.",
            citation=_CITATION,
            inputs_description=(
                "pseudo_nats: negative log-likelihood of each paper's tokens, masked one at a "
                "time; pseudo_bytes: their UTF-8 bytes"
            ),
            features=datasets.Features(
                {
                    "pseudo_nats": datasets.Value("float64"),
                    "pseudo_bytes": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, pseudo_nats: Any, pseudo_bytes: Any) -> dict[str, float]:
        totals = {"pseudo_nats": np.sum(pseudo_nats), "pseudo_bytes": np.sum(pseudo_bytes)}
        return {"pseudo_bits_per_byte": float(METRICS["pseudo_bits_per_byte"].value(totals))}
