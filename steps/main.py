"""The whole pipeline: preprocess, finetune each variant, evaluate, compare, prune.

    mlflow run . --env-manager uv
    python -m steps.main --config configs/demo.yaml

Each step is an MLflow run of its own, nested under this one. A step whose cache key is
found among the finished runs is not started again; the reason for a new start is printed.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from steps import outcome
from steps.cli import prepare_environment_of_steps, step_command
from steps.config.file import load_config
from steps.terminal import say, show_notices, styled
from steps.tracking.names import (
    CHAMPION,
    CHAMPION_AFTER_TAG,
    DATASET_DIGEST_TAG,
    DECISION_FILE,
    MODEL_VERSION_TAG,
)

if TYPE_CHECKING:
    from steps.reports.summary_table import FinishedRun
    from steps.tracking.pipeline import Pipeline
    from steps.tracking.registry.model_reference import ModelReference
    from steps.tracking.runs import StepRun


@click.command()
@step_command(default_config="configs/demo.yaml")
def main(config_path: str, overrides: str, verbose: bool) -> None:
    """Run all steps in order, reusing what has not changed."""
    loaded = load_config(config_path, overrides)
    show_notices(loaded.notices)
    prepare_environment_of_steps(verbose)

    from steps.tracking.harness_tasks import check_tasks
    from steps.tracking.pipeline import Pipeline
    from steps.tracking.runs import step_run

    for variant in loaded.training.variants:
        overlaid = load_config(loaded.path, loaded.variant_overrides(variant))
        if overlaid.training.distributed.shares_out:
            from steps.tracking.job import check_distributed

            check_distributed(overlaid)
    with step_run("main", loaded.training, verbose=verbose) as run:
        check_tasks(loaded.training)
        run_pipeline(Pipeline(run, loaded))


def run_pipeline(pipeline: "Pipeline") -> None:
    """The steps in order, each handing on run ids and version URIs."""
    from steps.tracking.cache import finetune_inputs
    from steps.tracking.inputs import find_items, find_paper_files, input_digests, with_local_files
    from steps.tracking.mixtures import replay_inputs
    from steps.tracking.nested import read_json, tracking_uri
    from steps.tracking.registry.model_reference import ModelReference, resolve_model

    started = time.monotonic()
    run, loaded, training = pipeline.run, pipeline.loaded, pipeline.loaded.training

    location = training.scientific_data.data_file
    papers = find_paper_files(training, location, run.scratch / "input")
    inputs = input_digests(
        papers,
        with_local_files(training.scientific_data, run.scratch / "input"),
        find_items(training, run.scratch / "input"),
    )
    prepared = pipeline.step("preprocess", "preprocess", inputs, {})
    digest = prepared.data.tags[DATASET_DIGEST_TAG]
    dataset = prepared.info.run_id

    trained: dict[str, FinishedRun] = {}
    references: dict[str, ModelReference] = {}
    for variant in training.variants:
        overlaid = load_config(loaded.path, loaded.variant_overrides(variant))
        trained[variant] = pipeline.step(
            "finetune",
            f"finetune {variant}",
            finetune_inputs(overlaid.training, digest)
            | replay_inputs(overlaid.training, run.scratch / "input"),
            {"dataset": dataset},
            overlaid,
        )
        version = trained[variant].data.tags[MODEL_VERSION_TAG]
        references[variant] = resolve_model(run.client, version, training)

    base = ModelReference("base", None, None)
    measured = {"base": _evaluate(pipeline, base, "base", dataset, digest)}
    for variant, reference in references.items():
        measured[variant] = _evaluate(pipeline, reference, variant, dataset, digest)

    compared = _compare(pipeline, references, digest)
    _prune(pipeline, trained)

    from steps.reports.summary_table import show_summary
    from steps.tracking.comparison_page import COMPARISON_PAGE, write_comparison
    from steps.tracking.saved_view import view_address

    with run.together():
        write_comparison(run, list(trained.values()), training)
    decision = read_json(run, compared.info.run_id, DECISION_FILE)
    earlier = compared.info.run_id if "ab_compare" in pipeline.reused else ""
    page = view_address(run.experiment_id)
    show_summary(run, training, trained, measured, decision, tracking_uri(), page, earlier)
    say(f"runs, curves and pairs: {COMPARISON_PAGE} of run {run.id}")
    with run.together():
        run.metrics({"pipeline/seconds": time.monotonic() - started})
        _present(run, prepared, trained, measured, decision)
    outcome.add(
        decision=decision,
        dataset=prepared.info.run_id,
        trained={name: found.data.tags[MODEL_VERSION_TAG] for name, found in trained.items()},
        test={name: dict(found.data.metrics) for name, found in measured.items()},
        reused=pipeline.reused,
    )
    if pipeline.reused:
        say(f"reused: {', '.join(pipeline.reused)}")
    if not pipeline.started:
        say("nothing had changed: every step was reused")
    say(f"pipeline finished in {time.monotonic() - started:.0f} s")


def _present(
    run: "StepRun",
    prepared: "FinishedRun",
    trained: "Mapping[str, FinishedRun]",
    measured: "Mapping[str, FinishedRun]",
    decision: "Mapping[str, Any]",
) -> None:
    """Name the pipeline's run by its papers and variants, and say what came of each."""
    from steps.tracking.presentation import run_link, score_sentences, version_link

    def scores(name: str) -> str:
        metrics = measured[name].data.metrics
        named = {key.removeprefix("test/"): value for key, value in metrics.items()}
        return "; ".join(score_sentences(named)) or "no score"

    papers = prepared.data.metrics.get("papers/accepted", 0)
    outcomes = {one["challenger_uri"]: one["outcome"] for one in decision["decisions"]}
    lines = [
        f"base: {scores('base')} ({run_link(run, 'evaluation', measured['base'].info.run_id)})"
    ]
    for variant, finished in trained.items():
        version = finished.data.tags[MODEL_VERSION_TAG]
        links = [
            run_link(run, "training", finished.info.run_id),
            run_link(run, "evaluation", measured[variant].info.run_id),
        ]
        outcome = outcomes.get(version, "champion")
        lines.append(
            f"{variant}: {scores(variant)}; {outcome}: {version_link(version)} ({', '.join(links)})"
        )
    lines.append(f"papers: {run_link(run, 'dataset', prepared.info.run_id)}")
    run.present(f"{papers:,.0f} papers · {', '.join(trained)}", lines)


