"""From rows of papers to metrics with intervals.

    summarise(frame)["bits_per_byte"], summarise(frame)["bits_per_byte_ci_low"]

The frame alone decides: each metric is computed from the columns that it needs, where they
are there. The papers are the units that were sampled, so an interval resamples papers and
recomputes the ratio of sums (percentile bootstrap, Efron & Tibshirani 1993, chapter 13).
The formulas stand in `steps.evaluation.metrics`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from steps.errors import UserError
from steps.evaluation.metrics.bits_per_byte.formula import bits_per_byte
from steps.evaluation.metrics.gene_f1.formula import gene_f1, gene_precision, gene_recall
from steps.evaluation.metrics.mlm_accuracy.formula import mlm_accuracy
from steps.evaluation.metrics.mlm_loss.formula import mlm_loss
from steps.evaluation.metrics.pseudo_bits_per_byte.formula import pseudo_bits_per_byte
from steps.evaluation.metrics.token_perplexity.formula import token_perplexity
from steps.evaluation.metrics.word_perplexity.formula import word_perplexity

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 2_000
CONFIDENCE = 0.95
PAPERS_FOR_RELIABLE_INTERVALS = 60

_RESAMPLES_AT_A_TIME = 200

Formula = Callable[..., "npt.NDArray[np.float64]"]


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
    definitions = _definitions(list(frame.columns))
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
            metrics[definition.name] = float(
                definition.formula(*(totals[column] for column in definition.columns))
            )
            carrying = int((frame[list(definition.denominators)] > 0).any(axis=1).sum())
            if definition.interval and carrying < len(frame):
                metrics[f"{definition.name}_papers"] = float(carrying)
            if definition.interval and carrying >= 2:
                draws = definition.formula(*(resampled[column] for column in definition.columns))
                low, high = np.nanpercentile(draws, [tail, 100 - tail])
                metrics[f"{definition.name}_ci_low"] = float(low)
                metrics[f"{definition.name}_ci_high"] = float(high)
    if "longest_verbatim_words" in frame:
        metrics["longest_verbatim_words"] = float(frame["longest_verbatim_words"].max())
    return metrics


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
    for name, formula, above, below in (
        ("bits_per_byte", bits_per_byte, "nats", "bytes"),
        ("mlm_loss", mlm_loss, "mlm_nats", "mlm_targets"),
    ):
        if not {above, below} <= set(frame.columns) & set(base.columns):
            continue
        both = frame[["paper_id", above, below]].merge(base, on="paper_id", suffixes=("", "_base"))
        columns = [above, below, f"{above}_base", f"{below}_base"]
        values = both[columns].to_numpy(dtype=np.float64)
        if not len(both) == len(frame) == len(base) or (values[:, 1] != values[:, 3]).any():
            return {}

        def difference(
            totals: "npt.NDArray[np.float64]", formula: Formula = formula
        ) -> "npt.NDArray[np.float64]":
            return formula(totals[..., 0], totals[..., 1]) - formula(totals[..., 2], totals[..., 3])

        metric = f"general_{name}_above_base"
        tail = 100 * (1 - CONFIDENCE) / 2
        draws = difference(_resampled_totals(values, seed, resamples))
        low, high = np.percentile(draws, [tail, 100 - tail])
        return {
            metric: float(difference(values.sum(axis=0))),
            f"{metric}_ci_low": float(low),
            f"{metric}_ci_high": float(high),
        }
    return {}


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


@dataclass(frozen=True)
class _Definition:
    """A metric, the columns whose totals go into its formula, and those it divides by."""

    name: str
    formula: Formula
    columns: tuple[str, ...]
    denominators: tuple[str, ...]
    interval: bool = True


def _definitions(columns: list[str]) -> list[_Definition]:
    """The metrics that a set of columns allows."""
    # name, formula, numerator, denominator
    ratios: list[tuple[str, Formula, str, str]] = []
    for part, suffix in [("", ""), *_parts(columns)]:
        ratios += [
            (f"{part}bits_per_byte", bits_per_byte, f"nats{suffix}", f"bytes{suffix}"),
            (f"{part}mlm_loss", mlm_loss, f"mlm_nats{suffix}", f"mlm_targets{suffix}"),
            (f"{part}mlm_accuracy", mlm_accuracy, f"mlm_hits{suffix}", f"mlm_targets{suffix}"),
            (
                f"{part}pseudo_bits_per_byte",
                pseudo_bits_per_byte,
                f"pseudo_nats{suffix}",
                f"pseudo_bytes{suffix}",
            ),
        ]
    ratios += [
        ("perplexity", token_perplexity, "nats", "tokens"),
        ("word_perplexity", word_perplexity, "nats", "words"),
        ("gene_precision", gene_precision, "gene_hits", "genes_generated"),
        ("gene_recall", gene_recall, "gene_hits", "genes_expected"),
        ("unknown_gene_share", _share, "generated_symbols_unknown", "generated_symbols"),
        ("reference_unknown_gene_share", _share, "reference_symbols_unknown", "reference_symbols"),
        ("distinct_1", _share, "distinct_words", "generated_words"),
        ("distinct_2", _share, "distinct_word_pairs", "generated_word_pairs"),
        ("memorised_share", _share, "memorised_tokens", "generated_tokens"),
    ]
    for task in ("gene_cloze", "variant_cloze"):
        ratios += [
            (f"{task}_accuracy", _share, f"{task}_hits", f"{task}_items"),
            (f"{task}_mrr", _share, f"{task}_reciprocal_rank", f"{task}_items"),
            (f"{task}_chance", _share, f"{task}_chance_sum", f"{task}_items"),
            (f"{task}_mrr_chance", _share, f"{task}_chance_reciprocal_rank", f"{task}_items"),
        ]
    definitions = [
        # Chance is known, not estimated.
        _Definition(name, formula, (above, below), (below,), not name.endswith("_chance"))
        for name, formula, above, below in ratios
    ]
    genes = ("genes_generated", "genes_expected")
    definitions.append(_Definition("gene_f1", gene_f1, ("gene_hits", *genes), genes))
    there = set(columns)
    return [definition for definition in definitions if there.issuperset(definition.columns)]


def _parts(columns: list[str]) -> list[tuple[str, str]]:
    """Prefix of the metric and suffix of the column for each stratum and section."""
    suffixes = []
    for start in ("bytes_", "mlm_targets_", "pseudo_bytes_"):
        suffixes += [column.removeprefix(start) for column in columns if column.startswith(start)]
    return [(f"{s.removeprefix('section_')}_", f"_{s}") for s in dict.fromkeys(suffixes)]


def _share(part: "npt.ArrayLike", whole: "npt.ArrayLike") -> "npt.NDArray[np.float64]":
    return np.asarray(part, dtype=np.float64) / np.asarray(whole, dtype=np.float64)


def _resampled_totals(
    values: "npt.NDArray[np.float64]", seed: int, resamples: int
) -> "npt.NDArray[np.float64]":
    """Column totals of papers drawn with replacement, `[resamples, columns]`.

    How often each paper is drawn is multinomial, so a resample is one row of a matrix
    product and no paper is ever copied. Some hundred at a time: all of them by 100,000
    papers would not fit into memory.
    """
    generator = np.random.default_rng(seed)
    papers = len(values)
    even = np.full(papers, 1 / papers)
    totals = []
    for done in range(0, resamples, _RESAMPLES_AT_A_TIME):
        draws = generator.multinomial(papers, even, min(_RESAMPLES_AT_A_TIME, resamples - done))
        totals.append(draws.astype(np.float64) @ values)
    return np.concatenate(totals)
