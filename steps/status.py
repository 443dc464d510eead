"""What the store holds for this configuration, and the command for the next step.

    mlflow run . -e status
    python -m steps.status --json

Makes no run and writes nothing: not the store, not the experiment, not a tag.
"""

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steps import outcome, terminal
from steps.cli import step_command
from steps.config.file import LoadedConfig, load_config
from steps.config.paths import PROJECT_ROOT
from steps.errors import printable
from steps.terminal import in_bytes, logging_to, say, show_notices, styled

if TYPE_CHECKING:
    from steps.tracking.next_step import Given, NextStep
    from steps.tracking.overview import Figure, Overview, RunLine

# Lines of each list on the terminal; `--json` has all of them.
SHOWN = 5


@click.command()
@step_command()
def main(config_path: str, overrides: str, verbose: bool) -> None:
    """Say what the store holds, and what to run next."""
    from steps.tracking.leftovers import scratch_folder
    from steps.tracking.waiting_runs import without_a_run

    with without_a_run("status"):
        loaded = load_config(config_path, overrides)
        show_notices(loaded.notices)
        with scratch_folder("status") as scratch, logging_to(scratch / "status.log", verbose):
            overview = look(loaded, scratch)
            given = _given(loaded, overview)
        outcome.add(**as_object(overview, given))
        show(overview, given)


def look(loaded: LoadedConfig, scratch: Path) -> "Overview":
    """Read the store.

    Raises:
        UserError: It cannot be read, or the list of retractions cannot.
    """
    from steps.tracking.overview import take_overview
    from steps.tracking.provenance import configured_retractions
    from steps.tracking.reading import open_to_read
    from steps.tracking.registry.naming import check_names
    from steps.tracking.store import writing_to_store

    training = loaded.training
    check_names(training)
    opened = open_to_read(training)
    with writing_to_store():
        retractions = configured_retractions(training, scratch)
        return take_overview(opened, training, scratch, retractions)


def _given(loaded: LoadedConfig, overview: "Overview") -> "Given":
    """What the commands hand on."""
    from steps.tracking.next_step import Given
    from steps.tracking.store import uri_of_the_file

    uri, file = uri_of_the_file(loaded.training), loaded.path.resolve()
    # `mlflow run` starts steps in the project's folder.
    config = file.relative_to(PROJECT_ROOT) if file.is_relative_to(PROJECT_ROOT) else file
    configured = loaded.training.mlflow.experiment_name
    experiment = "" if overview.experiment == configured else overview.experiment
    return Given(str(config), loaded.overrides, experiment, uri)


def as_object(overview: "Overview", given: "Given") -> dict[str, object]:
    """All of it as JSON; each training that can go on has its command."""
    from steps.tracking.next_step import next_step, resume_command

    content = dataclasses.asdict(overview)
    for entry, one in zip(content["resumable"], overview.resumable, strict=True):
        entry["command"] = resume_command(given, one)
    return {**content, "next": dataclasses.asdict(next_step(overview, given))}


def show(overview: "Overview", given: "Given") -> None:
    """Print it for people."""
    from steps.tracking.next_step import next_step

    state = "" if overview.exists else " (there is none yet)"
    say(f"store {overview.store}, experiment {overview.experiment}{state}")
    _show_datasets(overview)
    _show_runs(overview, given)
    _show_versions(overview)
    _show_room(overview)
    if overview.retractions:
        _show_retracted(overview)
    _show_next(next_step(overview, given))


def _show_datasets(overview: "Overview") -> None:
    _title("datasets")
    for one in overview.datasets[:SHOWN]:
        papers = ", ".join(f"{split} {count}" for split, count in one.papers.items())
        items = ", ".join(f"{split} {count}" for split, count in one.items.items())
        counts = "; ".join(
            part for part in (f"papers {papers}", f"items {items}" if items else "") if part
        )
        say(f"  {_local(one.made)}  run {one.run_id}  {one.digest[:19]}…")
        say(f"    {counts}")
    _rest(len(overview.datasets))
    if not overview.datasets:
        say("  none")
    if overview.elsewhere:
        say(f"  experiment {overview.elsewhere!r} has one: MLFLOW_EXPERIMENT_NAME names it")


