"""The ranking of many runs on a terminal."""

from collections import Counter

from steps import terminal
from steps.comparison.many_runs import ComparedRun, RunComparison
from steps.comparison.ranking import RankedModel
from steps.config.dotted import short_names

# More columns than this do not fit a terminal; the page has all of them.
MOST_SETTINGS = 4
LONGEST_VALUE = 14


def figure(model: RankedModel) -> str:
    """A value with its interval."""
    if model.low is None or model.high is None:
        return f"{model.value:.4f}"
    return f"{model.value:.4f} ({model.low:.4f} to {model.high:.4f})"


def shown_setting(value: str) -> str:
    """A setting's value, cut to what a column holds."""
    value = value or "–"
    return value if len(value) <= LONGEST_VALUE else f"…{value[1 - LONGEST_VALUE :]}"


def place_of(comparison: RunComparison, run: ComparedRun) -> RankedModel | None:
    """A run in the ranking of its group, or None."""
    group = comparison.group_of(run.name)
    models = group.models if group else ()
    return next((model for model in models if model.name == run.name), None)


def better_by(comparison: RunComparison) -> str:
    """Which figures are the better ones, in a sentence."""
    groups = comparison.groups
    if not groups:
        return "No run was measured on a test split: lower validation figures are better."
    metrics = {g.metric: "higher" if g.higher_is_better else "lower" for g in groups}
    said = "; ".join(f"{way} {name.replace('_', ' ')} is better" for name, way in metrics.items())
    return f"{said[0].upper()}{said[1:]}."


def show_ranking(comparison: RunComparison) -> None:
    """Print the runs, the best first, with the settings in which they differ."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    names = short_names(list(comparison.settings))
    shown = list(names)[:MOST_SETTINGS]
    terminal.say(better_by(comparison))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("", "run", *(names[key] for key in shown), "test (95%)", "validation"):
        table.add_column(column, overflow="fold")
    for number, run in enumerate(comparison.runs):
        model = place_of(comparison, run)
        table.add_row(
            str(model.rank) if model else "–",
            run.name,
            *(shown_setting(comparison.settings[key][number]) for key in shown),
            figure(model) if model else "not evaluated",
            "–" if run.validation is None else f"{run.validation:.4f}",
        )
    for group in comparison.groups:
        for model in group.models:
            if model.name in group.bases:
                blanks = [""] * len(shown)
                table.add_row(str(model.rank), model.name, *blanks, figure(model), "")
    terminal.show(table)
    if len(names) > len(shown):
        terminal.show(f"{len(names) - len(shown)} more settings differ: see the page")
    several = Counter(group.metric for group in comparison.groups)
    if sum(several.values()) > 1:
        terminal.show("places count within what can be compared: see the page for why")
