"""Which training another number of processes may go on with, and how they share its batch."""

import json
from pathlib import Path
from typing import Any

import pytest

from steps.checkpoints.format import writing_checkpoint
from steps.checkpoints.trainer_state import Progress, write_progress
from steps.config.sections import Hyperparameters, Training
from steps.errors import UserError
from steps.tracking.checkpoints.resume import (
    Found,
    find_resume_point,
    metadata,
    resume_key,
)
from steps.tracking.runs import StepRun
from tests.support.stopped_runs import EXPECTED, Store


def facts(processes: int, accumulation: int = 8, **changes: Any) -> dict[str, Any]:
    """What a run on so many processes has to agree with."""
    return {
        **EXPECTED,
        "hyperparameters.batch_size": 2,
        "hyperparameters.gradient_accumulation_steps": accumulation,
        "processes": processes,
        "deepspeed": None,
        **changes,
    }


class Runs(Store):
    """Runs of several processes, killed at step 5."""

    def stopped(
        self,
        stated: dict[str, Any],
        wrote: int | None = None,
        status: str = "KILLED",
        **tags: str,
    ) -> StepRun:
        """A run that stopped; `wrote` is how many processes it had."""
        ranks = wrote or stated["processes"]
        run = self.run(status, processes=str(ranks), resume_key=resume_key(stated), **tags)
        manifest = metadata(run.id, "sha256:d", stated)
        with writing_checkpoint(self.local(run), 5, manifest) as folder:
            (folder / "adapter_model.safetensors").write_bytes(b"weights")
            state = {"best_global_step": None, "train_batch_size": 2}
            (folder / "trainer_state.json").write_text(json.dumps(state))
            write_progress(folder, Progress(loss_since_report=[0.0] * ranks))
        return run

    def launched(self, reference: str, expected: dict[str, Any]) -> Found | None:
        """What a new launch finds, which ends right after it."""
        new = self.client.create_run(self.experiment)
        run = self.run_of(new.info.run_id)
        try:
            return find_resume_point(run, reference, expected, self.said.append)
        finally:
            self.client.set_terminated(run.id, "FAILED")

    def run_of(self, run_id: str) -> StepRun:
        """A run that has said nothing yet."""
        made = next(iter(self.known.values()))
        return StepRun(run_id, self.experiment, self.client, made.scratch, made.spool, 1.0)


@pytest.fixture
def runs(store: str, tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.mark.parametrize("reference", ["auto", "named"])
@pytest.mark.parametrize(("before", "now", "each"), [(1, 2, 4), (2, 1, 16), (2, 4, 4), (1, 8, 1)])
def test_the_batch_stays_and_its_accumulation_is_divided(
    runs: Runs, reference: str, before: int, now: int, each: int
) -> None:
    source = runs.stopped(facts(before))
    found = runs.launched("auto" if reference == "auto" else source.id, facts(now))
    assert found is not None and found.run_id == source.id and found.division is not None
    assert found.division.rows == 2 * 8 * before
    values = Hyperparameters(batch_size=2, gradient_accumulation_steps=8)
    training, fingerprint = found.division.applied(Training(hyperparameters=values), facts(now))
    assert training.hyperparameters.gradient_accumulation_steps == each
    assert each * now * 2 == found.division.rows
    # The new run is found by the key of the one that began, and its checkpoints agree with it.
    assert fingerprint == facts(before)
    (notice,) = found.notices
    assert notice.startswith(f"{now} process") and f"before {before}:" in notice
    assert f"accumulation is {each} (before 8)" in notice and f"{2 * 8 * before} rows" in notice
    tags = found.division.tags
    assert (tags["processes_before"], tags["batch_processes"]) == (str(before), str(before))
    assert tags["accumulation"] == str(each) and tags["processes_note"] == notice


def test_as_many_processes_change_nothing(runs: Runs) -> None:
    source = runs.stopped(facts(2))
    found = runs.launched("auto", facts(2))
    assert found is not None and found.run_id == source.id
    assert found.division is None and found.notices == ()


def test_a_run_that_was_moved_is_moved_on_and_gone_on_from_as_it_is(runs: Runs) -> None:
    # Begun on 1, resumed on 2: its accumulation is still counted for 1.
    source = runs.stopped(facts(1), wrote=2, batch_processes="1")
    as_it_is = runs.launched(source.id, facts(2))
    assert as_it_is is not None and as_it_is.division is not None
    assert as_it_is.division.accumulation == 4
    assert as_it_is.notices == () and "processes_before" not in {
        name for name, value in as_it_is.division.tags.items() if value
    }
    further = runs.launched("auto", facts(4))
    assert further is not None and further.division is not None
    assert further.division.accumulation == 2
    assert "before 2: gradient accumulation is 2 (before 4)" in further.notices[0]


def test_a_configuration_that_states_the_divided_accumulation_is_taken(runs: Runs) -> None:
    source = runs.stopped(facts(1, 8))
    found = runs.launched("auto", facts(2, 4))
    assert found is not None and found.run_id == source.id and found.division is not None
    assert found.division.accumulation == 4
    with pytest.raises(UserError, match="gradient_accumulation_steps was 8, is 2"):
        runs.launched(source.id, facts(2, 2))


@pytest.mark.parametrize("reference", ["auto", "named"])
def test_what_cannot_be_shared_evenly_is_refused_with_the_numbers_that_work(
    runs: Runs, reference: str
) -> None:
    source = runs.stopped(facts(2, 3))
    with pytest.raises(UserError) as refused:
        runs.launched("auto" if reference == "auto" else source.id, facts(4, 3))
    said = str(refused.value)
    assert "6 forward pass(es) of 2 row(s), which 4 processes cannot share evenly" in said
    assert "1, 2, 3 or 6 process(es)" in said and "\n" not in said


def test_shards_of_deepspeed_stay_with_their_number_of_processes(runs: Runs) -> None:
    zero = {"zero_optimization": {"stage": 2}}
    source = runs.stopped(facts(2, deepspeed=zero))
    with pytest.raises(UserError, match="DeepSpeed has written the optimiser's state in 2 part"):
        runs.launched(source.id, facts(4, deepspeed=zero))
    found = runs.launched(source.id, facts(2, deepspeed=zero))
    assert found is not None and found.division is None


def test_rows_that_auto_counts_are_shared_by_whole_forward_passes(runs: Runs) -> None:
    auto = {"hyperparameters.batch_size": "auto"}
    source = runs.stopped(facts(1, **auto))
    # 8 rows a step, 2 at once: four passes.
    found = runs.launched(source.id, facts(4, **auto))
    assert found is not None and found.division is not None
    assert (found.division.accumulation, found.division.rows) == (2, 8)
    with pytest.raises(UserError, match=r"4 forward pass\(es\) of 2 row.*1, 2 or 4 process"):
        runs.launched(source.id, facts(8, **auto))


def test_auto_prefers_as_many_processes_and_leaves_what_was_gone_on_from(runs: Runs) -> None:
    alone, same = runs.stopped(facts(1)), runs.stopped(facts(2))
    runs.stopped(facts(4))
    found = runs.launched("auto", facts(2))
    assert found is not None and found.run_id == same.id
    runs.client.set_terminated(same.id, "FINISHED")
    runs.stopped(
        facts(1), wrote=2, status="FINISHED", batch_processes="1", resumed_from=f"{alone.id}:5"
    )
    other = runs.launched("auto", facts(8))
    assert other is not None and other.run_id not in (alone.id, same.id)
