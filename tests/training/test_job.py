"""What a training says of itself in the end."""

from types import SimpleNamespace

from steps.checkpoints.trainer_state import Progress
from steps.training.job import figures_of


def test_the_best_validation_is_one_after_the_first_step() -> None:
    history = [
        {"step": 0, "eval_bits_per_byte": 1.0},
        {"step": 3, "eval_bits_per_byte": 1.2, "loss": 4.0},
        {"step": 6, "eval_bits_per_byte": 1.1},
    ]
    state = SimpleNamespace(global_step=6, log_history=history)
    figures = figures_of(state, Progress(tokens_seen=10))
    assert figures["validation/bits_per_byte, first"] == 1.0
    assert figures["validation/bits_per_byte, best"] == 1.1
    state.log_history = history[:1]
    assert not any("validation" in name for name in figures_of(state, Progress()))
