"""What decides the size of a training step, and bytes of packed weights and optimiser states."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from steps.models.devices import Device, NumberFormat

PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "reserve")

# bitsandbytes: weights to a first-level block, blocks to a second-level one, 8-bit optimiser
# block, and the tensor size below which an 8-bit optimiser keeps its moments in float32.
NF4_BLOCK = 64
NF4_NESTED_BLOCK = 256
OPTIMIZER_BLOCK = 256
OPTIMIZER_MIN_8BIT = 4096


@dataclass(frozen=True)
class StepSettings:
    """What of the configuration and the batch decides memory.

    Attributes:
        qlora: The section `qlora`, as JSON (a frozen model with tuples cannot be hashed by value).
        checkpointing: Activations are computed again in the backward pass.
        offloads: Inputs of the checkpointed layers wait in host memory.
        accumulates: Gradients of earlier micro-batches stand when one begins.
        dtype: Number format of the computation.
        device: "cpu" or "cuda".
        rows: Rows of a micro-batch.
        length: Tokens of a row.
        masked_share: Share of the tokens that a masked model restores.
        new_tokens: Tokens that the vocabulary gets, whose rows are trained.
        fused: Adapted layers may be one function each (see `steps.models.fused`).
    """

    qlora: str
    checkpointing: bool
    offloads: bool
    accumulates: bool
    dtype: NumberFormat
    device: Device
    rows: int
    length: int
    masked_share: float
    fused: bool
    new_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.rows * self.length

    def masked(self, rows: int) -> int:
        """Positions of so many rows that a masked model restores, where no mention is hidden."""
        return max(rows, math.ceil(rows * self.length * self.masked_share))


def optimizer_scratch(optimizer: str, device: Device, sizes: Iterable[int]) -> int:
    """Bytes that a step of the optimiser takes for its time; a fused or an 8-bit one takes none.

    Args:
        optimizer: Its name.
        device: On CUDA the `foreach` form takes the roots of all second moments at once.
        sizes: Weights of each trained tensor.
    """
    if optimizer == "muon":
        # The step in float32, and two matrices in bfloat16 on the way to an orthogonal one.
        return 8 * max(sizes)
    if optimizer != "adamw_torch":
        return 0
    return 4 * (sum(sizes) if device == "cuda" else 2 * max(sizes))


def optimizer_bytes(optimizer: str, weights: int, width: int, is_matrix: bool) -> int:
    """Bytes of one trained tensor's optimiser state: moments in its precision, or in 8 bits.

    Args:
        optimizer: Its name.
        weights: Of the tensor.
        width: Bytes of a weight.
        is_matrix: Whether Muon takes it, which has one moment.
    """
    if optimizer == "muon":
        return (1 if is_matrix else 2) * weights * width
    if "8bit" in optimizer:
        if weights < OPTIMIZER_MIN_8BIT:
            return 8 * weights
        # Each moment a byte a weight, and a float32 scale for each block.
        return 2 * (weights + 4 * math.ceil(weights / OPTIMIZER_BLOCK))
    if optimizer == "sgd":
        return 0
    moments = 1 if optimizer.startswith(("adagrad", "rmsprop", "lion", "adafactor")) else 2
    return moments * weights * width
