"""Start a step once for each process of this machine, under one run."""

from typing import TYPE_CHECKING

import click

from steps.config.file import LoadedConfig

if TYPE_CHECKING:
    from collections.abc import Mapping


def start_ranks(
    step: str,
    loaded: LoadedConfig,
    processes: int,
    options: "Mapping[str, str]",
    *,
    verbose: bool,
    run_name: str | None = None,
) -> None:
    """Open the run, start a step once for each process, and say how it ended.

    Args:
        step: Entry point, such as `finetune`.
        loaded: The configuration.
        processes: Ranks on this machine.
        options: Of the step, by their long names.
        verbose: Show library messages.
        run_name: Name of a new run.

    Raises:
        UserError: There are fewer GPUs than processes, or a rank met bad input.
        SystemExit: A rank failed otherwise (1), or this process was asked to end.
    """
    # Imported here for its log handler, which is taken away below.
    import torch.distributed.launcher.api  # noqa: F401

    from steps.distributed.launcher import RankFailed, launch_ranks
    from steps.distributed.ranks import check_devices
    from steps.models.devices import pick_device
    from steps.terminal import quieten_handlers, show_error
    from steps.tracking.runs import SECONDS_WHEN_INTERRUPTED, send_rest, step_run

    training = loaded.training
    check_devices(processes, pick_device(training.hardware.device))
    arguments = ["-m", f"steps.{step}", *(["--verbose"] if verbose else [])]
    for name, value in options.items():
        arguments += [f"--{name}", value]
    try:
        with (
            step_run(
                step, training, verbose=verbose, run_name=run_name, log_name="launcher"
            ) as run,
        ):
            # The agent's words are for the log; it brings its own handler.
            quieten_handlers()
            notes = run.scratch / "notes"
            notes.mkdir()
            patience = SECONDS_WHEN_INTERRUPTED
            try:
                launch_ranks(
                    arguments, processes, training.distributed, {"MLFLOW_RUN_ID": run.id}, notes
                )
                patience = run.patience
            finally:
                send_rest(run, patience)
    except RankFailed as error:
        click.echo(error.detail, err=True)
        show_error(f"{error}; run {run.id} is FAILED")
        raise SystemExit(1) from None
