"""One checkpoint, written by all ranks together: complete on the disk, or not there at all."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from steps.checkpoints.format import writing_checkpoint
from steps.checkpoints.trainer_state import BEST_WEIGHTS_FILE, Progress, write_progress
from steps.distributed.collectives import all_gather, broadcast, is_first_rank, world_size

# What torch's C++ writer says where Python would raise an OSError.
TORCH_WRITE_FAILURES = ("PytorchStreamWriter", "inline_container.cc", "unexpected pos")

# A pickle that nothing here reads, peft's card, which names the base by its local path, and
# DeepSpeed's converter, which would have to be run.
NOT_KEPT = ("training_args.bin", "README.md", "zero_to_fp32.py", "zero_to_torch.py")

WritePart = Callable[[Path], None]


@dataclass(frozen=True)
class CheckpointParts:
    """What a checkpoint is made of. Each function writes its part into a folder.

    Attributes:
        step: The optimiser step.
        metadata: What the manifest states besides the files.
        progress: As it stands at this step.
        write_weights: Writes the trained tensors; all ranks call it.
        write_optimizer: Writes optimiser, schedule and loss scale; all ranks call it.
        write_random_state: Writes one file with this rank's random state.
        trainer_state: Transformers' own state, a `TrainerState`.
        best_weights: The best validated weights, where their step has no checkpoint of its own.
    """

    step: int
    metadata: Mapping[str, Any]
    progress: Progress
    write_weights: WritePart
    write_optimizer: WritePart
    write_random_state: WritePart
    trainer_state: Any
    best_weights: Mapping[str, torch.Tensor]


def write_checkpoint(root: Path, parts: CheckpointParts) -> None:
    """Write `checkpoint-STEP` below a folder, all ranks together; where one fails, there is none.

    Raises:
        OSError: It cannot be written; on every rank.
    """
    problem: OSError | None = None
    try:
        _write_parts(root, parts)
    except OSError as error:
        problem = error
    # Only rank 0 seals what all have written.
    first_error = broadcast(problem and str(problem))
    if problem or first_error:
        raise problem or OSError(first_error)


def _write_parts(root: Path, parts: CheckpointParts) -> None:
    # Gathered before anything is written: a rank that hit a full disk first would leave the
    # others blocked in the collective.
    random_states = _random_states(parts)
    folder, problem = None, None
    with ExitStack() as sealing:
        if is_first_rank():
            try:
                entered = writing_checkpoint(root, parts.step, parts.metadata)
                folder = sealing.enter_context(entered)
            except OSError as error:
                problem = error
        shared = broadcast(folder and str(folder))

        def write_state(folder: Path) -> None:
            _write_state(folder, parts, random_states)

        for write in (parts.write_weights, write_state):
            # A rank must not begin what takes all of them where another has failed already.
            # Within DeepSpeed's own part that cannot be helped: the limit on its waits ends it.
            if shared is not None:
                try:
                    with _raising_os_errors():
                        write(Path(shared))
                except OSError as error:
                    problem = error
            errors = [error for error in all_gather(problem and str(problem)) if error]
            if errors:
                raise problem or OSError(errors[0])


def _write_state(folder: Path, parts: CheckpointParts, random_states: Mapping[str, bytes]) -> None:
    """Write what resuming needs; DeepSpeed's part takes all ranks at once."""
    parts.write_optimizer(folder)
    if world_size() == 1:
        parts.write_random_state(folder)
    if not is_first_rank():
        return
    for name in NOT_KEPT:
        (folder / name).unlink(missing_ok=True)
    for name, content in random_states.items():
        (folder / name).write_bytes(content)
    parts.trainer_state.save_to_json(str(folder / "trainer_state.json"))
    write_progress(folder, parts.progress)
    if parts.best_weights:
        save_file(dict(parts.best_weights), folder / BEST_WEIGHTS_FILE)


def _random_states(parts: CheckpointParts) -> dict[str, bytes]:
    """The files of all ranks' random states, where there are several; all of them call it."""
    if world_size() == 1:
        return {}
    with tempfile.TemporaryDirectory() as own:
        parts.write_random_state(Path(own))
        (file,) = Path(own).iterdir()
        return dict(all_gather((file.name, file.read_bytes())))


@contextmanager
def _raising_os_errors() -> Iterator[None]:
    """Make an OSError of what torch's and safetensors' writers raise on a full disk."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if isinstance(error, SafetensorError) or any(
            sign in str(error) for sign in TORCH_WRITE_FAILURES
        ):
            raise OSError(str(error).partition("\n")[0]) from error
        raise
