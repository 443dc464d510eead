"""The results of a model on a split: stored ones, or measured now."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.digests import file_sha256
from steps.evaluation.measure import Results
from steps.metrics import METRIC_VERSION
from steps.papers.general_texts import general_files, read_general_texts
from steps.progress import about, waiting
from steps.terminal import say
from steps.tracking.beside_base import beside_base
from steps.tracking.examples import check_trained_papers, is_asked, read_examples
from steps.tracking.generations import generations_of
from steps.tracking.harness_tasks import ask_tasks, planned_tasks, prepared_tasks, task_inputs
from steps.tracking.kept_results import keep_results
from steps.tracking.measurement import Measurement, load_together, measure_together
from steps.tracking.names import (
    CUT_TAG,
    DATASET_DIGEST_TAG,
    GENERAL_FILE,
    LINEAGE_GAP_TAG,
    METRIC_VERSION_TAG,
    METRICS_FILE,
    OBJECTIVE_TAG,
    PER_PAPER_FILE,
    RESULTS_DIGEST_TAG,
    SPLIT_TAG,
    TASKS_FILE,
    TRAINED_PAPERS_TAG,
)
from steps.tracking.presentation import (
    report_facts,
    run_link,
    score_sentences,
    version_link,
    what_was_scored,
)
from steps.tracking.provenance import retracted_papers
from steps.tracking.stored_results import ResultsChanged, StoredResults, read_results
from steps.tracking.trained_run import log_with_training

if TYPE_CHECKING:
    from steps.comparison.comparable import EvaluatedModel
    from steps.evaluation.measure import TokenExample
    from steps.models.adapted import AdaptedModel
    from steps.models.sources import Task
    from steps.tracking.datasets import StoredDataset
    from steps.tracking.registry.model_reference import ModelReference
    from steps.tracking.runs import StepRun


RULES_FILE, CLOZE_FILE, FACTS_FILE = "rules.parquet", "cloze.parquet", "facts.parquet"
# The files whose digests are noted and checked.
RESULT_FILES = (METRICS_FILE, PER_PAPER_FILE, GENERAL_FILE, TASKS_FILE)


def evaluation_inputs(
    training: Training, reference: "ModelReference", dataset_digest: str, split: str
) -> dict[str, str]:
    """What an evaluation depends on besides its sections of the configuration."""
    from steps.tracking.cache import base_identity, chat_inputs, digest_of_files

    identity: Any = base_identity(training.model) if reference.uri == "base" else reference.run_id
    texts = training.evaluation.general_texts
    return {
        "model": json.dumps([reference.uri, identity], sort_keys=True),
        "dataset": dataset_digest,
        "split": split,
        "context": str(training.evaluation.context or training.model.max_length),
        "general texts": digest_of_files(general_files(texts)) if texts else "none",
        **task_inputs(training),
        **chat_inputs(training),
    }


def evaluate_model(
    run: "StepRun",
    training: Training,
    reference: "ModelReference",
    stored: "StoredDataset",
    split: str,
    *,
    evaluate_base: bool = False,
) -> Results:
    """Measure one model and write everything into the run.

    Args:
        run: The run of this evaluation.
        training: The configuration.
        reference: The model.
        stored: The dataset.
        split: Which of its splits.
        evaluate_base: Evaluate the base too where it has no results on this split yet; else the
            model is shown beside its base only if there are some.

    Raises:
        UserError: An empty split, papers that the model was trained on, missing texts.
    """
    from steps.papers.stored_papers import read_papers
    from steps.terminal import quieten_handlers
    from steps.tracking.datasets import log_dataset_input
    from steps.tracking.registry.lineage import training_lineage
    from steps.tracking.registry.model_reference import fetch_adapter

    adapter = None if reference.uri == "base" else fetch_adapter(run.client, reference, run.scratch)
    tasks = prepared_tasks(training, reference, adapter)
    answers = is_asked(training, adapter)
    examples = read_examples(stored, split, answers=answers)
    lineage = training_lineage(run.client, reference, stored, run.scratch / "trained-on")
    scored = [example.unit for example in examples]
    trained_papers = check_trained_papers(training, reference, scored, split, lineage)
    retracted = retracted_papers(training, lineage, reference.name, run.scratch)
    # Whatever may be missing is looked for before minutes go into the base.
    texts = read_general_texts(training.evaluation.general_texts)
    base = results_of_base(run, training, reference, stored, split, evaluate_base)
    log_dataset_input(stored.run_id, "papers", stored.digest, context="evaluation")
    further = planned_tasks(tasks)
    job = Measurement(training, reference, adapter, answers, examples, texts, further=further)
    if not answers:
        learned = [
            paper
            for dataset in lineage.datasets
            if dataset.run_id != stored.run_id
            for paper in read_papers(dataset.folder, "train")
        ]
        job = replace(job, train_papers=read_papers(stored.folder, "train"), learned=learned)
    adapted = load_together(job)
    quieten_handlers()
    task = "instruction" if answers else adapted.objective
    _tag(run, training, reference, stored, split, adapted, task)
    run.tag(
        trained_papers_scored=str(trained_papers) if trained_papers else None,
        lineage_gap=lineage.gap or None,
        retracted_papers=", ".join(retracted) or None,
    )
    results, shown = measure_together(job, adapted)
    ask_tasks(training, adapted, tasks, lineage, results)
    results.retracted = retracted
    _tag_cuts(run, training, reference, stored, split, results)
    if trained_papers:
        results.metrics["trained_papers"] = float(trained_papers)
    if base is not None:
        results.metrics |= beside_base(
            run, training, reference, results, base.per_paper, base.general
        )
    with about(reference.short_name), waiting("writing the report"):
        with run.together():
            _write(run, reference, adapted, results, base, stored, split, shown)
            _log(run, reference, stored, split, results)
        if reference.run_id is not None:
            log_with_training(run.client, run.id)
    return results


def _log(
    run: "StepRun",
    reference: "ModelReference",
    stored: "StoredDataset",
    split: str,
    results: Results,
) -> None:
    """Log the figures with model and dataset, and say in run and training what came out."""
    from steps.tracking.datasets import as_mlflow_dataset
    from steps.tracking.registry.model_reference import logged_model_id

    model_id = logged_model_id(reference)
    dataset = as_mlflow_dataset(stored.run_id, "papers", stored.digest)
    where = {"dataset_name": dataset.name, "dataset_digest": dataset.digest}
    if model_id:
        where["model_id"] = model_id
    named = {f"{split}/{name}": value for name, value in results.metrics.items()}
    run.metrics(named, step=0, **where)
    run.present(
        f"{reference.name} · {split}",
        [
            f"{version_link(reference.uri)} on {what_was_scored(results.per_paper)} of the "
            f"{split} split",
            *score_sentences(results.metrics),
            f"papers of {run_link(run, 'this dataset', stored.run_id)}, `{stored.digest}`; "
            "`report.html` has all figures",
        ],
    )


def _tag(
    run: "StepRun",
    training: Training,
    reference: "ModelReference",
    stored: "StoredDataset",
    split: str,
    adapted: "AdaptedModel",
    task: "Task",
) -> None:
    """Say in the run what is measured, on what, and by which key it can be found again."""
    from steps.tracking.cache import cache_tags, key_parts

    inputs = evaluation_inputs(training, reference, stored.digest, split)
    run.tag(
        dataset_digest=stored.digest,
        dataset_run=stored.run_id,
        split=split,
        model_uri=reference.uri,
        model_run=reference.run_id,
        metric_version=METRIC_VERSION,
        objective=task,
        base_model=adapted.description["base"]["name"],
        base_note=adapted.description["base"]["note"],
        **cache_tags(key_parts("evaluate", training, inputs)),
    )


def _tag_cuts(
    run: "StepRun",
    training: Training,
    reference: "ModelReference",
    stored: "StoredDataset",
    split: str,
    results: Results,
) -> None:
    """Note what a budget has cut; a result of which nothing was cut is anybody's."""
    from steps.tracking.cache import cache_tags, key_parts

    if training.evaluation.budget_minutes is None:
        return
    if results.cuts:
        cuts = {name: [cut.kept, cut.wanted] for name, cut in results.cuts.items()}
        run.tag(cut=json.dumps(cuts, sort_keys=True))
        return
    whole = training.evaluation.model_copy(update={"budget_minutes": None})
    unbounded = training.model_copy(update={"evaluation": whole})
    inputs = evaluation_inputs(unbounded, reference, stored.digest, split)
    run.tag(**cache_tags(key_parts("evaluate", unbounded, inputs)))


