"""Metrics and intervals from rows of papers."""

import math

import numpy as np
import pandas as pd
import pytest

from steps.errors import UserError
from steps.evaluation.summary import (
    facts_gained,
    forgotten,
    join_per_paper,
    summarise,
    with_score_bands,
)


def frame_of(papers, seed=0):
    """Papers of about one bit per byte, with what `score_papers` reports of them."""
    generator = np.random.default_rng(seed)
    size = generator.integers(500, 3000, papers)
    per_byte = generator.normal(1.0, 0.1, papers) * math.log(2)
    return pd.DataFrame(
        {
            "paper_id": [f"p{n}" for n in range(papers)],
            "nats": size * per_byte,
            "bytes": size,
            "tokens": size // 4,
            "words": size // 6,
            "nats_gene": size * per_byte * 0.1,
            "bytes_gene": size // 20,
            "nats_variant": 0.0,
            "bytes_variant": 0,
            "nats_section_title": 40.0,
            "bytes_section_title": 60,
            "score": [None] * papers,
        }
    )


def test_ratios_are_of_sums_and_not_means_of_ratios():
    frame = pd.DataFrame(
        {
            "paper_id": ["a", "b"],
            "nats": [10.0, 300.0],
            "bytes": [100, 300],
            "tokens": [10, 60],
            "words": [5, 50],
        }
    )
    metrics = summarise(frame)
    assert metrics["bits_per_byte"] == pytest.approx(310 / (math.log(2) * 400))
    assert metrics["perplexity"] == pytest.approx(math.exp(310 / 70))
    assert metrics["word_perplexity"] == pytest.approx(math.exp(310 / 55))


def test_strata_and_sections_have_their_own_bits_per_byte():
    metrics = summarise(frame_of(10))
    assert metrics["title_bits_per_byte"] == pytest.approx(40 / (60 * math.log(2)))
    assert metrics["gene_bits_per_byte"] > metrics["bits_per_byte"]


def test_what_no_paper_holds_is_left_out():
    metrics = summarise(frame_of(10))
    assert not [name for name in metrics if name.startswith("variant")]
    assert "mlm_loss" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_seed_gives_one_result_and_another_seed_another():
    frame = frame_of(30)
    assert summarise(frame, seed=3) == summarise(frame, seed=3)
    low = "bits_per_byte_ci_low"
    assert summarise(frame, seed=3)[low] != summarise(frame, seed=4)[low]


def test_intervals_hold_the_estimate_and_narrow_with_the_root_of_the_papers():
    def width(papers):
        metrics = summarise(frame_of(papers))
        low, high = metrics["bits_per_byte_ci_low"], metrics["bits_per_byte_ci_high"]
        assert low < metrics["bits_per_byte"] < high
        return high - low

    assert 0.15 < width(1600) / width(64) < 0.27, "five times narrower was expected"


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = 0
    for seed in range(100):
        metrics = summarise(frame_of(80, seed=seed), seed=seed)
        held += metrics["bits_per_byte_ci_low"] <= 1.0 <= metrics["bits_per_byte_ci_high"]
    assert 87 <= held <= 100, f"{held} of 100 intervals of 95 % held the truth"


@pytest.mark.parametrize(("papers", "reliable"), [(59, 0.0), (60, 1.0)])
def test_sixty_papers_make_intervals_reliable(papers, reliable):
    metrics = summarise(frame_of(papers))
    assert metrics["papers"] == papers
    assert metrics["intervals_reliable"] == reliable


def test_one_paper_has_an_estimate_and_no_interval():
    metrics = summarise(frame_of(1))
    assert "bits_per_byte" in metrics
    assert not [name for name in metrics if "_ci_" in name]


def test_a_rare_stratum_gets_an_interval_from_the_resamples_that_hold_it():
    frame = frame_of(40)
    frame.loc[:1, "nats_variant"] = [5.0, 9.0]
    frame.loc[:1, "bytes_variant"] = [10, 10]
    metrics = summarise(frame)
    assert metrics["variant_bits_per_byte"] == pytest.approx(14 / (20 * math.log(2)))
    assert metrics["variant_bits_per_byte_ci_low"] == pytest.approx(5 / (10 * math.log(2)))


