"""Perplexity of a word, a module of the `evaluate` library.

    metric = evaluate.load("steps/evaluation/metrics/word_perplexity")
    metric.compute(nats=[410.2, 388.0], words=[100, 90])

Formula: exp(sum of nats / sum of words), over all papers at once; a word is what white space
separates. Source: EleutherAI lm-evaluation-harness, metric `word_perplexity`. Comparable
across tokenizers, as the words are counted in the text.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

# `evaluate` copies this file away and takes along what it imports from beside it, which is a
# link to the one table in steps/metrics.py.
from .table import METRICS

_CITATION = "EleutherAI, lm-evaluation-harness, doi:10.5281/zenodo.5371628"


class WordPerplexity(evaluate.Metric):  # type: ignore[misc]
    """Perplexity of a word under a causal language model."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Perplexity of a word under a causal language model; lower is better.",
            citation=_CITATION,
            inputs_description=("nats: negative log-likelihood of each paper; words: its words"),
            features=datasets.Features(
                {"nats": datasets.Value("float64"), "words": datasets.Value("int64")}
            ),
        )

    def _compute(self, nats: Any, words: Any) -> dict[str, float]:
        totals = {"nats": np.sum(nats), "words": np.sum(words)}
        return {"word_perplexity": float(METRICS["word_perplexity"].value(totals))}
