"""What one process holds at its most while ZeRO-3 gets hold of a base (see `steps.models.shares`).

In shares: its part of the weights, and the one that is being read. A base that is loaded whole
first is there in every process for that moment.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from steps.config.sections import Qlora
from steps.models.loading import unquantised_modules
from steps.models.reached import linear_layers
from steps.models.shares import why_class_needs_whole, why_method_reads_whole
from steps.planning.models import ModelToPlan, plain_model
from steps.planning.sizes import NF4_BLOCK, NF4_NESTED_BLOCK


@dataclass(frozen=True)
class LoadingPlan:
    """The loading of a base under ZeRO-3.

    Attributes:
        bytes: What one process holds at its most.
        scales: Bytes of the scales of 4-bit weights, of which every process has all.
        whole: Why each process loads the whole base; "" where it reads its share.
    """

    bytes: int
    scales: int
    whole: str

    @property
    def note(self) -> str:
        """What the reader of a plan has to know."""
        size = f"{self.bytes / 2**30:.2f} GiB"
        if self.whole:
            return f"ZeRO-3: each process loads the base whole ({size}), because {self.whole}"
        return (
            f"ZeRO-3: each process reads its own share of the base, at most {size} while it loads; "
            "files that hold other tensors than the class are loaded whole"
        )


def plan_loading(
    model: ModelToPlan, qlora: Qlora, weights: int, processes: int, width: int
) -> LoadingPlan:
    """The loading of a base.

    Args:
        model: The base.
        qlora: The section `qlora`.
        weights: Bytes of its weights as they are trained on, scales included.
        processes: Among which they are shared out.
        width: Bytes of a number of the computation.
    """
    found = _facts(model)
    scales = _bytes_of_scales(found.packed, qlora) if qlora.bits == 4 else 0
    whole = why_method_reads_whole(qlora) or found.whole
    if whole:
        return LoadingPlan(weights, scales, whole)
    share = math.ceil((weights - scales) / processes) + scales
    return LoadingPlan(share + width * found.largest, scales, "")


@dataclass(frozen=True)
class _Facts:
    """What the loading of a model depends on.

    Attributes:
        whole: See `why_class_needs_whole`.
        largest: Weights of its largest parameter.
        packed: Weights of each layer that 4 bits pack.
    """

    whole: str
    largest: int
    packed: tuple[int, ...]


@lru_cache(maxsize=16)
def _facts(model: ModelToPlan) -> _Facts:
    bare = plain_model(model, "bfloat16")
    kept = unquantised_modules(bare, model.objective)
    head = bare.get_output_embeddings()
    packed = (
        layer.weight.numel()
        for name, layer in linear_layers(bare).items()
        if (layer is not head if kept is None else not {*name.split(".")} & {*kept})
    )
    largest = max((weight.numel() for weight in bare.parameters()), default=0)
    return _Facts(why_class_needs_whole(bare), largest, tuple(packed))


def _bytes_of_scales(packed: Sequence[int], qlora: Qlora) -> int:
    total = 0
    for weights in packed:
        blocks = math.ceil(weights / NF4_BLOCK)
        nested = blocks + 4 * math.ceil(blocks / NF4_NESTED_BLOCK)
        total += nested if qlora.quantization.bnb_4bit_use_double_quant else 4 * blocks
    return total
