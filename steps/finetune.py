"""Step 2: adapt a pre-trained model to the training papers, and register the result.

    mlflow run . -e finetune -P overrides="training.qlora.r=32"
    python -m steps.finetune --config configs/training.yaml --dataset latest

Leaves `checkpoints/`, `adapter/` and `config.yaml` in its run, and a registered version
with the given alias, loaded back in a fresh process before the run says FINISHED.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from steps.cli import step_command
from steps.config.file import LoadedConfig, load_config
from steps.errors import UserError
from steps.terminal import say, show_notices

if TYPE_CHECKING:
    from steps.distributed.ranks import Rank
    from steps.models.adapted import AdaptedModel
    from steps.recorder import Recorder
    from steps.signals import StopSignals
    from steps.tracking.job import PreparedJob
    from steps.tracking.runs import StepRun
    from steps.training.job import Job, TrainingResult
    from steps.training.trainer import ModelTrainer


@dataclass(frozen=True)
class Options:
    """What the command line says besides the configuration.

    Attributes:
        dataset: `latest`, a run id, or `runs:/ID/dataset`.
        resume: `never`, `auto`, or a run id.
        alias: Of the registered version; "": none.
    """

    dataset: str
    resume: str
    alias: str


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
    "--alias",
    default="challenger",
    show_default=True,
    help='Alias of the registered version; "": none.',
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
    """Adapt a pre-trained model to papers with LoRA, QLoRA, DoRA, rsLoRA or in full."""
    from steps.distributed.ranks import check_process_count, rank_from_environment
    from steps.tracking.registry.naming import check_alias

    check_alias(alias)
    options = Options(dataset, resume, alias)
    loaded = load_config(config_path, overrides)
    rank = rank_from_environment()
    if rank is None and (num_processes > 1 or loaded.training.distributed.shares_out):
        from steps.tracking.job import check_distributed
        from steps.tracking.launch import start_ranks

        show_notices(loaded.notices)
        # Before the ranks are started: each of them would meet it.
        check_distributed(loaded, num_processes)
        given = {"config": config_path, "overrides": overrides, **asdict(options)}
        name = loaded.training.qlora.resolved_method
        start_ranks("finetune", loaded, num_processes, given, verbose=verbose, run_name=name)
        return
    if rank is not None:
        check_process_count(num_processes, rank)
    if rank is None or not rank.is_launched:
        show_notices(loaded.notices)
    train_as(rank, loaded, options, verbose)


def train_as(rank: "Rank | None", loaded: LoadedConfig, options: Options, verbose: bool) -> None:
    """Train, as one of several ranks or alone.

    Args:
        rank: The place that a launcher has given this process; None: it trains alone.
        loaded: The configuration.
        options: Dataset, checkpoint to go on from, and alias.
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
            process_group(rank, device, settings.timeout_minutes, alone=settings.shares_out)
        )
        run = stack.enter_context(
            run_of_rank(rank, "finetune", training, verbose=verbose, name=name)
        )
        version = finetune(run, loaded, options, stop, rank)
        if version.startswith("models:/"):
            named = f" as @{options.alias}" if options.alias else ""
            say(f"registered {version}{named}; run {run.id}")


