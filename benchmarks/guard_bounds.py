"""What a guard on copied text says by bounds over papers, and what two point estimates said.

    python -m benchmarks.guard_bounds --adapter ADAPTER_FOLDER --papers abstracts.json

Base and adapter write on from the titles of the same held-out abstracts, with as many prompts as
papers and with as few as the demo has. The rule of before compared two shares; the rule of now
asks for one-sided bounds of their difference, which resample the papers.
"""

import json
from pathlib import Path

import click

from steps.config.paths import PROJECT_ROOT

FEWEST_WORDS, MOST_WORDS = 60, 200


@click.command()
@click.option("--adapter", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--papers", "file", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--config", "config_path", default="configs/demo.yaml", show_default=True)
@click.option("--count", default=64, show_default=True, help="Held-out papers.")
@click.option("--few", default=4, show_default=True, help="Prompts of the small comparison.")
def main(adapter: Path, file: Path, config_path: str, count: int, few: int) -> None:
    """Measure both models twice, and print what each rule says."""
    from steps.comparison.comparable import EvaluatedModel
    from steps.comparison.guards import check_guard
    from steps.config.file import load_config
    from steps.config.measurement_sections import Guard
    from steps.evaluation.measure import measure
    from steps.metrics import METRIC_VERSION
    from steps.papers.text import PaperText, Span
    from steps.tracking.measurement import load_model_of

    def read(path: Path, most: int) -> list[PaperText]:
        papers = json.loads(path.read_text(encoding="utf-8"))["papers"]
        usable = [
            paper
            for paper in papers
            # The demo's papers hold broken records on purpose.
            if isinstance(paper, dict)
            and all(isinstance(paper.get(key), str) for key in ("pmid", "title", "abstract"))
            and FEWEST_WORDS <= len(paper["abstract"].split()) <= MOST_WORDS
        ]
        texts = [f"{paper['title']}\n\n{paper['abstract']}" for paper in usable[:most]]
        read_papers = []
        for paper, text in zip(usable, texts, strict=False):
            end = len(paper["title"])
            spans = (Span(0, end, "title"), Span(end + 2, len(text), "abstract"))
            read_papers.append(PaperText(str(paper["pmid"]), text, spans))
        return read_papers

    held_out = read(file, count)
    trained = read(PROJECT_ROOT / "data" / "high_quality_papers_demo.json", 10_000)
    guard = Guard(metric="memorised_share", margin=0.02)
    for prompts in (few, count):
        loaded = load_config(
            config_path,
            f"training.evaluation.generation.prompts={prompts} training.evaluation.cloze_items=0",
        )
        models = []
        for name, folder in (("base", None), ("adapter", adapter)):
            adapted = load_model_of(loaded.training, folder)
            results = measure(loaded.training, adapted, held_out, trained, general_texts=[])
            models.append(
                EvaluatedModel(
                    name=name,
                    version=name,
                    dataset_digest="",
                    split="test",
                    metric_version=METRIC_VERSION,
                    objective=adapted.objective,
                    per_paper=results.per_paper,
                    general=None,
                    metrics=results.metrics,
                )
            )
        base, challenger = models
        worse = challenger.metrics[guard.metric] - base.metrics[guard.metric]
        before = "holds" if worse <= guard.margin else "fails"
        after = check_guard(guard, base, challenger, loaded.training.comparison)
        click.echo(f"{count} papers, {prompts} prompts: before {before}; now {after.outcome}")
        click.echo(f"  {after.reason}")


if __name__ == "__main__":
    main()
