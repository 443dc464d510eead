"""The plan of a training run in the store: kept there, and fed by what earlier runs measured."""

import json
from typing import TYPE_CHECKING

from steps.config.sections import Training
from steps.terminal import say
from steps.tracking.names import BASE_MODEL_TAG, PLAN_FILE, STEP_TAG

if TYPE_CHECKING:
    from steps.models.devices import Placement
    from steps.models.sources import Base
    from steps.planning.report import RunPlan
    from steps.tracking.runs import StepRun


def record_plan(run: "StepRun", plan: "RunPlan") -> None:
    """Leave `plan.json` and the main figures as tags in a run, and say them.

    As metrics they would be the first charts of the run's page, flat ones; as parameters they
    would stand among the settings.
    """
    file = run.scratch / PLAN_FILE
    file.write_text(json.dumps(plan.as_json(), indent=2) + "\n", encoding="utf-8")
    run.artifact(file)
    figures: dict[str, float] = {
        "memory_gb": plan.memory.total / 2**30,
        "budget_gb": plan.memory.budget / 2**30,
        "disk_gb": plan.disk.local / 2**30,
        "micro_batch": plan.micro_batch,
    }
    hours = plan.time.hours
    if hours is not None:
        figures["hours"] = hours
    run.tag(**{f"plan.{name}": f"{figure:.6g}" for name, figure in figures.items()})
    say(
        f"plan: {plan.micro_batch} x {plan.length} tokens take "
        f"{figures['memory_gb']:.2f} of {figures['budget_gb']:.1f} GiB, checkpoints "
        f"{figures['disk_gb']:.2f} GiB of disk"
        + (f", {hours:.1f} hours at the rate of the last such run" if hours is not None else "")
    )


def measured_rate(
    run: "StepRun", base: "Base", training: Training, placement: "Placement"
) -> float | None:
    """Tokens a second of the last finished run of this base, method, device and process count.

    Tags the run with its own device, by which later ones find it.
    """
    run.tag(device=placement.device)
    found = run.client.search_runs(
        [run.experiment_id],
        f"attributes.status = 'FINISHED' and tags.`{STEP_TAG}` = 'finetune' "
        f"and tags.`forge.method` = '{training.qlora.resolved_method}' "
        f"and tags.`forge.device` = '{placement.device}'",
        max_results=50,
    )
    # Compared here, because a name may hold what the store's filter takes for a quote.
    same = [
        one
        for one in found
        if one.data.tags.get(BASE_MODEL_TAG) == base.name
        and one.data.tags.get("forge.processes", "1") == str(placement.processes)
    ]
    return same[0].data.metrics.get("train/mean_tokens_per_second") if same else None
