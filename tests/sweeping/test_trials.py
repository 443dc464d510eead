"""How trials rank."""

from steps.sweeping.trials import Objective, Trial, in_words, ranked, winner_of

VALUES = {"qlora.r": 8}
TRIALS = [
    Trial(0, VALUES, "failed"),
    Trial(1, VALUES, "stopped", 0.5),
    Trial(2, VALUES, "complete", 3.0),
    Trial(3, VALUES, "complete", 2.0),
    Trial(4, VALUES, "complete", 2.0),
]


def test_whole_trials_come_first_and_of_equals_the_earlier_one() -> None:
    lower, higher = Objective("validation/loss", False), Objective("validation/accuracy", True)
    assert [trial.number for trial in ranked(TRIALS, lower)] == [3, 4, 2, 1, 0]
    assert [trial.number for trial in ranked(TRIALS, higher)] == [2, 3, 4, 1, 0]


def test_only_a_trial_that_reached_its_end_wins() -> None:
    lower = Objective("validation/loss", False)
    winner = winner_of(TRIALS, lower)
    assert winner is not None
    assert winner.number == 3
    assert winner_of(TRIALS[:2], lower) is None
    assert winner_of([], lower) is None


def test_a_trial_counts_by_the_weights_that_it_ends_on() -> None:
    history = [3.0, 1.0, 2.0]
    assert Objective("m", False).value_of(history, keeps_best=True) == 1.0
    assert Objective("m", True).value_of(history, keeps_best=True) == 3.0
    assert Objective("m", False).value_of(history, keeps_best=False) == 2.0


def test_values_are_named_by_their_last_part_where_that_is_enough() -> None:
    assert in_words({"qlora.r": 8, "hyperparameters.learning_rate": 0.000123456}) == (
        "r=8, learning_rate=0.0001235"
    )
    assert in_words({"optimizer.type": "muon", "scheduler.type": None}) == (
        "optimizer.type=muon, scheduler.type=null"
    )
