"""The statistics against scipy, against closed forms, and at their edges."""

import math
from typing import Literal

import numpy as np
import pytest
from scipy import stats

from steps.comparison.statistics import (
    RatioTable,
    bootstrap_gains,
    columns_of,
    holm,
    metrics_beside,
    papers_needed,
    ratio_metric,
    ratio_table,
    sign_flip_tests,
    smallest_attainable_p,
    smallest_detectable_gain,
)
from tests.support.synthetic_results import frame_of_papers

LN2 = math.log(2)


def table_of(papers: int, gain: float = 0.01, seed: int = 0) -> RatioTable:
    """Bits per byte of made-up papers."""
    return ratio_table(*frame_of_papers(papers, gain, 0.01, seed), "bits_per_byte")


def test_a_gain_is_the_difference_of_ratios_of_sums_not_the_mean_over_papers() -> None:
    """A long paper weighs more."""
    values = np.array([[100.0, 100.0, 50.0, 100.0], [900.0, 1000.0, 900.0, 1000.0]])
    table = RatioTable(values, 1 / LN2)
    assert table.gain == pytest.approx(50 / 1100 / LN2)
    assert table.ratios == pytest.approx((1000 / 1100 / LN2, 950 / 1100 / LN2))


def test_where_more_is_better_a_higher_challenger_gains() -> None:
    """Accuracy is turned the other way than a loss."""
    champion, challenger = frame_of_papers(50, 0.0, 0.01)
    table = ratio_table(champion, challenger, "gene_cloze_accuracy")
    items = champion["gene_cloze_items"].sum()
    extra = challenger["gene_cloze_hits"].sum() - champion["gene_cloze_hits"].sum()
    assert table.gain == pytest.approx(extra / items)
    assert table.gain > 0


def test_the_linearised_standard_error_is_that_of_the_bootstrap() -> None:
    """Also where the two sides divide by different totals, as generated shares do."""
    generator = np.random.default_rng(0)
    items = generator.integers(5, 40, (400, 2))
    hits = generator.binomial(items, [0.3, 0.2])
    values = np.column_stack([hits[:, 0], items[:, 0], hits[:, 1], items[:, 1]])
    table = RatioTable(values.astype(np.float64))
    reference = stats.bootstrap(
        tuple(table.values.T),
        lambda a, b, c, d, axis=-1: a.sum(axis) / b.sum(axis) - c.sum(axis) / d.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=5000,
        method="percentile",
        rng=generator,
    )
    assert table.standard_error == pytest.approx(reference.standard_error, rel=0.05)


def test_the_studentised_interval_lies_close_to_scipys_bca_for_many_papers() -> None:
    """Both are second-order correct, so they meet."""
    table = table_of(400)
    ours = bootstrap_gains([table], samples=5000, seed=0)[0].interval(0.95)
    theirs = stats.bootstrap(
        (table.values[:, 0] - table.values[:, 2], table.values[:, 1]),
        lambda nats, size, axis=-1: nats.sum(axis) / size.sum(axis) / LN2,
        paired=True,
        vectorized=True,
        n_resamples=5000,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.15 * table.standard_error)


def test_tables_resampled_together_give_what_each_gives_alone() -> None:
    """One set of resamples serves all metrics."""
    tables = [table_of(30), table_of(30, seed=5)]
    together = bootstrap_gains(tables, samples=300, seed=3)
    for table, boot in zip(tables, together, strict=True):
        alone = bootstrap_gains([table], samples=300, seed=3)[0]
        np.testing.assert_allclose(boot.t_values, alone.t_values, rtol=1e-6)


def test_a_p_value_and_the_interval_agree() -> None:
    """The one-sided p at a bound of the 90 % interval is 5 %."""
    boot = bootstrap_gains([table_of(100)], samples=4000, seed=0)[0]
    interval = boot.interval(0.90)
    assert interval is not None
    assert boot.p_not_above(interval[0]) == pytest.approx(0.05, abs=0.002)
    assert boot.p_not_below(interval[1]) == pytest.approx(0.05, abs=0.002)


def test_two_papers_give_no_interval_but_no_error() -> None:
    """Half of the resamples hold one paper twice and have no spread."""
    boot = bootstrap_gains([table_of(2)], samples=500, seed=0)[0]
    assert boot.interval(0.95) is None
    assert 0 < boot.p_not_above(0.0) <= 1


def test_equal_sides_have_an_interval_of_no_width_at_zero() -> None:
    """No spread is no reason for a division by zero."""
    frame, _ = frame_of_papers(20, 0.0, 0.01)
    boot = bootstrap_gains([ratio_table(frame, frame, "bits_per_byte")], samples=200, seed=0)[0]
    assert boot.interval(0.95) == (0.0, 0.0)
    assert boot.p_not_above(0.0) == 1.0
    assert boot.p_not_below(0.001) == pytest.approx(1 / 201)


def test_a_rare_stratum_survives_resamples_that_do_not_draw_it() -> None:
    """Those resamples are left out instead of dividing by zero."""
    values = np.zeros((30, 4))
    values[:3] = [[10, 12, 9, 12], [20, 21, 18, 21], [8, 9, 8, 9]]
    table = RatioTable(values, 1 / LN2)
    boot = bootstrap_gains([table], samples=500, seed=0)[0]
    assert table.carrying == 3
    assert 0 < len(boot.t_values) < 500
    assert not np.isnan(boot.t_values).any()


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_few_papers_are_tested_exactly_as_scipy_does(
    alternative: Literal["greater", "less", "two-sided"],
) -> None:
    """All 2^n sign flips."""
    differences = np.random.default_rng(1).standard_t(3, 10) + 0.4
    ours = sign_flip_tests(differences[:, None], flips=20_000, seed=0)[0]
    theirs = stats.permutation_test(
        (differences,),
        lambda x: float(x.sum()),
        permutation_type="samples",
        alternative=alternative,
    )
    assert getattr(ours, alternative.replace("-", "_")) == pytest.approx(theirs.pvalue)


