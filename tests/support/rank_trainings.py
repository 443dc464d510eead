"""Trainings by `rank_program`, as so many ranks, and what they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from steps.config.paths import PROJECT_ROOT


class Trained:
    """What one training of `rank_program` left."""

    def __init__(self, out: Path, ranks: int) -> None:
        result = json.loads((out / "losses.json").read_text())
        self.losses: dict[str, float] = result["losses"]
        self.wrapper: str = result["wrapper"]
        self.tokens_seen: int = result["tokens_seen"]
        self.steps_done: int = result["steps_done"]
        self.rows_an_epoch: int = result["rows_an_epoch"]
        self.weights = load_file(out / "weights.safetensors")
        files = [out / f"rows-{index}.json" for index in range(ranks)]
        self.rows: list[list[int]] = [json.loads(file.read_text()) for file in files]

    def assert_equals(self, other: "Trained") -> None:
        """Losses and weights agree to 1e-5, the norms of the gradients to 1e-4 of themselves."""
        assert self.losses.keys() == other.losses.keys()
        for name, value in self.losses.items():
            close = {"rel": 1e-4} if name.endswith("grad_norm") else {"abs": 1e-5}
            assert value == pytest.approx(other.losses[name], **close), name
        for name, weight in self.weights.items():
            assert float((weight - other.weights[name]).abs().max()) <= 1e-5, name


def specification(folder: Path, model: Path, name: str, **changes: Any) -> dict[str, Any]:
    """A training of steps of two rows each, over more than one epoch of an odd number."""
    four_bits = changes.get("method") == "qlora"
    quantization = {"load_in_4bit": four_bits, "bnb_4bit_compute_dtype": "float32"}
    training = {
        "model": {"name": str(model), "max_length": 128},
        "qlora": {
            "method": changes.get("method", "lora"),
            "r": 4,
            "lora_dropout": changes.get("dropout", 0.0),
            "quantization": quantization,
        },
        "hyperparameters": {
            "batch_size": 1,
            "gradient_accumulation_steps": changes.get("accumulation", 1),
            "max_steps": changes.get("steps", 20),
            "learning_rate": 1e-3,
        },
        # Adam divides a gradient by its size, so one that is rounding alone moves a weight by up to
        # the learning rate; this keeps it in bounds.
        "optimizer": {"epsilon": 1e-6},
        "logging": {"log_steps": 1, "eval_steps": 6, "save_steps": 8},
        "memory_optimization": {"gradient_checkpointing": False},
        "hardware": {"bf16": False},
        **changes.get("sections", {}),
    }
    return {
        "training": training,
        "folder": str(folder / name),
        "out": str(folder / f"{name}-out"),
        "papers": 11,
        "deepspeed": changes.get("deepspeed"),
        "resume": changes.get("resume"),
        "kill": changes.get("kill"),
    }


def train(said: dict[str, Any], ranks: int) -> "subprocess.CompletedProcess[str]":
    """Run `rank_program` with this many ranks."""
    file = Path(said["out"] + ".json")
    file.write_text(json.dumps(said))
    # FSDP2 makes a group of one rank too.
    shared = said["training"].get("distributed", {}).get("backend") == "fsdp2"
    return run_ranks("tests.support.rank_program", file, ranks, alone=ranks == 1 and not shared)


def run_ranks(
    module: str, file: Path, ranks: int, *, alone: bool = False
) -> "subprocess.CompletedProcess[str]":
    """Run a program of the tests with this many ranks, or by itself.

    Args:
        module: The program.
        file: Its argument.
        ranks: How many.
        alone: Without a launcher.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [sys.executable, *([] if alone else launcher), "-m", module, str(file)],
        cwd=PROJECT_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def trained(said: dict[str, Any], ranks: int) -> Trained:
    """What a training that succeeds leaves."""
    finished = train(said, ranks)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    return Trained(Path(said["out"]), ranks)
