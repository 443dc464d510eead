"""What a training run has to remember besides weights, optimiser and random state.

Transformers' Trainer restores those, and the position in the data (it skips by index: no row
is read twice). What it forgets stands in `progress.json`, so that a resumed run reports the
same curve, stops at the same step and ends on the same weights as one that was never touched:

- the loss since the last report (a checkpoint may fall between two reports);
- what was reported so far, from which the charts of the new run are made whole;
- the first loss, by which divergence is measured, and how often validation has not improved;
- whether a validation of this very step was still to come when the checkpoint was written.

The best validated weights are in the best step's own checkpoint or, where that was not saved,
in this one's `best_weights.safetensors`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from steps.errors import UserError

if TYPE_CHECKING:
    from transformers import TrainerState

PROGRESS_FILE = "progress.json"

# Only in a checkpoint whose best step could not be saved as one of its own.
BEST_WEIGHTS_FILE = "best_weights.safetensors"


class Report(msgspec.Struct, frozen=True):
    """Metrics as they were reported.

    Attributes:
        step: Optimiser step.
        time: Milliseconds since 1970.
        metrics: By full name (`train/loss`).
    """

    step: int
    time: int
    metrics: dict[str, float]


class Progress(msgspec.Struct):
    """The state of a run that Trainer itself does not keep.

    Attributes:
        tokens_seen: Target tokens trained on; of a masked model the tokens read.
        seconds: Time spent in training, over all launches.
        first_loss: The first reported loss, or None.
        last_metrics: What the last validation said.
        loss_since_report: Sum of the losses since the last reported one, of each rank.
        reported_step: Step of that report.
        total_loss: Sum of all losses reported.
        source_sums: Of mixed rows, nats and targets by source since the last report, of each rank.
        evaluated_step: Step of the last validation, or -1.
        evaluation_due: A validation of this step was still to come.
        without_gain: Validations since the best one, for early stopping.
        reports: All that was reported.
    """

    tokens_seen: int = 0
    seconds: float = 0.0
    first_loss: float | None = None
    last_metrics: dict[str, float] = {}
    loss_since_report: list[float] = msgspec.field(default_factory=lambda: [0.0])
    reported_step: int = 0
    total_loss: float = 0.0
    source_sums: list[list[float]] = []
    evaluated_step: int = -1
    evaluation_due: bool = False
    without_gain: int = 0
    reports: list[Report] = []


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on from: folders whose files have been checked against their manifests.

    Attributes:
        folder: The checkpoint.
        step: Its step.
        best_folder: The checkpoint of the best validated step, where that is another one and
            the run is to end on its weights.
    """

    folder: Path
    step: int
    best_folder: Path | None = None


def write_progress(folder: Path, progress: Progress) -> None:
    """Write `progress.json` into a checkpoint that is being written."""
    (folder / PROGRESS_FILE).write_bytes(msgspec.json.encode(progress))


def read_progress(folder: Path) -> Progress:
    """Read `progress.json` of a checkpoint."""
    return msgspec.json.decode((folder / PROGRESS_FILE).read_bytes(), type=Progress)


def read_trainer_state(folder: Path, rows: int) -> "TrainerState":
    """Read transformers' own state of a checkpoint.

    Args:
        folder: The checkpoint.
        rows: Rows of one forward pass now.

    Raises:
        UserError: The run that wrote it took another number of rows at once.
    """
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    if state.train_batch_size != rows:
        raise UserError(
            f"resume: the checkpoint's batch_size is {state.train_batch_size}, now it is {rows}: "
            f"set training.hyperparameters.batch_size={state.train_batch_size}"
        )
    return state


def best_step(folder: Path) -> int | None:
    """The best validated step that a checkpoint knows of."""
    state = msgspec.json.decode((folder / "trainer_state.json").read_bytes())
    best = state["best_global_step"]
    return None if best is None else int(best)


def micro_batch_of(folder: Path) -> int:
    """Rows of one forward pass of the run that wrote a checkpoint."""
    state = msgspec.json.decode((folder / "trainer_state.json").read_bytes())
    return int(state["train_batch_size"])


def make_deterministic() -> None:
    """Make CUDA compute the same bits each time, at the price of speed.

    The CPU does so anyway, with the same number of threads. Of the attention kernels, the
    memory-efficient one has no deterministic backward pass.
    """
    # Read when the first cuBLAS handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_mem_efficient_sdp(False)


def environment() -> dict[str, Any]:
    """What the last bits of a result depend on besides configuration and data."""
    import platform

    import transformers

    cuda = torch.cuda.is_available()
    return {
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "processor": torch.cuda.get_device_name() if cuda else platform.machine(),
    }
