"""What to do next, by what the store holds, as a command that can be pasted.

step = next_step(overview, given)
step.command     # mlflow run . -e evaluate
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from steps.tracking.checkpoints.resumable import Resumable
from steps.tracking.experiment import DEFAULT
from steps.tracking.names import CHALLENGER, CHAMPION, PREVIOUS
from steps.tracking.overview import Overview

# What `mlflow run` takes where nobody names a configuration.
DEFAULT_CONFIG = "configs/training.yaml"


@dataclass(frozen=True)
class Given:
    """What whoever asks has given, and the command has to hand on.

    Attributes:
        config: The configuration file.
        overrides: As on the command line.
        experiment: Name of the experiment, where it is not the one that the configuration names;
            else "".
        store: The tracking URI, where it comes from the file: `mlflow run` does not read it.
    """

    config: str
    overrides: str
    experiment: str
    store: str = ""

    def command(self, entry: str, parameters: Mapping[str, str] | None = None) -> str:
        """An entry point as a line for a shell."""
        stated = {"config": self.config, "overrides": self.overrides, **(parameters or {})}
        if stated["config"] == DEFAULT_CONFIG:
            del stated["config"]
        words = ["mlflow", "run", "."]
        variables = {"MLFLOW_TRACKING_URI": self.store}
        if self.experiment == DEFAULT:
            # By the option it would count as not named.
            variables["MLFLOW_EXPERIMENT_NAME"] = DEFAULT
        elif self.experiment:
            words += ["--experiment-name", self.experiment]
        words += ["-e", entry]
        # What was asked for comes first, what it is asked with after it.
        first = [name for name in parameters or {} if name in stated]
        for name in dict.fromkeys([*first, *stated]):
            if stated[name]:
                words += ["-P", f"{name}={stated[name]}"]
        before = [f"{name}={shlex.quote(value)}" for name, value in variables.items() if value]
        return " ".join([*before, shlex.join(words)])


@dataclass(frozen=True)
class NextStep:
    """A suggestion.

    Attributes:
        why: What the store holds, in a line.
        command: What to run; "": nothing but to wait.
    """

    why: str
    command: str


def resume_command(given: Given, one: Resumable) -> str:
    """The command by which a training goes on, as it was started."""
    parameters = {"resume": one.run_id, **one.parameters}
    if one.differences:
        parameters["overrides"] = f"{given.overrides} {one.differences}".strip()
    elif "config" in one.parameters:
        # What whoever asks has overridden belongs to another configuration.
        parameters.setdefault("overrides", "")
    return given.command("finetune", parameters)


def next_step(overview: Overview, given: Given) -> NextStep:
    """The first thing that is not done.

    Args:
        overview: What there is.
        given: What the command hands on.
    """
    living = [run for run in overview.unfinished if run.state == "living"]
    if living:
        return NextStep(f"{living[0].step} is under way (run {living[0].run_id}): wait for it", "")
    if overview.resumable:
        one = overview.resumable[0]
        return NextStep(
            f"run {one.run_id} ended early and can go on from step {one.checkpoint}",
            resume_command(given, one),
        )
    if not overview.datasets:
        return NextStep(
            "there is no dataset: prepare the papers (or run all steps, without -e)",
            given.command("preprocess"),
        )
    newest = overview.datasets[0].digest
    if newest not in overview.trained_on:
        return NextStep("no training has used the newest dataset", given.command("finetune"))
    return _with_versions(overview, given, newest)


def _with_versions(overview: Overview, given: Given, dataset: str) -> NextStep:
    champion = overview.version_with(CHAMPION)
    challenger = overview.version_with(CHALLENGER)
    if challenger is not None and challenger != champion and not challenger.decision:
        figure = challenger.figure
        if figure is None or figure.dataset_digest != dataset:
            return NextStep(
                f"the challenger {challenger.uri} has not been evaluated on the newest dataset",
                given.command("evaluate", {"model": challenger.uri}),
            )
        return NextStep(
            f"the challenger {challenger.uri} has been evaluated, and nothing was decided of it",
            given.command("ab_compare"),
        )
    if champion is None:
        decided = challenger.decision if challenger else ""
        why = f"the challenger was not promoted ({decided})" if decided else "there is no champion"
        return NextStep(f"{why}: change the training", given.command("finetune"))
    affected = {version.uri for version in overview.affected if version.papers}
    if champion.uri in affected:
        why = f"the champion {champion.uri} learned from retracted papers"
        previous = overview.version_with(PREVIOUS)
        if previous is not None and previous.uri not in affected:
            return NextStep(why, given.command("ab_compare", {"rollback": "true"}))
        return NextStep(f"{why}: prepare the papers without them", given.command("preprocess"))
    return NextStep(
        f"the champion {champion.uri} can be handed on, or asked (-e generate)",
        given.command("release"),
    )
