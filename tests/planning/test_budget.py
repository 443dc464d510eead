"""What there is to spend: a shared card, a container's limit, a disk, an unusable GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from steps.config.sections import Training
from steps.errors import UserError
from steps.planning import budget
from steps.planning.budget import check_disk, configured_budget, free_host_memory, gpu_budget
from steps.planning.models import model_to_plan
from steps.planning.plan import GIB
from steps.planning.suggestions import check_fits
from tests.support.project import ROOT

TRAINING = Training()


def test_a_free_card_gives_what_is_configured() -> None:
    found = gpu_budget(TRAINING, 70 * GIB, 80 * GIB, "H100", {}, context=GIB)
    assert found == configured_budget(TRAINING)
    assert found.size == 16 * GIB


def test_a_busy_card_gives_what_is_left_and_names_who_holds_the_rest() -> None:
    found = gpu_budget(TRAINING, 4 * GIB, 16 * GIB, "Tesla T4", {4711: 11 * GIB, 12: None}, GIB)
    assert found.size == 5 * GIB
    assert found.source == (
        "free of 16.0 GiB on Tesla T4; others hold the rest: process 4711 with 11.0 GiB, process 12"
    )
    model = model_to_plan(TRAINING.model)
    with pytest.raises(UserError, match=r"there are 5\.0 GiB \(free of .* process 4711") as refusal:
        check_fits(model, TRAINING, found.size, micro_batch=8, length=1024, source=found.source)
    assert "\n" not in str(refusal.value)


def test_processes_that_the_driver_hides_are_still_noticed() -> None:
    assert gpu_budget(TRAINING, 4 * GIB, 16 * GIB, "T4", {}).source.endswith("others hold the rest")
    whole = gpu_budget(TRAINING, 11 * GIB, 12 * GIB, "RTX 3060", {}, context=GIB)
    assert whole.size == 12 * GIB
    assert whole.source == "free of 12.0 GiB on RTX 3060"


def test_a_container_counts_before_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = free_host_memory()
    monkeypatch.setattr(budget, "CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\ninactive_file 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert free_host_memory() == 800_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_host_memory() == pytest.approx(machine, rel=0.5)


def test_files_of_one_disk_are_added_up_before_they_are_refused(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    one, other = tmp_path / "not" / "there", tmp_path / "yet"
    check_disk({one: free // 4, other: free // 4})
    with pytest.raises(UserError, match=r"need [\d.]+ GiB on the disk of .*, and [\d.]+ GiB"):
        check_disk({one: free * 3 // 4, other: free * 3 // 4})


PICK_DEVICE = """
import os
from steps.errors import UserError
from steps.models.devices import pick_device
try:
    pick_device("auto")
except UserError as error:
    print(error)
print(pick_device("cpu"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""
print(pick_device("auto"))
"""


def test_a_gpu_that_torch_cannot_use_stops_the_run_unless_it_was_hidden_on_purpose(
    tmp_path: Path,
) -> None:
    # The driver is played by a module of ours, as a GPU cannot be had by asking.
    (tmp_path / "pynvml.py").write_text(
        "class NVMLError(Exception): pass\n"
        "def nvmlInit(): pass\n"
        "def nvmlDeviceGetCount(): return 2\n",
        encoding="utf-8",
    )
    finished = subprocess.run(
        [sys.executable, "-c", PICK_DEVICE],
        # No such card, so that torch finds none on a machine that has some.
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "CUDA_VISIBLE_DEVICES": "99"},
        capture_output=True,
        text=True,
        check=False,
    )
    refused, asked_for_cpu, hidden = finished.stdout.splitlines()
    assert refused.startswith("2 NVIDIA GPU(s) are present, but torch")
    assert "training.hardware.device=cpu" in refused
    assert asked_for_cpu == hidden == "cpu"