def finetune(
    run: "StepRun",
    loaded: LoadedConfig,
    options: Options,
    stop: "StopSignals",
    rank: "Rank",
) -> str:
    """Train, check and register; of several ranks, the first does all but the training.

    Returns:
        The URI of the registered version, or of the adapter where `mlflow.log_model` is false;
        "" on every rank but the first.
    """
    from steps.distributed.collectives import leave_group
    from steps.models.devices import free_memory
    from steps.terminal import quieten_handlers
    from steps.tracking.job import describe_run, prepare_job, recording
    from steps.tracking.mixtures import describe_sources
    from steps.tracking.publish import publish_files, publish_version
    from steps.training.job import tokenise

    quieten_handlers()
    prepared = prepare_job(run, loaded, options.dataset, options.resume, options.alias, rank)
    tokenise(prepared.job, rank)
    adapted = load(prepared.job)
    with run.together():
        describe_run(run, loaded, prepared, rank)
    with recording(run, prepared, rank) as (recorder, uploads):
        trainer = build_trainer(run, prepared, adapted, recorder, stop, rank)
        describe_sources(run, trainer.made_rows.mixed_sources)
        announce(prepared, adapted, trainer, recorder)
        with uploads:
            with _saying_how_to_go_on(run, trainer):
                train(run, prepared, trainer, recorder)
            result = save(run, prepared.job, adapted, trainer)
            leave_group()
            if not rank.is_first:
                return ""
            # Into the spool on the disk, before anything waits for a store that is away.
            publish_files(run, prepared, result, recorder)
    # The check loads the model a second time, in another process: make room first.
    del trainer, adapted
    free_memory(prepared.job.placement.device)
    return publish_version(run, prepared, result, options.alias, uploads)


def load(job: "Job") -> "AdaptedModel":
    """Load the base with a fresh adapter on it, drawn from the configuration's seed."""
    import torch

    from steps.distributed.collectives import raise_on_all_ranks
    from steps.models.adapted import AdaptedModel, describe
    from steps.models.adapters import add_adapter
    from steps.models.initialisation import first_windows
    from steps.models.loading import new_modules
    from steps.models.new_tokens import give_embeddings
    from steps.models.shares import load_base
    from steps.progress import waiting

    training, base, placement = job.training, job.base, job.placement
    dtype = placement.torch_dtype
    torch.manual_seed(training.hyperparameters.seed)
    with raise_on_all_ranks(), waiting("loading the model"):
        loaded = load_base(base, training, dtype, placement.device, job.deepspeed)
        model = loaded.model
        if placement.zero_stage == 3:
            say(loaded.note)
        if new_modules(model):
            say(f"{base.name} lacks {', '.join(new_modules(model))}: trained from random weights")
        texts = (paper.text for paper in job.train_papers)
        windows = first_windows(training.qlora, job.tokenizer, texts, training.model.max_length)
        if job.new_tokens:
            give_embeddings(model, job.new_tokens)
        ids = job.new_tokens.ids if job.new_tokens else ()
        model = add_adapter(model, training.qlora, base.objective, windows, ids)
    description = describe(training, base, dtype)
    return AdaptedModel(model, job.tokenizer, base.objective, dtype, placement.device, description)


def build_trainer(
    run: "StepRun",
    prepared: "PreparedJob",
    adapted: "AdaptedModel",
    recorder: "Recorder",
    stop: "StopSignals",
    rank: "Rank",
) -> "ModelTrainer":
    """Put job, model and surroundings together."""
    from steps.training.context import TrainingContext
    from steps.training.mixing import Mixture
    from steps.training.trainer import ModelTrainer

    job = prepared.job
    context = TrainingContext(
        placement=job.placement,
        recorder=recorder,
        metadata=prepared.checkpoint_metadata(run),
        stop=stop,
        rank=rank,
        deepspeed=job.deepspeed,
    )
    return ModelTrainer(
        job.training,
        adapted.model,
        job.tokenizer,
        job.train_papers,
        job.validation_papers,
        job.checkpoint_root,
        context=context,
        mixture=Mixture(job.replay.texts if job.replay else (), job.studied),
    )


