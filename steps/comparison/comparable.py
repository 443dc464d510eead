"""Whether two evaluations can be compared at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from steps.comparison.statistics import (
    BootstrapGain,
    columns_of,
    has_metric,
    metrics_beside,
)
from steps.errors import UserError
from steps.metrics import LIKELIHOODS, METRICS, likelihood_of

if TYPE_CHECKING:
    import pandas as pd

    from steps.config.measurement_sections import Comparison


# In front of a metric's name: it is read from the frame of general texts.
GENERAL = "general_"


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """A model in a comparison: what was measured, and on what.

    Attributes:
        name: What the user calls it, such as `models:/genomics/3`.
        version: What it resolved to; the same version cannot stand on both sides.
        dataset_digest: Digest of the dataset that was scored.
        split: Split that was scored.
        metric_version: Version of the evaluation code's definitions.
        objective: `causal`, `masked` or `instruction`.
        per_paper: One row a paper: paper_id, nats, bytes, ... as the evaluation wrote it.
        general: The same of texts outside the domain, or None where none were scored.
        tasks: One row an item of the harness' tasks, or None where none were asked.
        metrics: Figures that are no ratio over papers, such as `memorised_share`.
        trained: Why the model may know the papers that it is scored on, or "".
        unverified: Why the figures may not be those that were measured, or "".
        cuts: Parts measured and parts wanted, by the phase of its evaluation that a budget has cut.
    """

    name: str
    version: str
    dataset_digest: str
    split: str
    metric_version: str
    objective: str
    per_paper: "pd.DataFrame"
    general: "pd.DataFrame | None" = None
    tasks: "pd.DataFrame | None" = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    trained: str = ""
    unverified: str = ""
    cuts: Mapping[str, Sequence[int]] = field(default_factory=dict)


def without_different_cuts(
    a: EvaluatedModel, b: EvaluatedModel
) -> tuple[EvaluatedModel, EvaluatedModel, list[str]]:
    """Take out of both what a budget has cut in another way for one than for the other.

    Returns:
        The two, and a line on each phase that was taken out.
    """
    notes = []
    for phase in sorted(a.cuts.keys() | b.cuts.keys()):
        first, second = a.cuts.get(phase), b.cuts.get(phase)
        if first == second:
            continue
        amounts = [f"{cut[0]} of {cut[1]}" if cut else "all" for cut in (first, second)]
        notes.append(
            f"Not compared: {phase.replace('_', ' ')}, of which evaluation.budget_minutes left "
            f"{amounts[0]} for {a.name} and {amounts[1]} for {b.name}."
        )
        a, b = _without_phase(a, phase), _without_phase(b, phase)
    return a, b, notes


def _without_phase(model: EvaluatedModel, phase: str) -> EvaluatedModel:
    """The model without the figures of a phase of its evaluation, and without what they are of."""
    gone = [metric for metric in METRICS.values() if metric.needs == phase]
    columns = {column for metric in gone for column in metric.columns}
    names = {metric.name for metric in gone}
    rows = model.per_paper
    kept = [c for c in rows.columns if c not in columns and not c.startswith(f"{phase}_")]
    metrics = {
        name: value
        for name, value in model.metrics.items()
        if name not in names and not name.startswith(f"{phase}_")
    }
    return replace(model, per_paper=rows[kept], metrics=metrics)


def check_comparable(a: EvaluatedModel, b: EvaluatedModel, metric: str = "bits_per_byte") -> None:
    """Refuse two models whose figures do not mean the same.

    Args:
        a: One model.
        b: The other.
        metric: The metric that they are to be compared by.

    Raises:
        UserError: Naming the first difference found.
    """
    models = f"{a.name} and {b.name} cannot be compared"
    if a.version == b.version:
        raise UserError(
            f"{models}: both are version {a.version}; expected two versions, so name another one"
        )
    for what, first, second, fix in (
        ("dataset digest", a.dataset_digest, b.dataset_digest, "evaluate both on one dataset"),
        ("split", a.split, b.split, "evaluate both on one split"),
        ("metric version", a.metric_version, b.metric_version, "evaluate the older one again"),
        ("objective", a.objective, b.objective, "compare models of one objective"),
    ):
        if first != second:
            raise UserError(f"{models}: {what} {first} against {second}; {fix}")

    kind = likelihood_of(metric)
    if kind is None:
        raise UserError(
            f"comparison.metric is {metric!r}: expected one of {', '.join(LIKELIHOODS)}, "
            "or one of a stratum such as gene_bits_per_byte; change comparison.metric"
        )
    if METRICS[kind].objective != a.objective:
        fitting = " or ".join(
            name for name in LIKELIHOODS if METRICS[name].objective == a.objective
        )
        raise UserError(
            f"{models} by {metric}: they are {a.objective} models, which have none; "
            f"set comparison.metric to {fitting}"
        )

    _check_same_papers(a.name, a.per_paper, b.name, b.per_paper, "papers")
    if len(a.per_paper) == 1:
        raise UserError(
            f"{models}: split {a.split} holds a single paper ({a.per_paper['paper_id'].iloc[0]}); "
            "expected several, as papers are what is resampled; use a larger split"
        )
    _check_figures(a.name, a.per_paper, metric)
    _check_figures(b.name, b.per_paper, metric)
    _check_same_text(a, a.per_paper, b, b.per_paper, metric)
    if a.general is not None and b.general is not None:
        _check_same_papers(a.name, a.general, b.name, b.general, "general texts")
        # Models that answer read general texts as causal ones do.
        kind = "bits_per_byte" if a.objective == "instruction" else kind
        if has_metric(a.general, kind) and has_metric(b.general, kind):
            _check_figures(a.name, a.general, kind)
            _check_figures(b.name, b.general, kind)
            _check_same_text(a, a.general, b, b.general, kind)


def _check_same_papers(
    name_a: str, a: "pd.DataFrame", name_b: str, b: "pd.DataFrame", what: str
) -> None:
    """Refuse frames that do not hold the same papers, each once."""
    for name, frame in ((name_a, a), (name_b, b)):
        if not len(frame):
            raise UserError(f"{name}: there are no {what}; expected at least 2, evaluate it again")
        if frame["paper_id"].duplicated().any():
            twice = frame.loc[frame["paper_id"].duplicated(), "paper_id"].iloc[0]
            raise UserError(
                f"{name}: {what} hold {twice} twice, expected one row each; evaluate it again"
            )
    ids_a, ids_b = set(a["paper_id"]), set(b["paper_id"])
    fix = "evaluate both on one dataset and split"
    if not ids_a & ids_b:
        raise UserError(
            f"{name_a} and {name_b} have none of their {what} in common "
            f"({len(ids_a)} and {len(ids_b)}); {fix}"
        )
    if ids_a != ids_b:
        first = min(ids_a ^ ids_b)
        raise UserError(
            f"{name_a} and {name_b} were scored on different {what}: {len(ids_a - ids_b)} only in "
            f"the former, {len(ids_b - ids_a)} only in the latter (first: {first}); {fix}"
        )


def _check_figures(name: str, frame: "pd.DataFrame", metric: str) -> None:
    """Refuse a frame without the metric, or with a figure that is no number."""
    columns = columns_of(metric)
    for column in (columns.numerator, columns.denominator):
        if column not in frame.columns:
            raise UserError(
                f"{name}: per-paper results have no column {column}, which {metric} needs; "
                "evaluate it again, or change comparison.metric"
            )
    for used in (metric, *metrics_beside(frame, metric)):
        check_finite(name, frame, used)
    if float(frame[columns.denominator].sum()) <= 0:
        raise UserError(
            f"{name}: {columns.denominator} is 0 in all papers, so there is no {metric}; "
            "use another split or change comparison.metric"
        )


def check_finite(name: str, frame: "pd.DataFrame", metric: str) -> None:
    """Refuse a frame in which a figure of a metric is no number."""
    columns = columns_of(metric)
    for column in (columns.numerator, columns.denominator):
        wrong = ~np.isfinite(frame[column].to_numpy(dtype=np.float64))
        if wrong.any():
            row = frame.loc[wrong].iloc[0]
            raise UserError(
                f"{name}: {column} of paper {row['paper_id']} is {row[column]}, "
                "expected a finite number; evaluate it again"
            )


def _check_same_text(
    a: EvaluatedModel,
    frame_a: "pd.DataFrame",
    b: EvaluatedModel,
    frame_b: "pd.DataFrame",
    metric: str,
) -> None:
    """Refuse frames whose denominators differ: the models were not scored on the same text."""
    columns = columns_of(metric)
    aligned = in_order_of(frame_a, frame_b)
    if same_denominators(aligned, frame_b, metric):
        return
    first = aligned[columns.denominator].to_numpy()
    second = frame_b[columns.denominator].to_numpy()
    at = int(np.flatnonzero(first != second)[0])
    fix = "evaluate both on one dataset"
    if metric.endswith(("mlm_loss", "mlm_accuracy", "pseudo_bits_per_byte")):
        # Where each token is asked, whatever the tokens are, all bytes have been.
        both = [frame["tokens"].max() for frame in (aligned, frame_b) if "tokens" in frame]
        longest = int(max(both, default=512))
        fix = (
            "their tokenizers or masks differ: set comparison.metric to pseudo_bits_per_byte and "
            f"evaluation.pseudo_likelihood_tokens to {longest} or more, so that every token of "
            "every paper is asked, and both are measured again"
        )
    raise UserError(
        f"{a.name} and {b.name} cannot be compared: {columns.denominator} of "
        f"{frame_b['paper_id'].iloc[at]} is {first[at]} against {second[at]}; {fix}"
    )


def same_denominators(a: "pd.DataFrame", b: "pd.DataFrame", metric: str) -> bool:
    """Whether both models divide by the same, paper by paper."""
    columns = columns_of(metric)
    return bool(
        np.allclose(
            a[columns.denominator].to_numpy(dtype=np.float64),
            b[columns.denominator].to_numpy(dtype=np.float64),
            rtol=1e-9,
            atol=0,
        )
    )


def groups_of(per_paper: "pd.DataFrame", rule: "Comparison") -> "pd.Series | None":
    """The group of each paper, by the column that `comparison.cluster_by` names; None: no groups.

    Raises:
        UserError: The results have no such column.
    """
    if rule.cluster_by is None:
        return None
    if rule.cluster_by not in per_paper.columns:
        known = sorted(c for c in per_paper.columns if per_paper[c].dtype == object)
        raise UserError(
            f"comparison.cluster_by is {rule.cluster_by!r}, which the papers do not say: expected "
            f"one of {', '.join(known)}, journal, cluster, or null"
        )
    return per_paper[rule.cluster_by]


def in_order_of(frame: "pd.DataFrame", other: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of a frame in the order of another one's papers."""
    return frame.set_index("paper_id").loc[other["paper_id"]].reset_index()


def interval_bounds(boot: BootstrapGain, confidence: float) -> tuple[float | None, float | None]:
    """The bounds of a gain's interval, or two Nones where too few papers carry it."""
    return boot.interval(confidence) or (None, None)
