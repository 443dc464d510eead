"""Step 4: promote on evidence, or do not promote.

    mlflow run . -e ab_compare
    python -m steps.ab_compare --champion base --challenger models:/scientificllm-forge/2

Leaves `decision.json` and `report.html` in its run, and moves the alias `champion` where
the evidence allows. `--rollback true` brings the previous champion back.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steps import outcome
from steps.cli import step_command
from steps.config.file import LoadedConfig, load_config
from steps.config.sections import Training
from steps.errors import UserError
from steps.terminal import say, show_notices
from steps.tracking.names import CHALLENGER, CHAMPION, DECISION_FILE

if TYPE_CHECKING:
    from steps.comparison.comparable import EvaluatedModel
    from steps.comparison.decision import Decision
    from steps.tracking.datasets import StoredDataset
    from steps.tracking.registry.model_reference import ModelReference
    from steps.tracking.runs import StepRun

# Columns of a dataset by which papers can be counted as groups.
GROUP_COLUMNS = ("journal", "cluster")


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

    from steps.tracking.registry.promotion import finish_interrupted_move, promotion_lock, roll_back
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
    """Resolve the models, evaluate what is missing, decide, and act on it."""
    from steps.tracking.cache import cache_tags, key_parts
    from steps.tracking.datasets import fetch_dataset
    from steps.tracking.registry.promotion import alias_state, comparison_inputs

    training = loaded.training
    name = training.mlflow.registered_model_name
    before = alias_state(run.client, name)
    references = _models_to_compare(run, training, champion, challenger)
    if references is None:
        run.tag(decision="nothing to compare")
        return
    _refuse_strangers(run, training, references)
    held, challengers = references
    stored = fetch_dataset(run.client, "latest", run.scratch / "data")
    questions = _questions(training, references, stored)
    opponents = _decide(run, training, references, stored, questions)
    better = [one for one in opponents if one.decision.outcome == "promote"]
    best = max(better or opponents, key=lambda one: one.decision.primary.gain)
    _settle(opponents, best, may_promote)
    _write_reports(run, opponents, best, stored)
    moved = _promote(run, name, best if better else None, before, may_promote)
    _note_on_versions(run, opponents)
    after = alias_state(run.client, name)
    content = {
        "champion": held.uri,
        "winner": best.reference.uri if better else None,
        "aliases": moved,
        "aliases_after": after,
        "decisions": [
            {"challenger_uri": one.reference.uri, **dataclasses.asdict(one.decision)}
            for one in opponents
        ],
    }
    outcome.add(decision=content)
    file = run.scratch / DECISION_FILE
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
    with run.together():
        run.artifact(file)
        _log(run, best.decision)
        inputs = comparison_inputs(challengers, after.get(CHAMPION, ""), stored.digest, may_promote)
        run.tag(
            decision=best.decision.outcome,
            decision_reason=best.decision.reason,
            dataset_digest=stored.digest,
            champion=held.uri,
            questions=",".join(questions),
            champion_after=after.get(CHAMPION, ""),
            **cache_tags(key_parts("ab_compare", training, inputs)),
        )
        _present(run, held, opponents, best, moved)
    for one in opponents:
        decision = one.decision
        say(f"{decision.challenger} against {held.name}: {decision.outcome}. {decision.reason}")
    for note in best.decision.notes:
        say(note)
    say(moved)


@dataclass
class Opponent:
    """A challenger, and what was decided of it.

    Attributes:
        reference: As the registry knows it.
        champion: The results that it was held against.
        model: Its own results.
        decision: What they say.
    """

    reference: "ModelReference"
    champion: "EvaluatedModel"
    model: "EvaluatedModel"
    decision: "Decision"


def _decide(
    run: "StepRun",
    training: Training,
    references: "tuple[ModelReference, list[ModelReference]]",
    stored: "StoredDataset",
    questions: list[str],
) -> list[Opponent]:
    """Hold each challenger against the champion, with results from the store or measured now."""
    from steps.comparison.decision import decide
    from steps.tracking.evaluations import evaluated_model
    from steps.tracking.registry.alpha_ledger import Place, place_in_budget

    groups = _groups(training, stored)

    def measured(reference: "ModelReference") -> "EvaluatedModel":
        model = evaluated_model(run, training, reference, stored)
        if groups is None:
            return model
        column = str(training.comparison.cluster_by)
        of_paper = model.per_paper["paper_id"].map(groups)
        return dataclasses.replace(model, per_paper=model.per_paper.assign(**{column: of_paper}))

    champion, challengers = references
    held, models = measured(champion), [measured(reference) for reference in challengers]

    def decisions(place: Place) -> "list[Decision]":
        # Several challengers are several chances to be lucky: each gets its share of alpha.
        share = training.comparison.alpha / place.challengers
        rule = training.comparison.model_copy(update={"alpha": share})
        return [decide(held, model, rule, decisions_taken_before=place.before) for model in models]

    # What cannot be decided is refused before it spends anything.
    first = Place(0, len(challengers))
    decided = decisions(first)
    place = place_in_budget(run, training.mlflow.registered_model_name, stored, questions)
    if place != first:
        decided = decisions(place)
    parts = zip(challengers, models, decided, strict=True)
    return [Opponent(reference, held, model, decision) for reference, model, decision in parts]


def _questions(
    training: Training,
    references: "tuple[ModelReference, list[ModelReference]]",
    stored: "StoredDataset",
) -> list[str]:
    """What is asked of each pair, by which the same question asked again is known."""
    from steps.tracking.cache import base_identity
    from steps.tracking.registry.alpha_ledger import question_of

    rule = training.comparison.model_dump(mode="json")
    champion, challengers = references
    base = base_identity(training.model)
    return [
        question_of(
            {"models": [[one.uri, one.run_id] for one in (champion, challenger)], "base": base},
            rule,
            stored.digest,
        )
        for challenger in challengers
    ]


def _groups(training: Training, stored: "StoredDataset") -> dict[str, str | None] | None:
    """The group of each test paper, as the dataset has it; None: the papers form none.

    Raises:
        UserError: The dataset has no such groups.
    """
    from steps.papers.text import read_column

    column = training.comparison.cluster_by
    if column is None:
        return None
    if column not in GROUP_COLUMNS:
        raise UserError(
            f"training.comparison.cluster_by is {column!r}, expected "
            f"{' or '.join(GROUP_COLUMNS)}, which the dataset holds of each paper, or null"
        )
    return read_column(stored.folder, "test", column)


def _settle(opponents: list[Opponent], best: Opponent, may_promote: bool) -> None:
    """Let each decision say what becomes of it beside the others."""
    from steps.comparison.decision import beaten, not_moved

    for one in opponents:
        if one.decision.outcome != "promote":
            continue
        if one is not best:
            one.decision = beaten(one.decision, best.decision)
        elif not may_promote:
            one.decision = not_moved(one.decision, "no alias is moved (promote=never)")
        elif one.reference.version is None:
            one.decision = not_moved(one.decision, "it is no registered version")


def _refuse_strangers(
    run: "StepRun",
    training: Training,
    references: "tuple[ModelReference, list[ModelReference]]",
) -> None:
    """Refuse what cannot be compared or promoted, before minutes are spent on measuring it.

    Raises:
        UserError: A version of another registered model, or a model of another objective.
    """
    from steps.models.sources import resolve_base, task_trained
    from steps.tracking.registry.model_reference import trained_objective

    name = training.mlflow.registered_model_name
    held, challengers = references
    objectives: dict[str, str | None] = {}
    for reference in (held, *challengers):
        if reference.version is not None and reference.version.name != name:
            raise UserError(
                f"{reference.uri} is a version of {reference.version.name}, and the champion's "
                f"place is one of {name}: set training.mlflow.registered_model_name="
                f"{reference.version.name}, or name a version of {name}"
            )
        if reference.run_id is None:
            base = resolve_base(training.model)
            objectives[reference.name] = task_trained(training, base.objective)
        else:
            objectives[reference.name] = trained_objective(run.client, reference)
    known = {name: one for name, one in objectives.items() if one}
    if len(set(known.values())) > 1:
        shown = ", ".join(f"{name} is {one}" for name, one in known.items())
        raise UserError(
            f"{shown}: bits per byte of causal models, losses of masked ones and answers do not "
            "compare; "
            "name models of one objective"
        )


def _write_reports(
    run: "StepRun", opponents: list[Opponent], best: Opponent, stored: "StoredDataset"
) -> None:
    """A report for each challenger; the best one's is `report.html`, with its figures."""
    from steps.reports.comparison_report import write_comparison_report
    from steps.tracking.presentation import report_facts

    texts = _texts(stored.folder)
    facts = report_facts(run, dataset=stored.digest, split="test")
    files: list[tuple[Path, str | None]] = []
    for one in opponents:
        own_name = f"report-{one.reference.name.replace('/', '-')}.html"
        file = run.scratch / ("report.html" if one is best else own_name)
        pictures = write_comparison_report(
            file, one.decision, one.champion.per_paper, one.model.per_paper, texts, facts
        )
        files.append((file, None))
        files += [(picture, "figures") for picture in pictures] if one is best else []
    run.artifacts(files)


