"""The table that ends a sweep: its trials, the best first."""

from collections.abc import Mapping, Sequence

from steps import terminal
from steps.config.dotted import short_names
from steps.sweeping.trials import Objective, Trial, counted, in_words_of, ranked


def show_trials(
    trials: Sequence[Trial], objective: Objective, importance: Mapping[str, float]
) -> None:
    """Print the trials and, where there are enough, what the differences go with.

    Args:
        trials: That have ended.
        objective: What they rank by.
        importance: Each parameter's share; {}: too few trials.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    way = "higher" if objective.higher_is_better else "lower"
    # A title would be broken to the width of the table.
    terminal.say(f"{counted(len(trials))} by {objective.metric} ({way} is better)")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    names = short_names(trials[0].values)
    numbers = ("value", "tokens", "seconds")
    for column in ("rank", "trial", *names.values(), *numbers, "run"):
        table.add_column(column, no_wrap=column not in names.values())
    for row in rows(trials, objective):
        table.add_row(*row)
    terminal.show(table)
    if importance:
        shares = ", ".join(f"{names[key]} {share:.0%}" for key, share in importance.items())
        terminal.show(
            f"shares in how these trials differ (fANOVA; describes them, proves nothing): {shares}"
        )


def rows(trials: Sequence[Trial], objective: Objective) -> list[tuple[str, ...]]:
    """One row a trial: rank, number, values, metric, tokens, seconds, run."""
    found: list[tuple[str, ...]] = []
    for place, trial in enumerate(ranked(trials, objective), 1):
        value = "" if trial.value is None else f"{trial.value:.4f}"
        if trial.state != "complete":
            value = f"{value} {trial.state}".strip()
        found.append(
            (
                str(place) if trial.state == "complete" else "–",
                str(trial.number),
                *map(in_words_of, trial.values.values()),
                value,
                f"{trial.tokens:,.0f}",
                f"{trial.seconds:.0f}",
                (trial.run_id or "")[:8],
            )
        )
    return found