def _show_runs(overview: "Overview", given: "Given") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from steps.tracking.next_step import resume_command
    from steps.tracking.overview import MOST_RUNS, STATES

    if not overview.runs:
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("runs")
    for state in STATES:
        table.add_column(state, justify="right")
    for step, counts in overview.runs.items():
        table.add_row(step, *(str(counts[state] or "") for state in STATES))
    terminal.show(table)
    if not overview.all_runs:
        say(f"  (the newest {MOST_RUNS} runs)")
    resumable = {one.run_id for one in overview.resumable}
    for state in ("living", "failed", "killed"):
        _show_unfinished(
            [r for r in overview.unfinished if r.state == state and r.run_id not in resumable]
        )
    for one in overview.resumable[:SHOWN]:
        say(f"  run {one.run_id} can go on from step {one.checkpoint}:")
        say(f"    {resume_command(given, one)}")
    _rest(len(overview.resumable))


def _show_unfinished(lines: "Sequence[RunLine]") -> None:
    for one in lines[:SHOWN]:
        note = f": {printable(one.note)}" if one.note else ""
        say(f"  {one.state}  {one.step} {_local(one.started)}, run {one.run_id}{note}")
    _rest(len(lines))


def _show_versions(overview: "Overview") -> None:
    _title(f"versions of {overview.registered_model}")
    if not overview.versions:
        say("  none")
    if overview.base is not None:
        say(f"  base: {_figure(overview.base)}")
    aliased = [version for version in overview.versions if version.aliases]
    others = [version for version in overview.versions if not version.aliases]
    shown = [*aliased, *others[:SHOWN]]
    for version in sorted(shown, key=overview.versions.index):
        aliases = "".join(f" @{alias}" for alias in version.aliases)
        measured = _figure(version.figure) if version.figure else "not evaluated"
        decided = f"; {version.decision}" if version.decision else ""
        say(f"  {version.uri}{aliases}: {measured}{decided}")
    _rest(len(overview.versions), len(shown))
    if overview.decisions:
        _title("decisions")
    for one in overview.decisions[:SHOWN]:
        after = f" (champion: {one.champion_after})" if one.champion_after else ""
        reason = f". {printable(one.reason)}" if one.reason else ""
        say(f"  {_local(one.made)}  {one.outcome}{after}{reason}")
    _rest(len(overview.decisions))


def _show_room(overview: "Overview") -> None:
    room = overview.room
    if not (room.checkpoints or room.on_disk):
        return
    _title("checkpoints")
    freed = "prune_checkpoints says what it would free"
    if room.prunable is not None:
        freed = f"prune_checkpoints would free {in_bytes(room.prunable)}"
    newest = "" if room.is_whole else "the newest "
    say(
        f"  {newest}{room.checkpoints} in the store, {in_bytes(room.in_store)}; "
        f"{in_bytes(room.on_disk)} on this machine's disk; {freed}"
    )


def _show_retracted(overview: "Overview") -> None:
    from steps.tracking.registry.affected import affected_lines

    _title(f"retracted papers ({overview.retractions})")
    for line in affected_lines(overview.affected, overview.retractions) or ["no version is known"]:
        say(f"  {line}")


def _show_next(step: "NextStep") -> None:
    _title("next")
    say(f"  {step.why}")
    if step.command:
        say(f"    {step.command}")


def _title(words: str) -> None:
    say(styled(words, bold=True))


def _rest(count: int, shown: int = SHOWN) -> None:
    if count > shown:
        say(f"  and {count - shown} more (--json has all)")


def _figure(figure: "Figure") -> str:
    bounds = ""
    if figure.low is not None and figure.high is not None:
        bounds = f" ({figure.low:.4f} to {figure.high:.4f})"
    return f"{figure.name.replace('_', ' ')} {figure.value:.4f}{bounds}"


def _local(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")


if __name__ == "__main__":
    main()
