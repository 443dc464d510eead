"""The one table of metrics: what each is made of, and which way is better.

    METRICS["bits_per_byte"].value({"nats": 410.2, "bytes": 600})

Every metric is a ratio of sums over papers: evaluation counts once a paper, and everything that
shows, compares, guards or ranks a figure takes its definition from here. The file imports nothing
of this project, because the modules of the `evaluate` library are linked to it and copied away.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# Below so many papers a percentile bootstrap covers too little, and a few papers that get much
# worse may be missing altogether (benchmarks/RESULTS.md).
PAPERS_FOR_RELIABLE_INTERVALS = 60

# Raised whenever a definition changes, so that old figures are not compared with new ones.
METRIC_VERSION = "2"

Floats = npt.NDArray[np.float64]

# Parts of a paper's bytes. A byte that belongs to several is counted with the last of them.
STRATA = ("rest", "number", "gene", "variant")
# The same in the order in which they are shown.
SHOWN_STRATA = ("gene", "variant", "number", "rest")

# Of a row of an item of a task, what is no metric of it.
ITEM_COLUMNS = (
    *("task", "item_id", "pmid", "gold", "choice", "loglikelihoods"),
    *("contaminated", "too_short", "cut", "item_hash"),
)
# Behind the name of a task's metric: without the items that stand in training papers.
CLEAN = "_clean"

Needs = Literal["likelihood", "cloze", "generation", "answers", "rules", "validation"]


@dataclass(frozen=True)
class Metric:
    """A ratio of sums over papers.

    Attributes:
        name: As the store has it, without the split in front.
        numerator: Column whose sum stands above the line.
        denominators: Columns whose sums, added up, stand below it.
        unit: The ratio is divided by it: ln 2 makes bits of nats.
        exponential: The metric is e to that ratio (a perplexity).
        higher_is_better: Whether a larger value is the better one.
        objective: Which models have this metric: causal, masked, instruction or any.
        needs: What has to be measured for it.
        in_parts: Whether strata, sections and bands of score have it too.
        is_known: Whether it is known rather than estimated (chance levels), so that it has no
            interval.
    """

    name: str
    numerator: str
    denominators: tuple[str, ...]
    unit: float = 1.0
    exponential: bool = False
    higher_is_better: bool = False
    objective: Literal["causal", "masked", "instruction", "any"] = "any"
    needs: Needs = "generation"
    in_parts: bool = False
    is_known: bool = False

    @property
    def denominator(self) -> str:
        """The only denominator column; ValueError for a metric that has several."""
        (column,) = self.denominators
        return column

    @property
    def scale(self) -> float:
        """The metric is scale * sum of numerators / sum of denominators."""
        return 1 / self.unit

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that it is made of."""
        return (self.numerator, *self.denominators)

    @property
    def is_plain_ratio(self) -> bool:
        """Whether differences of it between models can be attributed to papers."""
        return len(self.denominators) == 1 and not self.exponential

    def value(self, totals: Mapping[str, Any]) -> Floats:
        """The metric from sums over papers.

        Args:
            totals: For each column its sum, or an array of sums, one for each resample.

        Returns:
            A number, or one for each element of the arrays; 0/0 is NaN.
        """
        above = np.asarray(totals[self.numerator], dtype=np.float64)
        first, *others = (np.asarray(totals[c], dtype=np.float64) for c in self.denominators)
        below = self.unit * sum(others, first)
        ratio: Floats = above / below
        return np.exp(ratio) if self.exponential else ratio

    def of_part(self, part: str) -> "Metric":
        """The same of a stratum, a section (`methods`) or a band of score.

        Args:
            part: As it stands in front of the metric's name.
        """
        is_section = part not in STRATA and not part.startswith("score_")
        suffix = f"_section_{part}" if is_section else f"_{part}"
        return replace(
            self,
            name=f"{part}_{self.name}",
            numerator=f"{self.numerator}{suffix}",
            denominators=tuple(f"{column}{suffix}" for column in self.denominators),
        )


def _cloze(task: str) -> tuple[Metric, ...]:
    items = (f"{task}_items",)
    needs: Needs = "cloze"
    return (
        Metric(f"{task}_accuracy", f"{task}_hits", items, higher_is_better=True, needs=needs),
        Metric(f"{task}_mrr", f"{task}_reciprocal_rank", items, higher_is_better=True, needs=needs),
        Metric(f"{task}_chance", f"{task}_chance_sum", items, needs=needs, is_known=True),
        Metric(
            f"{task}_mrr_chance",
            f"{task}_chance_reciprocal_rank",
            items,
            needs=needs,
            is_known=True,
        ),
    )


def _of_answers(name: str, counted: str, *, higher_is_better: bool = False) -> Metric:
    return Metric(
        name,
        counted,
        ("answered_items",),
        higher_is_better=higher_is_better,
        objective="instruction",
        needs="answers",
    )


