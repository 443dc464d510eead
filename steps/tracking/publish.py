"""What a finished training leaves behind: card and curves, and a registered version."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.digests import folder_sha256
from steps.models.sources import task_trained
from steps.progress import waiting
from steps.terminal import say
from steps.tracking.cache import cache_tags
from steps.tracking.checkpoints.agreement import remove_shared_checkpoints
from steps.tracking.checkpoints.uploads import CheckpointUploads, NoUploads
from steps.tracking.environment import library_versions
from steps.tracking.job import PreparedJob
from steps.tracking.presentation import run_link, version_link
from steps.tracking.registry.versions import register
from steps.tracking.runs import StepRun
from steps.tracking.saved_view import save_view
from steps.training.job import TrainingResult
from steps.training.mixing import MixedSource


def publish_files(
    run: StepRun, prepared: PreparedJob, result: TrainingResult, recorder: Any
) -> None:
    """Write card and curves, and hand them and the adapter to the recorder.

    Args:
        run: The run of this step.
        prepared: What was trained.
        result: What came of it.
        recorder: An `MlflowRecorder`, still open: it sends them when the store is there.
    """
    from steps.reports.model_card import TrainingData, write_model_card
    from steps.reports.training_figures import write_training_curves

    job, stored = prepared.job, prepared.dataset
    data = TrainingData(
        stored.digest,
        stored.run_id,
        stored.manifest["splits"],
        result.tokens_of_an_epoch,
        mixed_in(prepared, result.mixed_sources),
    )
    card = result.adapter / "README.md"
    write_model_card(card, job.training, job.base, data, result.figures, library_versions())
    figures: Path = run.scratch / "figures"
    write_training_curves(result.history, figures / "training.png")
    recorder.artifact(result.adapter)
    recorder.artifact(figures)
    if run.spool.last_error:
        say(f"the tracking store is away ({run.spool.last_error}): waiting for it")


def mixed_in(prepared: PreparedJob, sources: Sequence[MixedSource]) -> list[str]:
    """What was mixed in between the papers, in a sentence each."""
    job = prepared.job
    sentences = []
    for source in sources:
        origin = f"exercises from the training papers ({', '.join(job.training.study_texts.kinds)})"
        if source.section == "replay" and job.replay is not None:
            # A card goes to other machines: no folders of this one.
            name = Path(str(job.training.replay.source)).name
            origin = f"{len(job.replay.texts):,} texts of `{name}`, digest `{job.replay.digest}`"
        sentences.append(
            f"{source.section}: {origin}; {source.tokens_an_epoch:,} of {source.tokens:,} tokens "
            f"a pass, {source.share:.1%} of all."
        )
    return sentences


def publish_version(
    run: StepRun,
    prepared: PreparedJob,
    result: TrainingResult,
    alias: str,
    uploads: CheckpointUploads | NoUploads,
) -> str:
    """Register the adapter, once a fresh process has found it to give the trainer's logits.

    Args:
        run: The run of this step.
        prepared: What was trained.
        result: What came of it.
        alias: Of the registered version.
        uploads: The ended uploads; `complete` says whether the store has all of them.

    Returns:
        The URI of the version, or of the adapter where `mlflow.log_model` is false.
    """
    # Not before: a tag does not wait for a store that is away, and the adapter has to be safe.
    run.tag(wrapper=result.wrapper, adapter_sha256=folder_sha256(result.adapter))
    if uploads.complete:
        remove_shared_checkpoints(run.id)
    training = prepared.job.training
    if training.mlflow.log_model:
        with waiting("checking the stored model in a fresh process"):
            version = register(run, result.adapter, training, alias, result.figures)
    else:
        version = f"runs:/{run.id}/adapter"
        say(f"not registered, because mlflow.log_model is false: {version}")
    with run.together():
        run.tag(model_version=version, **cache_tags(prepared.cache_parts))
        present_training(run, prepared, result, version)
    return version


def present_training(
    run: StepRun, prepared: PreparedJob, result: TrainingResult, version: str
) -> None:
    """Name the run by what was trained, say what came of it, and offer a view of all trainings."""
    training, figures = prepared.job.training, result.figures
    save_view(run.client, run.experiment_id, task_trained(training, prepared.job.base.objective))
    method = training.qlora.resolved_method
    how = f"{method} r{training.qlora.r}" if training.qlora.adapts else method
    # Of "finetune lora" the method is known.
    how = how.removeprefix(f"{method} ") if run.label.endswith(f" {method}") else how
    base = prepared.job.base.name.rstrip("/").rpartition("/")[2]
    scores = ", ".join(
        f"{name.partition('/')[2]} {value:.4f}"
        for name, value in figures.items()
        if name.startswith("validation/")
    )
    run.present(
        f"{how} · {base}",
        [
            f"**{method} of {prepared.job.base.name}**: {version_link(version)}",
            f"{figures['train/steps']:,.0f} steps, {figures['train/tokens_seen']:,.0f} tokens",
            *([f"validation: {scores} (lower is better)"] if scores else []),
            f"trained on {run_link(run, 'this dataset', prepared.dataset.run_id)}, "
            f"`{prepared.dataset.digest}`",
        ],
    )
