"""Models that are built without content, whatever a training in this process has set up."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Build models in the block that have sizes and no content.

    Once a training under ZeRO-3 has begun, transformers would share out the weights of each model
    that is built, and fails on those that have none; inside the block it takes that for done.
    """
    import torch
    from transformers.modeling_utils import set_zero3_state

    with torch.device("meta"), set_zero3_state():
        yield
