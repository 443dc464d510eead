"""Accuracy of a masked language model, a module of the `evaluate` library.

    metric = evaluate.load("steps/evaluation/metrics/mlm_accuracy")
    metric.compute(hits=[40, 35], targets=[60, 55])

Formula: sum of masked tokens whose most probable filling is the original / sum of masked
tokens, over all papers at once. Source: the masked-LM objective of Devlin et al. (2019),
BERT. It compares models of one tokenizer only.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

# `evaluate` copies this file away and takes along what it imports from beside it, which is a
# link to the one table in steps/metrics.py.
from .table import METRICS

_CITATION = "Devlin, Chang, Lee & Toutanova 2019, BERT, NAACL-HLT, doi:10.18653/v1/N19-1423"


class MlmAccuracy(evaluate.Metric):  # type: ignore[misc]
    """Share of masked tokens that a masked language model restores."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of masked tokens restored; higher is better.",
            citation=_CITATION,
            inputs_description="hits: masked tokens restored in each paper; targets: masked tokens",
            features=datasets.Features(
                {"hits": datasets.Value("int64"), "targets": datasets.Value("int64")}
            ),
        )

    def _compute(self, hits: Any, targets: Any) -> dict[str, float]:
        totals = {"mlm_hits": np.sum(hits), "mlm_targets": np.sum(targets)}
        return {"mlm_accuracy": float(METRICS["mlm_accuracy"].value(totals))}
