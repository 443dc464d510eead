"""Will it fit? Memory, time and disk of a training run, before any weight is loaded.

    shape = shape_of_model(training.model)
    plan = plan_memory(shape, training, micro_batch=4, length=1024)
    check_fits(shape, training, micro_batch=4, length=1024, budget=16 * GIB)

Nothing here is fitted to measurements. One training step is replayed on tensors that have
a size and no content: the operations of the layers as transformers, peft, bitsandbytes
and `steps.training.losses` perform them, what autograd saves for each, what autocast
copies, what the backward pass allocates and when each tensor dies. The largest sum of
living tensors is the plan. A replay needs neither torch nor a GPU and takes milliseconds;
`tests/training/test_memory_measured.py` holds it against measured tensors.
"""

from steps.training.memory.advice import (
    Remedy,
    check_fits,
    in_words,
    remedies,
    with_overrides,
    with_settled_batch,
)
from steps.training.memory.budget import (
    Budget,
    available_budget,
    check_disk,
    configured_budget,
    device_of,
    free_host_memory,
    gpu_budget,
)
from steps.training.memory.plan import (
    GIB,
    DiskPlan,
    MemoryPlan,
    NumberFormat,
    TimePlan,
    disk_plan,
    format_table,
    largest_micro_batch,
    longest_context,
    plan_memory,
    time_plan,
)
from steps.training.memory.report import plan_run
from steps.training.memory.shapes import (
    CannotPlan,
    Family,
    Shape,
    shape_from_config,
    shape_of_model,
)
from steps.training.memory.tape import PARTS, Device

__all__ = [
    "GIB",
    "PARTS",
    "Budget",
    "CannotPlan",
    "Device",
    "DiskPlan",
    "Family",
    "MemoryPlan",
    "NumberFormat",
    "Remedy",
    "Shape",
    "TimePlan",
    "available_budget",
    "check_disk",
    "check_fits",
    "configured_budget",
    "device_of",
    "disk_plan",
    "format_table",
    "free_host_memory",
    "gpu_budget",
    "in_words",
    "largest_micro_batch",
    "longest_context",
    "plan_memory",
    "plan_run",
    "remedies",
    "shape_from_config",
    "shape_of_model",
    "time_plan",
    "with_overrides",
    "with_settled_batch",
]
