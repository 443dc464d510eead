"""Step 2: adapt a pre-trained model to the training papers, and register the result.

    mlflow run . -e finetune -P overrides="training.qlora.r=32"
    python -m steps.finetune --config configs/training.yaml --dataset latest

Leaves `checkpoints/`, `adapter/` and `config.yaml` in its run, and a registered version
with the given alias, loaded back in a fresh process before the run says FINISHED.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steps.cli import step_command
from steps.config.dotted import flatten
from steps.config.file import LoadedConfig, load_config, resolved_yaml
from steps.config.older_layout import deepspeed_file
from steps.config.sections import Training
from steps.errors import UserError
from steps.terminal import say, show_notices

if TYPE_CHECKING:
    import torch

    from steps.distributed.ranks import Rank
    from steps.papers.text import PaperText
    from steps.recorder import SilentRecorder
    from steps.signals import StopSignals
    from steps.tracking.checkpoints.uploads import CheckpointUploads, NoUploads
    from steps.tracking.datasets import StoredDataset
    from steps.tracking.recorder import MlflowRecorder
    from steps.tracking.runs import StepRun
    from steps.training.trainer import ModelTrainer


@click.command()
@click.option(
    "--dataset", default="latest", show_default=True, help="latest, a run id, or runs:/ID/dataset."
)
@click.option("--resume", default="never", show_default=True, help="never, auto, or a run id.")
@click.option(
    "--num-processes",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Processes to train with on this machine; a launcher such as torchrun brings its own.",
)
@click.option(
    "--alias", default="challenger", show_default=True, help="Alias of the registered version."
)
# What DeepSpeed's launcher adds; the environment says the same.
@click.option("--local_rank", hidden=True, expose_value=False)
@step_command()
def main(
    dataset: str,
    resume: str,
    num_processes: int,
    alias: str,
    config_path: str,
    overrides: str,
    verbose: bool,
) -> None:
    """Adapt a pre-trained model to papers with LoRA or QLoRA."""
    from steps.distributed.ranks import rank_from_environment

    loaded = load_config(config_path, overrides)
    rank = rank_from_environment()
    if rank is None and (num_processes > 1 or loaded.training.distributed.uses_deepspeed):
        show_notices(loaded.notices)
        options = {"config": config_path, "overrides": overrides, "dataset": dataset}
        options |= {"resume": resume, "alias": alias}
        start_ranks(loaded, num_processes, options, verbose)
        return
    if rank is not None and num_processes not in (1, rank.local_count):
        raise UserError(
            f"num_processes is {num_processes}, but a launcher has started {rank.local_count} "
            "ranks on this machine already: leave num_processes out"
        )
    if rank is None or not rank.is_launched:
        show_notices(loaded.notices)
    train_as(rank, loaded, dataset, resume, alias, verbose)


def start_ranks(
    loaded: LoadedConfig, processes: int, options: dict[str, str], verbose: bool
) -> None:
    """Open the run, start this step once for each process, and say how it ended.

    Args:
        loaded: The configuration.
        processes: Ranks on this machine.
        options: Of this step, by their long names.
        verbose: Show library messages.

    Raises:
        UserError: There are fewer GPUs than processes, or a rank met bad input.
    """
    # Imported here for its log handler, which is taken away below.
    import torch.distributed.launcher.api  # noqa: F401

    from steps.distributed.launcher import RankFailed, launch_ranks
    from steps.distributed.ranks import check_devices
    from steps.models.devices import pick_device
    from steps.terminal import quieten_handlers
    from steps.tracking.heartbeat import heartbeat
    from steps.tracking.runs import SECONDS_WHEN_INTERRUPTED, send_rest, step_run

    training = loaded.training
    check_devices(processes, pick_device(training.hardware.device))
    arguments = ["-m", "steps.finetune", *(["--verbose"] if verbose else [])]
    for name, value in options.items():
        arguments += [f"--{name}", value]
    name = training.qlora.resolved_method
    try:
        with (
            step_run(
                "finetune", training, verbose=verbose, run_name=name, log_name="launcher"
            ) as run,
            heartbeat(run),
        ):
            # The agent's words are for the log; it brings its own handler.
            quieten_handlers()
            notes = run.scratch / "notes"
            notes.mkdir()
            patience = SECONDS_WHEN_INTERRUPTED
            try:
                launch_ranks(
                    arguments, processes, training.distributed, {"MLFLOW_RUN_ID": run.id}, notes
                )
                patience = run.patience
            finally:
                send_rest(run, patience)
    except RankFailed as error:
        click.echo(error.detail, err=True)
        click.secho(f"error: {error}; run {run.id} is FAILED", fg="red", err=True)
        raise SystemExit(1) from None


def train_as(
    rank: "Rank | None",
    loaded: LoadedConfig,
    dataset: str,
    resume: str,
    alias: str,
    verbose: bool,
) -> None:
    """Train, as one of several ranks or alone.

    Args:
        rank: The place that a launcher has given this process; None: it trains alone.
        loaded: The configuration.
        dataset: The option.
        resume: The option.
        alias: The option.
        verbose: Show library messages.
    """
    from steps.distributed.collectives import process_group
    from steps.distributed.launcher import refused_before, telling_the_launcher
    from steps.distributed.ranks import Rank, check_devices
    from steps.models.devices import pick_device
    from steps.signals import stop_on_signals
    from steps.tracking.ranks import run_of_rank

    rank = rank or Rank()
    if rank.is_launched and refused_before():
        raise SystemExit(UserError.exit_code)
    training = loaded.training
    name, settings = training.qlora.resolved_method, training.distributed
    with telling_the_launcher(rank), stop_on_signals() as stop, ExitStack() as stack:
        device = pick_device(training.hardware.device)
        if rank.count > 1:
            check_devices(rank.local_count, device)
        stack.enter_context(
            process_group(rank, device, settings.timeout_minutes, alone=settings.uses_deepspeed)
        )
        run = stack.enter_context(run_of_rank(rank, training, verbose=verbose, name=name))
        version = finetune(run, loaded, dataset, alias, resume, stop, rank)
        if version.startswith("models:/"):
            say(f"registered {version} as @{alias}; run {run.id}")


def finetune(
    run: "StepRun",
    loaded: LoadedConfig,
    dataset: str,
    alias: str,
    resume: str,
    stop: "StopSignals",
    rank: "Rank",
) -> str:
    """Train, check and register; of several ranks, the first does all but the training.

    Returns:
        The URI of the registered version, or of the adapter where `mlflow.log_model` is false;
        "" on every rank but the first.
    """
    import torch

    from steps.distributed.collectives import (
        broadcast,
        check_ranks_agree,
        leave_group,
        raise_on_all_ranks,
    )
    from steps.distributed.deepspeed import zero_stage
    from steps.models.adapted import AdaptedModel, describe, save_adapted
    from steps.models.adapters import add_adapter, trainable_parameters
    from steps.models.checks import check_base
    from steps.models.devices import Placement, pick_device, pick_dtype
    from steps.models.loading import load_model, new_modules
    from steps.models.sharded import gathered_parameters, wrapper_name
    from steps.models.sources import resolve_base
    from steps.models.tokenizer import load_tokenizer
    from steps.reports.model_card import TrainingData, write_model_card
    from steps.reports.training_figures import write_training_curves
    from steps.terminal import quieten_handlers
    from steps.tracking.cache import cache_tags, key_parts
    from steps.tracking.checkpoints.agreement import (
        agree_on_point,
        is_restarted,
        lacks,
        last_steps,
        remove_shared_checkpoints,
    )
    from steps.tracking.checkpoints.resume import expectation, facts, resumable_tags, take_over
    from steps.tracking.datasets import log_dataset_input
    from steps.tracking.environment import git_state, library_versions, write_environment
    from steps.tracking.plans import planned
    from steps.tracking.registry.versions import register
    from steps.training.context import TrainingContext
    from steps.training.trainer import ModelTrainer

    quieten_handlers()
    training = loaded.training
    stored = fetched_by_all(run, dataset, rank)
    parts = key_parts("finetune", training, {"dataset": stored.digest})
    with raise_on_all_ranks():
        train_papers = _papers(stored, "train", training.scientific_data.sections)
        validation_papers = _papers(stored, "validation", training.scientific_data.sections)
        base = resolve_base(training.model)
        device = pick_device(training.hardware.device)
        dtype = pick_dtype(training.hardware, device)
        check_base(base, training, device)
    expected = expectation(training, base, stored.digest)
    file_content = _deepspeed_content(loaded)
    expected |= {"processes": rank.count, "deepspeed": file_content}
    check_ranks_agree({**expected, **library_versions(), "number format": str(dtype)})
    checkpoint_root = _checkpoint_root(training, run, rank)
    restarted = is_restarted(run)
    already = last_steps(run) if restarted and rank.is_first else {}
    found = agree_on_point(run, rank, resume, expected, say)
    point = found.point if found else None
    torch.manual_seed(training.hyperparameters.seed)
    tokenizer = load_tokenizer(base.folder)
    batch_size: int | str = 0
    with raise_on_all_ranks():
        if rank.is_first:
            settled = planned(
                run,
                training,
                base,
                device,
                dtype,
                train_papers,
                tokenizer,
                checkpoint_root,
                point,
                rank,
                zero_stage=zero_stage(file_content),
                again=restarted,
            )
            batch_size = settled.hyperparameters.batch_size
    # What rank 0 has settled holds for all.
    shared = broadcast(batch_size)
    values = training.hyperparameters.model_copy(update={"batch_size": shared})
    training = training.model_copy(update={"hyperparameters": values})
    placement = Placement(device, dtype, rank.count, zero_stage(file_content))
    with raise_on_all_ranks():
        deepspeed = _deepspeed(loaded, training, dtype, rank)
        model = load_model(
            base,
            training.qlora.quantization,
            training.qlora.bits,
            dtype,
            device,
            storage=dtype if deepspeed else None,
        )
        if new_modules(model):
            say(f"{base.name} comes without {', '.join(new_modules(model))}: drawn and trained")
        model = add_adapter(model, training.qlora, base.objective)
    description = describe(training, base, dtype)

    run.tag(
        dataset_digest=stored.digest,
        dataset_run=stored.run_id,
        base_model=base.name,
        base_source=base.source,
        base_revision=base.revision,
        base_sha256=base.sha256,
        base_note=base.note,
        objective=base.objective,
        method=training.qlora.resolved_method,
        trained_papers=str(len(train_papers)),
        processes=str(rank.count),
        machines=str(rank.machines),
        **resumable_tags(checkpoint_root, expected),
        **git_state(),
        **{f"version.{name}": number for name, number in library_versions().items()},
    )
    if found is not None and rank.is_first:
        take_over(run, found, already)
    run.params(_params(loaded))
    _log_config(run, loaded)
    if rank.is_first:
        write_environment(run.scratch / "environment")
        run.artifact(run.scratch / "environment")
        if not restarted:
            log_dataset_input(stored.run_id, "papers", stored.digest, context="training")

    adapter = run.scratch / "adapter"
    with _recorder(run, training, rank, already) as (recorder, uploads):
        trainer = ModelTrainer(
            training,
            model,
            tokenizer,
            train_papers,
            validation_papers,
            checkpoint_root,
            context=TrainingContext(
                placement=placement,
                recorder=recorder,
                metadata=facts(run.id, stored.digest, expected),
                stop=stop,
                rank=rank,
                deepspeed=deepspeed,
            ),
        )
        trainable = trainable_parameters(model)
        rows = trainer.train_rows
        how = "" if rank.count == 1 else f", {rank.count} processes"
        how += f", DeepSpeed ZeRO-{placement.zero_stage}" if deepspeed else ""
        number_format = description["dtype"]
        say(f"base {base.name} ({base.note or base.source}), {device}, {number_format}{how}")
        say(f"method {training.qlora.resolved_method}: {trainable:,} trainable parameters")
        say(f"training on {len(train_papers)} papers: {rows.tokens:,} tokens in {len(rows)} rows")
        if not validation_papers:
            say("no paper to validate on: the last state is the result, whatever its quality")
        recorder.metrics(
            {"train/trainable_parameters": trainable, "train/tokens_per_epoch": rows.tokens}, 0
        )

        if found is not None:
            say(f"resumed from run {found.run_id}, checkpoint-{found.point.step} ({found.where})")
            show_notices(found.notices)
        with uploads, _saying_how_to_go_on(run, trainer):
            if restarted and found is not None and rank.is_first and lacks(run, found):
                # It was on its way when the attempt before was killed.
                recorder.checkpoint(found.point.folder, found.point.step, {})
            trainer.train(resume=point)
            seconds = trainer.seconds
        done = trainer.state.global_step
        if found is not None:
            say(f"steps done after the resume: {trainer.steps_done} of {done}")
        recorder.metrics(
            {
                "train/seconds": seconds,
                "train/mean_tokens_per_second": trainer.progress.tokens_seen / seconds,
                "train/steps": done,
            },
            done,
        )

        if trainer.steps_done:
            run.tag(wrapper=wrapper_name(trainer.model_wrapped))
        adapted = AdaptedModel(model, tokenizer, base.objective, dtype, device, description)
        with gathered_parameters(trainer.trained().values() if training.qlora.adapts else ()):
            save_adapted(
                adapter,
                model,
                tokenizer,
                description,
                adapted,
                weights=trainer.whole_weights(),
                writes=rank.is_first,
            )
        leave_group()
        if not rank.is_first:
            return ""
        figures = _figures(trainer)
        data = TrainingData(stored.digest, stored.run_id, stored.manifest["splits"], rows.tokens)
        card = adapter / "README.md"
        write_model_card(card, training, base, data, figures, library_versions())
        write_training_curves(trainer.state.log_history, run.scratch / "figures" / "training.png")
        recorder.artifact(adapter)
        recorder.artifact(run.scratch / "figures")
        if run.spool.last_error:
            say(f"the tracking store is away ({run.spool.last_error}): waiting for it")
    if uploads.complete:
        remove_shared_checkpoints(run.id)
    # The check loads the model a second time, in another process: make room first.
    del trainer, model, adapted
    _free_memory(device)
    if training.mlflow.log_model:
        say("checking the stored model in a fresh process")
        version = register(run, adapter, training, alias, figures)
    else:
        version = f"runs:/{run.id}/adapter"
        say(f"not registered, because mlflow.log_model is false: {version}")
    run.tag(model_version=version, **cache_tags(parts))
    return version


@contextmanager
def _saying_how_to_go_on(run: "StepRun", trainer: "ModelTrainer") -> Iterator[None]:
    from steps.signals import StoppedAtOnce

    try:
        yield
    except SystemExit as error:
        saved = "at once, without saving" if isinstance(error, StoppedAtOnce) else "and saved"
        step = trainer.state.global_step
        say(f"stopped after step {step} {saved}; to go on: resume={run.id}, or resume=auto")
        raise


def _papers(
    stored: "StoredDataset", split: str, sections: tuple[str, ...] | None
) -> "list[PaperText]":
    """The papers of a split; an empty one is the caller's choice only for validation.

    Raises:
        UserError: The training split is empty.
    """
    from steps.papers.text import read_papers

    if stored.manifest["splits"][split]["papers"]:
        return read_papers(stored.folder, split, sections)
    if split == "train":
        raise UserError(
            f"the dataset of run {stored.run_id} has no paper in its train split: lower "
            "training.scientific_data.filters or split.validation_fraction and test_fraction, or "
            "add papers, and run preprocess again"
        )
    return []


def _figures(trainer: Any) -> dict[str, float]:
    """What the training measured, for the card and the version, by the store's names."""
    history = trainer.state.log_history
    figures = {
        "train/steps": float(trainer.state.global_step),
        "train/tokens_seen": float(trainer.progress.tokens_seen),
    }
    losses = [entry["loss"] for entry in history if "loss" in entry]
    if losses:
        figures |= {"train/loss, first": losses[0], "train/loss, last": losses[-1]}
    for key in ("bits_per_byte", "mlm_loss"):
        values = [entry[f"eval_{key}"] for entry in history if f"eval_{key}" in entry]
        if values:
            figures |= {
                f"validation/{key}, first": values[0],
                f"validation/{key}, best": min(values),
            }
    return figures


