"""How much memory and disk there is to spend: of the card, of the host, of a file system."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steps.config.sections import Training
from steps.errors import UserError
from steps.models.devices import Device
from steps.planning.plan import CUDA_CONTEXT_BYTES, GIB

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Budget:
    """Memory that a run may take.

    Attributes:
        size: Bytes.
        source: Where the figure is from, for messages.
    """

    size: int
    source: str


def configured_budget(training: Training) -> Budget:
    """What the configuration grants on a GPU that need not be there."""
    size = int(training.memory_optimization.gpu_memory_gb * GIB)
    return Budget(size, "memory_optimization.gpu_memory_gb")


def available_budget(training: Training, device: str) -> Budget:
    """What is free on the device of this machine, on a GPU within what is configured."""
    if device == "cpu":
        return Budget(free_host_memory(), "free memory of this machine")
    import torch

    free, total = torch.cuda.mem_get_info()
    return gpu_budget(
        training, free, total, torch.cuda.get_device_name(), _processes_on_gpu(), CUDA_CONTEXT_BYTES
    )


def gpu_budget(
    training: Training,
    free: int,
    total: int,
    name: str,
    processes: Mapping[int, int | None],
    context: int = 0,
) -> Budget:
    """The smaller of what the configuration grants and what a card has free.

    Args:
        training: The configuration.
        free: Bytes that the driver calls free.
        total: Bytes of the card.
        name: The card's name.
        processes: Other processes on the card, by their id, with their bytes where known.
        context: Bytes that this process's own CUDA context holds already; the plan counts
            them in its reserve, so they are added back.
    """
    configured = configured_budget(training)
    free = min(free + context, total)
    if free >= configured.size:
        return configured
    source = f"free of {total / GIB:.1f} GiB on {name}"
    if processes:
        held = ", ".join(
            f"process {process}" + (f" with {size / GIB:.1f} GiB" if size else "")
            for process, size in processes.items()
        )
        source += f"; others hold the rest: {held}"
    elif total - free > CUDA_CONTEXT_BYTES:
        source += "; others hold the rest"
    return Budget(free, source)


def free_host_memory() -> int:
    """Bytes that this process can still take: what the machine has, within its container."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        statistics = dict(
            line.split() for line in (CGROUP / "memory.stat").read_text().splitlines()
        )
    except OSError:
        return available
    if limit == "max":
        return available
    # Pages of files that nobody has open are given back before the limit hurts.
    reclaimable = int(statistics.get("inactive_file", 0))
    return min(available, int(limit) - used + reclaimable)


def check_disk(needs: Mapping[Path, int]) -> None:
    """Refuse a run whose files its disks cannot hold.

    Args:
        needs: Bytes to be written below each folder; folders need not exist yet.

    Raises:
        UserError: A file system has less free than all folders on it need.
    """
    by_device: dict[int, tuple[Path, int]] = {}
    for folder, size in needs.items():
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        device = existing.stat().st_dev
        _, before = by_device.get(device, (existing, 0))
        by_device[device] = existing, before + size
    for folder, size in by_device.values():
        free = shutil.disk_usage(folder).free
        if size > free:
            raise UserError(
                f"the checkpoints and the adapter need {_gib(size)} GiB on the disk of {folder}, "
                f"and {_gib(free)} GiB are free: make room, set training.logging.save_steps higher "
                "or training.output.save_total_limit lower, or give another folder as "
                "training.output.output_dir"
            )


def _gib(size: int) -> str:
    # Rounded up, so that what is needed never reads like what is there.
    return f"{math.ceil(size / GIB * 100) / 100:.2f}"


def _processes_on_gpu() -> dict[int, int | None]:
    """Other processes that compute on this process's GPU; empty where the driver hides them."""
    import os

    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(card)
    except pynvml.NVMLError:
        return {}
    return {one.pid: one.usedGpuMemory for one in running if one.pid != os.getpid()}


def device_of(training: Training) -> Device:
    """The device that a plan without a machine is for: a GPU, unless the CPU is asked for."""
    return "cpu" if training.hardware.device == "cpu" else "cuda"
