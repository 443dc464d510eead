"""Made-up finetune runs with made-up evaluations."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from steps.comparison.comparable import EvaluatedModel
from steps.comparison.many_runs import ComparedRun

MASKED = {"mlm_nats": "nats", "mlm_targets": "bytes", "mlm_hits": "bytes"}


def compared(name: str, model: EvaluatedModel | None, **fields: Any) -> ComparedRun:
    """A run that made a model."""
    given = {
        "objective": "causal",
        "base": "tiny",
        "dataset": "sha256:aa",
        # That of the base, before the first step, is nobody's best.
        "curves": {"validation/bits_per_byte": [(0, 0.8), (1, 1.0), (2, 0.9)]},
        **fields,
    }
    own = None if model is None else replace(model, name=name, version=name)
    return ComparedRun(name, name, "tiny", "FINISHED", "", evaluation=own, **given)


def better(model: EvaluatedModel, gain: float) -> EvaluatedModel:
    """The model with fewer nats on every paper."""
    frame = model.per_paper.copy()
    wobble = 1 + 0.1 * np.sin(np.arange(len(frame)))
    frame["nats"] = frame["nats"] - gain * np.log(2) * frame["bytes"] * wobble
    return replace(model, per_paper=frame)


def masked(model: EvaluatedModel) -> EvaluatedModel:
    """A masked model with the same papers."""
    columns = {new: model.per_paper[old] for new, old in MASKED.items()}
    frame = pd.DataFrame({"paper_id": model.per_paper["paper_id"], **columns})
    return replace(model, objective="masked", per_paper=frame, general=None)
