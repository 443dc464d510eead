"""What is tried next: a study of Optuna in memory, which is told how each trial went.

    search = Search(training.sweep, space, higher_is_better=False)
    proposal = search.ask()                     # None: nothing is left to try
    search.report(proposal, 3.1)                # True: stop it
    search.tell(proposal, "complete", 2.9)

The same seed and the same answers give the same proposals, so that a study is never stored: a
sweep that goes on asks again from the start, and answers from the runs that there are.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steps.config.sweep_section import Sweep
from steps.sweeping.space import Numbers, Space
from steps.sweeping.trials import State

if TYPE_CHECKING:
    import optuna

# Trials below which shares of importance are noise.
TRIALS_FOR_IMPORTANCE = 8


@dataclass
class Proposal:
    """Values to try.

    Attributes:
        number: From 0.
        values: By key.
        reports: How many validations the study knows of.
    """

    number: int
    values: Mapping[str, Any]
    trial: "optuna.trial.Trial"
    reports: int = 0


class Search:
    """Proposes values, and says which trial is not worth its end."""

    def __init__(self, sweep: Sweep, space: Space, *, higher_is_better: bool) -> None:
        """Begin a study.

        Args:
            sweep: Method, pruner and seed.
            space: What may be tried.
            higher_is_better: Which way the metric goes.
        """
        import optuna

        optuna.logging.disable_default_handler()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self._distributions = {key: _distribution(one) for key, one in space.parameters.items()}
        self._grid: Iterator[dict[str, Any]] | None = None
        sampler: optuna.samplers.BaseSampler
        if sweep.method == "tpe":
            sampler = optuna.samplers.TPESampler(
                seed=sweep.seed, n_startup_trials=sweep.startup_trials
            )
        else:
            sampler = optuna.samplers.RandomSampler(seed=sweep.seed)
        if sweep.method == "grid":
            self._grid = space.grid()
        self.study = optuna.create_study(
            # Hyperband deals its brackets out by the name.
            study_name="sweep",
            sampler=sampler,
            pruner=_pruner(sweep),
            direction="maximize" if higher_is_better else "minimize",
        )

    def ask(self) -> Proposal | None:
        """The next values; None once every combination of a grid was asked for."""
        if self._grid is not None:
            combination = next(self._grid, None)
            if combination is None:
                return None
            encoded = {k: _encode(self.space.parameters[k], v) for k, v in combination.items()}
            self.study.enqueue_trial(encoded)
        trial = self.study.ask(self._distributions)
        values = {k: _decode(self.space.parameters[k], v) for k, v in trial.params.items()}
        in_order = {key: values[key] for key in self.space.parameters}
        return Proposal(trial.number, in_order, trial)

    def report(self, proposal: Proposal, value: float) -> bool:
        """Tell of a trial's next validation; whether the pruner would end it there.

        Trials are compared after as many validations, the first of which is number 1.
        """
        proposal.reports += 1
        proposal.trial.report(value, proposal.reports)
        return bool(proposal.trial.should_prune())

    def tell(self, proposal: Proposal, state: State, value: float | None = None) -> None:
        """Tell how a trial ended; one that was stopped counts by its last report."""
        from optuna.trial import TrialState

        if state == "complete":
            self.study.tell(proposal.trial, value)
            return
        ended = TrialState.PRUNED if state == "stopped" and proposal.reports else TrialState.FAIL
        self.study.tell(proposal.trial, state=ended)

    def importance(self) -> dict[str, float]:
        """Each parameter's share in how the whole trials differ (fANOVA); {} for too few."""
        import optuna

        complete = self.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        if len(self.space.parameters) < 2 or len(complete) < TRIALS_FOR_IMPORTANCE:
            return {}
        if len({trial.value for trial in complete}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        return {key: float(share) for key, share in shares.items()}


def _distribution(
    values: Sequence[Any] | Numbers,
) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(values, Numbers):
        # As JSON: Optuna takes neither lists nor mappings.
        return CategoricalDistribution([json.dumps(value, sort_keys=True) for value in values])
    if values.is_integral:
        step = int(values.step or 1)
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=step)
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def _encode(values: Sequence[Any] | Numbers, value: Any) -> Any:
    return value if isinstance(values, Numbers) else json.dumps(value, sort_keys=True)


def _decode(values: Sequence[Any] | Numbers, value: Any) -> Any:
    if not isinstance(values, Numbers):
        return json.loads(value)
    # 0.1 + 2 * 0.1 is 0.30000000000000004; six digits are more than a training tells apart.
    digits = 12 if values.step is not None else 6
    rounded = float(f"{value:.{digits}g}")
    return int(value) if values.is_integral else min(max(rounded, values.low), values.high)


def _pruner(sweep: Sweep) -> "optuna.pruners.BasePruner":
    from optuna import pruners

    if sweep.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=sweep.startup_trials)
    if sweep.pruner == "hyperband":
        return pruners.HyperbandPruner()
    return pruners.NopPruner()
