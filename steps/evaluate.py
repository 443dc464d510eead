"""Step 3: measure a model on held-out papers.

    mlflow run . -e evaluate -P model=models:/scientificllm-forge@challenger
    python -m steps.evaluate --model base --split test

Leaves `per_paper.parquet`, `metrics.json`, `generations.parquet`, `report.html`, and tables
and figures of them in its run. The paper is the unit: any comparison can be recomputed from
`per_paper.parquet`. A model is shown beside its base, which is evaluated first if need be.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steps import config
from steps.cli import say, show_notices, step_command
from steps.config import find_file, load_config
from steps.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from steps.papers.text import PaperText
    from steps.reports.evaluation_report import TokenExample
    from steps.tracking.lineage import Lineage
    from steps.tracking.registry import Side
    from steps.tracking.runs import StepRun
    from steps.tracking.store import StoredDataset
    from steps.training.adapted import AdaptedModel

# Raised whenever a definition changes, so that old figures are not compared with new ones.
METRIC_VERSION = "2"
SPLITS = ("train", "validation", "test")
GENERATION_COLUMNS = ["paper_id", "prompt", "generation", "reference"]
# Texts that the report shows token by token.
EXAMPLES = 2
EXAMPLE_CHARACTERS = 700


@dataclass
class Results:
    """What was measured.

    Attributes:
        per_paper: One row a paper of the split.
        general: The same of the general texts, or None.
        generations: One row a prompt.
        metrics: By name, without the split in front.
    """

    per_paper: "pd.DataFrame"
    general: "pd.DataFrame | None"
    generations: "pd.DataFrame"
    metrics: dict[str, float] = field(default_factory=dict)


@click.command()
@click.option(
    "--model",
    default="",
    help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/adapter, a run id, or base; "
    "empty: the challenger.",
)
@click.option(
    "--dataset", default="latest", show_default=True, help="latest, a run id, or runs:/ID/dataset."
)
@click.option(
    "--split", default="test", show_default=True, type=click.Choice(SPLITS), help="Split to score."
)
@step_command()
def main(
    model: str, dataset: str, split: str, config_path: str, overrides: str, verbose: bool
) -> None:
    """Score a model on held-out papers."""
    loaded = load_config(config_path, overrides)
    training = loaded.training
    show_notices(loaded.notices)

    from steps.tracking.registry import resolve_side
    from steps.tracking.runs import step_run
    from steps.tracking.store import fetch_dataset

    with step_run("evaluate", training, verbose=verbose) as run:
        side = resolve_side(run.client, model, training)
        stored = fetch_dataset(run.client, dataset, run.scratch / "data")
        results = evaluate_side(run, training, side, stored, split, evaluate_base=True)
        say(f"{side.name} on {split} ({len(results.per_paper)} papers)")
        for line in headline(results.metrics):
            say(f"  {line}")


def headline(metrics: dict[str, float]) -> list[str]:
    """The figures to show on a terminal, with their intervals."""
    lines = []
    for name in (
        "bits_per_byte",
        "gene_bits_per_byte",
        "general_bits_per_byte",
        "mlm_loss",
        "general_mlm_loss",
    ):
        if name in metrics:
            low, high = metrics.get(f"{name}_ci_low"), metrics.get(f"{name}_ci_high")
            interval = f" ({low:.4f} to {high:.4f})" if low is not None and high is not None else ""
            lines.append(f"{name.replace('_', ' ')}: {metrics[name]:.4f}{interval}")
    return lines


def evaluation_inputs(
    training: config.Training, side: "Side", dataset_digest: str, split: str
) -> dict[str, str]:
    """What an evaluation depends on besides its sections of the configuration."""
    from steps.tracking.reuse import base_identity, digest_of_files

    identity: Any = base_identity(training.model) if side.uri == "base" else side.run_id
    texts = training.evaluation.general_texts
    return {
        "model": json.dumps([side.uri, identity], sort_keys=True),
        "dataset": dataset_digest,
        "split": split,
        "context": str(training.evaluation.context or training.model.max_length),
        "general texts": digest_of_files([_general_file(texts)]) if texts else "none",
    }


def evaluate_side(
    run: "StepRun",
    training: config.Training,
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
    from steps.tracking.datasets import as_mlflow_dataset, log_dataset_input
    from steps.tracking.lineage import training_lineage
    from steps.tracking.registry import fetch_adapter, logged_model_id
    from steps.tracking.reuse import cache_tags, key_parts
    from steps.tracking.runs import quieten_handlers

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
    training: config.Training,
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

    from steps.tracking.registry import Side, trained_on_base
    from steps.tracking.reuse import find_reusable, key_parts
    from steps.tracking.runs import step_run
    from steps.training.models import resolve_base

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


def load_side(training: config.Training, adapter: Path | None) -> "AdaptedModel":
    """Load an adapter folder with its base, or the base that the configuration names."""
    from steps.training.adapted import load_adapted, load_base
    from steps.training.models import resolve_base

    if adapter is None:
        return load_base(resolve_base(training.model), hardware=training.hardware)
    return load_adapted(adapter, training.hardware)


def measure(
    training: config.Training,
    adapted: "AdaptedModel",
    papers: "list[PaperText]",
    train_papers: "list[PaperText]",
    *,
    general_texts: "list[PaperText]",
    learned: "Sequence[PaperText]" = (),
) -> Results:
    """Score, ask and summarise; knows no tracking store.

    Args:
        training: The configuration; read are `evaluation` and `model.max_length`.
        adapted: The model.
        papers: The held-out papers.
        train_papers: The training split beside them: how frequent genes are, and what may be
            copied.
        general_texts: Texts outside the domain; may be empty.
        learned: What else the model was trained on, and may copy.
    """
    import pandas as pd

    from steps.evaluation.summary import join_per_paper, summarise, with_score_bands

    settings = training.evaluation
    per_paper = _score(training, adapted, papers, "papers")
    per_paper = with_score_bands(per_paper, settings.score_bands)
    generations = pd.DataFrame(columns=GENERATION_COLUMNS)
    with adapted.computing():
        per_paper = join_per_paper(per_paper, *_cloze(training, adapted, papers, train_papers))
        if adapted.objective == "causal" and settings.generation.prompts:
            known = [*train_papers, *learned]
            generations, scores = _generate(training, adapted, papers, known)
            per_paper = join_per_paper(per_paper, scores)
    metrics = summarise(per_paper, seed=settings.seed, resamples=settings.bootstrap_samples)
    general = None
    if general_texts:
        general = _score(training, adapted, general_texts, "general texts")
        summary = summarise(general, seed=settings.seed, resamples=settings.bootstrap_samples)
        for name, value in summary.items():
            if name.startswith(("bits_per_byte", "mlm_loss")):
                metrics[f"general_{name}"] = value
    return Results(per_paper, general, generations, metrics)


def _score(
    training: config.Training, adapted: "AdaptedModel", papers: "list[PaperText]", what: str
) -> "pd.DataFrame":
    from tqdm import tqdm

    from steps.evaluation.likelihood import score_papers
    from steps.evaluation.masked import score_papers_masked

    settings = training.evaluation
    context = settings.context or training.model.max_length
    with tqdm(desc=f"scoring {what}", unit=" tokens", unit_scale=True) as bar, adapted.computing():

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        if adapted.objective == "masked":
            return score_papers_masked(
                adapted.model,
                adapted.tokenizer,
                papers,
                context=context,
                batch_tokens=settings.batch_tokens,
                pseudo_tokens=settings.pseudo_likelihood_tokens,
                seed=settings.seed,
                progress=show,
            )
        return score_papers(
            adapted.model,
            adapted.tokenizer,
            papers,
            context=context,
            stride=settings.stride or max(1, context // 2),
            batch_tokens=settings.batch_tokens,
            progress=show,
        )


def _cloze(
    training: config.Training,
    adapted: "AdaptedModel",
    papers: "list[PaperText]",
    train_papers: "list[PaperText]",
) -> "list[pd.DataFrame]":
    """Gene and variant cloze, one frame a task that has items."""
    from steps.evaluation.cloze import (
        cloze_frame,
        count_genes,
        gene_cloze_items,
        rank_causal,
        rank_masked,
        variant_cloze_items,
    )

    settings = training.evaluation
    if not settings.cloze_items:
        return []
    rank = rank_masked if adapted.objective == "masked" else rank_causal
    most = {"max_items": settings.cloze_items, "seed": settings.seed}
    tasks = {
        "gene_cloze": gene_cloze_items(papers, count_genes([*train_papers, *papers]), **most),
        "variant_cloze": variant_cloze_items(papers, **most),
    }
    return [
        cloze_frame(
            items,
            rank(adapted.model, adapted.tokenizer, items, batch_tokens=settings.batch_tokens),
            task,
        )
        for task, items in tasks.items()
        if items
    ]


def _generate(
    training: config.Training,
    adapted: "AdaptedModel",
    papers: "list[PaperText]",
    train_papers: "list[PaperText]",
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Let the model write on from titles, and count genes and copies in what it writes."""
    import pandas as pd

    from steps.evaluation.generation import (
        COPY_TOKENS,
        generate,
        generation_prompts,
        generation_scores,
    )
    from steps.papers.genes import GeneLexicon, find_genes

    settings = training.evaluation
    prompts = generation_prompts(papers, count=settings.generation.prompts, seed=settings.seed)
    if not prompts:
        return pd.DataFrame(columns=GENERATION_COLUMNS), pd.DataFrame({"paper_id": []})
    lexicon = GeneLexicon.load()
    generations = generate(
        adapted.model,
        adapted.tokenizer,
        prompts,
        max_new_tokens=settings.generation.max_new_tokens,
    )
    scores = generation_scores(
        generations,
        papers,
        [paper.text for paper in train_papers],
        adapted.tokenizer,
        lambda text: (gene.symbol for gene in find_genes(text, lexicon)),
        lexicon.spellings,
    )
    if settings.generation.max_new_tokens < COPY_TOKENS:
        # Too short to hold a copy: a share of 0 would look like a finding.
        scores = scores.drop(columns="memorised_tokens")
    return generations, scores


