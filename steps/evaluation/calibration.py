"""Calibration: is a model as sure of its choices as it is often right?

    metrics = calibration(choices_frame(items, scores), "gene_cloze", seed=0, resamples=2000)
    metrics["gene_cloze_ece"], metrics["gene_cloze_ece_if_calibrated"]

The softmax of the candidates' log-likelihoods says how sure a model is of its first choice. The
expected calibration error (ECE; Naeini et al. 2015) is the mean distance between that confidence
and the share of right choices, over bins of equally many items (Nguyen & O'Connor 2015), which
leaves no bin empty. Of few items it is above 0 for a perfectly calibrated model too, so what such
a one would show on the same items stands beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

BINS = 10
# Below so many items a bin the share of right choices says nothing.
FEWEST_IN_A_BIN = 5
_TAIL = 2.5


@dataclass(frozen=True)
class Bin:
    """Items of like confidence.

    Attributes:
        items: How many.
        confidence: Mean confidence.
        accuracy: Share of right choices.
    """

    items: int
    confidence: float
    accuracy: float


def first_choices(frame: "pd.DataFrame") -> tuple[Floats, Floats]:
    """How sure a model is of the likeliest candidate of each item, and whether it is right.

    Args:
        frame: With `nats` of the candidates of each item, and the `rank` of the right one.

    Returns:
        Confidences between 0 and 1, and 1 for right or 0 for wrong, float64 `[items]` each.
    """
    confidences = []
    for nats in frame["nats"]:
        below_best = np.asarray(nats, dtype=np.float64) - np.min(nats)
        confidences.append(1 / np.exp(-below_best).sum())
    right = np.asarray(frame["rank"], dtype=np.int64) == 1
    return np.array(confidences, dtype=np.float64), right.astype(np.float64)


def reliability(confidences: Floats, right: Floats) -> list[Bin]:
    """Items in bins of equal size by confidence, the least sure first.

    Args:
        confidences: From `first_choices`.
        right: From `first_choices`.

    Returns:
        At most `BINS`, fewer where an item more or less would decide; none without items.
    """
    if not len(confidences):
        return []
    order = np.argsort(confidences, kind="stable")
    parts = np.array_split(order, max(1, min(BINS, len(order) // FEWEST_IN_A_BIN)))
    return [
        Bin(len(part), float(confidences[part].mean()), float(right[part].mean())) for part in parts
    ]


def expected_calibration_error(confidences: Floats, right: Floats) -> float:
    """Mean distance of confidence and accuracy over the bins, weighed by their items."""
    bins = reliability(confidences, right)
    distance = sum(each.items * abs(each.confidence - each.accuracy) for each in bins)
    return float(distance / len(confidences))


def calibration(frame: "pd.DataFrame", task: str, *, seed: int, resamples: int) -> dict[str, float]:
    """The calibration error with its interval, and that of a perfectly calibrated model.

    Args:
        frame: One row an item: `paper_id`, `nats`, `rank`.
        task: First part of the names, such as "gene_cloze".
        seed: Seed of the resampling; one seed gives one result.
        resamples: Times that the papers are drawn anew.

    Returns:
        `TASK_ece`, `TASK_ece_if_calibrated`, and `TASK_ece_ci_low` and `TASK_ece_ci_high`, the
        bounds of its 95 % interval over papers, unless there are fewer than two. A resample
        repeats items, so its error is larger than that of as many different ones: the
        percentiles are moved by the mean of that excess.
    """
    confidences, right = first_choices(frame)
    generator = np.random.default_rng(seed)
    error = expected_calibration_error(confidences, right)
    chances = [
        expected_calibration_error(
            confidences, (generator.random(len(right)) < confidences).astype(np.float64)
        )
        for _ in range(min(resamples, 200))
    ]
    metrics = {f"{task}_ece": error, f"{task}_ece_if_calibrated": float(np.mean(chances))}
    papers = _places_of_papers(frame["paper_id"].tolist())
    if len(papers) > 1:
        draws = []
        for _ in range(resamples):
            drawn = generator.integers(len(papers), size=len(papers))
            places = np.concatenate([papers[number] for number in drawn])
            draws.append(expected_calibration_error(confidences[places], right[places]))
        moved = np.array(draws) - (np.mean(draws) - error)
        low, high = np.percentile(moved, [_TAIL, 100 - _TAIL])
        metrics[f"{task}_ece_ci_low"] = float(max(0.0, low))
        metrics[f"{task}_ece_ci_high"] = float(high)
    return metrics


def _places_of_papers(paper_ids: Sequence[str]) -> "list[npt.NDArray[np.int64]]":
    places: dict[str, list[int]] = {}
    for place, paper_id in enumerate(paper_ids):
        places.setdefault(paper_id, []).append(place)
    return [np.array(each, dtype=np.int64) for each in places.values()]
