"""When a checkpoint is written, what goes into it, and what happens when that fails."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import save_file

from steps.checkpoints.format import rotate, writing_checkpoint
from steps.checkpoints.trainer_state import (
    BEST_WEIGHTS_FILE,
    Progress,
    write_progress,
)
from steps.distributed.collectives import all_gather, broadcast
from steps.models.sharded import (
    gathered_parameters,
)

if TYPE_CHECKING:
    from steps.training.trainer import ModelTrainer


# What torch's C++ writer says where Python would raise an OSError.
TORCH_WRITE_FAILURES = ("PytorchStreamWriter", "inline_container.cc", "unexpected pos")

# A pickle that nothing here reads, peft's card, which names the base by its local path, and
# DeepSpeed's converter, which would have to be run.
NOT_KEPT = ("training_args.bin", "README.md", "zero_to_fp32.py", "zero_to_torch.py")


def save(trainer: "ModelTrainer") -> None:
    """Write a checkpoint of this step, hand it to the recorder, and rotate the older ones.

    Raises:
        OSError: It cannot be written and `logging.save_strict` is set. Otherwise the recorder
            is told, and the training goes on.
    """
    step = trainer.state.global_step
    root = Path(str(trainer.args.output_dir))
    try:
        _write(trainer, root, step)
    except OSError as error:
        reason = f"checkpoint-{step} could not be written to {root}: {error}"
        if trainer.rank.is_first:
            trainer.recorder.checkpoint_failed(step, reason)
        if trainer.training_config.logging.save_strict:
            raise
        return
    if not trainer.rank.is_first:
        return
    measured = trainer.last_metrics if trainer.evaluated_step == step else {}
    trainer.recorder.checkpoint(root / f"checkpoint-{step}", step, trainer.named(measured))
    limit = trainer.training_config.output.save_total_limit
    if limit is not None:
        best = {trainer.state.best_global_step} if trainer.state.best_global_step else set()
        rotate(root, limit, best | trainer.recorder.uploading())


def _write(trainer: "ModelTrainer", root: Path, step: int) -> None:
    """Write one checkpoint, all ranks together; where one fails, there is none.

    Raises:
        OSError: It cannot be written; on every rank.
    """
    problem: OSError | None = None
    try:
        _write_parts_of_all(trainer, root, step)
    except OSError as error:
        problem = error
    # Only rank 0 seals what all have written.
    told = broadcast(problem and str(problem))
    if problem or told:
        raise problem or OSError(told)
    if trainer.state.best_global_step == step:
        trainer.saved_best_step = step


def _write_parts_of_all(trainer: "ModelTrainer", root: Path, step: int) -> None:
    rank = trainer.rank
    # Told to each other before anything is written, so that a full disk parts no two ranks.
    progress, random_states = progress_of(trainer), _random_states(trainer)
    folder, problem = None, None
    with ExitStack() as sealing:
        if rank.is_first:
            try:
                folder = sealing.enter_context(writing_checkpoint(root, step, trainer.facts))
            except OSError as error:
                problem = error
        shared = broadcast(folder and str(folder))
        for write in (_write_weights, _write_state):
            # A rank must not begin what takes all of them where another has failed already.
            # Within DeepSpeed's own part that cannot be helped: the limit on its waits ends it.
            if shared is not None:
                try:
                    with _telling_disk_trouble():
                        write(trainer, Path(shared), step, progress, random_states)
                except OSError as error:
                    problem = error
            failures = [one for one in all_gather(problem and str(problem)) if one]
            if failures:
                raise problem or OSError(failures[0])


def _write_weights(
    trainer: "ModelTrainer",
    folder: Path,
    _step: int,
    _progress: Progress,
    _random_states: dict[str, bytes],
) -> None:
    if trainer.zero_stage == 3 and not trainer.training_config.qlora.adapts:
        # The whole model, layer by layer into rank 0's memory.
        trainer.save_model(str(folder), _internal_call=True)
        return
    with gathered_parameters(trainer.trained().values()):
        trainer._save(str(folder))


def _write_state(
    trainer: "ModelTrainer",
    folder: Path,
    step: int,
    progress: Progress,
    random_states: dict[str, bytes],
) -> None:
    """What resuming needs; DeepSpeed's part takes all ranks at once."""
    trainer._save_optimizer_and_scheduler(str(folder))
    trainer._save_scaler(str(folder))
    if trainer.rank.count == 1:
        trainer._save_rng_state(str(folder))
    if not trainer.rank.is_first:
        return
    for name in NOT_KEPT:
        (folder / name).unlink(missing_ok=True)
    for name, content in random_states.items():
        (folder / name).write_bytes(content)
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
    write_progress(folder, progress)
    best = trainer.state.best_global_step
    if trainer.best_weights and best not in (step, trainer.saved_best_step):
        save_file(trainer.best_weights, folder / BEST_WEIGHTS_FILE)


@contextmanager
def _telling_disk_trouble() -> Iterator[None]:
    """Make an OSError of what torch's and safetensors' writers raise instead."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if isinstance(error, SafetensorError) or any(
            sign in str(error) for sign in TORCH_WRITE_FAILURES
        ):
            raise OSError(str(error).partition("\n")[0]) from error
        raise


def _random_states(trainer: "ModelTrainer") -> dict[str, bytes]:
    """The files of all ranks' random states, where there are several; all of them call it."""
    if trainer.rank.count == 1:
        return {}
    with tempfile.TemporaryDirectory() as own:
        trainer._save_rng_state(own)
        (file,) = Path(own).iterdir()
        return dict(all_gather((file.name, file.read_bytes())))


def progress_of(trainer: "ModelTrainer") -> Progress:
    """What Trainer forgets, as it stands at the end of this step; all ranks call it."""
    step = trainer.state.global_step
    # The last epoch counts as ended wherever it is left.
    ends_epoch = (
        float(trainer.state.epoch or 0.5).is_integer() or trainer.control.should_training_stop
    )
    expected = trainer.evaluation_expected == step or (
        ends_epoch and trainer.args.eval_strategy == "epoch"
    )
    return Progress(
        tokens_seen=trainer.tokens_seen,
        seconds=trainer.seconds,
        first_loss=trainer.watch.first_loss,
        last_metrics=trainer.last_metrics,
        loss_since_report=all_gather(float(trainer._tr_loss)),
        reported_step=trainer._globalstep_last_logged,
        total_loss=trainer._total_loss_scalar,
        evaluated_step=trainer.evaluated_step,
        evaluation_due=expected and trainer.evaluated_step != step,
        without_gain=getattr(trainer.early_stopping, "early_stopping_patience_counter", 0),
        reports=trainer.reports,
    )