def _params(loaded: LoadedConfig) -> dict[str, Any]:
    from steps.tracking.store import without_credentials

    content = loaded.training.model_dump(mode="json")
    uri = content["mlflow"]["tracking_uri"]
    content["mlflow"]["tracking_uri"] = uri and without_credentials(uri)
    return {key: value for name, part in content.items() for key, value in _flat(name, part)}


def _flat(name: str, part: Any) -> list[tuple[str, Any]]:
    return list(flatten(name, part)) if isinstance(part, dict) else [(name, part)]


def _log_config(run: "StepRun", loaded: LoadedConfig) -> None:
    from steps.tracking.store import without_credentials

    file = run.scratch / "config.yaml"
    uri = loaded.training.mlflow.tracking_uri
    kept = loaded.training.mlflow.model_copy(
        update={"tracking_uri": uri and without_credentials(uri)}
    )
    training = loaded.training.model_copy(update={"mlflow": kept})
    file.write_text(resolved_yaml(training), encoding="utf-8")
    run.artifact(file)


def _checkpoint_root(training: Training, run: "StepRun", rank: "Rank") -> Path:
    """The folder of this run's checkpoints, made and found writable.

    Raises:
        UserError: It cannot be written, or DeepSpeed's ranks do not share it.
    """
    import tempfile

    from steps.distributed.collectives import broadcast, raise_on_all_ranks
    from steps.tracking.checkpoints.agreement import checkpoint_folder

    output = training.output.output_dir
    root = checkpoint_folder(training, rank, run)
    if not (rank.is_first or training.distributed.uses_deepspeed):
        # Rank 0 writes for all.
        root = run.scratch / "training"
    with raise_on_all_ranks():
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise UserError(
                f"training.output.output_dir is {output!r}, where nothing can be written "
                f"({error.strerror}): give another folder, or null for a temporary one"
            ) from None
    if rank.machines > 1 and training.distributed.uses_deepspeed:
        with tempfile.NamedTemporaryFile(dir=root) as mark, raise_on_all_ranks():
            if not Path(broadcast(mark.name)).exists():
                raise UserError(
                    f"training.output.output_dir is {output!r}, which the machines do not share, "
                    "and DeepSpeed's ranks write one checkpoint together: give a folder on a disk "
                    "that all of them see"
                )
    return root


