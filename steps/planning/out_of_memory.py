"""Out of memory in the middle of a training run: one line with the setting that fits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from steps.config.sections import Training
from steps.errors import UserError
from steps.models.devices import Placement
from steps.models.loading import objective_of
from steps.planning.models import model_from_config
from steps.planning.plan import GIB, plan_memory
from steps.planning.suggestions import in_words, suggestions

# The plan was exceeded, so what is suggested has to stay well below it.
SHARE_TO_STAY_BELOW = 0.8


class OutOfMemory(UserError):
    """An allocation failed while training."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation, of the GPU or of the host.

    On a CPU torch raises a plain RuntimeError, which only its words tell from a bug.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextmanager
def stopping_when_out_of_memory(
    training: Training,
    model: Any,
    *,
    micro_batch: int,
    placement: Placement,
) -> Iterator[None]:
    """Turn a failed allocation into one line: what was planned, and what to set.

    Args:
        training: The configuration.
        model: The `PreTrainedModel`, for its configuration.
        micro_batch: Rows of one forward pass.
        placement: Where the training runs.

    Raises:
        OutOfMemory: An allocation failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        what = str(error).strip().partition("\n")[0].rstrip(".") or "an allocation failed"
        raise OutOfMemory(
            f"out of memory while training with {micro_batch} x {training.model.max_length} "
            f"tokens: {what}. {_what_to_set(training, model, micro_batch, placement)}"
        ) from None


def _what_to_set(training: Training, model: Any, micro_batch: int, placement: Placement) -> str:
    try:
        to_plan = model_from_config(
            model.config.to_dict(), training.model.name, objective_of(model)
        )
    except UserError:
        return (
            "Lower training.hyperparameters.batch_size or training.model.max_length; this "
            "architecture cannot be planned"
        )
    length = training.model.max_length
    plan = plan_memory(
        to_plan, training, micro_batch=micro_batch, length=length, placement=placement
    )
    found = suggestions(
        to_plan,
        training,
        int(SHARE_TO_STAY_BELOW * plan.total),
        micro_batch=micro_batch,
        length=length,
        placement=placement,
    )
    return (
        f"The plan was {plan.total / GIB:.3f} GiB (peak in the {plan.moment}); something else may "
        f"hold memory. {in_words(found)}"
    )