def _promote(
    run: "StepRun",
    name: str,
    winner: Opponent | None,
    before: dict[str, str],
    may_promote: bool,
) -> str:
    """Move the alias to the winner, if there is one and it may be moved; what was done."""
    from steps.tracking.registry.promotion import promote_version

    if not may_promote:
        return "no alias moved (promote=never)"
    if winner is None:
        return "no alias moved"
    if winner.reference.version is None:
        return (
            f"{winner.reference.uri} is better, but no registered version, so no alias was moved: "
            "name the version that finetune registered"
        )
    return promote_version(run, name, winner.reference, winner.decision, before)


def _note_on_versions(run: "StepRun", opponents: list[Opponent]) -> None:
    """Leave each decision on its version's page; a promotion has left its own."""
    from steps.tracking.registry.promotion import note_decision

    for one in opponents:
        if one.reference.version is not None and one.decision.outcome != "promote":
            note_decision(run.client, one.reference.uri, one.decision, run.id)


def _models_to_compare(
    run: "StepRun", training: Training, champion: str, challenger: str
) -> "tuple[ModelReference, list[ModelReference]] | None":
    """The champion and its challengers; None where there is nothing to compare.

    Raises:
        UserError: The same version stands on both sides, or one does not exist.
    """
    from steps.tracking.registry.model_reference import ModelReference, find_alias, resolve_model

    name = training.mlflow.registered_model_name
    if champion:
        held = resolve_model(run.client, champion, training)
    else:
        held = find_alias(run.client, name, CHAMPION) or ModelReference("base", None, None)
    if challenger:
        references = [part.strip() for part in challenger.split(",") if part.strip()]
        challengers = [resolve_model(run.client, reference, training) for reference in references]
    else:
        found = find_alias(run.client, name, CHALLENGER)
        if found is None:
            say(f"nothing to compare: {name} has no version with the alias @{CHALLENGER}")
            return None
        challengers = [found]
    uris = [reference.uri for reference in (held, *challengers)]
    if len(set(uris)) < len(uris):
        if not champion and not challenger:
            say(f"nothing to compare: champion and challenger are both {held.name}")
            return None
        twice = next(uri for uri in uris if uris.count(uri) > 1)
        raise UserError(
            f"{twice} is named twice: name different versions as champion and challenger"
        )
    return held, challengers


