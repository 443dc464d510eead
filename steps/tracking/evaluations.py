"""The results of a model on a split: stored ones, or measured now."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.errors import UserError
from steps.terminal import say

if TYPE_CHECKING:
    from steps.evaluation.measure import TokenExample
    from steps.models.adapted import AdaptedModel
    from steps.tracking.datasets import StoredDataset
    from steps.tracking.registry.lineage import Lineage
    from steps.tracking.registry.model_reference import Side
    from steps.tracking.runs import StepRun
if TYPE_CHECKING:
    from steps.comparison.comparable import SideInfo
    from steps.tracking.datasets import StoredDataset
    from steps.tracking.registry.model_reference import Side
    from steps.tracking.runs import StepRun
from steps.evaluation.measure import GENERATION_COLUMNS, Results, measure, token_examples
from steps.metrics import METRIC_VERSION
from steps.papers.general_texts import general_file, read_general_texts


def evaluation_inputs(
    training: Training, side: "Side", dataset_digest: str, split: str
) -> dict[str, str]:
    """What an evaluation depends on besides its sections of the configuration."""
    from steps.tracking.cache import base_identity, digest_of_files

    identity: Any = base_identity(training.model) if side.uri == "base" else side.run_id
    texts = training.evaluation.general_texts
    return {
        "model": json.dumps([side.uri, identity], sort_keys=True),
        "dataset": dataset_digest,
        "split": split,
        "context": str(training.evaluation.context or training.model.max_length),
        "general texts": digest_of_files([general_file(texts)]) if texts else "none",
    }


def evaluate_side(
    run: "StepRun",
    training: Training,
    side: "Side",
    stored: "StoredDataset",
    split: str,
    *,
    evaluate_base: bool = False,
) -> Results:
    """Measure one model and write everything into the run.

    Args:
        run: The run of this evaluation.
        training: The configuration.
        side: The model.
        stored: The dataset.
        split: Which of its splits.
        evaluate_base: Evaluate the base too where it has no results on this split yet; else the
            model is shown beside its base only if there are some.

    Raises:
        UserError: An empty split, papers that the model was trained on, missing texts.
    """
    from steps.evaluation.summary import forgotten
    from steps.papers.text import read_papers
    from steps.terminal import quieten_handlers
    from steps.tracking.cache import cache_tags, key_parts
    from steps.tracking.datasets import as_mlflow_dataset, log_dataset_input
    from steps.tracking.registry.lineage import training_lineage
    from steps.tracking.registry.model_reference import fetch_adapter, logged_model_id

    papers = read_papers(stored.folder, split)
    if not papers:
        raise UserError(
            f"split {split!r} of dataset {stored.digest[:19]}… holds no paper: raise "
            f"training.scientific_data.split.{split}_fraction and run preprocess again"
        )
    lineage = training_lineage(run.client, side, stored, run.scratch / "trained-on")
    trained_papers = check_trained_papers(training, side, stored, split, lineage)
    texts = read_general_texts(training.evaluation.general_texts)
    # Whatever may be missing is looked for before minutes go into the base.
    adapter = None if side.uri == "base" else fetch_adapter(run.client, side, run.scratch)
    base = base_results(run, training, side, stored, split, evaluate_base)
    parts = key_parts("evaluate", training, evaluation_inputs(training, side, stored.digest, split))
    log_dataset_input(stored.run_id, "papers", stored.digest, context="evaluation")
    adapted = load_side(training, adapter)
    quieten_handlers()
    run.tag(
        dataset_digest=stored.digest,
        dataset_run=stored.run_id,
        split=split,
        model_uri=side.uri,
        model_run=side.run_id,
        metric_version=METRIC_VERSION,
        objective=adapted.objective,
        base_model=adapted.description["base"]["name"],
        base_note=adapted.description["base"]["note"],
        trained_papers_scored=str(trained_papers) if trained_papers else None,
        lineage_gap=lineage.gap or None,
        **cache_tags(parts),
    )
    train_papers = read_papers(stored.folder, "train")
    learned = [
        paper
        for dataset in lineage.datasets
        if dataset.run_id != stored.run_id
        for paper in read_papers(dataset.folder, "train")
    ]
    results = measure(training, adapted, papers, train_papers, general_texts=texts, learned=learned)
    if trained_papers:
        results.metrics["trained_papers"] = float(trained_papers)
    if base is not None and results.general is not None and base.general is not None:
        seed, resamples = training.evaluation.seed, training.evaluation.bootstrap_samples
        results.metrics |= forgotten(results.general, base.general, seed=seed, resamples=resamples)
    _write(run, side, adapted, results, base, split, token_examples(training, adapted, papers))
    model_id = logged_model_id(side)
    dataset = as_mlflow_dataset(stored.run_id, "papers", stored.digest)
    where = {"dataset_name": dataset.name, "dataset_digest": dataset.digest}
    if model_id:
        where["model_id"] = model_id
    named = {f"{split}/{name}": value for name, value in results.metrics.items()}
    run.metrics(named, step=0, **where)
    return results


def base_results(
    run: "StepRun",
    training: Training,
    side: "Side",
    stored: "StoredDataset",
    split: str,
    evaluate: bool,
) -> Results | None:
    """What this code measured of the model's base on the same split.

    Args:
        run: The run of the model's evaluation.
        training: The configuration, whose model is the base.
        side: The model.
        stored: The dataset.
        split: Which of its splits.
        evaluate: Measure the base now where it was not yet, in a run of its own.

    Returns:
        None for a base itself, for a model made from another base than the configuration
        names, and where there are no results.
    """
    import pandas as pd

    from steps.models.sources import resolve_base
    from steps.tracking.cache import find_reusable, key_parts
    from steps.tracking.registry.model_reference import Side, trained_on_base
    from steps.tracking.runs import step_run

    if side.uri == "base" or not trained_on_base(run.client, side, resolve_base(training.model)):
        return None
    base = Side("base", None, None)
    parts = key_parts("evaluate", training, evaluation_inputs(training, base, stored.digest, split))
    found, _ = find_reusable(run.client, run.experiment_id, "evaluate", parts)
    names: set[str] = set()
    if found is not None:
        names = {file.path for file in run.client.list_artifacts(found.info.run_id)}
    # Results whose files were deleted are none.
    if found is None or not names >= {"per_paper.parquet", "metrics.json"}:
        if not evaluate:
            return None
        say("the base has no results on this split yet: evaluating it now")
        with step_run("evaluate", training, verbose=False, run_name="evaluate base") as inner:
            return evaluate_side(inner, training, base, stored, split)
    base_run, target = found.info.run_id, run.scratch / "base"
    target.mkdir()

    def fetch(name: str) -> Path:
        return Path(run.client.download_artifacts(base_run, name, str(target)))

    metrics = json.loads(fetch("metrics.json").read_text(encoding="utf-8"))
    general = "general.parquet"
    return Results(
        pd.read_parquet(fetch("per_paper.parquet")),
        pd.read_parquet(fetch(general)) if general in names else None,
        pd.DataFrame(columns=GENERATION_COLUMNS),
        {name.partition("/")[2]: value for name, value in metrics.items()},
    )


def load_side(training: Training, adapter: Path | None) -> "AdaptedModel":
    """Load an adapter folder with its base, or the base that the configuration names."""
    from steps.models.adapted import load_adapted, load_base
    from steps.models.sources import resolve_base

    if adapter is None:
        return load_base(resolve_base(training.model), hardware=training.hardware)
    return load_adapted(adapter, training.hardware)


def check_trained_papers(
    training: Training, side: "Side", stored: "StoredDataset", split: str, lineage: "Lineage"
) -> int:
    """Look for papers of the split that the model was trained on.

    Returns:
        How many there are: 0, unless `evaluation.allow_trained_papers` is set.

    Raises:
        UserError: There are some, or the lineage cannot be seen, and that key is not set.
    """
    scored = stored.manifest["splits"][split]["paper_ids"]
    seen = sorted(lineage.trained_papers().intersection(scored))
    if training.evaluation.allow_trained_papers:
        return len(seen)
    way_out = "set training.evaluation.allow_trained_papers=true to see the figures all the same"
    if seen:
        raise UserError(
            f"{side.name} was trained on {len(seen)} of the {len(scored)} papers of split "
            f"{split!r} (such as {seen[0]}): score another split, or {way_out}"
        )
    if lineage.gap:
        raise UserError(
            f"{side.name}: what it was trained on cannot be seen, so it may know the papers of "
            f"split {split!r}: {lineage.gap}; or {way_out}"
        )
    return 0


def _shown_name(side: "Side", adapted: "AdaptedModel") -> str:
    base = adapted.description["base"]
    note = f"; {base['note']}" if base["note"] else ""
    return f"{side.name} ({base['name']}{note})"


def _write(
    run: "StepRun",
    side: "Side",
    adapted: "AdaptedModel",
    results: Results,
    base: Results | None,
    split: str,
    examples: "list[TokenExample]",
) -> None:
    from steps.reports.evaluation_report import write_evaluation_report

    results.per_paper.to_parquet(run.scratch / "per_paper.parquet", index=False)
    results.generations.to_parquet(run.scratch / "generations.parquet", index=False)
    (run.scratch / "metrics.json").write_text(
        json.dumps({f"{split}/{k}": v for k, v in results.metrics.items()}, indent=1),
        encoding="utf-8",
    )
    pictures = write_evaluation_report(
        run.scratch / "report.html",
        model_name=_shown_name(side, adapted),
        metrics=results.metrics,
        per_paper=results.per_paper,
        base_metrics=None if base is None else base.metrics,
        base_per_paper=None if base is None else base.per_paper,
        generations=results.generations,
        token_examples=examples,
    )
    names = ["per_paper.parquet", "generations.parquet", "metrics.json", "report.html"]
    if results.general is not None:
        results.general.to_parquet(run.scratch / "general.parquet", index=False)
        names.append("general.parquet")
    for name in names:
        run.artifact(run.scratch / name)
    for picture in pictures:
        run.artifact(picture, "figures")
    # Parquet is for programs; these the UI shows.
    run.table("tables/per_paper.json", results.per_paper)
    run.table("tables/generations.json", results.generations)


def side_info(
    run: "StepRun", training: Training, side: "Side", stored: "StoredDataset"
) -> "SideInfo":
    """The results of a side on the test split, from the store or measured now."""
    import mlflow
    import pandas as pd

    from steps.comparison.comparable import SideInfo
    from steps.metrics import METRIC_VERSION
    from steps.tracking.cache import find_reusable, key_parts
    from steps.tracking.runs import step_run

    split = "test"
    parts = key_parts("evaluate", training, evaluation_inputs(training, side, stored.digest, split))
    found, _ = find_reusable(run.client, run.experiment_id, "evaluate", parts)
    if found is None:
        say(f"{side.name} has no results on this split yet: evaluating it now")
        with step_run(
            "evaluate", training, verbose=False, run_name=f"evaluate {side.name}"
        ) as inner:
            evaluate_side(inner, training, side, stored, split)
            evaluation_id = inner.id
        found = run.client.get_run(evaluation_id)
    evaluation_id = found.info.run_id
    target = run.scratch / "evaluations" / evaluation_id
    target.mkdir(parents=True, exist_ok=True)

    def fetch(name: str) -> Path:
        return Path(
            mlflow.artifacts.download_artifacts(
                run_id=evaluation_id, artifact_path=name, dst_path=str(target)
            )
        )

    metrics = json.loads(fetch("metrics.json").read_text(encoding="utf-8"))
    names = {file.path for file in run.client.list_artifacts(evaluation_id)}
    general = pd.read_parquet(fetch("general.parquet")) if "general.parquet" in names else None
    tags = found.data.tags
    return SideInfo(
        name=side.name,
        version=side.uri,
        dataset_digest=tags["forge.dataset_digest"],
        split=tags["forge.split"],
        metric_version=tags.get("forge.metric_version", METRIC_VERSION),
        objective=tags["forge.objective"],
        per_paper=pd.read_parquet(fetch("per_paper.parquet")),
        general=general,
        metrics={key.partition("/")[2]: value for key, value in metrics.items()},
    )
