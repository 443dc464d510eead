"""Hand a version on: as an adapter, merged, or as GGUF, if it scores as what was promoted.

    mlflow run . -e release -P formats=merged,gguf:q8_0 -P push_to=folder:out
    python -m steps.release --model models:/scientificllm-forge@champion

Leaves `release/FORM/`, `fidelity.json` and `report.html`. Each form is loaded from its own files
as its users load it, and scored on the held-out papers of the version's evaluation. One that does
not score, read and stop as the version did is refused: it is not stored, nothing is pushed, and
the step ends with 2.
"""

import click

from steps.cli import step_command
from steps.config.file import load_config
from steps.errors import UserError
from steps.terminal import say, show_notices


@click.command()
@click.option(
    "--model",
    default="",
    help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/adapter, or a run id; empty: the "
    "champion.",
)
@click.option(
    "--formats",
    default="",
    help="Some of adapter, merged, gguf:f16, gguf:q8_0, gguf:q4_k_m, comma-separated; empty: the "
    "config's.",
)
@click.option(
    "--push-to", default="", help="folder:PATH, registry, or hub:OWNER/NAME; empty: nowhere."
)
@step_command()
def main(
    model: str, formats: str, push_to: str, config_path: str, overrides: str, verbose: bool
) -> None:
    """Make the forms of a version, refuse what does not score as it did, and push the rest."""
    loaded = load_config(config_path, overrides)
    training = loaded.training
    show_notices(loaded.notices)

    from steps.papers.stored_papers import read_papers
    from steps.releasing.forms import check_room, choose_forms, read_source
    from steps.releasing.measure import make_and_measure
    from steps.releasing.push import parse_target
    from steps.tracking.provenance import refuse_licences, training_papers
    from steps.tracking.registry.model_reference import fetch_adapter
    from steps.tracking.releases import (
        dataset_of_evaluation,
        push,
        released_folder,
        resolve_released,
        store_release,
        written_places,
    )
    from steps.tracking.runs import step_run

    with step_run("release", training, verbose=verbose) as run:
        target = parse_target(push_to)
        reference = resolve_released(run.client, model, training)
        source = read_source(fetch_adapter(run.client, reference, run.scratch / "version"))
        wanted = formats.replace(" ", "").split(",") if formats else training.release.formats
        forms = choose_forms(wanted, source, training.release)
        made_of = training_papers(run.client, reference, training, run.scratch)
        refuse_licences(made_of, training.release.allowed_licenses)
        say(made_of.sentences())
        check_room(forms, source, written_places(run))
        stored = dataset_of_evaluation(run, reference)
        papers = read_papers(stored.folder, "test")
        names = ", ".join(form.name for form in forms)
        say(f"releasing {reference.name} as {names}, measured on {len(papers)} test papers")

        results = make_and_measure(training, source, forms, papers, released_folder(run))
        good = store_release(run, reference, source, stored, made_of, results)
        say(f"stored in run {run.id}: {', '.join(good) or 'nothing'}")
        refused = [result.form for result in results if result.refusal]
        if refused:
            raise UserError(
                f"{len(refused)} of {len(results)} forms are not what was promoted and were "
                f"refused: {', '.join(refused)} (reasons above and in fidelity.json); "
                f"{'nothing was pushed: ' if target else ''}leave them out of formats"
            )
        if target is not None:
            push(run, target, reference, good, training)


if __name__ == "__main__":
    main()