def _texts(dataset: Path) -> dict[str, str]:
    from steps.papers.stored_papers import read_papers

    return {paper.paper_id: paper.text for paper in read_papers(dataset, "test")}


def _present(
    run: "StepRun",
    held: "ModelReference",
    opponents: list[Opponent],
    best: Opponent,
    moved: str,
) -> None:
    """Name the run by who was compared and what was decided, and give the reasons."""
    from steps.tracking.presentation import version_link

    names = ", ".join(one.reference.name for one in opponents)
    run.present(
        f"{names} against {held.name} · {best.decision.outcome}",
        [
            *(
                f"{version_link(one.reference.uri)} against {version_link(held.uri)}: "
                f"**{one.decision.outcome}**. {one.decision.reason}"
                for one in opponents
            ),
            f"{moved}; `report.html` has the evidence",
        ],
    )


def _log(run: "StepRun", best: "Decision") -> None:
    figures = {
        "comparison/gain": best.primary.gain,
        "comparison/gain_ci_low": best.primary.low,
        "comparison/gain_ci_high": best.primary.high,
        "comparison/p_value": best.primary.p_value,
        "comparison/papers": best.papers,
        "comparison/decisions_taken_before": best.decisions_taken_before,
    }
    # Too few papers carry no interval.
    run.metrics({name: value for name, value in figures.items() if value is not None})


if __name__ == "__main__":
    main()
