"""Whom `generate` asks and what it leaves in its run, and what an evaluation left that wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steps.config.sections import Training
from steps.errors import UserError
from steps.reports.generations import write_generations_page, write_json_lines
from steps.tracking.artifacts import fetch_file
from steps.tracking.names import CHAMPION
from steps.tracking.presentation import version_link
from steps.tracking.registry.model_reference import ModelReference, find_alias, resolve_model
from steps.tracking.runs import StepRun
from steps.tracking.store import store_errors

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.tracking import MlflowClient

    from steps.evaluation.side_by_side import Answered


def resolve_asked(client: "MlflowClient", model: str, training: Training) -> ModelReference:
    """The model that is named, or the champion.

    Raises:
        UserError: There is none.
    """
    if model:
        return resolve_model(client, model, training)
    name = training.mlflow.registered_model_name
    champion = find_alias(client, name, CHAMPION)
    if champion is None:
        raise UserError(
            f"no version of {name!r} has the alias {CHAMPION}: name a model (models:/NAME/VERSION, "
            "models:/NAME@challenger, runs:/ID/adapter, a run id, or base)"
        )
    return champion


def store_generations(
    run: StepRun,
    training: Training,
    reference: ModelReference,
    adapter: Path | None,
    answered: "Sequence[Answered]",
) -> dict[str, str]:
    """Write the files of a run, and say in it who was asked.

    Args:
        run: The run of this step.
        training: The configuration.
        reference: The model.
        adapter: Its folder; None: the base was asked alone.
        answered: What was written.

    Returns:
        What people call the base and the model.
    """
    from steps.models.adapted import read_description
    from steps.models.sources import resolve_base

    if adapter is None:
        names = {"base": resolve_base(training.model).name}
    else:
        description = read_description(adapter)
        stored = "" if description["bits"] == 16 else f" in {description['bits']} bits"
        names = {"base": f"{description['base']['name']}{stored}", "model": reference.name}
    run.tag(model_uri=reference.uri, model_run=reference.run_id, base_model=names["base"])
    run.params({f"generate.{name}": value for name, value in training.generate})
    files = {name: run.scratch / name for name in ("generations.jsonl", "generations.html")}
    write_json_lines(files["generations.jsonl"], answered, training.generate)
    write_generations_page(files["generations.html"], names, answered, training.generate)
    run.artifacts([(file, None) for file in files.values()])
    run.present(
        f"{reference.name} · {len(answered)} prompts",
        [f"{version_link(reference.uri)} after {len(answered)} prompts: `generations.html`"],
    )
    return names


def generations_of(run: StepRun, run_id: str) -> "pd.DataFrame | None":
    """What the model of another evaluation wrote, for the reader alone; None where it is gone."""
    import pandas as pd
    from pyarrow.lib import ArrowException

    folder = run.scratch / "evaluations" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return pd.read_parquet(fetch_file(run.client, run_id, "generations.parquet", folder))
    except (ValueError, ArrowException, *store_errors()):
        return None
