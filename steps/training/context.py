"""What a training needs from outside: device, recorder, ranks, signals, DeepSpeed's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from steps.config.sections import Hardware
from steps.distributed.ranks import Rank
from steps.models.devices import Placement
from steps.recorder import Recorder, SilentRecorder
from steps.signals import StopSignals


@dataclass(frozen=True)
class TrainingContext:
    """All that a `ModelTrainer` needs besides configuration, model and papers.

    Attributes:
        placement: Device, number format, processes and ZeRO stage; None: bfloat16, alone, on a
            GPU where there is one.
        recorder: Where metrics and checkpoints are reported to; the default keeps them local.
        metadata: What a checkpoint's manifest states besides its files (dataset digest, ...).
        stop: The signal handler in use; None: `train` installs its own while it lasts.
        rank: The place of this process among those that train together, which have joined
            already (see `steps.distributed.collectives`).
        deepspeed: From `deepspeed_settings`; None: without DeepSpeed.
    """

    placement: Placement | None = None
    recorder: Recorder = field(default_factory=SilentRecorder)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    stop: StopSignals | None = None
    rank: Rank = field(default_factory=Rank)
    deepspeed: Mapping[str, Any] | None = None


def default_placement(hardware: Hardware) -> Placement:
    """The placement of a script that names none."""
    on_gpu = torch.cuda.is_available() and hardware.device != "cpu"
    return Placement("cuda" if on_gpu else "cpu", "bfloat16")
