"""Step 4: promote on evidence, or do not promote.

    mlflow run . -e ab_compare
    python -m steps.ab_compare --champion base --challenger models:/scientificllm-forge/2

Leaves `decision.json` and `report.html` in its run, and moves the alias `champion` where
the evidence allows. `--rollback true` brings the previous champion back.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steps.cli import step_command
from steps.config.file import LoadedConfig, load_config
from steps.config.sections import Training
from steps.errors import UserError
from steps.terminal import say, show_notices

if TYPE_CHECKING:
    from steps.comparison.comparable import SideInfo
    from steps.comparison.decision import Decision
    from steps.tracking.registry.model_reference import Side
    from steps.tracking.runs import StepRun
from steps.tracking.evaluations import side_info
from steps.tracking.registry.promotion import comparison_inputs


@click.command()
@click.option(
    "--champion",
    default="",
    help="Model to beat; empty: the alias, or the base where there is none.",
)
@click.option(
    "--challenger",
    default="",
    help="Models that want its place, comma-separated; empty: the alias.",
)
@click.option(
    "--promote",
    default="if_better",
    show_default=True,
    type=click.Choice(["if_better", "never"]),
    help="Whether to move the alias.",
)
@click.option(
    "--rollback",
    default=False,
    type=bool,
    show_default=True,
    help="Bring the previous champion back.",
)
@step_command()
def main(
    champion: str,
    challenger: str,
    promote: str,
    rollback: bool,
    config_path: str,
    overrides: str,
    verbose: bool,
) -> None:
    """Compare models on the same papers, and promote the better one."""
    loaded = load_config(config_path, overrides)
    show_notices(loaded.notices)

    from steps.tracking.registry.promotion import (
        finish_interrupted_move,
        promotion_lock,
        roll_back,
    )
    from steps.tracking.runs import step_run

    with (
        step_run("ab_compare", loaded.training, verbose=verbose) as run,
        promotion_lock(loaded.training),
    ):
        finished = finish_interrupted_move(run.client, loaded.training.mlflow.registered_model_name)
        if finished:
            say(finished)
        if rollback:
            say(roll_back(run, loaded.training.mlflow.registered_model_name))
            return
        compare(run, loaded, champion, challenger, promote == "if_better")


def compare(
    run: "StepRun", loaded: LoadedConfig, champion: str, challenger: str, may_promote: bool
) -> None:
    """Resolve the sides, evaluate what is missing, decide, and act on it."""
    from steps.tracking.cache import cache_tags, key_parts
    from steps.tracking.datasets import fetch_dataset
    from steps.tracking.registry.promotion import alias_state, promote_version

    training = loaded.training
    before = alias_state(run.client, training.mlflow.registered_model_name)
    sides = _sides(run, training, champion, challenger)
    if sides is None:
        run.tag(decision="nothing to compare")
        return
    ours, theirs = sides
    stored = fetch_dataset(run.client, "latest", run.scratch / "data")
    champion_info = side_info(run, training, ours, stored)
    earlier = _decisions_on(run, stored.digest)
    # Several challengers are several chances to be lucky: each gets its share of alpha.
    rule = training.comparison.model_copy(update={"alpha": training.comparison.alpha / len(theirs)})

    from steps.comparison.decision import decide
    from steps.reports.comparison_report import write_comparison_report

    decisions: list[tuple[Side, SideInfo, Decision]] = []
    for side in theirs:
        info = side_info(run, training, side, stored)
        decisions.append(
            (side, info, decide(champion_info, info, rule, decisions_taken_before=earlier))
        )
    better = [d for d in decisions if d[2].outcome == "promote"]
    best = max(better or decisions, key=lambda d: d[2].primary.gain)
    winner = best[0] if better else None

    texts = _texts(stored.folder)
    for side, info, decision in decisions:
        name = "report.html" if side is best[0] else f"report-{side.name.replace('/', '-')}.html"
        pictures = write_comparison_report(
            run.scratch / name, decision, champion_info.per_paper, info.per_paper, texts
        )
        run.artifact(run.scratch / name)
        if side is best[0]:
            for picture in pictures:
                run.artifact(picture, "figures")

    moved = "no alias moved (promote=never)" if not may_promote else "no alias moved"
    if winner is not None and may_promote and winner.version is None:
        moved = (
            f"{winner.uri} is better, but no registered version, so no alias was moved: name the "
            "version that finetune registered"
        )
    elif winner is not None and may_promote:
        moved = promote_version(run, training.mlflow.registered_model_name, winner, best[2], before)
    content = {
        "champion": ours.uri,
        "winner": winner.uri if winner else None,
        "aliases": moved,
        "aliases_after": alias_state(run.client, training.mlflow.registered_model_name),
        "decisions": [
            {"challenger_uri": side.uri, **dataclasses.asdict(decision)}
            for side, _, decision in decisions
        ],
    }
    file = run.scratch / "decision.json"
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
    run.artifact(file)
    _log(run, decisions, best[2])
    parts = key_parts(
        "ab_compare", training, comparison_inputs([ours, *theirs], stored.digest, may_promote)
    )
    run.tag(
        decision=best[2].outcome,
        decision_reason=best[2].reason,
        dataset_digest=stored.digest,
        champion=ours.uri,
        champion_after=alias_state(run.client, training.mlflow.registered_model_name).get(
            "champion", ""
        ),
        **cache_tags(parts),
    )
    for side, _, decision in decisions:
        say(f"{side.name} against {ours.name}: {decision.outcome}. {decision.reason}")
    say(moved)


def _sides(
    run: "StepRun", training: Training, champion: str, challenger: str
) -> "tuple[Side, list[Side]] | None":
    """The champion and its challengers; None where there is nothing to compare.

    Raises:
        UserError: The same version stands on both sides, or one does not exist.
    """
    from steps.tracking.registry.model_reference import (
        CHALLENGER,
        CHAMPION,
        Side,
        find_alias,
        resolve_side,
    )

    name = training.mlflow.registered_model_name
    if champion:
        ours = resolve_side(run.client, champion, training)
    else:
        ours = find_alias(run.client, name, CHAMPION) or Side("base", None, None)
    if challenger:
        references = [part.strip() for part in challenger.split(",") if part.strip()]
        theirs = [resolve_side(run.client, reference, training) for reference in references]
    else:
        found = find_alias(run.client, name, CHALLENGER)
        if found is None:
            say(f"nothing to compare: {name} has no version with the alias @{CHALLENGER}")
            return None
        theirs = [found]
    uris = [side.uri for side in (ours, *theirs)]
    if len(set(uris)) < len(uris):
        if not champion and not challenger:
            say(f"nothing to compare: champion and challenger are both {ours.name}")
            return None
        twice = next(uri for uri in uris if uris.count(uri) > 1)
        raise UserError(
            f"{twice} stands on both sides: name two different versions (see champion, challenger)"
        )
    return ours, theirs


def _decisions_on(run: "StepRun", dataset_digest: str) -> int:
    """How many decisions this test split has already served."""
    runs = run.client.search_runs(
        [run.experiment_id],
        "attributes.status = 'FINISHED' and tags.`forge.step` = 'ab_compare' "
        f"and tags.`forge.dataset_digest` = '{dataset_digest}'",
        max_results=1000,
    )
    return len(runs)


def _texts(dataset: Path) -> dict[str, str]:
    from steps.papers.text import read_papers

    return {paper.paper_id: paper.text for paper in read_papers(dataset, "test")}


def _log(run: "StepRun", decisions: "list[tuple[Side, SideInfo, Decision]]", best: Any) -> None:
    run.metrics(
        {
            "comparison/gain": best.primary.gain,
            "comparison/gain_ci_low": best.primary.low,
            "comparison/gain_ci_high": best.primary.high,
            "comparison/p_value": best.primary.p_value,
            "comparison/papers": best.papers,
            "comparison/decisions_taken_before": best.decisions_taken_before,
        }
    )


if __name__ == "__main__":
    main()
