"""What a run says about its making: versions and commit, no path of the machine."""

import subprocess
from pathlib import Path

from huggingface_hub import ModelCard

from steps.config.sections import Qlora, Training
from steps.models.sources import Base
from steps.reports.model_card import TrainingData, write_model_card
from steps.reports.training_figures import write_training_curves
from steps.tracking.environment import git_state, library_versions, write_environment


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        check=True,
        capture_output=True,
    )


def test_the_git_state_tells_a_changed_checkout_from_a_clean_one(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "MLproject").write_text("name: a\n")
    assert git_state(project) == {}
    git(project, "init")
    # A checkout that does not hold the project is not the project's.
    assert git_state(project) == {}
    git(project, "add", ".")
    git(project, "commit", "-m", "a")
    clean = git_state(project)
    assert clean["git_dirty"] == "false"
    assert len(clean["git_commit"]) == 40
    (project / "MLproject").write_text("name: b\n")
    assert git_state(project) == {**clean, "git_dirty": "true"}


def test_the_environment_lists_exact_versions_and_no_path(tmp_path: Path) -> None:
    write_environment(tmp_path / "environment")
    lines = (tmp_path / "environment" / "requirements.txt").read_text(encoding="utf-8")
    assert f"torch=={library_versions()['torch']}" in lines.splitlines()
    machine = (tmp_path / "environment" / "machine.json").read_text(encoding="utf-8")
    for text in (lines, machine):
        assert "/" not in text.replace("_/", "")
        assert str(Path.home()) not in text


def test_the_card_states_base_data_method_figures_and_limits(tmp_path: Path) -> None:
    base = Base("tiny", "folder", None, "ab" * 32, "masked", "a note", tmp_path / "secret")
    training = Training(qlora=Qlora(r=7))
    splits = {"train": {"papers": 36, "words": 7904}, "test": {"papers": 13, "words": 2939}}
    data = TrainingData("sha256:abc", "run1", splits, 33527)
    file = tmp_path / "README.md"
    write_model_card(file, training, base, data, {"validation/loss, best": 1.25}, {"torch": "2"})
    card = ModelCard.load(file)
    assert card.data.pipeline_tag == "fill-mask"
    # No licence is made up, and a local folder is no hub id.
    assert card.data.license is None
    assert card.data.base_model is None
    for words in (
        *("ab" * 32, "a note", "sha256:abc", "| train | 36 | 7904 |", "33,527", "| rank | 7 |"),
        *("| validation/loss, best | 1.25 |", "4-bit", "## Limits", "Unknown: none was stated"),
    ):
        assert words in card.text, words
    assert "secret" not in card.content


def test_the_curves_of_a_run_become_a_picture(tmp_path: Path) -> None:
    history = [{"step": n, "loss": 2.0 / n, "learning_rate": 1e-4} for n in range(1, 9)]
    write_training_curves([*history, {"step": 8, "eval_loss": 1.0}], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    write_training_curves([], tmp_path / "none.png")
    assert (tmp_path / "none.png").is_file()