def _deepspeed_content(loaded: LoadedConfig) -> dict[str, Any] | None:
    """What the DeepSpeed file says, where it is in use."""
    from steps.distributed.deepspeed import read_deepspeed_file

    if not loaded.training.distributed.uses_deepspeed:
        return None
    return read_deepspeed_file(deepspeed_file(loaded.training, loaded.path))


def _deepspeed(
    loaded: LoadedConfig, training: Training, dtype: "torch.dtype", rank: "Rank"
) -> dict[str, Any] | None:
    """DeepSpeed's settings for this training, where it is in use."""
    from steps.distributed.deepspeed import deepspeed_settings

    if not training.distributed.uses_deepspeed:
        return None
    rows = training.hyperparameters.batch_size
    assert isinstance(rows, int)
    path = deepspeed_file(loaded.training, loaded.path)
    return deepspeed_settings(path, training, dtype, ranks=rank.count, micro_batch=rows)


def fetched_by_all(run: "StepRun", reference: str, rank: "Rank") -> "StoredDataset":
    """Fetch the dataset on every rank; `latest` is what rank 0 takes for it.

    Raises:
        UserError: A rank cannot fetch it; on every rank.
    """
    from steps.distributed.collectives import broadcast, raise_on_all_ranks
    from steps.tracking.datasets import fetch_dataset

    with raise_on_all_ranks():
        if rank.is_first:
            stored = fetch_dataset(run.client, reference, run.scratch)
    newest = broadcast(stored.run_id if rank.is_first else None)
    with raise_on_all_ranks():
        if not rank.is_first:
            wanted = newest if reference == "latest" else reference
            stored = fetch_dataset(run.client, wanted, run.scratch)
    return stored


@contextmanager
def _recorder(
    run: "StepRun", training: Training, rank: "Rank", already: dict[str, int]
) -> "Iterator[tuple[MlflowRecorder | SilentRecorder, CheckpointUploads | NoUploads]]":
    """What this rank reports to, and its uploads; one rank of each machine samples it."""
    from steps.distributed.collectives import broadcast
    from steps.recorder import SilentRecorder
    from steps.tracking.checkpoints.agreement import machine_name
    from steps.tracking.checkpoints.uploads import CheckpointUploads, NoUploads
    from steps.tracking.recorder import MlflowRecorder, sampling_machine

    seconds = training.mlflow.system_metrics_seconds
    machine = machine_name(rank)
    sampled = [step for name, step in already.items() if name.startswith("system/")]
    first_sample = broadcast(max(sampled, default=-1) + 1)
    if not rank.is_first:
        with sampling_machine(run, 0.0 if rank.local else seconds, machine, first_sample):
            yield SilentRecorder(), NoUploads()
        return
    uploads = CheckpointUploads(run)
    with MlflowRecorder(
        run, uploads, system_metrics_seconds=seconds, machine=machine, already=already
    ) as recorder:
        yield recorder, uploads


def _free_memory(device: str) -> None:
    import gc

    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
