"""Steps in a row under one run: each is used again, or started and waited for.

pipeline = Pipeline(run, loaded)
prepared = pipeline.step("preprocess", "preprocess", inputs, {})
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from steps.config.file import LoadedConfig
from steps.reports.summary_table import FinishedRun
from steps.terminal import say, styled
from steps.tracking.cache import find_reusable, key_parts
from steps.tracking.nested import run_nested_step
from steps.tracking.runs import StepRun


@dataclass
class Pipeline:
    """One pass over the steps.

    Attributes:
        run: The parent run.
        loaded: The configuration.
        reused: Names of the steps that were not started again.
        started: Names of those that were.
    """

    run: StepRun
    loaded: LoadedConfig
    reused: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)

    def step(
        self,
        step: str,
        name: str,
        inputs: Mapping[str, str],
        parameters: Mapping[str, str],
        loaded: LoadedConfig | None = None,
    ) -> FinishedRun:
        """Use a step's earlier result, or start it and wait.

        Args:
            step: Entry point.
            name: What to call this pass of it.
            inputs: Digests that its result depends on.
            parameters: Its parameters besides `config` and `overrides`.
            loaded: Its configuration, where it is not the pipeline's.

        Raises:
            StepFailed: It ended with another exit code than 0.
        """
        settings = loaded or self.loaded
        parts = key_parts(step, settings.training, inputs)
        found, reason = find_reusable(self.run.client, self.run.experiment_id, step, parts)
        if found is not None:
            say(styled(f"reused  {name}", fg="green") + f" (run {found.info.run_id})")
            self.reused.append(name)
            finished: FinishedRun = found
            return finished
        return self.start(step, name, parameters, reason, settings)

    def start(
        self,
        step: str,
        name: str,
        parameters: Mapping[str, str],
        reason: str,
        settings: LoadedConfig | None = None,
    ) -> FinishedRun:
        """Start a step, nested under the pipeline's run, and wait for it."""
        say(styled(f"running {name}", bold=True) + f" ({reason})")
        self.started.append(name)
        settings = settings or self.loaded
        given = {"config": str(settings.path.resolve()), "overrides": settings.overrides}
        finished: FinishedRun = run_nested_step(self.run, step, name, {**given, **parameters})
        return finished