def test_genes_and_cloze_are_summed_over_papers():
    frame = pd.DataFrame(
        {
            "paper_id": ["a", "b"],
            "gene_hits": [2, 0],
            "genes_generated": [3, 1],
            "genes_expected": [2, 2],
            "gene_cloze_items": [3, 1],
            "gene_cloze_hits": [1, 1],
            "gene_cloze_reciprocal_rank": [2.0, 1.0],
            "gene_cloze_chance_sum": [0.3, 0.1],
        }
    )
    metrics = summarise(frame)
    assert metrics["gene_precision"] == pytest.approx(2 / 4)
    assert metrics["gene_recall"] == pytest.approx(2 / 4)
    assert metrics["gene_f1"] == pytest.approx(4 / 8)
    assert metrics["gene_cloze_accuracy"] == pytest.approx(2 / 4)
    assert metrics["gene_cloze_mrr"] == pytest.approx(3 / 4)
    assert metrics["gene_cloze_chance"] == pytest.approx(0.1)
    assert "gene_cloze_chance_ci_low" not in metrics


def test_joined_papers_keep_their_order_and_count_0_where_a_task_lacks_them():
    frame = frame_of(3)
    cloze = pd.DataFrame({"paper_id": ["p2", "p0"], "gene_cloze_items": [4, 2]})
    joined = join_per_paper(frame, cloze)
    assert list(joined["paper_id"]) == ["p0", "p1", "p2"]
    assert list(joined["gene_cloze_items"]) == [2, 0, 4]
    assert joined["score"].isna().all(), "a missing score is missing, not 0"


def test_no_paper_is_refused():
    with pytest.raises(UserError, match="no paper to summarise"):
        summarise(frame_of(2).head(0))


def test_papers_fall_into_bands_by_score_and_those_without_one_into_none():
    frame = frame_of(6).assign(score=[10.0, 59.9, 60.0, 80.0, 120.0, None])
    banded = with_score_bands(frame, (60, 80))
    nats = {name: banded[f"nats_score_{name}"] for name in ("below_60", "60_to_80", "from_80")}
    assert [list(values > 0) for values in nats.values()] == [
        [True, True, False, False, False, False],
        [False, False, True, False, False, False],
        [False, False, False, True, True, False],
    ]
    metrics = summarise(banded)
    low = frame[:2]
    assert metrics["score_below_60_bits_per_byte"] == pytest.approx(
        low["nats"].sum() / (math.log(2) * low["bytes"].sum())
    )
    assert metrics["score_below_60_bits_per_byte_papers"] == 2
    assert with_score_bands(frame, ()).equals(frame)
    assert not [c for c in with_score_bands(frame_of(6), (60, 80)) if "band" in c or "_60" in c]


def test_forgetting_is_the_difference_to_the_base_on_the_same_texts():
    base = frame_of(40)
    worse = base.assign(nats=base["nats"] * 1.05)
    found = forgotten(worse, base)
    expected = 0.05 * base["nats"].sum() / (math.log(2) * base["bytes"].sum())
    assert found["general_bits_per_byte_above_base"] == pytest.approx(expected)
    # Both see the same resamples, so the spread between texts cancels.
    width = (
        found["general_bits_per_byte_above_base_ci_high"]
        - found["general_bits_per_byte_above_base_ci_low"]
    )
    assert 0 < width < 0.01
    assert forgotten(worse, base[:39]) == {}
    assert forgotten(worse, base.assign(bytes=base["bytes"] + 1)) == {}


def asked_for_facts(hits):
    items = [2.0] * len(hits)
    return pd.DataFrame(
        {
            "paper_id": [f"p{n}" for n in range(len(hits))],
            "fact_cloze_items": items,
            "fact_cloze_hits": hits,
        }
    )


def test_facts_gained_are_counted_beside_the_base_and_by_what_was_read():
    base = asked_for_facts([0.0, 1.0] * 20)
    better = asked_for_facts([1.0, 1.0] * 20)
    found = facts_gained(better, base, tokens=4e6)
    assert found["facts_gained_per_million_tokens"] == pytest.approx(20 / 4)
    low, high = (found[f"facts_gained_per_million_tokens_ci_{side}"] for side in ("low", "high"))
    assert 0 < low < 5 < high < 10
    turned = facts_gained(base, better, tokens=4e6)
    assert turned["facts_gained_per_million_tokens"] == pytest.approx(-5)


def test_facts_gained_take_the_same_questions_and_some_training():
    base = asked_for_facts([0.0, 1.0] * 20)
    assert facts_gained(base, base.assign(fact_cloze_items=3.0), tokens=1e6) == {}
    assert facts_gained(base, base[:39], tokens=1e6) == {}
    assert facts_gained(base, base, tokens=0) == {}
    assert facts_gained(base.drop(columns="fact_cloze_hits"), base, tokens=1e6) == {}
