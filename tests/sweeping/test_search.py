"""The search: the same seed and answers give the same proposals."""

from typing import Any

import pytest

from steps.config.sweep_section import Sweep
from steps.sweeping.search import Search
from steps.sweeping.space import Numbers, Space

SPACE = Space(
    {
        "qlora.r": [4, 8, 16],
        "qlora.target_modules": ["all-linear", ["q_proj"]],
        "hyperparameters.learning_rate": Numbers(
            1e-5, 1e-2, log=True, step=None, is_integral=False
        ),
        "hyperparameters.warmup_steps": Numbers(0, 40, log=False, step=10, is_integral=True),
    }
)


def proposed(trials: int, **settings: Any) -> list[dict[str, Any]]:
    """What a search proposes that is answered by the learning rate; every fifth trial fails."""
    search = Search(Sweep(**settings), SPACE, higher_is_better=False)
    found = []
    for number in range(trials):
        proposal = search.ask()
        assert proposal is not None
        found.append(dict(proposal.values))
        if number % 5 == 4:
            search.tell(proposal, "failed")
        else:
            search.tell(proposal, "complete", proposal.values["hyperparameters.learning_rate"])
    return found


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_seed_gives_the_same_trials_and_another_one_others(method: str) -> None:
    first = proposed(20, method=method, seed=3)
    assert first == proposed(20, method=method, seed=3)
    assert first != proposed(20, method=method, seed=4)
    for values in first:
        assert values["qlora.r"] in (4, 8, 16)
        assert values["qlora.target_modules"] in ("all-linear", ["q_proj"])
        assert 1e-5 <= values["hyperparameters.learning_rate"] <= 1e-2
        assert values["hyperparameters.warmup_steps"] in (0, 10, 20, 30, 40)


def test_tpe_draws_where_trials_were_good() -> None:
    rates = [v["hyperparameters.learning_rate"] for v in proposed(60, method="tpe")]
    drawn = [v["hyperparameters.learning_rate"] for v in proposed(60, method="random")]
    assert sorted(rates[20:])[20] < sorted(drawn[20:])[20]


def test_a_grid_ends() -> None:
    space = Space({"a.b": [1, None], "a.c": ["x", [1, 2]]})
    search = Search(Sweep(method="grid"), space, higher_is_better=True)
    found = []
    while (proposal := search.ask()) is not None:
        found.append(dict(proposal.values))
        search.tell(proposal, "complete", 1.0)
    assert found == list(space.grid())
    assert len(found) == 4


@pytest.mark.parametrize("higher_is_better", [False, True])
def test_the_median_ends_what_validates_worse(higher_is_better: bool) -> None:
    sweep = Sweep(method="random", pruner="median", startup_trials=2)
    search = Search(sweep, SPACE, higher_is_better=higher_is_better)
    sign = -1 if higher_is_better else 1
    for level in (1.0, 2.0):
        good = search.ask()
        assert good is not None
        assert not any(search.report(good, sign * value) for value in (level + 1, level))
        search.tell(good, "complete", sign * level)
    bad, better = search.ask(), search.ask()
    assert bad is not None
    assert better is not None
    assert search.report(bad, sign * 9.0)
    assert not search.report(better, sign * 2.0)
    search.tell(bad, "stopped")
    search.tell(better, "failed")
    assert [trial.state.name for trial in search.study.trials[2:]] == ["PRUNED", "FAIL"]
    assert search.study.trials[2].value == sign * 9.0


def test_importance_is_left_out_for_few_trials_and_finds_what_matters() -> None:
    search = Search(Sweep(method="random"), SPACE, higher_is_better=False)
    for _ in range(40):
        assert bool(search.importance()) == (len(search.study.trials) >= 8)
        proposal = search.ask()
        assert proposal is not None
        search.tell(proposal, "complete", float(proposal.values["qlora.r"]))
    shares = search.importance()
    assert max(shares, key=lambda key: shares[key]) == "qlora.r"
    assert sum(shares.values()) == pytest.approx(1)
