"""Whether a model is as sure of its choices as it is often right."""

import numpy as np
import pandas as pd
import pytest

from steps.evaluation.calibration import (
    BINS,
    calibration,
    expected_calibration_error,
    first_choices,
    reliability,
)

MANY = {"seed": 0, "resamples": 200}


def choices(confidences, right, papers=40):
    """Two candidates an item, the first choice with this confidence."""
    rows = []
    for number, (confidence, hit) in enumerate(zip(confidences, right, strict=True)):
        chosen, other = -np.log(confidence), -np.log(1 - confidence)
        rows.append(
            {
                "paper_id": f"paper{number % papers}",
                "nats": [chosen, other] if hit else [other, chosen],
                "rank": 1 if hit else 2,
            }
        )
    return pd.DataFrame(rows)


def drawn(items, over_confident=0.0):
    """Confidences, and hits that are as frequent less so much."""
    generator = np.random.default_rng(1)
    confidences = generator.uniform(0.55, 0.95, items)
    return confidences, generator.random(items) < confidences - over_confident


def test_confidence_is_the_softmax_of_the_log_likelihoods():
    frame = pd.DataFrame({"nats": [[2.0, 3.0, 4.0], [900.0, 900.0]], "rank": [1, 2]})
    confidences, right = first_choices(frame)
    expected = np.exp(-2.0) / np.exp([-2.0, -3.0, -4.0]).sum()
    assert confidences == pytest.approx([expected, 0.5])
    assert right.tolist() == [1, 0]


def test_the_error_is_the_mean_distance_of_the_bins():
    confidences = np.array([0.2] * 5 + [0.9] * 15)
    right = np.array([1, 0, 0, 0, 0] + [1] * 6 + [0] * 9, dtype=float)
    # Of 20 items there are four bins of five: |0.2 - 0.2|, and 0.9 against 1, 0.2 and 0.
    expected = (0 + 0.1 + 0.7 + 0.9) / 4
    assert expected_calibration_error(confidences, right) == pytest.approx(expected)


def test_the_order_of_items_changes_nothing():
    confidences, right = drawn(200)
    turned = np.argsort(-confidences)
    right = right.astype(float)
    error = expected_calibration_error(confidences, right)
    assert error == pytest.approx(expected_calibration_error(confidences[turned], right[turned]))
    assert error != pytest.approx(expected_calibration_error(confidences, right[turned]))


def test_bins_hold_equally_many_items():
    confidences, right = drawn(205)
    sizes = [each.items for each in reliability(confidences, right.astype(float))]
    assert len(sizes) == BINS
    assert sum(sizes) == 205
    assert max(sizes) - min(sizes) <= 1


def test_a_model_that_is_too_sure_is_found_out_and_a_calibrated_one_is_not():
    calibrated = calibration(choices(*drawn(2000)), "gene_cloze", **MANY)
    assert calibrated["gene_cloze_ece"] == pytest.approx(
        calibrated["gene_cloze_ece_if_calibrated"], abs=0.02
    )
    too_sure = calibration(choices(*drawn(2000, 0.3)), "gene_cloze", **MANY)
    assert too_sure["gene_cloze_ece"] == pytest.approx(0.3, abs=0.04)
    assert too_sure["gene_cloze_ece_ci_low"] > calibrated["gene_cloze_ece_ci_high"]


def test_the_interval_holds_the_error_and_one_seed_gives_one_result():
    frame = choices(*drawn(200, 0.2))
    metrics = calibration(frame, "gene_cloze", **MANY)
    assert (
        metrics["gene_cloze_ece_ci_low"]
        < metrics["gene_cloze_ece"]
        < metrics["gene_cloze_ece_ci_high"]
    )
    assert metrics == calibration(frame, "gene_cloze", **MANY)


def test_items_that_a_resample_repeats_do_not_move_the_interval():
    metrics = calibration(choices(*drawn(80)), "gene_cloze", **MANY)
    low, high = metrics["gene_cloze_ece_ci_low"], metrics["gene_cloze_ece_ci_high"]
    assert (low + high) / 2 == pytest.approx(metrics["gene_cloze_ece"], abs=0.15 * (high - low))


def test_one_paper_has_no_interval():
    metrics = calibration(choices(*drawn(20), papers=1), "gene_cloze", **MANY)
    assert set(metrics) == {"gene_cloze_ece", "gene_cloze_ece_if_calibrated"}
