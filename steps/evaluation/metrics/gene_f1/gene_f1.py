"""Precision, recall and F1 of genes, a module of the `evaluate` library.

    metric = evaluate.load("steps/evaluation/metrics/gene_f1")
    metric.compute(hits=[2, 0], predicted=[3, 1], expected=[2, 1])

Formula: micro-averaged. precision = sum of hits / sum of predicted genes, recall = sum of
hits / sum of expected genes, F1 = 2 * hits / (predicted + expected), their harmonic mean.
Source: van Rijsbergen (1979), Information Retrieval, chapter 7; micro-averaging as in
BioCreative gene normalisation (Morgan et al. 2008). Genes of a paper are counted once each.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

# `evaluate` copies this file away and takes along what it imports from beside it, which is a
# link to the one table in steps/metrics.py.
from .table import METRICS

_CITATION = "Morgan et al. 2008, Overview of BioCreative II gene normalization, Genome Biology 9:S3"


class GeneF1(evaluate.Metric):  # type: ignore[misc]
    """Micro-averaged precision, recall and F1 of genes."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Micro-averaged precision, recall and F1 of genes; higher is better.",
            citation=_CITATION,
            inputs_description=(
                "hits: genes of each paper both predicted and expected; predicted: genes "
                "predicted; expected: genes expected"
            ),
            features=datasets.Features(
                {name: datasets.Value("int64") for name in ("hits", "predicted", "expected")}
            ),
        )

    def _compute(self, hits: Any, predicted: Any, expected: Any) -> dict[str, float]:
        totals = {
            "gene_hits": np.sum(hits),
            "genes_generated": np.sum(predicted),
            "genes_expected": np.sum(expected),
        }
        # Without a prediction precision is undefined; it is left out rather than called 0.
        return {
            name: float(METRICS[name].value(totals))
            for name in ("gene_precision", "gene_recall", "gene_f1")
            if sum(totals[column] for column in METRICS[name].denominators)
        }
