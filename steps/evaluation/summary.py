"""From rows of papers to metrics with intervals.

    summarise(frame)["bits_per_byte"], summarise(frame)["bits_per_byte_ci_low"]

The frame alone decides: each metric is computed from the columns that it needs, where they
are there. The papers are the units that were sampled, so an interval resamples papers and
recomputes the ratio of sums (percentile bootstrap, Efron & Tibshirani 1993, chapter 13).
What a metric is made of stands in `steps.metrics`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from steps.errors import UserError
from steps.metrics import METRICS, PAPERS_FOR_RELIABLE_INTERVALS, Metric, metrics_of

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 2_000
CONFIDENCE = 0.95

_RESAMPLES_AT_A_TIME = 200


def summarise(
    frame: "pd.DataFrame", *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, float]:
    """All metrics that the columns of a frame of papers allow.

    Args:
        frame: One row a paper, as `score_papers`, `score_papers_masked`, the cloze tests and
            `generation_scores` return them; see `join_per_paper` for several of them.
        seed: Seed of the resampling; one seed gives one result.
        resamples: Times that the papers are drawn anew.

    Returns:
        Metric names without the split in front. Each ratio comes with `NAME_ci_low` and
        `NAME_ci_high`, bounds of its 95 % interval, unless fewer than two papers carry it.
        A metric whose denominator is 0 (no variant in any paper) is left out. Also `papers`,
        and `intervals_reliable`: 1 from 60 papers on, else 0, as a percentile bootstrap
        over fewer units is too narrow. `NAME_papers` says how many papers carry a metric where
        not all do (a variant stands in few), for it is their number that counts then.
        `longest_verbatim_words` is the longest of all papers.

    Raises:
        UserError: If the frame has no rows.
    """
    if not len(frame):
        raise UserError("there is no paper to summarise: expected at least 1; score the split")
    definitions = metrics_of(list(frame.columns))
    columns = sorted({column for d in definitions for column in d.columns})
    values = frame[columns].to_numpy(dtype=np.float64)
    totals = dict(zip(columns, values.sum(axis=0), strict=True))
    resampled = dict(zip(columns, _resampled_totals(values, seed, resamples).T, strict=True))

    metrics: dict[str, float] = {
        "papers": float(len(frame)),
        "intervals_reliable": float(len(frame) >= PAPERS_FOR_RELIABLE_INTERVALS),
    }
    tail = 100 * (1 - CONFIDENCE) / 2
    # A resample may hold none of a rare stratum: 0/0, which is no value and not an error.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for definition in definitions:
            denominator = sum(totals[column] for column in definition.denominators)
            if denominator == 0:
                continue
            metrics[definition.name] = float(definition.value(totals))
            carrying = int((frame[list(definition.denominators)] > 0).any(axis=1).sum())
            if not definition.is_known and carrying < len(frame):
                metrics[f"{definition.name}_papers"] = float(carrying)
            if not definition.is_known and carrying >= 2:
                draws = definition.value(resampled)
                low, high = np.nanpercentile(draws, [tail, 100 - tail])
                metrics[f"{definition.name}_ci_low"] = float(low)
                metrics[f"{definition.name}_ci_high"] = float(high)
    if "longest_verbatim_words" in frame:
        metrics["longest_verbatim_words"] = float(frame["longest_verbatim_words"].max())
    return metrics


def ratio_interval(
    values: "npt.NDArray[np.float64]", *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The bounds of the 95 % interval of a ratio of sums.

    Args:
        values: `[units, 2]`, numerators and denominators of what was sampled (papers, items).
        seed: As in `summarise`.
        resamples: As in `summarise`.
    """
    tail = 100 * (1 - CONFIDENCE) / 2
    draws = _resampled_totals(values, seed, resamples)
    low, high = np.percentile(draws[:, 0] / draws[:, 1], [tail, 100 - tail])
    return float(low), float(high)


def with_score_bands(frame: "pd.DataFrame", edges: Sequence[float]) -> "pd.DataFrame":
    """Repeat the sums of likelihood in the band of each paper's quality score.

    Args:
        frame: As `score_papers` or `score_papers_masked` return it.
        edges: Where one band ends and the next begins, rising; none: no bands.

    Returns:
        A new frame with `nats_score_below_60`, `nats_score_60_to_80`, `nats_score_from_80` for
        the edges 60 and 80, and the like of the other sums; 0 for papers outside the band. A
        paper without a score is in none, and a band without papers has no columns.
    """
    whole = [
        column
        for column in ("nats", "bytes", "mlm_nats", "mlm_targets", "mlm_hits")
        if column in frame
    ]
    bounds = [-np.inf, *edges, np.inf]
    added = {}
    score = frame["score"].astype("float64")
    for low, high in pairwise(bounds) if edges else ():
        inside = (score >= low) & (score < high)
        for column in whole if inside.any() else ():
            added[f"{column}_{_band_name(low, high)}"] = frame[column].where(inside, 0)
    return frame.assign(**added)