def test_many_papers_are_tested_by_random_flips_close_to_scipys() -> None:
    """Within three standard errors of a p-value from 20,000 flips."""
    differences = np.random.default_rng(2).standard_t(3, 60) + 0.25
    ours = sign_flip_tests(differences[:, None], flips=20_000, seed=0)[0].greater
    theirs = stats.permutation_test(
        (differences,),
        lambda x, axis: x.sum(axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).pvalue
    assert ours == pytest.approx(theirs, abs=3 * math.sqrt(2 * theirs / 20_000))


def test_the_shifted_differences_test_the_recomputed_ratio() -> None:
    """Their sum is (gain - minimum) times all bytes, whatever the minimum."""
    table = table_of(40)
    for minimum in (0.0, 0.002, 0.05):
        assert table.differences(minimum).sum() == pytest.approx(
            (table.gain - minimum) * table.values[:, 1].sum()
        )


def test_a_tie_between_flips_counts_despite_rounding() -> None:
    """Two equal papers of opposite sign give p = 3/4, not 1/2."""
    test = sign_flip_tests(np.array([[0.1], [-0.1]]), flips=100, seed=0)[0]
    assert (test.greater, test.less, test.two_sided) == (0.75, 0.75, 1.0)


def test_the_smallest_p_value_is_reached_where_all_papers_agree() -> None:
    """2^-n for few papers, one in flips + 1 for many."""
    for papers in (4, 12, 40):
        reached = sign_flip_tests(np.ones((papers, 1)), flips=5000, seed=0)[0].greater
        assert reached == pytest.approx(smallest_attainable_p(papers, 5000))
    assert smallest_attainable_p(4, 5000) == 1 / 16


def test_papers_needed_and_detectable_gain_are_inverse() -> None:
    """So many papers as a gain needs show just that gain."""
    per_paper = 0.02
    needed = papers_needed(0.008, per_paper, 1, alpha=0.05, minimum_gain=0.002)
    assert needed is not None
    shown = smallest_detectable_gain(
        per_paper / math.sqrt(needed), needed, alpha=0.05, minimum_gain=0.002
    )
    assert shown == pytest.approx(0.008, rel=0.01)


@pytest.mark.parametrize("gain", [1e-5, 3e-4, 0.001, 0.02, 0.05, 3.0])
def test_papers_needed_have_the_power_asked_for_at_any_effect(gain: float) -> None:
    """Where solvers give up too: from 25 million papers to five."""
    needed = papers_needed(gain, 0.02, 1, alpha=0.05, minimum_gain=0.0)
    assert needed is not None
    freedom, shift = needed - 1, gain / 0.02 * math.sqrt(needed)
    reached = stats.norm.sf(stats.t.isf(0.05, freedom) - shift)
    assert reached >= 0.79
    if needed > 5:
        assert reached <= 0.85


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("papers", [2, 3, 6, 60, 5_000, 1_000_000])
def test_the_detectable_gain_is_found_for_any_number_of_papers(papers: int) -> None:
    """It is finite, and above the minimum."""
    gain = smallest_detectable_gain(0.001, papers, alpha=0.05, minimum_gain=0.002)
    assert 0.002 + 0.002 < gain < 0.02


def test_no_number_of_papers_shows_a_gain_below_the_minimum() -> None:
    """And an enormous gain takes as many as a p-value below alpha takes."""
    assert papers_needed(0.002, 0.01, 20, alpha=0.05, minimum_gain=0.002) is None
    assert papers_needed(9.0, 0.01, 20, alpha=0.05, minimum_gain=0.002) == 5
    assert papers_needed(9.0, 0.0, 20, alpha=0.05, minimum_gain=0.002) == 5


def test_papers_of_one_length_count_fully_and_one_giant_counts_for_all() -> None:
    """Kish's effective sample size at its two ends."""
    equal = RatioTable(np.tile([5.0, 10.0, 5.0, 10.0], (12, 1)))
    assert equal.effective_papers == pytest.approx(12)
    values = equal.values.copy()
    values[0, 1] = 1e6
    assert RatioTable(values).effective_papers == pytest.approx(1, abs=0.01)


def test_metric_names_lead_to_their_columns() -> None:
    """As the evaluation names metrics and columns."""
    assert columns_of("gene_bits_per_byte").numerator == "nats_gene"
    assert columns_of("methods_bits_per_byte").denominator == "bytes_section_methods"
    assert columns_of("pseudo_bits_per_byte").numerator == "pseudo_nats"
    assert columns_of("mlm_loss").scale == 1
    assert columns_of("memorised_share").denominator == "generated_tokens"
    assert ratio_metric("perplexity") is None


def test_beside_the_primary_metric_stand_its_parts_and_the_cloze_tests() -> None:
    """A stratum without a byte is no metric."""
    frame, _ = frame_of_papers(20, 0.0, 0.01)
    frame["bytes_number"] = frame["nats_number"] = 0.0
    assert metrics_beside(frame, "bits_per_byte") == [
        "gene_bits_per_byte",
        "variant_bits_per_byte",
        "abstract_bits_per_byte",
        "methods_bits_per_byte",
        "gene_cloze_accuracy",
    ]


def test_holm_keeps_the_order_given() -> None:
    """The smallest p-value is multiplied by their number."""
    assert holm([0.04, 0.01, 0.5]) == pytest.approx([0.08, 0.03, 0.5])
    assert holm([]) == []
