"""The device and the number format that a machine can do."""

import pytest

from steps.config.sections import Hardware
from steps.errors import UserError
from steps.models import devices
from steps.models.devices import pick_dtype


def test_half_precision_is_refused_on_a_cpu() -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        pick_dtype(Hardware(fp16=True), "cpu")


def test_a_gpu_that_torch_cannot_use_is_never_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # What the driver reports is stood in for: there is no such GPU in every test machine.
    monkeypatch.setattr(devices, "_gpus_seen_by_the_driver", lambda: 1)
    with pytest.raises(UserError, match=r"1 NVIDIA GPU\(s\) are present, but torch"):
        devices.pick_device("auto")
    assert devices.pick_device("cpu") == "cpu"
    monkeypatch.setattr(devices, "_gpus_seen_by_the_driver", lambda: 0)
    assert devices.pick_device("auto") == "cpu"
    with pytest.raises(UserError, match="no CUDA GPU here"):
        devices.pick_device("cuda")
