"""A release in the store: the papers that it is measured on, and versions of its own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from steps.config.sections import Training
from steps.errors import UserError
from steps.papers.ledger import LEDGER_FILE, write_ledger
from steps.terminal import say
from steps.tracking.datasets import StoredDataset, fetch_dataset
from steps.tracking.names import (
    CHAMPION,
    FIDELITY_FILE,
    PARENT_TAG,
    RELEASE_FOLDER,
    RELEASE_FORM_TAG,
    SPLIT_TAG,
    STEP_TAG,
)
from steps.tracking.presentation import version_link
from steps.tracking.provenance import TrainingPapers
from steps.tracking.registry.model_reference import ModelReference, resolve_model
from steps.tracking.registry.naming import ensure_registered_model
from steps.tracking.store import reason, store_errors

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from steps.releasing.fidelity import Fidelity
    from steps.releasing.forms import Source
    from steps.releasing.push import Target
    from steps.tracking.runs import StepRun

SPLIT = "test"


def resolve_released(client: "MlflowClient", model: str, training: Training) -> ModelReference:
    """The version that is released: the one that is named, or the champion.

    Raises:
        UserError: There is none, or it is the base itself.
    """
    name = training.mlflow.registered_model_name
    reference = resolve_model(client, model or f"models:/{name}@{CHAMPION}", training)
    if reference.uri == "base":
        raise UserError(
            "model 'base' is published already, by its maker: name a version that was adapted"
        )
    return reference


def dataset_of_evaluation(run: "StepRun", reference: ModelReference) -> StoredDataset:
    """The dataset on whose test papers a version was evaluated last.

    A version that was not evaluated is measured on the test papers of its training's dataset.

    Raises:
        UserError: The dataset is gone, or unknown.
    """
    client = run.client
    evaluations = client.search_runs(
        [run.experiment_id],
        f"attributes.status = 'FINISHED' and tags.`{STEP_TAG}` = 'evaluate' and "
        f"tags.`forge.model_uri` = '{reference.uri}' and tags.`{SPLIT_TAG}` = '{SPLIT}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    dataset_run: str | None
    if evaluations:
        dataset_run = evaluations[0].data.tags.get("forge.dataset_run")
    else:
        say(f"{reference.name} was not evaluated here: its forms are held against it all the same")
        try:
            dataset_run = client.get_run(str(reference.run_id)).data.tags.get("forge.dataset_run")
        except store_errors() as error:
            raise UserError(
                f"{reference.name}: its training run is gone ({reason(error)}), so that its "
                "held-out papers are unknown: evaluate it on a dataset first"
            ) from None
    if dataset_run is None:
        raise UserError(
            f"{reference.name}: its runs do not say which dataset they used: evaluate it first"
        )
    return fetch_dataset(client, dataset_run, run.scratch / "dataset")


def written_places(run: "StepRun") -> list[Path]:
    """Folders whose disks a release is written to: this step's, and a local artifact store's."""
    places = [run.scratch]
    uri = urlparse(str(run.client.get_run(run.id).info.artifact_uri))
    if uri.scheme in ("", "file"):
        folder = Path(uri.path)
        places.append(next(p for p in (folder, *folder.parents) if p.exists()))
    return places


def store_release(
    run: "StepRun",
    reference: ModelReference,
    source: "Source",
    stored: StoredDataset,
    papers: TrainingPapers,
    results: "Sequence[Fidelity]",
) -> dict[str, Path]:
    """Write the forms that may leave into the run, with what was measured of all.

    Args:
        run: The run of this step.
        reference: The version.
        source: Its files and its base.
        stored: The dataset that it was measured on.
        papers: What it was trained on.
        results: One a form, refused ones included.

    Returns:
        Their folders, by the name that each has below `release/`.
    """
    from steps.releasing.forms import FORMS
    from steps.reports.release_report import write_form_readme, write_release_report

    made = f"{how_it_was_made(source)} {papers.sentences()}"
    released = released_folder(run)
    forms = {}
    for result in results:
        form = FORMS[result.form]
        if not result.refusal:
            forms[form.folder] = released / form.folder
            folder = forms[form.folder]
            write_form_readme(folder, reference.name, source.description, made, result)
    facts = {
        "version": reference.name,
        "base": source.base.name,
        "method": source.description.get("method"),
        "dataset": stored.digest,
        "split": SPLIT,
        "training papers": papers.sentences(),
    }
    content = {**facts, "made": made, "forms": [asdict(result) for result in results]}
    fidelity = run.scratch / FIDELITY_FILE
    fidelity.write_text(json.dumps(content, indent=1), encoding="utf-8")
    report = run.scratch / "report.html"
    write_release_report(report, reference.name, list(facts.items()), results)
    ledger = run.scratch / LEDGER_FILE
    write_ledger(papers.entries, ledger)
    for file in (fidelity, report, ledger):
        run.artifact(file)
    for name, folder in forms.items():
        run.artifact(folder, f"{RELEASE_FOLDER}/{name}")
    run.tag(
        dataset_digest=stored.digest,
        dataset_run=stored.run_id,
        split=SPLIT,
        model_uri=reference.uri,
        model_run=reference.run_id,
        base_model=source.base.name,
        retracted_papers=", ".join(papers.retracted) or None,
        released=", ".join(result.form for result in results if not result.refusal),
        refused=", ".join(result.form for result in results if result.refusal),
    )
    _present(run, reference, results)
    for result in results:
        if result.score is not None and result.difference is not None:
            name = FORMS[result.form].folder
            run.metrics(
                {
                    f"{SPLIT}/{result.metric}/{name}": result.score,
                    f"{SPLIT}/{result.metric}_difference/{name}": result.difference,
                }
            )
    return forms


def _present(run: "StepRun", reference: ModelReference, results: "Sequence[Fidelity]") -> None:
    """Name the run by the version and its forms, and say what was refused."""
    offered = [result.form for result in results if not result.refusal]
    refused = [f"{result.form} ({result.refusal})" for result in results if result.refusal]
    run.present(
        f"{reference.name} · {', '.join(offered) or 'nothing'}",
        [
            f"forms of {version_link(reference.uri)}: **{', '.join(offered) or 'none'}**",
            *([f"refused: {'; '.join(refused)}"] if refused else []),
            "`report.html` and `fidelity.json` show how each was held against the version",
        ],
    )


def released_folder(run: "StepRun") -> Path:
    """The folder in which the forms are made."""
    return run.scratch / RELEASE_FOLDER


def how_it_was_made(source: "Source") -> str:
    """What a reader has to know about the weights, in a sentence."""
    if not source.is_quantised:
        return "Merged forms: in float32, onto the weights as they were published."
    bits = source.description["bits"]
    return (
        f"The version computes with a base of {bits} bits. Merged forms: in float32, onto the "
        "weights that training.release.merge_onto names."
    )


def register_forms(
    run: "StepRun", reference: ModelReference, forms: Mapping[str, Path], training: Training
) -> list[str]:
    """Make a version of each stored form, which says what it was made of.

    They are versions of a registered model of their own, `NAME-release`: those of `NAME` are
    what can be evaluated, compared and promoted.

    Returns:
        Their URIs.

    Raises:
        UserError: The registry refused.
    """
    name = f"{training.mlflow.registered_model_name}-release"
    made = []
    try:
        ensure_registered_model(run.client, name)
        for form in forms:
            version = run.client.create_model_version(
                name,
                source=f"runs:/{run.id}/{RELEASE_FOLDER}/{form}",
                run_id=run.id,
                description=f"{form} of {reference.name}",
                tags={PARENT_TAG: reference.uri, RELEASE_FORM_TAG: form},
            )
            made.append(f"models:/{name}/{version.version}")
    except store_errors() as error:
        raise UserError(
            f"the registry took {len(made)} of {len(forms)} forms ({reason(error)}); all stand in "
            f"runs:/{run.id}/{RELEASE_FOLDER}"
        ) from None
    return made


def push(
    run: "StepRun",
    target: "Target",
    reference: ModelReference,
    forms: Mapping[str, Path],
    training: Training,
) -> None:
    """Hand stored forms on.

    Raises:
        UserError: The place does not take them.
    """
    from steps.releasing.push import push_to_folder, push_to_hub

    if target.kind == "folder":
        push_to_folder(target.place, forms)
        places = [f"{target.place}/{name}" for name in forms]
    elif target.kind == "hub":
        places = push_to_hub(target.place, forms)
    else:
        places = register_forms(run, reference, forms, training)
    run.tag(pushed_to=", ".join(places))
    say(f"pushed to {', '.join(places)}")
