"""What an evaluation is going to do, how long that takes, and what a budget leaves of it."""

import dataclasses
from typing import Any

import pytest
import torch
from pandas.testing import assert_frame_equal

from steps.config.sections import Training
from steps.evaluation import workload
from steps.evaluation.measure import measure
from steps.evaluation.workload import Cut, Phase, Rates, Workload, cut_notice
from steps.models.adapted import AdaptedModel

PHASES = (
    Phase("papers", 13, "papers", read=6_000),
    Phase("gene_cloze", 200, "sentences", read=40_000, can_be_cut=True),
    Phase("generation", 80, "prompts", read=2_000, written=5_000, can_be_cut=True),
)
RATES = Rates(read=500, written=50)


def adapted_of(model: Any, tokenizer: Any) -> AdaptedModel:
    description = {"base": {"name": "tiny"}}
    return AdaptedModel(model, tokenizer, "causal", torch.float32, "cpu", description)


def training_of(budget: float | None = None) -> Training:
    training = Training()
    evaluation = training.evaluation.model_copy(
        update={
            "context": 64,
            "cloze_items": 12,
            "facts": training.evaluation.facts.model_copy(update={"items": 0}),
            "bootstrap_samples": 50,
            "budget_minutes": budget,
            "generation": training.evaluation.generation.model_copy(
                update={"prompts": 4, "max_new_tokens": 4}
            ),
        }
    )
    return training.model_copy(update={"evaluation": evaluation})


def test_a_phase_takes_what_is_read_and_what_is_written_shared_by_all_processes() -> None:
    assert Workload(PHASES, RATES).total() == pytest.approx(48_000 / 500 + 5_000 / 50)
    assert Workload(PHASES, RATES, processes=2).total() == pytest.approx(98)


def test_the_announcement_names_each_phase_the_rates_and_the_time() -> None:
    said = Workload(PHASES, RATES).description()
    assert "papers (13 papers), gene cloze (200 sentences), generation (80 prompts)" in said
    assert "about 3 min" in said
    assert "reads 500 tokens/s and writes 50" in said


def test_what_may_be_cut_is_cut_by_the_same_share_until_the_rest_fits() -> None:
    whole = Workload(PHASES, RATES)
    cuts = whole.cuts_within(1.0)
    assert set(cuts) == {"gene_cloze", "generation"}
    shares = [cut.kept / cut.wanted for cut in cuts.values()]
    assert shares == pytest.approx([shares[0]] * 2, abs=1 / 80)
    left = [
        dataclasses.replace(
            phase,
            parts=cuts[phase.name].kept,
            read=round(phase.read * cuts[phase.name].kept / phase.parts),
            written=round(phase.written * cuts[phase.name].kept / phase.parts),
        )
        if phase.name in cuts
        else phase
        for phase in PHASES
    ]
    assert 55 <= Workload(left, RATES).total() <= 60


def test_a_budget_that_holds_all_cuts_nothing_and_one_that_holds_too_little_all() -> None:
    whole = Workload(PHASES, RATES)
    assert whole.cuts_within(4) == {}
    cuts = whole.cuts_within(0.1)
    assert cuts == {"gene_cloze": Cut(0, 200), "generation": Cut(0, 80)}
    assert "what is never cut takes longer" in cut_notice(0.1, cuts)
    assert "gene cloze to 0 of 200, generation to 0 of 80" in cut_notice(0.1, cuts)


def test_a_cut_evaluation_scores_the_same_papers_and_a_part_of_the_items(
    llama: Any,
    byte_level_tokenizer: Any,
    papers: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapted = adapted_of(llama, byte_level_tokenizer)
    monkeypatch.setattr(workload, "_measured_rates", lambda *_: Rates(read=1_000, written=100))
    whole = measure(training_of(), adapted, papers, papers, general_texts=[])
    told = capsys.readouterr().out
    assert "measuring papers" in told and "variant cloze" in told and "generation" in told
    assert whole.cuts == {}
    assert not [name for name in whole.metrics if name.endswith("_measured_share")]

    half = measure(training_of(budget=0.05), adapted, papers, papers, general_texts=[])
    assert "evaluation.budget_minutes=0.05 cuts" in capsys.readouterr().out
    likelihood = [c for c in whole.per_paper.columns if c.startswith(("nats", "bytes"))]
    assert_frame_equal(half.per_paper[likelihood], whole.per_paper[likelihood])
    cut = half.cuts["variant_cloze"]
    assert 0 < cut.kept < cut.wanted == whole.per_paper["variant_cloze_items"].sum()
    assert half.per_paper["variant_cloze_items"].sum() == cut.kept
    assert half.metrics["variant_cloze_measured_share"] == cut.kept / cut.wanted
    assert (half.per_paper["variant_cloze_items"] <= whole.per_paper["variant_cloze_items"]).all()
    # The prompts that are left are the first.
    kept = half.cuts["generation"].kept
    assert 0 < kept < 4
    assert_frame_equal(half.generations, whole.generations[:kept])


def test_rates_are_measured_on_the_model_itself(
    llama: Any, byte_level_tokenizer: Any, papers: Any
) -> None:
    read: list[int] = []
    llama.model.register_forward_pre_hook(
        lambda module, arguments, options: read.append(options["input_ids"].numel()),
        with_kwargs=True,
    )
    texts = [paper.text for paper in papers]
    rates = workload._measured_rates(
        training_of(), adapted_of(llama, byte_level_tokenizer), texts, texts[:2]
    )
    assert rates.read > 0 and rates.written is not None and rates.written > 0
    assert sum(read) > 256