def results_of(
    run: "StepRun",
    training: Training,
    reference: "ModelReference",
    stored: "StoredDataset",
    split: str,
    *,
    measure_now: bool,
) -> StoredResults | None:
    """The results of a model on a split, as this code and configuration measure them.

    Args:
        run: The run that wants to know.
        training: The configuration.
        reference: The model.
        stored: The dataset.
        split: Which of its splits.
        measure_now: Measure the model, in a run of its own, where it was not yet.

    Returns:
        None where there are no results and none are to be measured.
    """
    from steps.tracking.cache import find_reusable, key_parts
    from steps.tracking.runs import step_run

    inputs = evaluation_inputs(training, reference, stored.digest, split)
    parts = key_parts("evaluate", training, inputs)
    found, _ = find_reusable(run.client, run.experiment_id, "evaluate", parts)
    name = "the base" if reference.uri == "base" else reference.name
    missing = "has no results on this split yet"
    if found is not None:
        try:
            return read_results(run, found)
        except ResultsChanged as error:
            missing = f"has results in run {found.info.run_id} that cannot be used ({error})"
    if not measure_now:
        return None
    say(f"{name} {missing}: evaluating it now")
    title = f"evaluate {reference.name}"
    with step_run("evaluate", training, verbose=False, run_name=title) as inner:
        evaluate_model(inner, training, reference, stored, split)
    return read_results(run, run.client.get_run(inner.id))


