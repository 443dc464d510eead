"""Many runs beside one another: who is held against whom, and what is said of settings."""

from dataclasses import replace

import pytest

from steps.comparison.comparable import EvaluatedModel
from steps.comparison.many_runs import MeasuredBase, base_name, compare_many
from steps.config.measurement_sections import Comparison
from tests.support.compared_runs import better, compared, masked
from tests.support.synthetic_results import make_sides

RULE = Comparison(bootstrap_samples=200, permutations=200)


@pytest.fixture(scope="module")
def plain() -> EvaluatedModel:
    """A model's results on 80 papers."""
    return make_sides()[0]


def test_runs_are_ranked_the_best_first_beside_their_base(plain: EvaluatedModel) -> None:
    runs = [compared("a", better(plain, 0.1)), compared("b", better(plain, 0.2))]
    base = MeasuredBase(replace(plain, name=base_name("tiny"), version="base"), "")
    comparison = compare_many([*runs, compared("c", None)], [base], RULE)
    assert [run.name for run in comparison.runs] == ["b", "a", "c"]
    (group,) = comparison.groups
    assert [model.name for model in group.models] == ["b", "a", "base tiny"]
    pair = group.pair("a", "base tiny")
    assert pair is not None and pair.better == "a" and pair.gain == pytest.approx(0.1, rel=0.05)
    assert comparison.base_of(runs[0]) == "base tiny"
    assert dict(comparison.not_compared) == {"c": "it has no results on a test split"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dataset_digest": "sha256:bb"}, "dataset digest"),
        ({"metric_version": "0"}, "metric version"),
        ({"trained": "it was trained on 3 of these papers"}, "trained on 3"),
    ],
)
def test_what_was_measured_otherwise_is_set_apart_with_the_reason(
    plain: EvaluatedModel, changes: dict[str, str], why: str
) -> None:
    alike = [compared("a", plain), compared("b", better(plain, 0.1))]
    other = compared("c", replace(better(plain, 0.3), **changes))
    comparison = compare_many([*alike, other], [], RULE)
    assert {model.name for model in comparison.groups[0].models} == {"a", "b"}
    assert why in dict(comparison.not_compared)["c"]


def test_a_masked_model_is_never_held_against_a_causal_one(plain: EvaluatedModel) -> None:
    runs = [
        compared("causal", plain),
        compared("also causal", better(plain, 0.1)),
        compared("masked", masked(plain), objective="masked"),
    ]
    comparison = compare_many(runs, [], RULE)
    assert [group.objective for group in comparison.groups] == ["causal", "masked"]
    assert "their metrics do not mean the same" in dict(comparison.not_compared)["masked"]


def test_another_context_is_another_measurement(plain: EvaluatedModel) -> None:
    runs = [compared("a", plain), compared("b", better(plain, 0.1), scored_with="other")]
    comparison = compare_many(runs, [], RULE)
    assert len(comparison.groups) == 2
    assert "evaluation.context" in comparison.not_compared[0][1]


def test_effects_take_three_runs_and_name_what_changed_together(plain: EvaluatedModel) -> None:
    settings = [
        {"qlora.r": "4", "scheduler.type": "cosine", "seed": "1"},
        {"qlora.r": "8", "scheduler.type": "linear", "seed": "1"},
        {"qlora.r": "8", "scheduler.type": "linear", "seed": "1"},
    ]
    gains = (0.0, 0.1, 0.2)
    runs = [
        compared(str(gain), better(plain, gain), settings=given)
        for gain, given in zip(gains, settings, strict=True)
    ]
    assert compare_many(runs[:2], [], RULE).effects == ()
    comparison = compare_many(runs, [], RULE)
    assert set(comparison.settings) == {"qlora.r", "scheduler.type"}
    assert [set(keys) for keys in comparison.bound] == [{"qlora.r", "scheduler.type"}]
    levels = {
        (effect.setting, effect.value): effect
        for effect in comparison.effects
        if effect.metric == "test/bits_per_byte"
    }
    alone, both = levels["qlora.r", "4"], levels["qlora.r", "8"]
    assert (alone.runs, alone.low) == (1, None)
    assert both.runs == 2 and both.low is not None and both.high is not None
    assert both.low < both.mean < both.high
    values = comparison.groups[0].values
    assert both.mean == pytest.approx((values["0.1"] + values["0.2"]) / 2)


def test_the_pairs_of_many_models_are_those_of_few(
    plain: EvaluatedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [compared(str(n), better(plain, n / 100)) for n in range(4)]
    whole = compare_many(runs, [], RULE).groups[0].ranking
    monkeypatch.setattr("steps.comparison.ranking.TABLES_AT_A_TIME", 3)
    assert compare_many(runs, [], RULE).groups[0].ranking == whole
