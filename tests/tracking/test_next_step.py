"""The next step is the first one that is not done, as a command that can be pasted."""

import shlex
from dataclasses import replace

import pytest

from steps.tracking.checkpoints.resumable import Resumable
from steps.tracking.next_step import Given, next_step, resume_command
from steps.tracking.overview import Dataset, Figure, Overview, RunLine, Version
from steps.tracking.registry.affected import AffectedVersion

GIVEN = Given("configs/training.yaml", "", "")
MADE = Dataset("d1", "2026-01-01T00:00:00+00:00", "sha256:new", {"train": 3}, {})
EMPTY = Overview("sqlite:///mlflow.db", "Default", True, "lab")
PREPARED = replace(EMPTY, datasets=[MADE])
TRAINED = replace(PREPARED, trained_on=["sha256:new"])


def version(number: int, *aliases: str, dataset: str = "", decision: str = "") -> Version:
    figure = Figure("bits_per_byte", 1.0, None, None, "e1", dataset) if dataset else None
    return Version(f"models:/lab/{number}", aliases, "r1", figure, decision)


def with_versions(*versions: Version) -> Overview:
    return replace(TRAINED, versions=list(versions))


NEW = version(2, "challenger")
CHAMPION = version(1, "champion", dataset="sha256:new", decision="promote")


@pytest.mark.parametrize(
    ("overview", "command"),
    [
        (EMPTY, "-e preprocess"),
        (PREPARED, "-e finetune"),
        (replace(TRAINED, trained_on=["sha256:old"]), "-e finetune"),
        (with_versions(NEW), "-e evaluate -P model=models:/lab/2"),
        (
            with_versions(version(2, "challenger", dataset="sha256:old"), CHAMPION),
            "-e evaluate -P model=models:/lab/2",
        ),
        (with_versions(version(2, "challenger", dataset="sha256:new")), "-e ab_compare"),
        (
            with_versions(version(2, "challenger", dataset="sha256:new", decision="inconclusive")),
            "-e finetune",
        ),
        (with_versions(CHAMPION), "-e release"),
        (
            with_versions(
                version(2, "challenger", dataset="sha256:new", decision="keep"), CHAMPION
            ),
            "-e release",
        ),
    ],
)
def test_the_first_thing_that_is_not_done_is_named(overview: Overview, command: str) -> None:
    assert next_step(overview, GIVEN).command == f"mlflow run . {command}"


def test_a_living_run_is_waited_for_and_a_killed_one_goes_on_first() -> None:
    living = RunLine("r9", "finetune", "living", "2026-01-01T00:00:00+00:00", "it beats")
    assert next_step(replace(with_versions(NEW), unfinished=[living]), GIVEN).command == ""
    killed = replace(with_versions(NEW), resumable=[Resumable("r8", 40, {})])
    assert next_step(killed, GIVEN).command == "mlflow run . -e finetune -P resume=r8"


def test_a_champion_that_learned_from_retracted_papers_gives_way_to_one_that_did_not() -> None:
    before = version(3, "previous_champion")
    affected = [AffectedVersion("models:/lab/1", ("champion",), ("102",), "")]
    both = [*affected, AffectedVersion("models:/lab/3", ("previous_champion",), ("102",), "")]
    held = with_versions(CHAMPION, before)
    back = next_step(replace(held, affected=affected), GIVEN).command
    assert back == "mlflow run . -e ab_compare -P rollback=true"
    assert "-e preprocess" in next_step(replace(held, affected=both), GIVEN).command


def test_a_command_hands_on_what_was_given_and_can_be_pasted() -> None:
    given = Given("configs/my own.yaml", "qlora.r=8 model.max_length=64", "lab", "http://host:5000")
    words = shlex.split(given.command("evaluate", {"model": "base"}))
    assert words == [
        *("MLFLOW_TRACKING_URI=http://host:5000", "mlflow", "run", "."),
        *("--experiment-name", "lab", "-e", "evaluate", "-P", "model=base"),
        *("-P", "config=configs/my own.yaml", "-P", "overrides=qlora.r=8 model.max_length=64"),
    ]


def test_default_is_named_in_the_way_that_counts() -> None:
    """`mlflow run --experiment-name Default` would take the configured experiment."""
    command = Given("configs/training.yaml", "", "Default").command("finetune")
    assert command == "MLFLOW_EXPERIMENT_NAME=Default mlflow run . -e finetune"


def test_a_training_goes_on_with_the_parameters_that_it_was_started_with() -> None:
    given = Given("configs/demo.yaml", "qlora.r=8", "")
    logged = Resumable("r8", 4, {"config": "configs/bert.yaml", "dataset": "d0"})
    assert resume_command(given, logged) == (
        "mlflow run . -e finetune -P resume=r8 -P config=configs/bert.yaml -P dataset=d0"
    )
    told_by_its_parameters = Resumable("r8", 4, {}, "training.qlora.r=4")
    assert resume_command(given, told_by_its_parameters) == (
        "mlflow run . -e finetune -P resume=r8 -P 'overrides=qlora.r=8 training.qlora.r=4' "
        "-P config=configs/demo.yaml"
    )