def results_of_base(
    run: "StepRun",
    training: Training,
    reference: "ModelReference",
    stored: "StoredDataset",
    split: str,
    measure_now: bool,
) -> StoredResults | None:
    """The results of a model's base on the same split.

    Args:
        run: The run of the model's evaluation.
        training: The configuration, whose model is the base.
        reference: The model.
        stored: The dataset.
        split: Which of its splits.
        measure_now: Measure the base, in a run of its own, where it was not yet.

    Returns:
        None for a base itself, for a model made from another base than the configuration
        names, and where there are no results.
    """
    from steps.models.sources import resolve_base
    from steps.tracking.registry.model_reference import ModelReference, trained_on_base

    if reference.uri == "base":
        return None
    if not trained_on_base(run.client, reference, resolve_base(training.model)):
        return None
    base = ModelReference("base", None, None)
    return results_of(run, training, base, stored, split, measure_now=measure_now)


def _about(adapted: "AdaptedModel") -> dict[str, str]:
    """What a model is made of, for the head of its report."""
    base = adapted.description["base"]
    note = f" ({base['note']})" if base["note"] else ""
    method = adapted.description.get("method", "none")
    return {"base": f"{base['name']}{note}", "method": method}


def _write(
    run: "StepRun",
    reference: "ModelReference",
    adapted: "AdaptedModel",
    results: Results,
    base: StoredResults | None,
    stored: "StoredDataset",
    split: str,
    examples: "list[TokenExample]",
) -> None:
    from steps.reports.evaluation_report import write_evaluation_report

    results.per_paper.to_parquet(run.scratch / PER_PAPER_FILE, index=False)
    results.generations.to_parquet(run.scratch / "generations.parquet", index=False)
    (run.scratch / METRICS_FILE).write_text(
        json.dumps({f"{split}/{k}": v for k, v in results.metrics.items()}, indent=1),
        encoding="utf-8",
    )
    pictures = write_evaluation_report(
        run.scratch / "report.html",
        model_name=reference.name,
        results=results,
        base_metrics=None if base is None else base.metrics,
        base_per_paper=None if base is None else base.per_paper,
        token_examples=examples,
        base_generations=None if base is None else generations_of(run, base.run_id),
        header=report_facts(
            run,
            **_about(adapted),
            dataset=stored.digest,
            split=f"{split}: {what_was_scored(results.per_paper)}",
        ),
    )
    names = [PER_PAPER_FILE, "generations.parquet", METRICS_FILE, "report.html"]
    further = {
        GENERAL_FILE: results.general,
        TASKS_FILE: results.tasks,
        RULES_FILE: results.rules,
        CLOZE_FILE: results.cloze,
        FACTS_FILE: results.facts,
    }
    for name, frame in further.items():
        if frame is None:
            continue
        frame.to_parquet(run.scratch / name, index=False)
        names.append(name)
    run.artifacts(
        [(run.scratch / name, None) for name in names]
        + [(picture, "figures") for picture in pictures]
    )
    checked = [name for name in RESULT_FILES if name in names]
    digests = {name: file_sha256(run.scratch / name) for name in checked}
    run.tag(results_sha256=json.dumps(digests))
    keep_results(run.client, run.id, {run.scratch / n: digest for n, digest in digests.items()})
    # Parquet is for programs; these the UI shows.
    shown = {
        PER_PAPER_FILE: results.per_paper,
        "generations.parquet": results.generations,
        TASKS_FILE: results.tasks,
        RULES_FILE: results.rules,
    }
    run.tables({f"tables/{Path(n).stem}.json": t for n, t in shown.items() if t is not None})