_OF_GENES = ("genes_generated", "genes_expected")
_ROWS = (
    # Gao et al. 2020, The Pile, section 3.1.
    Metric(
        "bits_per_byte",
        "nats",
        ("bytes",),
        unit=math.log(2),
        objective="causal",
        needs="likelihood",
        in_parts=True,
    ),
    Metric(
        "mlm_loss",
        "mlm_nats",
        ("mlm_targets",),
        objective="masked",
        needs="likelihood",
        in_parts=True,
    ),
    Metric(
        "mlm_accuracy",
        "mlm_hits",
        ("mlm_targets",),
        higher_is_better=True,
        objective="masked",
        needs="likelihood",
        in_parts=True,
    ),
    # Salazar et al. 2020, Masked Language Model Scoring.
    Metric(
        "pseudo_bits_per_byte",
        "pseudo_nats",
        ("pseudo_bytes",),
        unit=math.log(2),
        objective="masked",
        needs="likelihood",
        in_parts=True,
    ),
    Metric(
        "perplexity",
        "nats",
        ("tokens",),
        exponential=True,
        objective="causal",
        needs="likelihood",
    ),
    Metric(
        "word_perplexity",
        "nats",
        ("words",),
        exponential=True,
        objective="causal",
        needs="likelihood",
    ),
    # Nats a token, by which training and validation are watched; compares no two tokenizers.
    Metric("loss", "nats", ("tokens",), objective="causal", needs="validation"),
    # Of instruction models: what is said, of the items of a paper together.
    Metric(
        "answer_bits_per_byte",
        "answer_nats",
        ("answer_bytes",),
        unit=math.log(2),
        objective="instruction",
        needs="likelihood",
        in_parts=True,
    ),
    Metric(
        "answer_loss",
        "answer_nats",
        ("answer_tokens",),
        objective="instruction",
        needs="validation",
    ),
    # Rajpurkar et al. 2016, SQuAD, section 6.1.
    _of_answers("exact_match", "exact_matches", higher_is_better=True),
    _of_answers("token_f1", "token_f1_sum", higher_is_better=True),
    _of_answers("format_failure_share", "format_failures"),
    # Zhou et al. 2023, IFEval: rules of form, strictly.
    Metric(
        "rules_followed_share", "rules_followed", ("rules",), higher_is_better=True, needs="rules"
    ),
    Metric("gene_precision", "gene_hits", ("genes_generated",), higher_is_better=True),
    Metric("gene_recall", "gene_hits", ("genes_expected",), higher_is_better=True),
    Metric("unknown_gene_share", "generated_symbols_unknown", ("generated_symbols",)),
    Metric("reference_unknown_gene_share", "reference_symbols_unknown", ("reference_symbols",)),
    Metric("distinct_1", "distinct_words", ("generated_words",), higher_is_better=True),
    Metric("distinct_2", "distinct_word_pairs", ("generated_word_pairs",), higher_is_better=True),
    Metric("memorised_share", "memorised_tokens", ("generated_tokens",)),
    *_cloze("gene_cloze"),
    *_cloze("variant_cloze"),
    # Facts of two papers: all, and told apart by what the training split states.
    *_cloze("fact_cloze"),
    *_cloze("fact_cloze_seen"),
    *_cloze("fact_cloze_unseen"),
    *_cloze("fact_cloze_after"),
    # 2 * hits / (generated + expected); van Rijsbergen 1979, chapter 7.
    Metric("gene_f1", "gene_hits", _OF_GENES, unit=0.5, higher_is_better=True),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ROWS}

# A longer name stands first, because "pseudo_bits_per_byte" also ends in "bits_per_byte".
LIKELIHOODS = tuple(
    sorted((metric.name for metric in _ROWS if metric.in_parts), key=len, reverse=True)
)
# What is shown and compared beside the primary metric, whatever that is.
SHOWN_BESIDE = (
    "gene_cloze_accuracy",
    "variant_cloze_accuracy",
    "fact_cloze_accuracy",
    "fact_cloze_seen_accuracy",
    "fact_cloze_unseen_accuracy",
    "exact_match",
    "token_f1",
)
# What a validation measures; the first is what checkpoints are ranked by.
VALIDATION_METRICS = {
    "causal": (METRICS["bits_per_byte"], METRICS["loss"]),
    "masked": (METRICS["mlm_loss"], METRICS["mlm_accuracy"]),
    "instruction": (METRICS["answer_bits_per_byte"], METRICS["answer_loss"]),
}
# What a comparison is decided by, where the configuration leaves it to the objective.
PRIMARY = {name: metrics[0].name for name, metrics in VALIDATION_METRICS.items()}


def likelihood_of(name: str) -> str | None:
    """The likelihood that a metric is or is a part of: `gene_mlm_loss` gives `mlm_loss`."""
    return next((kind for kind in LIKELIHOODS if name == kind or name.endswith(f"_{kind}")), None)


def find_metric(name: str) -> Metric | None:
    """The definition of a metric, of a part of it too; None for a name that nothing defines.

    Args:
        name: As the evaluation logs it: `bits_per_byte`, `gene_bits_per_byte` (a stratum),
            `methods_bits_per_byte` (a section), `gene_cloze_accuracy`, ...
    """
    if name in METRICS:
        return METRICS[name]
    kind = likelihood_of(name)
    return None if kind is None else METRICS[kind].of_part(name.removesuffix(f"_{kind}"))


def metrics_of(columns: list[str]) -> list[Metric]:
    """The metrics that the columns of a frame of papers allow, parts after the whole."""
    in_parts = [metric for metric in _ROWS if metric.in_parts]
    parts = []
    for metric in in_parts:
        start = f"{metric.denominator}_"
        parts += [column.removeprefix(start) for column in columns if column.startswith(start)]
    parts = [part.removeprefix("section_") for part in parts]
    whole = [m for m in _ROWS if not m.in_parts and m.needs != "validation"]
    found = [
        *in_parts,
        *(metric.of_part(part) for part in dict.fromkeys(parts) for metric in in_parts),
        *whole,
    ]
    return [metric for metric in found if set(metric.columns) <= set(columns)]


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """The values that JSON and the store can hold."""
    return {name: value for name, value in values.items() if math.isfinite(value)}
