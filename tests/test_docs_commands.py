"""The commands of the manual do what it says: all are run, on tiny models, but for those listed.

They run in a reader's folder whose configurations name tiny models. README comes first, as for its
reader; the other pages find what it has left behind. `mlflow run` itself, which builds an
environment, is left out: the command is the one that MLproject makes of the same parameters.
"""

import json
import os
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from xml.sax.saxutils import escape

import mlflow
import pytest
import yaml
from click.testing import CliRunner

from steps.tracking.names import CHAMPION, PREVIOUS
from tests.support.manual import PAGES, commands, parsed
from tests.support.project import ROOT, demo_texts
from tests.support.real_servers import python_path
from tests.support.released_models import save_sentencepiece_llama
from tests.support.trained_store import store_in_use

pytestmark = pytest.mark.slow

# What a test of this project cannot run here, and which test has it instead.
LEFT_OUT = {
    "-e test": "these are the tests",
    "num_processes=4": "four GPUs; test_several_processes has two processes",
    "--backend kubernetes": "a cluster",
}
RETRACTED = "OriginalPaperPubMedID,OriginalPaperDOI,RetractionNature\n1,,Retraction\n"
TINY = """
extends: {extends}
training:
  model: {{name: {model}, max_length: 256, source: null, sha256: null}}
  qlora: {{method: lora, lora_dropout: 0.0}}
  hyperparameters:
    {{batch_size: 2, gradient_accumulation_steps: 1, max_steps: 6, learning_rate: 2e-2}}
  instructions: {{chat_template: configs/chat_templates/plain.jinja}}
  scientific_data:
    data_file: {papers}
    sections: [title, abstract]
    split: {{validation_fraction: 0.1, test_fraction: 0.25}}
    num_workers: 1
  logging: {{log_steps: 1, eval_steps: 3, save_steps: 3}}
  memory_optimization: {{gradient_checkpointing: false}}
  hardware: {{bf16: false}}
  evaluation: {{generation: {{prompts: 2, max_new_tokens: 8}}, cloze_items: 10}}
  comparison: {{min_papers: 2}}
  variants: {{lora: {{}}, qlora: null}}
"""
SWEEP = "  sweep: {trials: 2, startup_trials: 1}\n"


@pytest.fixture(scope="module")
def reader(
    tmp_path_factory: pytest.TempPathFactory,
    _migrated_database: Path,
    tiny_bert_folder: Path,
) -> Iterator[Path]:
    """The folder of somebody who has read README and run its commands."""
    folder = tmp_path_factory.mktemp("reader")
    papers = ROOT / "data" / "high_quality_papers_demo.json"
    (folder / "configs").mkdir()
    # One whose vocabulary llama.cpp reads, for the page about releases.
    llama = save_sentencepiece_llama(folder / "models" / "llama", demo_texts())
    for name in ("training", "demo", "bert", "instructions", "sweep"):
        model = tiny_bert_folder if name == "bert" else llama
        text = TINY.format(extends=ROOT / "configs" / f"{name}.yaml", model=model, papers=papers)
        text += SWEEP if name == "sweep" else ""
        (folder / "configs" / f"{name}.yaml").write_text(text, encoding="utf-8")
    for name in ("high_quality_papers.json", "papers.json"):
        (folder / name).write_bytes(papers.read_bytes())
    (folder / "brca1.xml").write_text(as_pubmed(papers), encoding="utf-8")
    (folder / "retraction_watch.csv").write_text(RETRACTED, encoding="utf-8")
    (folder / "items.jsonl").write_bytes((ROOT / "data/instructions_demo.jsonl").read_bytes())
    (folder / "prompts.jsonl").write_text('{"prompt": "The gene"}\n', encoding="utf-8")
    with store_in_use(folder, _migrated_database) as client, pytest.MonkeyPatch.context() as patch:
        # `mlflow run` starts a step, and the step its ranks, where the project lies.
        patch.setenv("PYTHONPATH", python_path(ROOT))
        assert run_all(ROOT / "README.md") >= 8
        run_all(ROOT / "docs" / "bert.md")
        have_champions(client)
        yield folder


def as_pubmed(papers: Path) -> str:
    """Papers as PubMed writes them."""
    articles = (
        f"<PubmedArticle><MedlineCitation><PMID>{paper['pmid']}</PMID><Article>"
        f"<ArticleTitle>{escape(paper['title'])}</ArticleTitle><Abstract>"
        f"<AbstractText>{escape(paper['abstract'])}</AbstractText></Abstract>"
        "<Language>eng</Language></Article></MedlineCitation></PubmedArticle>"
        for paper in json.loads(papers.read_text(encoding="utf-8"))["papers"]
        # The demo has a record that is broken on purpose.
        if isinstance(paper["title"], str)
    )
    return f"<PubmedArticleSet>{''.join(articles)}</PubmedArticleSet>"


def have_champions(client: mlflow.MlflowClient) -> None:
    """Promote what six steps of a tiny model cannot: a champion of each model, and one before."""
    for model in client.search_registered_models():
        for alias in (CHAMPION, PREVIOUS):
            if alias not in model.aliases:
                client.set_registered_model_alias(model.name, alias, "1")


def run_all(page: Path) -> int:
    """Run the commands of a page in their order; how many there were."""
    entry_points = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    count = 0
    for words in commands(page):
        if any(part in shlex.join(words) for part in LEFT_OUT):
            continue
        entry, given = parsed(words)
        point = entry_points[entry]
        values = {name: one["default"] for name, one in point["parameters"].items()} | given
        quoted = {name: shlex.quote(value) for name, value in values.items()}
        _, _, module, *arguments = shlex.split(point["command"].format(**quoted))
        # What a step leaves in its own process; the next one has another.
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
        result = CliRunner().invoke(import_module(module).main, arguments)
        assert result.exit_code == 0, f"{page.name}: {shlex.join(words)}\n{result.output}"
        count += 1
    return count


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if any(commands(page))], ids=str)
def test_the_commands_of_a_page_run(reader: Path, page: Path) -> None:
    run_all(page)


def test_what_is_left_out_stands_in_the_manual() -> None:
    every = [shlex.join(words) for page in PAGES for words in commands(page)]
    for part in LEFT_OUT:
        assert any(part in command for command in every), part