def _evaluate(
    pipeline: "Pipeline", reference: "ModelReference", name: str, dataset: str, digest: str
) -> "FinishedRun":
    from steps.tracking.evaluations import evaluation_inputs
    from steps.tracking.trained_run import log_with_training

    inputs = evaluation_inputs(pipeline.loaded.training, reference, digest, "test")
    measured = pipeline.step(
        "evaluate", f"evaluate {name}", inputs, {"model": reference.uri, "dataset": dataset}
    )
    if f"evaluate {name}" in pipeline.reused:
        # It may be of an earlier version of the project, which did not.
        log_with_training(pipeline.run.client, measured.info.run_id)
    return measured


def _compare(
    pipeline: "Pipeline", references: "dict[str, ModelReference]", digest: str
) -> "FinishedRun":
    """Compare the new versions with the champion, unless the same was decided and still stands."""
    from steps.tracking.cache import find_reusable, key_parts
    from steps.tracking.registry.promotion import alias_state, comparison_inputs

    run, training = pipeline.run, pipeline.loaded.training
    champion = alias_state(run.client, training.mlflow.registered_model_name).get(CHAMPION, "")
    contenders = list(references.values())
    parts = key_parts("ab_compare", training, comparison_inputs(contenders, champion, digest, True))
    found, reason = find_reusable(run.client, run.experiment_id, "ab_compare", parts)
    if found is not None:
        if found.data.tags.get(CHAMPION_AFTER_TAG, "") == champion:
            say(styled("reused  ab_compare", fg="green") + f" (run {found.info.run_id})")
            pipeline.reused.append("ab_compare")
            decided: FinishedRun = found
            return decided
        reason = "the champion has been moved since"
    # A champion cannot challenge itself: the others challenge it.
    challengers = ",".join(reference.uri for reference in contenders if reference.uri != champion)
    parameters = {"challenger": challengers, "champion": champion or "base"}
    return pipeline.start("ab_compare", "ab_compare", parameters, reason)


def _prune(pipeline: "Pipeline", trained: dict[str, "FinishedRun"]) -> None:
    """Plan which checkpoints could go; nothing is deleted without `apply=true`."""
    inputs = {"runs": ",".join(sorted(run.info.run_id for run in trained.values()))}
    pipeline.step("prune_checkpoints", "prune_checkpoints", inputs, {})


if __name__ == "__main__":
    main()
