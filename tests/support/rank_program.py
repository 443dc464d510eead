"""One rank of a tiny training, for tests that start several.

    torchrun --standalone --nproc-per-node 2 -m tests.support.rank_program SPECIFICATION.json

Rank 0 leaves `losses.json` and `weights.safetensors`, each rank `rows-N.json`: the rows that it
has read, by epoch.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from steps.checkpoints.trainer_state import ResumePoint
from steps.config.sections import Training
from steps.distributed.collectives import process_group
from steps.distributed.deepspeed import deepspeed_settings
from steps.distributed.ranks import Rank, rank_from_environment
from steps.distributed.sampler import WithBlankRows
from steps.models.sharded import wrapper_name
from tests.support.tiny_runs import build_trainer, papers


class Noted(WithBlankRows):
    """Rows that note by whom they are read."""

    def __init__(self, rows: WithBlankRows) -> None:
        super().__init__(rows.rows, rows.blank)
        self.read: list[int] = []

    def __getitem__(self, index: int) -> Any:
        if index < len(self):
            self.read.append(index)
        return super().__getitem__(index)


class KillAt(transformers.TrainerCallback):
    """Kills this process in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def main(specification: Path) -> None:
    """Train as the file says."""
    said = json.loads(specification.read_text())
    training = Training(**said["training"])
    out = Path(said["out"])
    out.mkdir(parents=True, exist_ok=True)
    rank = rank_from_environment() or Rank()
    import torch

    torch.set_num_threads(1)
    deepspeed = None
    if said.get("deepspeed"):
        rows = training.hyperparameters.batch_size
        assert isinstance(rows, int)
        deepspeed = deepspeed_settings(
            Path(said["deepspeed"]), training, torch.float32, ranks=rank.count, micro_batch=rows
        )
    alone = deepspeed is not None or training.distributed.uses_fsdp2
    with process_group(rank, "cpu", 2, alone=alone):
        trainer = build_trainer(
            training,
            Path(said["folder"]),
            papers(said["papers"]),
            papers(3),
            rank=rank,
            deepspeed=deepspeed,
        )
        noted = Noted(trainer.train_dataset)
        trainer.train_dataset = noted
        kill = said.get("kill")
        if kill and kill["rank"] == rank.index:
            trainer.add_callback(KillAt(kill["step"]))
        resume = said.get("resume")
        point = None
        if resume:
            point = ResumePoint(Path(resume), int(Path(resume).name.rpartition("-")[2]))
        trainer.train(resume=point)
        weights = trainer.trained_weights()
        (out / f"rows-{rank.index}.json").write_text(json.dumps(noted.read))
        if rank.is_first:
            save_file(weights, out / "weights.safetensors")
            losses = {
                f"{entry['step']} {name}": entry[name]
                for entry in trainer.state.log_history
                for name in ("loss", "replay_loss", "study_loss", "eval_bits_per_byte", "grad_norm")
                if name in entry
            }
            result = {
                "losses": losses,
                "wrapper": wrapper_name(trainer.model_wrapped),
                "dtensors": [
                    name
                    for name, one in trainer.model.named_parameters()
                    if isinstance(one, DTensor)
                ],
                "steps_done": trainer.steps_done,
                "tokens_seen": trainer.progress.tokens_seen,
                "rows_an_epoch": getattr(trainer.train_rows, "rows_an_epoch", len(noted)),
            }
            (out / "losses.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
