"""What is only known of a model beside its base."""

from typing import TYPE_CHECKING

from steps.config.sections import Training
from steps.evaluation.measure import Results
from steps.evaluation.summary import facts_gained, forgotten

if TYPE_CHECKING:
    import pandas as pd

    from steps.tracking.registry.model_reference import ModelReference
    from steps.tracking.runs import StepRun


def beside_base(
    run: "StepRun",
    training: Training,
    reference: "ModelReference",
    results: Results,
    base_per_paper: "pd.DataFrame",
    base_general: "pd.DataFrame | None",
) -> dict[str, float]:
    """Measure what was forgotten, and which facts were gained.

    Args:
        run: The run of the evaluation.
        training: The configuration.
        reference: The model; its run says how many tokens it was trained on.
        results: Its results.
        base_per_paper: The rows of the same papers under its base.
        base_general: The same of the general texts, or None.

    Returns:
        Metrics by name, without the split in front.
    """
    settings = training.evaluation
    draws = {"seed": settings.seed, "resamples": settings.bootstrap_samples}
    found: dict[str, float] = {}
    if results.general is not None and base_general is not None:
        found |= forgotten(results.general, base_general, **draws)
    if reference.run_id is not None:
        tokens = run.client.get_run(reference.run_id).data.metrics.get("train/tokens_seen", 0.0)
        found |= facts_gained(results.per_paper, base_per_paper, tokens, **draws)
    return found
