"""Step 2: adapt a pre-trained model to the training papers, and register the result.

    mlflow run . -e finetune -P overrides="training.qlora.r=32"
    python -m steps.finetune --config configs/training.yaml --dataset latest

Leaves `checkpoints/`, `adapter/` and `config.yaml` in its run, and a registered version
with the given alias, loaded back in a fresh process before the run says FINISHED.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steps.cli import say, show_notices, step_command
from steps.config import LoadedConfig, Training, flatten, load_config, resolved_yaml
from steps.errors import UserError

if TYPE_CHECKING:
    import torch

    from steps.papers.text import PaperText
    from steps.tracking.runs import StepRun
    from steps.tracking.store import StoredDataset
    from steps.training.models import Base
    from steps.training.resume import ResumePoint
    from steps.training.signals import StopSignals
    from steps.training.trainer import ModelTrainer

# Papers whose tokens are counted before the training, to know about how long it takes.
SAMPLED_PAPERS = 50


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
    help="Processes to train with.",
)
@click.option(
    "--alias", default="challenger", show_default=True, help="Alias of the registered version."
)
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
    loaded = load_config(config_path, overrides)
    show_notices(loaded.notices)
    refuse_unbuilt(num_processes)

    from steps.tracking.heartbeat import heartbeat
    from steps.tracking.runs import step_run
    from steps.training.signals import stop_on_signals

    name = loaded.training.qlora.resolved_method
    with (
        stop_on_signals() as stop,
        step_run("finetune", loaded.training, verbose=verbose, run_name=name) as run,
        heartbeat(run),
    ):
        version = finetune(run, loaded, dataset, alias, resume, stop)
        if version.startswith("models:/"):
            say(f"registered {version} as @{alias}; run {run.id}")


def refuse_unbuilt(num_processes: int) -> None:
    """Say plainly what this version cannot do yet.

    Raises:
        UserError: Several processes were asked for.
    """
    if num_processes != 1:
        raise UserError(f"num_processes is {num_processes}: this version trains with 1 process")


def finetune(
    run: "StepRun",
    loaded: LoadedConfig,
    dataset: str,
    alias: str,
    resume: str,
    stop: "StopSignals",
) -> str:
    """Train, check and register.

    Returns:
        The URI of the registered version, or of the adapter where `mlflow.log_model` is false.
    """
    import torch

    from steps.reports.model_card import TrainingData, write_model_card
    from steps.reports.training_figures import write_training_curves
    from steps.tracking.checkpoint_uploads import CheckpointUploads
    from steps.tracking.datasets import log_dataset_input
    from steps.tracking.environment import git_state, library_versions, write_environment
    from steps.tracking.recorder import MlflowRecorder
    from steps.tracking.registry import register
    from steps.tracking.resumption import (
        expectation,
        facts,
        find_resume_point,
        resumable_tags,
        take_over,
    )
    from steps.tracking.reuse import cache_tags, key_parts
    from steps.tracking.runs import quieten_handlers
    from steps.tracking.store import fetch_dataset
    from steps.training.adapted import AdaptedModel, describe, save_adapted
    from steps.training.adapters import add_adapter, trainable_parameters
    from steps.training.models import (
        check_base,
        load_model,
        load_tokenizer,
        new_modules,
        pick_device,
        pick_dtype,
        resolve_base,
    )
    from steps.training.trainer import ModelTrainer

    quieten_handlers()
    training = loaded.training
    stored = fetch_dataset(run.client, dataset, run.scratch)
    parts = key_parts("finetune", training, {"dataset": stored.digest})
    train_papers = _papers(stored, "train", training.scientific_data.sections)
    validation_papers = _papers(stored, "validation", training.scientific_data.sections)
    checkpoint_root = _checkpoint_root(loaded, run)

    base = resolve_base(training.model)
    expected = expectation(training, base, stored.digest)
    found = find_resume_point(run, resume, expected, say)
    device = pick_device(training.hardware.device)
    dtype = pick_dtype(training.hardware, device)
    check_base(base, training, device)
    torch.manual_seed(training.hyperparameters.seed)
    tokenizer = load_tokenizer(base.folder)
    point = found.point if found else None
    training = planned(
        run, training, base, device, dtype, train_papers, tokenizer, checkpoint_root, point
    )
    model = load_model(base, training.qlora.quantization, training.qlora.bits, dtype, device)
    if new_modules(model):
        say(f"{base.name} comes without {', '.join(new_modules(model))}: drawn anew and trained")
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
        **resumable_tags(checkpoint_root, expected),
        **git_state(),
        **{f"version.{name}": number for name, number in library_versions().items()},
    )
    if found is not None:
        take_over(run, found)
    run.params(_params(loaded))
    _log_config(run, loaded)
    write_environment(run.scratch / "environment")
    run.artifact(run.scratch / "environment")
    log_dataset_input(stored.run_id, "papers", stored.digest, context="training")

    adapter = run.scratch / "adapter"
    sampling = training.mlflow.system_metrics_seconds
    uploads = CheckpointUploads(run)
    with MlflowRecorder(run, uploads, system_metrics_seconds=sampling) as recorder:
        trainer = ModelTrainer(
            training,
            model,
            tokenizer,
            train_papers,
            validation_papers,
            checkpoint_root,
            recorder=recorder,
            dtype=dtype,
            facts=facts(run.id, stored.digest, expected),
            stop=stop,
        )
        trainable = trainable_parameters(model)
        rows = trainer.train_rows
        say(f"base {base.name} ({base.note or base.source}), {device}, {description['dtype']}")
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
            trainer.train(resume=point)
            seconds = trainer.seconds
        done = trainer.state.global_step
        if found is not None:
            say(f"steps done after the resume: {trainer.steps_done} of {done}")
        recorder.metrics(
            {
                "train/seconds": seconds,
                "train/mean_tokens_per_second": trainer.tokens_seen / seconds,
                "train/steps": done,
            },
            done,
        )

        adapted = AdaptedModel(model, tokenizer, base.objective, dtype, device, description)
        save_adapted(adapter, model, tokenizer, description, adapted)
        figures = _figures(trainer)
        data = TrainingData(stored.digest, stored.run_id, stored.manifest["splits"], rows.tokens)
        card = adapter / "README.md"
        write_model_card(card, training, base, data, figures, library_versions())
        write_training_curves(trainer.state.log_history, run.scratch / "figures" / "training.png")
        recorder.artifact(adapter)
        recorder.artifact(run.scratch / "figures")
        if run.spool.last_error:
            say(f"the tracking store is away ({run.spool.last_error}): waiting for it")
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
    from steps.training.signals import StoppedAtOnce

    try:
        yield
    except SystemExit as error:
        saved = "at once, without saving" if isinstance(error, StoppedAtOnce) else "and saved"
        step = trainer.state.global_step
        say(f"stopped after step {step} {saved}; to go on: resume={run.id}, or resume=auto")
        raise


def planned(
    run: "StepRun",
    training: Training,
    base: "Base",
    device: str,
    dtype: "torch.dtype",
    papers: "Sequence[PaperText]",
    tokenizer: Any,
    checkpoint_root: Path,
    point: "ResumePoint | None" = None,
) -> Training:
    """Plan memory, time and disk; leave `plan.json`; refuse what cannot fit.

    Returns:
        The configuration with `batch_size: auto` worked out; a run that is resumed keeps the
        micro-batch of its checkpoint, whatever is free now.

    Raises:
        UserError: The run does not fit into the memory or the disk that there is.
    """
    from steps.training.memory import (
        CannotPlan,
        available_budget,
        check_disk,
        check_fits,
        plan_run,
        shape_from_config,
        with_settled_batch,
    )
    from steps.training.resume import micro_batch_of

    content = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    budget = available_budget(training, device)
    length = training.model.max_length
    where: Any = {"device": device, "number_format": str(dtype).removeprefix("torch.")}
    earlier = micro_batch_of(point.folder) if point else None
    try:
        shape = shape_from_config(content, base.name)
        settled = with_settled_batch(
            shape, training, budget.size, length=length, earlier=earlier, **where
        )
        plan = plan_run(
            shape,
            settled,
            budget,
            tokens=_estimated_tokens(papers, tokenizer),
            tokens_per_second=_measured_rate(run, base, training, device),
            **where,
        )
    except CannotPlan as error:
        if training.hyperparameters.batch_size == "auto":
            raise UserError(f"hyperparameters.batch_size is auto, but {error}") from None
        # What is wrong with it, if anything is, the loaded model will tell.
        say(f"note: no plan: {error}")
        return training
    _record_plan(run, plan)
    rows = settled.hyperparameters.batch_size
    assert isinstance(rows, int)
    # A shape that is only resembled gives a figure to read, not one to refuse by.
    if not shape.notes:
        check_fits(
            shape,
            settled,
            budget.size,
            micro_batch=rows,
            length=length,
            source=budget.source,
            **where,
        )
    check_disk({checkpoint_root: plan["disk"]["local"]})
    return settled


def _record_plan(run: "StepRun", plan: dict[str, Any]) -> None:
    file = run.scratch / "plan.json"
    file.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
    run.artifact(file)
    memory, disk = plan["memory"], plan["disk"]
    figures = {
        "plan/memory_gb": memory["total"] / 2**30,
        "plan/budget_gb": memory["budget"] / 2**30,
        "plan/disk_gb": disk["local"] / 2**30,
        "plan/micro_batch": plan["micro_batch"],
    }
    hours = plan["time"]["hours"]
    if hours is not None:
        figures["plan/hours"] = hours
    run.metrics(figures)
    say(
        f"plan: {plan['micro_batch']} x {plan['length']} tokens take "
        f"{figures['plan/memory_gb']:.2f} of {figures['plan/budget_gb']:.1f} GiB, checkpoints "
        f"{figures['plan/disk_gb']:.2f} GiB of disk"
        + (f", {hours:.1f} hours at the rate of the last such run" if hours is not None else "")
    )


def _estimated_tokens(papers: "Sequence[PaperText]", tokenizer: Any) -> int:
    """Tokens of all papers, by the tokens a character of the first ones."""
    sample = papers[:SAMPLED_PAPERS]
    tokens = sum(len(tokenizer(paper.text, verbose=False).input_ids) for paper in sample)
    characters = sum(len(paper.text) for paper in sample)
    return round(tokens / max(characters, 1) * sum(len(paper.text) for paper in papers))


def _measured_rate(run: "StepRun", base: "Base", training: Training, device: str) -> float | None:
    """Tokens per second of the last finished run of this base and method on such a device."""
    run.tag(device=device)
    found = run.client.search_runs(
        [run.experiment_id],
        "attributes.status = 'FINISHED' and tags.`forge.step` = 'finetune' "
        f"and tags.`forge.method` = '{training.qlora.resolved_method}' "
        f"and tags.`forge.device` = '{device}'",
        max_results=50,
    )
    # Compared here, because a name may hold what the store's filter takes for a quote.
    same = [one for one in found if one.data.tags.get("forge.base_model") == base.name]
    return same[0].data.metrics.get("train/mean_tokens_per_second") if same else None


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
        "train/tokens_seen": float(trainer.tokens_seen),
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


def _checkpoint_root(loaded: LoadedConfig, run: "StepRun") -> Path:
    """The folder of this run's checkpoints, made and found writable.

    Raises:
        UserError: It cannot be written.
    """
    import tempfile

    output = loaded.training.output.output_dir
    root = (Path(output).expanduser() if output else run.scratch / "training") / run.id
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UserError(
            f"training.output.output_dir is {output!r}, where nothing can be written "
            f"({error.strerror}): give another folder, or null for a temporary one"
        ) from None
    return root


def _free_memory(device: str) -> None:
    import gc

    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
