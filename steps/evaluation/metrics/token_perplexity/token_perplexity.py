"""Perplexity of a token, a module of the `evaluate` library.

    metric = evaluate.load("steps/evaluation/metrics/token_perplexity")
    metric.compute(nats=[410.2, 388.0], tokens=[150, 130])

Formula: exp(sum of nats / sum of tokens), over all papers at once. Source: Jelinek et al.
(1977), Perplexity - a measure of the difficulty of speech recognition tasks. It compares
models of one tokenizer only; across tokenizers use bits per byte.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

# `evaluate` copies this file away and takes along what it imports from beside it, which is a
# link to the one table in steps/metrics.py.
from .table import METRICS

_CITATION = "Jelinek, Mercer, Bahl & Baker 1977, J. Acoust. Soc. Am. 62(S1), S63"


class TokenPerplexity(evaluate.Metric):  # type: ignore[misc]
    """Perplexity of a token under a causal language model."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Perplexity of a token under a causal language model; lower is better.",
            citation=_CITATION,
            inputs_description=(
                "nats: negative log-likelihood of each paper; tokens: tokens scored in it"
            ),
            features=datasets.Features(
                {"nats": datasets.Value("float64"), "tokens": datasets.Value("int64")}
            ),
        )

    def _compute(self, nats: Any, tokens: Any) -> dict[str, float]:
        totals = {"nats": np.sum(nats), "tokens": np.sum(tokens)}
        return {"perplexity": float(METRICS["perplexity"].value(totals))}
