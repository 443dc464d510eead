"""Paired statistics over papers: gains, their intervals, tests, and what a test set can show.

    table = ratio_table(champion_frame, challenger_frame, "bits_per_byte")
    gain = bootstrap_gains([table], samples=2000, seed=0)[0]
    gain.gain, gain.interval(0.95), gain.p_not_above(0.002)

Every figure here is a ratio of sums over papers (bits per byte = sum of nats / (ln 2 * sum of
bytes)), and the papers are the units that were sampled. A **gain** is the difference of two
such ratios, turned so that positive means that the challenger is better.

Two procedures were picked by measurement (`benchmarks/comparison_validity.py`):

- Interval: studentised bootstrap (bootstrap-t, Efron & Tibshirani 1993, section 12.5) with the
  linearised standard error of the ratio. From 60 papers on it covers 93 to 97 % even where a
  few papers get much worse; percentile and BCa intervals fall below that.
- Test: sign-flip permutation test (Fisher 1935) of the differences moved by the minimum gain,
  **and** the studentised bootstrap: the larger of the two p-values counts. Sign flips alone
  are exact only for symmetric differences. Where most papers gain a little and a few lose a
  lot (skewness -3.6, 60 papers), they promote a challenger without gain in 11 % of the cases,
  both together in 7 %; at a usual skewness (-0.8) it is 6 to 7 % against 5 to 6 %.

Resampling is written out in numpy because all metrics share one set of resamples, and one
matrix product then serves them all; `tests/comparison` holds it against `scipy.stats`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from steps.metrics import (
    METRICS,
    SHOWN_BESIDE,
    SHOWN_STRATA,
    Metric,
    find_metric,
    likelihood_of,
)

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

POWER = 0.8

# Cells of the largest matrix of weights or signs that is held at a time (16 MiB of float64).
_CELLS_AT_A_TIME = 2_000_000


def ratio_metric(name: str) -> Metric | None:
    """The definition of a metric, or None for one that is no plain ratio over papers."""
    metric = find_metric(name)
    return metric if metric is not None and metric.is_plain_ratio else None


def columns_of(name: str) -> Metric:
    """The definition of a metric that is known to be a ratio over papers.

    Raises:
        ValueError: If it is none.
    """
    metric = ratio_metric(name)
    if metric is None:
        raise ValueError(f"{name} is no ratio over papers")
    return metric


def has_metric(frame: "pd.DataFrame", metric: str) -> bool:
    """Whether a frame holds the columns of a metric, with a denominator above 0."""
    columns = ratio_metric(metric)
    return (
        columns is not None
        and set(columns.columns) <= set(frame.columns)
        and float(frame[columns.denominator].sum()) > 0
    )


def metrics_beside(frame: "pd.DataFrame", metric: str) -> list[str]:
    """What a frame of papers holds beside a metric: the same of strata and sections, cloze.

    Args:
        frame: One row a paper.
        metric: The primary metric, such as `bits_per_byte`.

    Returns:
        Metric names: strata, sections in the order of the columns, cloze tests.
    """
    kind = likelihood_of(metric)
    names: list[str] = []
    if kind is not None:
        prefix = f"{METRICS[kind].denominator}_section_"
        sections = [c.removeprefix(prefix) for c in frame.columns if c.startswith(prefix)]
        names = [kind, *(f"{part}_{kind}" for part in (*SHOWN_STRATA, *sections))]
    return [name for name in (*names, *SHOWN_BESIDE) if name != metric and has_metric(frame, name)]


@dataclass(frozen=True, eq=False)
class RatioTable:
    """Numerators and denominators of one metric for two models, paper by paper.

    Attributes:
        values: float64 `[papers, 4]`: champion's numerator and denominator, challenger's
            numerator and denominator. A paper without the stratum holds zeros.
        scale: The metric is scale * numerator / denominator.
        higher_is_better: Whether a larger metric is the better one.
    """

    values: Floats
    scale: float = 1.0
    higher_is_better: bool = False

    @property
    def direction(self) -> float:
        """The factor that turns champion minus challenger into a gain."""
        return -self.scale if self.higher_is_better else self.scale

    @property
    def ratios(self) -> tuple[float, float]:
        """The metric of the champion and of the challenger."""
        totals = self.values.sum(axis=0)
        return (
            float(self.scale * totals[0] / totals[1]),
            float(self.scale * totals[2] / totals[3]),
        )

    @property
    def gain(self) -> float:
        """Difference of the two ratios; positive means that the challenger is better."""
        totals = self.values.sum(axis=0)
        return float(self.direction * (totals[0] / totals[1] - totals[2] / totals[3]))

    @property
    def influence(self) -> Floats:
        """How much each paper moves the gain away from its value, float64 `[papers]`.

        The linearisation of the ratio (Taylor; Cochran 1977, section 6.4): their sum is 0,
        and the root of papers / (papers - 1) times the sum of their squares is the standard
        error of the gain.
        """
        gradient = _gradient(self.values.sum(axis=0)[None, :], self.direction)
        influence: Floats = self.values @ gradient[0]
        return influence

    @property
    def standard_error(self) -> float:
        """Linearised standard error of the gain, in units of the metric."""
        papers = len(self.values)
        return math.sqrt(papers / (papers - 1) * float((self.influence**2).sum()))

    @property
    def standardised_gain(self) -> float | None:
        """Gain over the standard deviation between papers (Cohen's d_z); None without spread."""
        spread = self.standard_error * math.sqrt(len(self.values))
        return self.gain / spread if spread else None

    @property
    def skewness(self) -> float:
        """Skewness of the papers' influence: negative where a few get much worse."""
        from scipy.stats import skew

        return float(skew(self.influence)) if self.standard_error else 0.0

    @property
    def carrying(self) -> int:
        """How many papers carry the metric: a denominator above 0 in either model."""
        return int(((self.values[:, 1] > 0) | (self.values[:, 3] > 0)).sum())

    @property
    def effective_papers(self) -> float:
        """Kish's effective sample size: (sum of bytes)^2 / (sum of squared bytes).

        A long paper weighs more. 60 abstracts with 6 full texts among them are worth about
        ten papers of one length, and no test is valid for fewer than it takes.
        """
        weights = self.values[:, 1]
        return float(weights.sum() ** 2 / (weights**2).sum())

    def differences(self, minimum_gain: float = 0.0) -> Floats:
        """Per-paper terms whose sum is 0 in expectation where the gain is the minimum.

        Their sum is (gain - minimum) * sum of denominators, and flipping signs leaves the
        denominators alone: this statistic and the recomputed ratio give one p-value.

        Args:
            minimum_gain: In units of the metric.

        Returns:
            float64 `[papers]`.
        """
        return (
            self.direction * (self.values[:, 0] - self.values[:, 2])
            - minimum_gain * self.values[:, 1]
        )


def ratio_table(
    champion: "pd.DataFrame", challenger: "pd.DataFrame", metric: str, against: str | None = None
) -> RatioTable:
    """Line up two frames of the same papers for one metric.

    Args:
        champion: One row a paper, the order of `challenger`'s rows.
        challenger: One row a paper.
        metric: A metric for which `ratio_metric` knows the columns.
        against: Metric of the champion where it has another name (a reference).
    """
    measured, reference = columns_of(metric), columns_of(against or metric)
    values = np.column_stack(
        [
            champion[reference.numerator],
            champion[reference.denominator],
            challenger[measured.numerator],
            challenger[measured.denominator],
        ]
    ).astype(np.float64)
    return RatioTable(values, measured.scale, measured.higher_is_better)


def grouped(table: RatioTable, groups: "pd.Series | None") -> RatioTable:
    """The table with one row a group of papers, whose sums it holds.

    Papers of a group resemble each other (one journal, one author), so that the groups and not
    the papers are what was sampled. The ratio of sums stays as it is.

    Args:
        table: One row a paper.
        groups: Group of each paper, in the same order; a paper without one stands for itself.
            None: no groups.
    """
    if groups is None:
        return table
    codes = groups.reset_index(drop=True).factorize()[0]
    alone = codes < 0
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(alone.sum())
    sums = np.zeros((codes.max() + 1, table.values.shape[1]))
    np.add.at(sums, codes, table.values)
    return RatioTable(sums, table.scale, table.higher_is_better)


@dataclass(frozen=True, eq=False)
class BootstrapGain:
    """A gain with its studentised bootstrap distribution.

    Attributes:
        gain: In units of the metric; positive is better.
        standard_error: Of the gain.
        t_values: float64 `[resamples]`, sorted: (resampled gain - gain) / its standard error.
    """

    gain: float
    standard_error: float
    t_values: Floats

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Bounds of the two-sided interval, or None where there are too few papers for one."""
        if self.standard_error == 0:
            return self.gain, self.gain
        tail = (1 - confidence) / 2
        if not len(self.t_values):
            return None
        # No interpolation: with few papers the outermost values are infinite.
        low, high = np.quantile(self.t_values, [tail, 1 - tail], method="inverted_cdf")
        bounds = (
            float(self.gain - high * self.standard_error),
            float(self.gain - low * self.standard_error),
        )
        return bounds if all(map(math.isfinite, bounds)) else None

    def p_not_above(self, minimum: float) -> float:
        """One-sided p-value of "the gain is no more than the minimum"."""
        return self._p(self.gain - minimum, self.t_values)

    def p_not_below(self, minimum: float) -> float:
        """One-sided p-value of "the gain is no less than the minimum"."""
        return self._p(minimum - self.gain, -self.t_values)

    def _p(self, distance: float, t_values: Floats) -> float:
        if self.standard_error == 0:
            return 1 / (len(t_values) + 1) if distance > 0 else 1.0
        reached = t_values >= distance / self.standard_error
        return float((reached.sum() + 1) / (len(t_values) + 1))


def bootstrap_gains(
    tables: Sequence[RatioTable], *, samples: int, seed: int
) -> list[BootstrapGain]:
    """Resample papers and recompute the gain of every table, with one set of resamples.

    Args:
        tables: Tables over the same papers, in the same order.
        samples: Number of resamples.
        seed: One seed gives one result.

    Returns:
        One `BootstrapGain` a table. Resamples without any denominator (a rare stratum that
        none of the drawn papers holds) are left out of its `t_values`.
    """
    papers = len(tables[0].values)
    # Sums and sums of products, so that each resample is one row of a matrix product.
    products = [np.einsum("pi,pj->pij", t.values, t.values).reshape(papers, 16) for t in tables]
    moments = np.hstack([np.hstack([t.values, p]) for t, p in zip(tables, products, strict=True)])
    totals = np.concatenate([w @ moments for w in _bootstrap_weights(papers, samples, seed)])

    gains = []
    for index, table in enumerate(tables):
        first = totals[:, index * 20 : index * 20 + 4]
        second = totals[:, index * 20 + 4 : index * 20 + 20].reshape(samples, 4, 4)
        usable = (first[:, 1] > 0) & (first[:, 3] > 0)
        first, second = first[usable], second[usable]
        resampled = table.direction * (first[:, 0] / first[:, 1] - first[:, 2] / first[:, 3])
        gradient = _gradient(first, table.direction)
        variance = np.einsum("si,sij,sj->s", gradient, second, gradient)
        variance *= papers / (papers - 1)
        # One paper drawn again and again has no spread, but for rounding: an infinite t.
        variance[variance < 1e-8 * table.standard_error**2] = 0
        with np.errstate(divide="ignore", invalid="ignore"):
            t_values = (resampled - table.gain) / np.sqrt(variance)
        t_values[np.isnan(t_values)] = 0.0
        gains.append(BootstrapGain(table.gain, table.standard_error, np.sort(t_values)))
    return gains


@dataclass(frozen=True)
class SignFlipTest:
    """p-values of a sign-flip permutation test.

    Attributes:
        greater: Of "the mean difference is not above 0".
        less: Of "the mean difference is not below 0".
        two_sided: Of "the mean difference is 0".
    """

    greater: float
    less: float
    two_sided: float


def sign_flip_tests(differences: Floats, *, flips: int, seed: int) -> list[SignFlipTest]:
    """Test columns of per-paper differences by flipping the signs of papers.

    All 2^papers flips are made where that is no more than `flips` (then the p-value is
    exact); else `flips` random ones, and the p-value counts the observed one among them
    (Phipson & Smyth 2010), so it is never 0.

    Args:
        differences: float64 `[papers, columns]`; the columns share their flips.
        flips: Number of random flips.
        seed: One seed gives one result.

    Returns:
        One result a column.
    """
    papers, columns = differences.shape
    observed = differences.sum(axis=0)
    # Sums of the same terms in another order differ in the last digits, and ties count.
    tolerance = 1e-12 * np.abs(differences).sum(axis=0)
    greater, less, two_sided = np.zeros((3, columns))
    total = 0
    for signs in _signs(papers, flips, seed):
        null = signs @ differences
        greater += (null >= observed - tolerance).sum(axis=0)
        less += (null <= observed + tolerance).sum(axis=0)
        two_sided += (np.abs(null) >= np.abs(observed) - tolerance).sum(axis=0)
        total += len(signs)
    extra = 0 if is_exact(papers, flips) else 1
    counts = zip(greater + extra, less + extra, two_sided + extra, strict=True)
    return [SignFlipTest(*(float(c / (total + extra)) for c in column)) for column in counts]


def is_exact(papers: int, flips: int) -> bool:
    """Whether all sign flips of so many papers are made."""
    return papers <= 62 and 2**papers <= flips


def smallest_attainable_p(papers: int, flips: int) -> float:
    """The smallest p-value that a sign-flip test of so many papers can give."""
    return 2.0**-papers if is_exact(papers, flips) else 1 / (flips + 1)


def smallest_detectable_gain(
    standard_error: float, papers: int, *, alpha: float, minimum_gain: float, power: float = POWER
) -> float:
    """The smallest true gain that a test set shows with the given power.

    Args:
        standard_error: Of the gain, paired over papers, in units of the metric.
        papers: Number of papers behind it.
        alpha: Level of the one-sided test.
        minimum_gain: What the gain has to exceed.
        power: Probability of showing it.

    Returns:
        In units of the metric, by the power of the paired t-test (statsmodels).
    """
    from statsmodels.stats.power import TTestPower  # type: ignore[import-untyped]

    effect = TTestPower().solve_power(nobs=papers, alpha=alpha, power=power, alternative="larger")
    return minimum_gain + float(effect) * standard_error * math.sqrt(papers)


def papers_needed(
    gain: float,
    standard_error: float,
    papers: int,
    *,
    alpha: float,
    minimum_gain: float,
    power: float = POWER,
) -> int | None:
    """How many papers of this kind it takes to show a gain with the given power.

    Args:
        gain: The true gain supposed, in units of the metric.
        standard_error: Of the gain over `papers` papers.
        papers: Number of papers behind the standard error.
        alpha: Level of the one-sided test.
        minimum_gain: What the gain has to exceed.
        power: Probability of showing it.

    Returns:
        None where no number of papers would do, as the gain is not above the minimum.
    """
    from scipy.stats import norm

    if gain <= minimum_gain:
        return None
    fewest = math.ceil(math.log2(1 / alpha))
    spread = standard_error * math.sqrt(papers)
    effect = (gain - minimum_gain) / spread if spread else math.inf
    # In closed form (Guenther 1981, within one paper of the t-test from 6 papers on), because
    # the solver of statsmodels does not converge for very small and very large effects.
    normal = float(((norm.isf(alpha) + norm.ppf(power)) / effect) ** 2)
    return max(fewest, math.ceil(normal + float(norm.isf(alpha)) ** 2 / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's method (1979), in the order given."""
    from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def _gradient(totals: Floats, direction: float) -> Floats:
    """Derivative of the gain by each of the four totals, float64 `[rows, 4]`."""
    numerator_a, denominator_a, numerator_b, denominator_b = totals.T
    return direction * np.column_stack(
        [
            1 / denominator_a,
            -numerator_a / denominator_a**2,
            -1 / denominator_b,
            numerator_b / denominator_b**2,
        ]
    )


def _bootstrap_weights(papers: int, samples: int, seed: int) -> Iterator[Floats]:
    """How often each paper is drawn, block by block: float64 `[resamples, papers]`."""
    generator = np.random.default_rng(seed)
    for rows in _blocks(samples, papers):
        drawn = generator.integers(papers, size=(rows, papers))
        cells = (drawn + np.arange(rows)[:, None] * papers).ravel()
        yield np.bincount(cells, minlength=rows * papers).reshape(rows, papers).astype(np.float64)


def _signs(papers: int, flips: int, seed: int) -> Iterator[Floats]:
    """Signs of the papers, block by block: float64 `[flips, papers]`, all of them if few."""
    if is_exact(papers, flips):
        bits = np.arange(2**papers)[:, None] >> np.arange(papers) & 1
        yield 2 * bits.astype(np.float64) - 1
        return
    generator = np.random.default_rng(seed)
    for rows in _blocks(flips, papers):
        bits = generator.integers(0, 2, size=(rows, papers), dtype=np.int8)
        yield 2 * bits.astype(np.float64) - 1


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """Split rows into blocks that keep a matrix within `_CELLS_AT_A_TIME`."""
    at_a_time = max(1, _CELLS_AT_A_TIME // columns)
    for start in range(0, rows, at_a_time):
        yield min(at_a_time, rows - start)