def announce(
    prepared: "PreparedJob", adapted: "AdaptedModel", trainer: "ModelTrainer", recorder: "Recorder"
) -> None:
    """Say what is about to be trained, on what, and from where it goes on."""
    from steps.models.adapters import trainable_parameters
    from steps.models.initialisation import initialisation_note

    job, found = prepared.job, prepared.found
    base, placement, rows = job.base, job.placement, trainer.made_rows.paper_rows
    how = "" if placement.processes == 1 else f", {placement.processes} processes"
    how += f", DeepSpeed ZeRO-{placement.zero_stage}" if job.deepspeed else ""
    how += ", FSDP2" if placement.fully_sharded else ""
    number_format = adapted.description["dtype"]
    trainable = trainable_parameters(adapted.model)
    say(f"base {base.name} ({base.note or base.source}), {placement.device}, {number_format}{how}")
    say(f"method {job.training.qlora.resolved_method}: {trainable:,} trainable parameters")
    if note := initialisation_note(job.training.qlora):
        say(f"note: {note}")
    what = "items" if trainer.objective == "instruction" else "papers"
    say(f"training on {len(job.train_papers)} {what}: {rows.tokens:,} tokens in {len(rows)} rows")
    if job.replay is not None:
        left_out = ", ".join(f"{count} {why}" for why, count in job.replay.left_out.items())
        say(f"replay of {len(job.replay.texts)} texts; left out: {left_out or 'none'}")
    if not job.validation_papers:
        say(f"no {what} to validate on: the last state is the result, whatever its quality")
    recorder.metrics(
        {
            "train/trainable_parameters": trainable,
            "train/tokens_per_epoch": trainer.train_rows.tokens,
        },
        0,
    )
    if found is not None:
        say(f"resumed from run {found.run_id}, checkpoint-{found.point.step} ({found.where})")
        show_notices(found.notices)


def train(
    run: "StepRun", prepared: "PreparedJob", trainer: "ModelTrainer", recorder: "Recorder"
) -> None:
    """Train to the end and report what it took, by the recorder: the store may be away."""
    from steps.tracking.checkpoints.agreement import lacks

    found = prepared.found
    if prepared.restarted and found is not None and trainer.rank.is_first and lacks(run, found):
        # It was on its way when the attempt before was killed.
        recorder.checkpoint(found.point.folder, found.point.step, {})
    trainer.train(resume=prepared.job.resume)
    seconds, steps = trainer.seconds, trainer.state.global_step
    if found is not None:
        say(f"steps done after the resume: {trainer.steps_done} of {steps}")
    recorder.metrics(
        {
            "train/seconds": seconds,
            "train/mean_tokens_per_second": trainer.progress.tokens_seen / seconds,
            "train/steps": steps,
        },
        steps,
    )


def save(
    run: "StepRun", job: "Job", adapted: "AdaptedModel", trainer: "ModelTrainer"
) -> "TrainingResult":
    """Write the adapter folder, with the logits that whoever loads it has to find; all ranks."""
    from steps.models.adapted import save_adapted
    from steps.models.residual import onto_instruct
    from steps.models.sharded import gathered_parameters, whole_weights, wrapper_name
    from steps.tracking.names import ADAPTER_FOLDER
    from steps.training.job import TrainingResult, figures_of

    folder = run.scratch / ADAPTER_FOLDER
    adapts, placement = trainer.training_config.qlora.adapts, job.placement
    with gathered_parameters(trainer.trained().values() if adapts else ()):
        saved = adapted
        if job.instruct is not None and trainer.rank.is_first:
            saved = onto_instruct(job.training, job.instruct, adapted)
            say(f"the adapter is put onto {job.instruct.name}")
        save_adapted(
            folder,
            saved.model,
            saved.tokenizer,
            saved.description,
            saved,
            weights=whole_weights(trainer) if placement.fully_sharded or not adapts else None,
            writes=trainer.rank.is_first,
        )
    return TrainingResult(
        adapter=folder,
        figures=figures_of(trainer.state, trainer.progress),
        history=trainer.state.log_history,
        tokens_of_an_epoch=trainer.made_rows.paper_rows.tokens,
        mixed_sources=trainer.made_rows.mixed_sources,
        # Nothing wraps a model of which no step was left to train.
        wrapper=wrapper_name(trainer.model_wrapped) if trainer.steps_done else "",
    )


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


if __name__ == "__main__":
    main()
