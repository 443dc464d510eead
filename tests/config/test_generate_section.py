"""How a model writes, as a user may ask for it."""

import pytest

from steps.config.file import load_config
from steps.errors import UserError


def test_drawn_samples_may_be_several_and_greedy_ones_not() -> None:
    drawn = load_config(
        "configs/training.yaml",
        "generate.temperature=0.7 generate.top_p=0.9 generate.num_samples=3",
    )
    assert drawn.training.generate.num_samples == 3
    with pytest.raises(UserError, match="num_samples is 3 and generate.temperature is 0"):
        load_config("configs/training.yaml", "generate.num_samples=3")


@pytest.mark.parametrize("wrong", ["top_p=0", "top_p=1.1", "temperature=-1", "max_new_tokens=0"])
def test_what_no_distribution_has_is_refused(wrong: str) -> None:
    with pytest.raises(UserError, match=wrong.partition("=")[0]):
        load_config("configs/training.yaml", f"generate.{wrong}")