def evaluated_model(
    run: "StepRun", training: Training, reference: "ModelReference", stored: "StoredDataset"
) -> "EvaluatedModel":
    """A model with its results on the test split, from the store or measured now."""
    results = results_of(run, training, reference, stored, "test", measure_now=True)
    assert results is not None
    return as_evaluated(results, reference.name, reference.uri)


def as_evaluated(results: StoredResults, name: str, version: str) -> "EvaluatedModel":
    """Stored results as a comparison takes them.

    Args:
        results: What an evaluation has left.
        name: What the model is called.
        version: The URI that it resolved to.
    """
    from steps.comparison.comparable import EvaluatedModel

    return EvaluatedModel(
        name=name,
        version=version,
        dataset_digest=results.tags[DATASET_DIGEST_TAG],
        split=results.tags[SPLIT_TAG],
        metric_version=results.tags.get(METRIC_VERSION_TAG, METRIC_VERSION),
        objective=results.tags[OBJECTIVE_TAG],
        per_paper=results.per_paper,
        general=results.general,
        tasks=results.tasks,
        metrics=results.metrics,
        trained=_trained_on_papers(name, results.tags),
        unverified=""
        if RESULTS_DIGEST_TAG in results.tags
        else f"the results of {name} were stored without digests: evaluate it again",
        cuts=json.loads(results.tags.get(CUT_TAG, "{}")),
    )


def _trained_on_papers(name: str, tags: dict[str, str]) -> str:
    """Why a model may know the papers that it was scored on, by the tags of its evaluation."""
    if TRAINED_PAPERS_TAG in tags:
        count = tags[TRAINED_PAPERS_TAG]
        return f"{name} was trained on {count} of these papers, so its gain shows nothing"
    if LINEAGE_GAP_TAG in tags:
        return f"what {name} was trained on is unknown, so its gain shows nothing"
    return ""
