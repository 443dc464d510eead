"""Papers of any format become the papers layout, which preprocess goes on from."""

import io
import json
from pathlib import Path

import click.testing
import mlflow
import pytest
import zstandard

from steps import import_papers, preprocess
from tests.support.papers_in_formats import JATS_ARTICLE, PUBMED_RECORD

TRAIN_ALL = (
    "training.scientific_data.num_workers=1 training.scientific_data.split.validation_fraction=0 "
    "training.scientific_data.split.test_fraction=0"
)


@pytest.fixture(autouse=True)
def forget_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step in this process finds the experiment of the test before in the environment."""
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def run(step: click.Command, papers: str) -> click.testing.Result:
    given = ["--papers", papers, "--overrides", TRAIN_ALL]
    return click.testing.CliRunner().invoke(step, given)


def write(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.xml").write_text(f"<PubmedArticleSet>{PUBMED_RECORD}</PubmedArticleSet>")
    (folder / "b.nxml").write_text(JATS_ARTICLE)
    (folder / "c.json").write_text(
        json.dumps([{"pmid": "7", "title": "A title", "score": 90, "my_notes": "keep this"},
                    {"title": "Has no identifier yet"}, {"title": 4}])
    )  # fmt: skip
    (folder / "d.xml").write_text("<PubmedArticleSet><PubmedArticle>")


def test_an_import_is_stored_said_and_goes_on_to_preprocess(store: str, tmp_path: Path) -> None:
    write(tmp_path / "papers")
    result = run(import_papers.main, str(tmp_path / "papers"))
    assert result.exit_code == 0, result.output
    assert "papers: 6 read, 4 imported (1 PubMed XML, 1 JATS XML, 2 papers layout)" in result.output
    assert "rejected: 1 malformed_xml, 1 wrong_type" in result.output
    assert "1 have no pmid, doi or pmcid" in result.output
    (made,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert made.data.metrics["papers/imported"] == 4

    folder = Path(mlflow.artifacts.download_artifacts(f"runs:/{made.info.run_id}/papers"))
    data = zstandard.ZstdDecompressor().stream_reader(
        io.BytesIO((folder / "papers.jsonl.zst").read_bytes())
    )
    lines = [json.loads(line) for line in data.read().splitlines()]
    assert [line.get("source_format") for line in lines] == ["pubmed_xml", "jats", None, None]
    assert lines[2] == {"pmid": "7", "title": "A title", "score": 90, "my_notes": "keep this"}

    result = run(preprocess.main, f"runs:/{made.info.run_id}/papers")
    assert result.exit_code == 0, result.output
    assert "papers: 4 read, 2 accepted" in result.output
    assert "1 no_identifier, 1 too_few_words" in result.output


def test_a_folder_of_nothing_usable_says_what_it_found(store: str, tmp_path: Path) -> None:
    (tmp_path / "bad.xml").write_text("<PubmedArticleSet><PubmedArticle>")
    result = run(import_papers.main, str(tmp_path / "bad.xml"))
    assert result.exit_code == 2
    assert "no paper in bad.xml: 1 records read: malformed_xml" in result.output
    assert "Traceback" not in result.output
