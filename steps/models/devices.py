"""The device and number format that a model is computed in."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from steps.config.sections import Hardware
from steps.errors import UserError

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda"]
NumberFormat = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Placement:
    """Where and in which number format a model is computed.

    Attributes:
        device: "cpu" or "cuda".
        dtype: Number format of the computation, by torch's name; adapters stay float32.
        processes: How many train together, over all machines.
        zero_stage: DeepSpeed's ZeRO stage, by which the processes share out optimiser states (1),
            gradients (2) and weights (3); 0 where each process holds all.
        fully_sharded: Whether FSDP2 shares out the layers' weights, gradients and moments.
    """

    device: Device
    dtype: NumberFormat
    processes: int = 1
    zero_stage: int = 0
    fully_sharded: bool = False

    @property
    def torch_dtype(self) -> "torch.dtype":
        """The number format as torch's own object."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def dtype_name(dtype: "torch.dtype") -> NumberFormat:
    """Torch's name of a number format: "bfloat16" of `torch.bfloat16`."""
    name: Any = str(dtype).removeprefix("torch.")
    return cast(NumberFormat, name)


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> Device:
    """The device to train on; a GPU that is there but unusable is never passed over.

    Raises:
        UserError: A GPU is wanted or present, and torch cannot use it.
    """
    import torch

    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    seen = _gpus_seen_by_the_driver()
    if seen:
        raise UserError(
            f"{seen} NVIDIA GPU(s) are present, but torch {torch.__version__} cannot use them "
            f"(it was built for CUDA {torch.version.cuda or 'none'}; the driver may be too old): "
            "update the driver, install a torch build that matches it, or train on the CPU with "
            "training.hardware.device=cpu"
        )
    if wanted == "cuda":
        raise UserError("hardware.device is cuda, but there is no CUDA GPU here: use auto or cpu")
    return "cpu"


def pick_dtype(hardware: Hardware, device: str) -> Any:
    """The number format (`torch.dtype`) by what the hardware computes in, not emulates.

    Raises:
        UserError: A format was asked for that this device does not have.
    """
    import torch

    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = _cpu_has_bf16()
    if hardware.fp16:
        if device == "cpu":
            raise UserError("hardware.fp16 needs a GPU: use training.hardware.bf16=auto on a CPU")
        return torch.float16
    if hardware.bf16 == "auto":
        if native:
            return torch.bfloat16
        return torch.float16 if device == "cuda" else torch.float32
    if hardware.bf16 and device == "cuda" and not native:
        raise UserError(
            "hardware.bf16 is true, but this GPU only emulates it: use training.hardware.fp16=true"
        )
    return torch.bfloat16 if hardware.bf16 else torch.float32


def _cpu_has_bf16() -> bool:
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _gpus_seen_by_the_driver() -> int:
    import pynvml

    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        # Hidden on purpose.
        return 0
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def free_memory(device: Device) -> None:
    """Give back what nobody refers to any more, to the system or to the GPU."""
    import gc

    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def peak_memory_bytes() -> float:
    """The most bytes held so far: of tensors on a GPU, else resident ones of this process."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    import resource

    # Linux counts kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