def _band_name(low: float, high: float) -> str:
    if np.isinf(low):
        return f"score_below_{high:g}"
    return f"score_from_{low:g}" if np.isinf(high) else f"score_{low:g}_to_{high:g}"


def forgotten(
    frame: "pd.DataFrame", base: "pd.DataFrame", *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, float]:
    """How much worse a model is than its base on texts outside the domain.

    Args:
        frame: The rows of the texts under the model.
        base: The same under the base.
        seed: As in `summarise`.
        resamples: As in `summarise`.

    Returns:
        `general_bits_per_byte_above_base` (masked models: `general_mlm_loss_above_base`),
        positive where something was forgotten, with the bounds of its 95 % interval, in which
        both models see the same resamples; empty unless both were scored on the same texts.
    """
    for name in ("bits_per_byte", "mlm_loss"):
        definition = METRICS[name]
        above, below = definition.columns
        if not {above, below} <= set(frame.columns) & set(base.columns):
            continue
        both = frame[["paper_id", above, below]].merge(base, on="paper_id", suffixes=("", "_base"))
        columns = [above, below, f"{above}_base", f"{below}_base"]
        values = both[columns].to_numpy(dtype=np.float64)
        if not len(both) == len(frame) == len(base) or (values[:, 1] != values[:, 3]).any():
            return {}

        metric = f"general_{name}_above_base"
        tail = 100 * (1 - CONFIDENCE) / 2
        draws = _difference(definition, _resampled_totals(values, seed, resamples))
        low, high = np.percentile(draws, [tail, 100 - tail])
        return {
            metric: float(_difference(definition, values.sum(axis=0))),
            f"{metric}_ci_low": float(low),
            f"{metric}_ci_high": float(high),
        }
    return {}


def facts_gained(
    frame: "pd.DataFrame",
    base: "pd.DataFrame",
    tokens: float,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, float]:
    """How many more facts a model has right than its base, for what it was trained on.

    Args:
        frame: The rows of papers under the model.
        base: The same under the base.
        tokens: Training tokens of the model.
        seed: As in `summarise`.
        resamples: As in `summarise`.

    Returns:
        `facts_gained_per_million_tokens` with the bounds of its 95 % interval, in which both
        models see the same resamples. It depends on how many facts are asked for; of them,
        the share is `fact_cloze_accuracy`. Empty unless both were asked the same.
    """
    items, hits = "fact_cloze_items", "fact_cloze_hits"
    if not tokens or not {items, hits} <= set(frame.columns) & set(base.columns):
        return {}
    both = frame[["paper_id", items, hits]].merge(base, on="paper_id", suffixes=("", "_base"))
    if not len(both) == len(frame) == len(base) or (both[items] != both[f"{items}_base"]).any():
        return {}
    gained = (both[hits] - both[f"{hits}_base"]).to_numpy(dtype=np.float64) / (tokens / 1e6)
    draws = _resampled_totals(gained[:, None], seed, resamples)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    metric = "facts_gained_per_million_tokens"
    return {
        metric: float(gained.sum()),
        f"{metric}_ci_low": float(low),
        f"{metric}_ci_high": float(high),
    }


def _difference(metric: Metric, totals: "npt.NDArray[np.float64]") -> "npt.NDArray[np.float64]":
    """A metric of a model less that of its base.

    Args:
        metric: A plain ratio.
        totals: `[..., 4]`, numerator and denominator of the model, then those of the base.
    """
    above, below = metric.columns
    of_model, of_base = (
        metric.value({above: totals[..., place], below: totals[..., place + 1]}) for place in (0, 2)
    )
    return of_model - of_base


def join_per_paper(frame: "pd.DataFrame", *others: "pd.DataFrame") -> "pd.DataFrame":
    """Add the columns of other per-paper frames; a paper that they lack counts 0 there.

    Args:
        frame: One row a paper, with `paper_id`; gives the rows and their order.
        *others: Frames with `paper_id`, each paper at most once, and numeric columns.

    Returns:
        A new frame.
    """
    for other in others:
        added = [column for column in other.columns if column != "paper_id"]
        frame = frame.merge(other, on="paper_id", how="left", validate="one_to_one")
        frame[added] = frame[added].fillna(0)
    return frame


def _resampled_totals(
    values: "npt.NDArray[np.float64]", seed: int, resamples: int
) -> "npt.NDArray[np.float64]":
    """Column totals of papers drawn with replacement, `[resamples, columns]`.

    How often each paper is drawn is multinomial, so a resample is one row of a matrix
    product and no paper is ever copied. Some hundred at a time: all of them by 100,000
    papers would not fit into memory. (`steps.comparison.statistics` draws its own way: with one
    of the two everywhere, the bounds that stored evaluations carry would change.)
    """
    generator = np.random.default_rng(seed)
    papers = len(values)
    even = np.full(papers, 1 / papers)
    totals = []
    for done in range(0, resamples, _RESAMPLES_AT_A_TIME):
        draws = generator.multinomial(papers, even, min(_RESAMPLES_AT_A_TIME, resamples - done))
        totals.append(draws.astype(np.float64) @ values)
    return np.concatenate(totals)