def token_examples(
    training: config.Training, adapted: "AdaptedModel", papers: "list[PaperText]"
) -> "list[TokenExample]":
    """The beginnings of a few gene-rich papers, token by token, with and without the adapter."""
    from steps.evaluation.likelihood import score_tokens
    from steps.reports.evaluation_report import TokenExample

    if adapted.objective == "masked":
        return []
    window = {"context": training.model.max_length, "stride": training.model.max_length // 2}
    richest = sorted(papers, key=lambda paper: (-len(paper.genes), paper.paper_id))
    examples = []
    for paper in richest[:EXAMPLES]:
        beginning = _beginning(paper)
        with adapted.computing():
            tokens = score_tokens(adapted.model, adapted.tokenizer, beginning, **window)
            before = None
            if hasattr(adapted.model, "disable_adapter"):
                with adapted.model.disable_adapter():
                    before = score_tokens(adapted.model, adapted.tokenizer, beginning, **window)
        examples.append(TokenExample(paper.paper_id, tokens, before))
    return examples


def _beginning(paper: "PaperText") -> "PaperText":
    from dataclasses import replace

    end = min(len(paper.text), EXAMPLE_CHARACTERS)
    genes = tuple(gene for gene in paper.genes if gene.end <= end)
    sections = tuple(replace(s, end=min(s.end, end)) for s in paper.sections if s.start < end)
    return replace(paper, text=paper.text[:end], sections=sections, genes=genes, variants=())


def read_general_texts(name: str | None) -> "list[PaperText]":
    """Read texts outside the domain: `{"texts": [{"id", "text"}]}`, or the papers layout.

    Args:
        name: What `evaluation.general_texts` says; None: there are none.

    Raises:
        UserError: The file is missing, not of either form, or holds no text.
    """
    from steps.papers.text import PaperText, Span

    if name is None:
        return []
    file = _general_file(name)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"general texts {file.name}: not JSON ({error})") from None
    if not isinstance(content, dict):
        content = {"texts": content}
    records = content.get("texts") or content.get("papers") or []
    texts = []
    for number, record in enumerate(records):
        text = None
        if isinstance(record, dict):
            text = record.get("text") or record.get("abstract")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"general texts {file.name}, record {number}: no text or abstract")
        text_id = str(record.get("id") or record.get("pmid") or number)
        texts.append(PaperText(text_id, text.strip(), (Span(0, len(text.strip()), "abstract"),)))
    if not texts:
        raise UserError(f"general texts {file.name}: expected a list under texts or papers")
    return texts


def check_trained_papers(
    training: config.Training, side: "Side", stored: "StoredDataset", split: str, lineage: "Lineage"
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


def _general_file(texts: str) -> Path:
    return find_file(texts, "evaluation.general_texts", "training.evaluation.general_texts")


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


if __name__ == "__main__":
    main()
