"""Loss of a masked language model, a module of the `evaluate` library.

    metric = evaluate.load("steps/evaluation/metrics/mlm_loss")
    metric.compute(nats=[110.2, 98.0], targets=[60, 55])

Formula: sum of the negative log-likelihoods of masked tokens / sum of masked tokens, in nats,
over all papers at once. Source: the masked-LM objective of Devlin et al. (2019), BERT. It
compares models of one tokenizer only.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

# `evaluate` copies this file away and takes along what it imports from beside it, which is a
# link to the one table in steps/metrics.py.
from .table import METRICS

_CITATION = "Devlin, Chang, Lee & Toutanova 2019, BERT, NAACL-HLT, doi:10.18653/v1/N19-1423"


class MlmLoss(evaluate.Metric):  # type: ignore[misc]
    """Nats that a masked language model needs for a masked token."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Nats needed for a masked token; lower is better.",
            citation=_CITATION,
            inputs_description=(
                "nats: negative log-likelihood of each paper's masked tokens; targets: their number"
            ),
            features=datasets.Features(
                {"nats": datasets.Value("float64"), "targets": datasets.Value("int64")}
            ),
        )

    def _compute(self, nats: Any, targets: Any) -> dict[str, float]:
        totals = {"mlm_nats": np.sum(nats), "mlm_targets": np.sum(targets)}
        return {"mlm_loss": float(METRICS["mlm_loss"].value(totals))}
