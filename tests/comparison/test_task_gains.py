"""Two models on the items of tasks: gains, intervals, guards."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steps.comparison.comparable import EvaluatedModel
from steps.comparison.decision import decide
from steps.comparison.guards import check_guard
from steps.comparison.paired_proportions import score_interval
from steps.comparison.task_gains import task_gains
from steps.config.measurement_sections import Comparison, Guard
from steps.errors import UserError
from tests.support.synthetic_results import make_sides

RULE = Comparison(bootstrap_samples=500, permutations=2000, guards=())


def items_of(right: list[float], task: str = "quiz", contaminated: int = 0) -> pd.DataFrame:
    """Rows of items as an evaluation stores them; the first ones are contaminated."""
    count = len(right)
    return pd.DataFrame(
        {
            "task": task,
            "item_id": [str(n) for n in range(count)],
            "pmid": None,
            "gold": "A",
            "choice": ["A" if one else "B" for one in right],
            "loglikelihoods": [[-1.0, -2.0]] * count,
            "contaminated": [n < contaminated for n in range(count)],
            "too_short": False,
            "cut": False,
            "item_hash": [f"hash of {n}" for n in range(count)],
            "acc": right,
        }
    )


def sides(champion: Any, challenger: Any) -> tuple[EvaluatedModel, EvaluatedModel]:
    held, other = make_sides(papers=20)
    return replace(held, tasks=champion), replace(other, tasks=challenger)


def test_a_gain_is_over_the_items_of_both_and_a_clean_one_over_those_of_neither() -> None:
    before = [1.0, 0.0] * 50
    after = [1.0, 0.0] * 20 + [1.0] * 60
    held = items_of(before, contaminated=10)
    own = items_of(after, contaminated=40).sample(frac=1, random_state=0)
    whole, clean = task_gains(*sides(held, own), RULE)
    assert (whole.metric, clean.metric) == ("task/quiz/acc", "task/quiz/acc_clean")
    assert (whole.champion, whole.challenger, whole.items) == (0.5, 0.8, 100)
    assert (clean.champion, clean.challenger, clean.items) == (0.5, 1.0, 60)
    assert whole.gain == pytest.approx(0.3)
    assert whole.low is not None
    assert whole.high is not None
    assert 0.2 < whole.low < 0.3 < whole.high < 0.4
    assert whole.p_value < 0.001
    assert whole.adjusted_p_value >= whole.p_value


def test_models_that_agree_on_all_items_are_not_shown_to_be_equal() -> None:
    same = items_of([1.0, 0.0] * 20)
    gain, _ = task_gains(*sides(same, same.copy()), RULE)
    assert gain.gain == 0
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < -0.05
    assert gain.high > 0.05


def test_scores_between_right_and_wrong_are_resampled() -> None:
    generator = np.random.default_rng(0)
    before = generator.choice([0.0, 0.5, 1.0], 200)
    after = np.clip(before + generator.choice([0.0, 0.5], 200), 0, 1)
    gain, _ = task_gains(*sides(items_of(list(before)), items_of(list(after))), RULE)
    assert gain.low is not None
    assert gain.high is not None
    assert 0 < gain.low < gain.gain < gain.high


def test_a_guard_holds_fails_or_cannot_be_told_by_its_bounds() -> None:
    before = [1.0] * 120 + [0.0] * 80
    little_worse = [0.0] * 2 + before[2:]
    much_worse = [0.0] * 60 + before[60:]
    guard = Guard(metric="task/quiz/acc", margin=0.05)
    assert guard.direction == "higher_is_better"
    outcomes = {}
    for name, after in (("holds", little_worse), ("fails", much_worse)):
        result = check_guard(guard, *sides(items_of(before), items_of(after)), RULE)
        outcomes[name] = result.outcome
        assert result.papers == 200
        assert "200 items" in result.reason
    assert outcomes == {"holds": "holds", "fails": "fails"}
    few = sides(items_of(before[:10]), items_of(before[:10]))
    assert check_guard(guard, *few, RULE).outcome == "unproven"
    clean = Guard(metric="task/quiz/acc_clean", margin=0.05)
    only_clean = sides(items_of(before, contaminated=60), items_of(much_worse))
    assert check_guard(clean, *only_clean, RULE).outcome == "holds"


def test_a_guard_on_a_task_that_was_not_asked_has_no_data() -> None:
    guard = Guard(metric="task/other/acc", margin=0.05)
    asked = items_of([1.0] * 20)
    result = check_guard(guard, *sides(asked, asked), RULE)
    assert (result.outcome, result.papers) == ("no data", 0)
    assert check_guard(guard, *sides(None, None), RULE).outcome == "no data"


def test_a_failing_guard_on_a_task_keeps_the_champion_whatever_the_gain() -> None:
    guard = Guard(metric="task/quiz/acc", margin=0.05)
    rule = RULE.model_copy(update={"guards": (guard,)})
    worse = sides(items_of([1.0] * 80), items_of([0.0] * 40 + [1.0] * 40))
    decision = decide(*worse, rule)
    assert decision.outcome == "keep"
    assert "guard task/quiz/acc fails: 0.5000 against 1.0000" in decision.reason
    assert [gain.metric for gain in decision.tasks] == ["task/quiz/acc", "task/quiz/acc_clean"]
    json.dumps(asdict(decision), allow_nan=False)


def test_other_items_under_one_name_are_refused() -> None:
    held = items_of([1.0] * 20)
    for other in (items_of([1.0] * 19), held.assign(item_hash=held["item_hash"] + "!")):
        with pytest.raises(UserError, match=r"asked other items of task 'quiz' \(20 and"):
            task_gains(*sides(held, other), RULE)
    # What only one was asked is passed over.
    assert task_gains(*sides(held, items_of([1.0] * 20, task="else")), RULE) == ()


def test_a_task_that_lacks_a_metric_of_another_is_compared_by_its_own() -> None:
    both = pd.concat(
        [items_of([1.0, 0.0] * 10), items_of([1.0, 0.0] * 10, task="second").assign(f=0.5)],
        ignore_index=True,
    )
    names = {gain.metric for gain in task_gains(*sides(both, both), RULE)}
    assert names == {
        *("task/quiz/acc", "task/quiz/acc_clean", "task/second/acc", "task/second/acc_clean"),
        *("task/second/f", "task/second/f_clean"),
    }


def test_the_interval_of_a_difference_is_tangos() -> None:
    """One disagreement among 44 items: Tango (1998), table III, -0.118 to 0.059."""
    assert score_interval(0, 1, 44) == pytest.approx((-0.118, 0.0594), abs=5e-4)
    low, high = score_interval(9, 4, 60)
    assert score_interval(4, 9, 60) == pytest.approx((-high, -low))
    assert score_interval(30, 0, 30)[1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("items", "better", "worse"), [(40, 0.05, 0.05), (40, 0.02, 0.1), (200, 0.1, 0.02)]
)
def test_the_interval_of_a_difference_covers_the_truth(
    items: int, better: float, worse: float
) -> None:
    generator = np.random.default_rng(0)
    draws = generator.multinomial(items, [better, worse, 1 - better - worse], 1000)
    bounds = [score_interval(int(b), int(w), items) for b, w, _ in draws]
    covered = np.mean([low <= better - worse <= high for low, high in bounds])
    assert 0.925 <= covered <= 0.995
