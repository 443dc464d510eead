"""A finetune run with replay names both of its data sets, wherever somebody looks for them."""

import json
import random
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from steps import finetune, preprocess
from steps.config.file import load_config
from steps.models.sources import resolve_base
from steps.tracking.cache import key_parts
from steps.tracking.checkpoints.resume import resume_fingerprint
from steps.tracking.mixtures import replay_inputs
from tests.support.made_up_papers import made_up_abstract
from tests.support.project import ROOT
from tests.support.rank_runs import newest_run

SHORT = "training.hyperparameters.max_steps=6 training.logging.log_steps=1"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "other domain"
    folder.mkdir()
    rng = random.Random(0)
    for number in range(30):
        (folder / f"{number:02}.txt").write_text(made_up_abstract(rng))
    return folder


@pytest.fixture
def dataset(store: str, tiny_config: Path) -> Path:
    done = CliRunner().invoke(preprocess.main, ["--config", str(tiny_config)])
    assert done.exit_code == 0, done.output
    return tiny_config


def mixture(source: Path, share: float = 0.3) -> str:
    return f"{SHORT} training.replay.source={json.dumps(str(source))} training.replay.share={share}"


def test_the_run_names_both_data_sets_with_their_digests_texts_and_tokens(
    dataset: Path, texts: Path
) -> None:
    held_out = json.loads((ROOT / "data" / "general_texts_demo.json").read_text())["texts"][0]
    (texts / "known.txt").write_text(held_out["text"])
    overrides = f"{mixture(texts)} training.study_texts.share=0.1"
    said = CliRunner().invoke(
        finetune.main, ["--config", str(dataset), "--overrides", overrides], catch_exceptions=False
    )
    assert said.exit_code == 0, said.output
    assert "replay of 30 texts; left out: 1 held out" in said.output
    run = newest_run()
    tags = run.data.tags
    assert tags["forge.replay_digest"].startswith("sha256:")
    assert (tags["forge.replay_texts"], tags["forge.replay_left_out"]) == ("30", "1")
    assert int(tags["forge.replay_tokens_per_epoch"]) > int(tags["forge.replay_tokens"]) > 0
    assert int(tags["forge.study_texts_tokens_per_epoch"]) > 0
    inputs = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
    assert inputs == {
        "papers": tags["forge.dataset_digest"].removeprefix("sha256:")[:36],
        "replay": tags["forge.replay_digest"].removeprefix("sha256:")[:36],
    }
    assert {"train/loss", "train/replay_loss", "train/study_loss"} <= run.data.metrics.keys()
    card = (
        Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="adapter"))
        / "README.md"
    )
    words = card.read_text()
    assert tags["forge.replay_digest"] in words and "30 texts of `other domain`" in words
    assert "exercises from the training papers (gene_cloze" in words
    # A card goes to other machines.
    assert str(texts.parent) not in words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.json", "replay.source 'missing.json' does not exist"),
        ("empty", "replay.source folder 'empty' holds no papers"),
        ("short.txt", "replay.share needs"),
    ],
)
def test_a_source_that_will_not_do_is_refused_in_one_line(
    dataset: Path, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "short.txt").write_text("A tale.")
    said = CliRunner().invoke(
        finetune.main, ["--config", str(dataset), "--overrides", mixture(Path(name))]
    )
    assert said.exit_code == 2, said.output
    (line,) = [line for line in said.output.splitlines() if line.startswith("error:")]
    assert words in line


def test_a_checkpoint_is_gone_on_from_only_with_the_same_texts_and_shares(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))

    def expected(overrides: str = "", digest: str = "") -> dict[str, object]:
        training = load_config(str(tiny_config), overrides).training
        return resume_fingerprint(training, resolve_base(training.model), "sha256:0", digest)

    # Checkpoints of earlier commits state nothing of either.
    assert not any(name.startswith(("replay", "study")) for name in expected())
    mixed = "training.replay.source=a training.replay.share=0.1 training.study_texts.share=0.1"
    one = expected(mixed, "sha256:1")
    assert expected(mixed.replace("source=a", "source=b"), "sha256:1") == one
    assert expected(mixed, "sha256:2") != one
    assert expected(f"{mixed} training.study_texts.kinds=[title]", "sha256:1") != one
    assert expected(mixed.replace("0.1", "0.2"), "sha256:1") != one


def test_a_result_is_used_again_only_with_the_same_texts(
    tiny_config: Path, texts: Path, tmp_path: Path
) -> None:
    def parts(source: Path, share: float = 0.3) -> dict[str, str]:
        training = load_config(str(tiny_config), mixture(source, share)).training
        return key_parts("finetune", training, replay_inputs(training, tmp_path))

    first = parts(texts)
    moved = texts.rename(tmp_path / "moved")
    assert parts(moved) == first
    assert parts(moved, 0.2) != first
    (moved / "00.txt").write_text("Another tale altogether.")
    assert parts(moved) != first
