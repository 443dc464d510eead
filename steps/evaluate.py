"""Step 3: measure a model on held-out papers.

    mlflow run . -e evaluate -P model=models:/scientificllm-forge@challenger
    python -m steps.evaluate --model base --split test

Leaves `per_paper.parquet`, `metrics.json`, `generations.parquet` and `report.html` in its
run. The paper is the unit: any comparison can be recomputed from `per_paper.parquet`.
"""

import json
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
    from steps.tracking.registry import Side
    from steps.tracking.runs import StepRun
    from steps.tracking.store import StoredDataset
    from steps.training.adapted import AdaptedModel

# Raised whenever a definition changes, so that old figures are not compared with new ones.
METRIC_VERSION = "1"
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
        results = evaluate_side(run, training, side, stored, split)
        say(f"{side.name} on {split} ({len(results.per_paper)} papers)")
        for line in headline(results.metrics):
            say(f"  {line}")


def headline(metrics: dict[str, float]) -> list[str]:
    """The figures to show on a terminal, with their intervals."""
    lines = []
    for name in ("bits_per_byte", "gene_bits_per_byte", "general_bits_per_byte", "mlm_loss"):
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
) -> Results:
    """Measure one model and write everything into the run.

    Raises:
        UserError: An empty split, papers that the model was trained on, missing texts.
    """
    from steps.papers.text import read_papers
    from steps.tracking.datasets import as_mlflow_dataset, log_dataset_input
    from steps.tracking.reuse import cache_tags, key_parts
    from steps.tracking.runs import quieten_handlers

    papers = read_papers(stored.folder, split)
    if not papers:
        raise UserError(
            f"split {split!r} of dataset {stored.digest[:19]}… holds no paper: raise "
            f"training.scientific_data.split.{split}_fraction and run preprocess again"
        )
    refuse_trained_papers(run, training, side, stored, split)
    parts = key_parts("evaluate", training, evaluation_inputs(training, side, stored.digest, split))
    log_dataset_input(stored.run_id, "papers", stored.digest, context="evaluation")
    adapted = load_side(run, training, side)
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
        **cache_tags(parts),
    )
    results = measure(training, adapted, papers, read_papers(stored.folder, "train"))
    _write(run, side, adapted, results, split, token_examples(training, adapted, papers))
    model_id = getattr(side.version, "model_id", None)
    dataset = as_mlflow_dataset(stored.run_id, "papers", stored.digest)
    run.metrics(
        {f"{split}/{name}": value for name, value in results.metrics.items()},
        **({"model_id": model_id} if model_id else {}),
        dataset_name=dataset.name,
        dataset_digest=dataset.digest,
    )
    return results


def load_side(run: "StepRun", training: config.Training, side: "Side") -> "AdaptedModel":
    """Load the base, or a version with its base."""
    from steps.tracking.registry import fetch_adapter
    from steps.training.adapted import load_adapted, load_base
    from steps.training.models import resolve_base

    if side.uri == "base":
        return load_base(resolve_base(training.model), hardware=training.hardware)
    return load_adapted(fetch_adapter(run.client, side, run.scratch), training.hardware)


def measure(
    training: config.Training,
    adapted: "AdaptedModel",
    papers: "list[PaperText]",
    train_papers: "list[PaperText]",
) -> Results:
    """Score, ask and summarise; knows no tracking store.

    Args:
        training: The configuration; read are `evaluation` and `model.max_length`.
        adapted: The model.
        papers: The held-out papers.
        train_papers: What it was trained on, to see what it copies and which genes it can know.
    """
    import pandas as pd

    from steps.evaluation.summary import join_per_paper, summarise

    settings = training.evaluation
    per_paper = _score(training, adapted, papers, "papers")
    generations = pd.DataFrame(columns=GENERATION_COLUMNS)
    with adapted.computing():
        per_paper = join_per_paper(per_paper, *_cloze(training, adapted, papers, train_papers))
        if adapted.objective == "causal" and settings.generation.prompts:
            generations, scores = _generate(training, adapted, papers, train_papers)
            per_paper = join_per_paper(per_paper, scores)
    metrics = summarise(per_paper, seed=settings.seed, resamples=settings.bootstrap_samples)
    general = None
    if settings.general_texts:
        texts = read_general_texts(_general_file(settings.general_texts))
        general = _score(training, adapted, texts, "general texts")
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

    from steps.evaluation.generation import generate, generation_prompts, generation_scores
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


def read_general_texts(file: Path) -> "list[PaperText]":
    """Read texts outside the domain: `{"texts": [{"id", "text"}]}`, or the papers layout.

    Raises:
        UserError: The file is not of either form, or holds no text.
    """
    from steps.papers.text import PaperText, Span

    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"general texts {file.name}: not JSON ({error})") from None
    if not isinstance(content, dict):
        content = {"texts": content}
    records = content.get("texts") or content.get("papers") or []
    texts = []
    for number, record in enumerate(records):
        text = record.get("text") or record.get("abstract")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"general texts {file.name}, record {number}: no text or abstract")
        name = str(record.get("id") or record.get("pmid") or number)
        texts.append(PaperText(name, text.strip(), (Span(0, len(text.strip()), "abstract"),)))
    if not texts:
        raise UserError(f"general texts {file.name}: expected a list under texts or papers")
    return texts


def refuse_trained_papers(
    run: "StepRun",
    training: config.Training,
    side: "Side",
    stored: "StoredDataset",
    split: str,
) -> None:
    """Refuse to score papers that the model's lineage shows it was trained on.

    Raises:
        UserError: Some are, and `evaluation.allow_trained_papers` is false.
    """
    from mlflow.exceptions import MlflowException

    if side.run_id is None or training.evaluation.allow_trained_papers:
        return
    try:
        trained_on = run.client.get_run(side.run_id).data.tags.get("forge.dataset_run")
        if trained_on is None:
            return
        from steps.tracking.store import fetch_dataset

        earlier = (
            stored
            if trained_on == stored.run_id
            else fetch_dataset(run.client, trained_on, run.scratch / "trained-on")
        )
    except MlflowException:
        return
    trained = set(earlier.manifest["splits"]["train"]["paper_ids"])
    scored = stored.manifest["splits"][split]["paper_ids"]
    seen = sorted(trained.intersection(scored))
    if seen:
        raise UserError(
            f"{side.name} was trained on {len(seen)} of the {len(scored)} papers of split "
            f"{split!r} (such as {seen[0]}): score another split, or set "
            "training.evaluation.allow_trained_papers=true to see the figures all the same"
        )


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
    write_evaluation_report(
        run.scratch / "report.html",
        model_name=_shown_name(side, adapted),
        metrics=results.metrics,
        per_paper=results.per_paper,
        base_per_paper=None,
        generations=results.generations,
        token_examples=examples,
    )
    names = ["per_paper.parquet", "generations.parquet", "metrics.json", "report.html"]
    if results.general is not None:
        results.general.to_parquet(run.scratch / "general.parquet", index=False)
        names.append("general.parquet")
    for name in names:
        run.artifact(run.scratch / name)


if __name__ == "__main__":
    main()
