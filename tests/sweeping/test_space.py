"""What a sweep may try: every value is held against the configuration before anything trains."""

from pathlib import Path

import pytest

from steps.config.file import LoadedConfig, load_config
from steps.errors import UserError
from steps.sweeping.space import Numbers, checked_space, trial_overrides
from tests.support.project import ROOT

SECTIONS = ("model", "qlora", "masking", "hyperparameters", "optimizer", "logging")
QUICK = "logging.eval_steps=3 qlora.method=lora"
RANK_AND_RATE = """
    parameters:
      qlora.r: [8, 16]
      hyperparameters.learning_rate: {low: 1e-5, high: 1e-3, log: true}
    trials: 3
"""


def loaded(folder: Path, sweep: str, overrides: str = "") -> LoadedConfig:
    """The demo's configuration with a section `sweep`."""
    file = folder / "swept.yaml"
    demo = ROOT / "configs" / "demo.yaml"
    file.write_text(f"extends: {demo}\ntraining:\n  sweep:{sweep}", encoding="utf-8")
    return load_config(file, f"{QUICK} {overrides}")


def refusal(folder: Path, sweep: str, overrides: str = "") -> str:
    """What is said against a sweep."""
    with pytest.raises(UserError) as caught:
        checked_space(loaded(folder, sweep, overrides), SECTIONS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_candidates_and_ranges_are_taken_as_the_configuration_types_them(tmp_path: Path) -> None:
    sweep = """
    parameters:
      qlora.target_modules: [all-linear, [q_proj, v_proj]]
      qlora.r: {low: 4, high: 64, log: true}
      hyperparameters.warmup_steps: {low: 0, high: 45, step: 10}
      hyperparameters.weight_decay: {low: 0, high: 1}
      hyperparameters.learning_rate: {low: 1e-5, high: 1e-3, log: true}
    trials: 3
"""
    space = checked_space(loaded(tmp_path, sweep), SECTIONS)
    assert space.parameters == {
        "qlora.target_modules": ["all-linear", ["q_proj", "v_proj"]],
        "qlora.r": Numbers(4, 64, log=True, step=1, is_integral=True),
        # No step reaches 45.
        "hyperparameters.warmup_steps": Numbers(0, 40, log=False, step=10, is_integral=True),
        # Written as whole numbers, but the key takes others.
        "hyperparameters.weight_decay": Numbers(0, 1, log=False, step=None, is_integral=False),
        "hyperparameters.learning_rate": Numbers(
            1e-5, 1e-3, log=True, step=None, is_integral=False
        ),
    }
    assert space.size is None


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    sweep = """
    method: grid
    parameters:
      qlora.r: [8, 16]
      hyperparameters.learning_rate: {low: 0.1, high: 0.35, step: 0.1}
"""
    space = checked_space(loaded(tmp_path, sweep), SECTIONS)
    assert space.size == 6
    assert [tuple(values.values()) for values in space.grid()] == [
        (8, 0.1), (8, 0.2), (8, 0.3), (16, 0.1), (16, 0.2), (16, 0.3),
    ]  # fmt: skip


def test_overrides_reach_the_parameters_too(tmp_path: Path) -> None:
    one = loaded(tmp_path, RANK_AND_RATE, "sweep.parameters.qlora.r=[4,2] sweep.trials=9")
    assert one.training.sweep.parameters["qlora.r"] == (4, 2)
    none = loaded(tmp_path, RANK_AND_RATE, "sweep.parameters.qlora.r=null")
    assert list(none.training.sweep.parameters) == ["hyperparameters.learning_rate"]


def test_what_a_trial_is_started_with_gives_its_values_and_no_variant(tmp_path: Path) -> None:
    values = {
        "qlora.r": 8,
        "qlora.target_modules": ["q_proj", "v_proj"],
        "hyperparameters.learning_rate": 1.25e-05,
    }
    given = loaded(tmp_path, RANK_AND_RATE)
    training = load_config(given.path, trial_overrides(given, values)).training
    assert training.qlora.r == 8
    assert training.qlora.target_modules == ("q_proj", "v_proj")
    assert training.hyperparameters.learning_rate == 1.25e-05
    assert training.variants == {"default": {}}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("{qlora.rank: [8]}", "unknown key training.qlora.rank; did you mean training.qlora.r?"),
        ("{qlora.r: [8, -1]}", "training.qlora.r is -1, expected greater than 0"),
        ("{qlora.r: [eight]}", 'training.qlora.r is "eight", expected a valid integer'),
        ("{qlora.r: [8, 8]}", "holds 8 twice"),
        ("{qlora.r: []}", "sweep.parameters.qlora.r is an empty list"),
        ("{qlora.r: 8}", "sweep.parameters.qlora.r is 8: give a list of candidates"),
        ("{qlora.r: {low: 4}}", "high is None, expected a number"),
        ("{qlora.r: {low: 8, high: 4}}", "low is 8, which has to be below high (4)"),
        ("{qlora.r: {low: 4, high: 8, lgo: true}}", "a range has low, high, log, step, not 'lgo'"),
        ("{qlora.r: {low: 4, high: 8, step: 5}}", "step is 5"),
        ("{qlora.r: {low: 4.0, high: 8.0}}", "takes whole numbers alone"),
        ("{optimizer.epsilon: {low: 0, high: 1, log: true}}", "has to be above 0"),
        ("{masking.probability: {low: 0.1, high: 1.5}}", "is 1.5, expected less than 1"),
        ("{evaluation.seed: [1, 2]}", "evaluation.seed, which a training does not read"),
        ("{model.name: [a, b]}", "the trials of a sweep train one base"),
        ("{logging.eval_strategy: [steps]}", "by which trials are ranked"),
        ("{qlora: [{r: 8}], qlora.r: [8]}", "names qlora and qlora.r, which is a part of it"),
        ("{}", "training.sweep.parameters is empty"),
    ],
)
def test_a_value_that_no_training_takes_is_one_line(
    tmp_path: Path, parameters: str, words: str
) -> None:
    assert words in refusal(tmp_path, f"\n    trials: 2\n    parameters: {parameters}\n")


def test_combinations_that_the_configuration_refuses_are_found(tmp_path: Path) -> None:
    said = refusal(
        tmp_path,
        """
    trials: 2
    parameters:
      qlora.initialization: [default, pissa]
      hyperparameters.weight_decay: [0.0, 0.1]
""",
    )
    assert "swept.yaml, training.sweep.parameters: hyperparameters.weight_decay is 0.1" in said


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("sweep.method=grid", "learning_rate is a range without end"),
        ("sweep.trials=null", "'tpe', which has no end of its own"),
        ("logging.eval_strategy=no", "eval_strategy is 'no'"),
        ("logging.eval_steps=50", "eval_steps is 50 and hyperparameters.max_steps 6"),
        (
            "sweep.pruner=median sweep.parameters.hyperparameters.batch_size=[1,2]",
            "hyperparameters.batch_size moves those",
        ),
    ],
)
def test_a_search_without_end_or_without_a_measure_is_one_line(
    tmp_path: Path, overrides: str, words: str
) -> None:
    assert words in refusal(tmp_path, RANK_AND_RATE, overrides)
