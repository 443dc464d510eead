"""The whole pipeline: preprocess, finetune each variant, evaluate, compare, prune.

    mlflow run . --env-manager uv
    python -m steps.main --config configs/demo.yaml

Each step is an MLflow run of its own, nested under this one. A step whose cache key is
found among the finished runs is not started again; the reason for a new start is printed.
"""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steps.cli import step_command
from steps.config.file import LoadedConfig, load_config
from steps.terminal import say, show_notices
from steps.tracking.names import (
    CHAMPION,
    CHAMPION_AFTER_TAG,
    DATASET_DIGEST_TAG,
    DECISION_FILE,
    MODEL_VERSION_TAG,
)

if TYPE_CHECKING:
    from steps.reports.summary_table import FinishedRun
    from steps.tracking.registry.model_reference import ModelReference
    from steps.tracking.runs import StepRun


@dataclass
class Pipeline:
    """One pass over the steps.

    Attributes:
        run: The parent run.
        loaded: The configuration.
        reused: Names of the steps that were not started again.
        started: Names of those that were.
    """

    run: "StepRun"
    loaded: LoadedConfig
    reused: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)

    def step(
        self,
        step: str,
        name: str,
        inputs: Mapping[str, str],
        parameters: Mapping[str, str],
        loaded: LoadedConfig | None = None,
    ) -> "FinishedRun":
        """Use a step's earlier result, or start it and wait.

        Args:
            step: Entry point.
            name: What to call this pass of it.
            inputs: Digests that its result depends on.
            parameters: Its parameters besides `config` and `overrides`.
            loaded: Its configuration, where it is not the pipeline's.

        Raises:
            StepFailed: It ended with another exit code than 0.
        """
        from steps.tracking.cache import find_reusable, key_parts

        settings = loaded or self.loaded
        parts = key_parts(step, settings.training, inputs)
        found, reason = find_reusable(self.run.client, self.run.experiment_id, step, parts)
        if found is not None:
            say(click.style(f"reused  {name}", fg="green") + f" (run {found.info.run_id})")
            self.reused.append(name)
            finished: FinishedRun = found
            return finished
        return self.start(step, name, parameters, reason, settings)

    def start(
        self,
        step: str,
        name: str,
        parameters: Mapping[str, str],
        reason: str,
        settings: LoadedConfig | None = None,
    ) -> "FinishedRun":
        """Start a step, nested under the pipeline's run, and wait for it."""
        from steps.tracking.nested import run_nested_step

        say(click.style(f"running {name}", bold=True) + f" ({reason})")
        self.started.append(name)
        settings = settings or self.loaded
        given = {"config": str(settings.path.resolve()), "overrides": settings.overrides}
        finished: FinishedRun = run_nested_step(self.run, step, name, {**given, **parameters})
        return finished


@click.command()
@step_command(default_config="configs/demo.yaml")
def main(config_path: str, overrides: str, verbose: bool) -> None:
    """Run all steps in order, reusing what has not changed."""
    loaded = load_config(config_path, overrides)
    show_notices(loaded.notices)
    # The steps' commands say `python`: let that be this one, activated environment or not.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # A dozen processes import torch, transformers and mlflow: from compiled files that takes 8 s
    # each, and 18 s where the environment forbids to keep them.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if verbose:
        os.environ["FORGE_VERBOSE"] = "1"

    from steps.tracking.harness_tasks import check_tasks
    from steps.tracking.runs import step_run

    for variant in loaded.training.variants:
        overlaid = load_config(loaded.path, loaded.variant_overrides(variant))
        if overlaid.training.distributed.uses_deepspeed:
            from steps.tracking.job import check_distributed

            check_distributed(overlaid)
    with step_run("main", loaded.training, verbose=verbose) as run:
        check_tasks(loaded.training)
        run_pipeline(Pipeline(run, loaded))


def run_pipeline(pipeline: Pipeline) -> None:
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

    decision = read_json(run, compared.info.run_id, DECISION_FILE)
    earlier = compared.info.run_id if "ab_compare" in pipeline.reused else ""
    show_summary(run, training, trained, measured, decision, tracking_uri(), earlier)
    run.metrics({"pipeline/seconds": time.monotonic() - started})
    if pipeline.reused:
        say(f"reused: {', '.join(pipeline.reused)}")
    if not pipeline.started:
        say("nothing had changed: every step was reused")
    say(f"pipeline finished in {time.monotonic() - started:.0f} s")


def _evaluate(
    pipeline: Pipeline, reference: "ModelReference", name: str, dataset: str, digest: str
) -> "FinishedRun":
    from steps.tracking.evaluations import evaluation_inputs

    inputs = evaluation_inputs(pipeline.loaded.training, reference, digest, "test")
    return pipeline.step(
        "evaluate", f"evaluate {name}", inputs, {"model": reference.uri, "dataset": dataset}
    )


def _compare(
    pipeline: Pipeline, references: "dict[str, ModelReference]", digest: str
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
            say(click.style("reused  ab_compare", fg="green") + f" (run {found.info.run_id})")
            pipeline.reused.append("ab_compare")
            decided: FinishedRun = found
            return decided
        reason = "the champion has been moved since"
    # A champion cannot challenge itself: the others challenge it.
    challengers = ",".join(reference.uri for reference in contenders if reference.uri != champion)
    parameters = {"challenger": challengers, "champion": champion or "base"}
    return pipeline.start("ab_compare", "ab_compare", parameters, reason)


def _prune(pipeline: Pipeline, trained: dict[str, "FinishedRun"]) -> None:
    """Plan which checkpoints could go; nothing is deleted without `apply=true`."""
    inputs = {"runs": ",".join(sorted(run.info.run_id for run in trained.values()))}
    pipeline.step("prune_checkpoints", "prune_checkpoints", inputs, {})


if __name__ == "__main__":
    main()
