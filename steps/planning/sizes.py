"""What decides the size of a training step, and bytes of packed weights and optimiser states."""

import math
from dataclasses import dataclass

from steps.models.devices import Device
from steps.planning.shapes import Shape
from steps.planning.tape import NF4_BLOCK
from steps.planning.tensors import Leaf

# bitsandbytes: blocks to a second-level one, 8-bit optimiser block, and the tensor size below which
# an 8-bit optimiser keeps its moments in float32.
NF4_NESTED_BLOCK = 256
OPTIMIZER_BLOCK = 256
OPTIMIZER_MIN_8BIT = 4096


@dataclass(frozen=True)
class StepSettings:
    """What of the configuration decides memory."""

    method: str
    bits: int
    nested: bool
    rank: int
    dropout: float
    targets: str | tuple[str, ...]
    saved_modules: tuple[str, ...]
    bias: str
    optimizer: str
    checkpointing: bool
    offloads: bool
    accumulates: bool
    half: int | None
    device: Device
    rows: int
    length: int
    masked_share: float

    @property
    def masked(self) -> int:
        """Positions that a masked model restores, by the share of words without a mention."""
        return max(self.rows, math.ceil(self.tokens * self.masked_share))

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.rows * self.length

    @property
    def adapts(self) -> bool:
        """Whether adapters are trained, and not the weights themselves."""
        return self.method != "full"

    def offloaded_bytes(self, shape: Shape) -> int:
        """Inputs of the checkpointed layers, where they wait in host memory beside the GPU."""
        if not self.offloads or self.device == "cpu":
            return 0
        width = (self.half or 4) if self.adapts else 4
        return shape.layers * self.tokens * shape.width * width


def nf4_bytes(weights: int, nested: bool) -> int:
    """Bytes of a weight in bitsandbytes' 4-bit format, with its scales and its table.

    Two weights a byte and one scale for 64; the scale is float32, or with double
    quantisation one byte, with a float32 for 256 of them and one offset. Each weight has its
    own table of the 16 values, and of the scale's 256.
    """
    blocks = math.ceil(weights / NF4_BLOCK)
    scales = blocks + 4 * math.ceil(blocks / NF4_NESTED_BLOCK) + 4 if nested else 4 * blocks
    tables = 16 * 4 + (256 * 4 if nested else 0)
    return math.ceil(weights / 2) + scales + tables


def optimizer_bytes(optimizer: str, leaf: Leaf) -> int:
    """Bytes of one trained weight's optimiser state: moments in its precision, or in 8 bits."""
    if "8bit" in optimizer:
        if leaf.size < OPTIMIZER_MIN_8BIT:
            return 8 * leaf.size
        # Each moment a byte a weight, and a float32 scale for each block.
        return 2 * (leaf.size + 4 * math.ceil(leaf.size / OPTIMIZER_BLOCK))
    if optimizer == "sgd":
        return 0
    moments = 1 if optimizer.startswith(("adagrad", "rmsprop", "lion", "adafactor")) else 2
    return moments * leaf.size * leaf.width
