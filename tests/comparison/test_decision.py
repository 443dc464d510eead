"""What the rule decides, what it refuses, and that it says why."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from steps.comparison.comparable import EvaluatedModel, check_comparable
from steps.comparison.decision import decide
from steps.comparison.ranking import rank
from steps.config.measurement_sections import Comparison, Guard
from steps.errors import UserError
from tests.support.synthetic_results import make_sides

RULE = Comparison(
    min_papers=6,
    bootstrap_samples=1000,
    permutations=2000,
    guards=(
        Guard(metric="general_bits_per_byte", margin=0.03),
        Guard(metric="memorised_share", margin=0.02),
    ),
)
NO_GUARDS = RULE.model_copy(update={"guards": ()})


def test_a_clear_gain_with_guards_that_hold_is_promoted() -> None:
    """The reason carries the figures."""
    decision = decide(*make_sides(), RULE)
    assert decision.outcome == "promote"
    assert decision.primary.gain == pytest.approx(0.02, abs=0.005)
    assert f"{decision.primary.gain:+.4f} bits per byte over 80 papers" in decision.reason
    assert [guard.outcome for guard in decision.guards] == ["holds", "holds"]


def test_a_clear_loss_keeps_the_champion() -> None:
    """Shown to be below the minimum."""
    decision = decide(*make_sides(gain=-0.02), RULE)
    assert decision.outcome == "keep"
    assert "shown to be less than the 0.002 required" in decision.reason


def test_a_real_gain_below_the_minimum_keeps_the_champion() -> None:
    """Significantly above 0 is not enough."""
    decision = decide(*make_sides(papers=300, gain=0.001, spread=0.002), RULE)
    assert decision.primary.low is not None
    assert decision.primary.low > 0
    assert decision.outcome == "keep"


def test_what_cannot_be_told_is_inconclusive_and_says_what_it_takes() -> None:
    """Number of papers for the gain seen."""
    decision = decide(*make_sides(papers=30, gain=0.008, spread=0.03), NO_GUARDS)
    assert decision.outcome == "inconclusive"
    assert decision.papers_needed is not None
    assert decision.papers_needed > 30
    assert f"takes about {decision.papers_needed} papers" in decision.reason


def test_the_gain_seen_being_too_small_the_reason_names_the_gain_that_would_show() -> None:
    """No number of papers proves a gain that is not there."""
    decision = decide(*make_sides(papers=30, gain=0.0, spread=0.03, seed=3), NO_GUARDS)
    assert decision.primary.gain < 0.002
    assert decision.papers_needed is None
    assert f"true gain of {decision.smallest_detectable_gain:.4f} or more" in decision.reason


def test_equal_sides_keep_the_champion_even_with_few_papers() -> None:
    """All ties: there is nothing to wait for."""
    for papers in (3, 80):
        champion, challenger = make_sides(papers=papers)
        same = replace(challenger, per_paper=champion.per_paper)
        decision = decide(champion, same, RULE.model_copy(update={"min_gain": 0.0}))
        assert decision.outcome == "keep"
        assert f"the same bits per byte on each of the {papers} papers" in decision.reason


def test_four_papers_are_too_few_whatever_they_show() -> None:
    """2^-4 is above alpha, and the reason says so."""
    decision = decide(*make_sides(papers=4, gain=0.5, spread=0.001), NO_GUARDS)
    assert decision.outcome == "inconclusive"
    assert "smallest p-value that they can give is 0.0625, above alpha 0.04" in decision.reason
    assert "at least 5" in decision.reason


def test_fewer_papers_than_the_rule_asks_for_are_inconclusive() -> None:
    """Long papers do not make up for number: they are counted by what they are worth."""
    rule = NO_GUARDS.model_copy(update={"min_papers": 20})
    assert "fewer than the 20" in decide(*make_sides(papers=15, gain=0.5), rule).reason
    champion, challenger = make_sides(papers=40, gain=0.5)
    for side in (champion, challenger):
        side.per_paper.loc[:1, ["nats", "bytes"]] *= 500
    decision = decide(champion, challenger, rule)
    assert decision.outcome == "inconclusive"
    assert decision.effective_papers < 3
    assert "40 papers of unequal length, worth 2 equal ones" in decision.reason


def test_forgetting_beyond_the_margin_keeps_the_champion() -> None:
    """However large the gain."""
    decision = decide(*make_sides(gain=0.2, forgetting=0.08), RULE)
    assert decision.outcome == "keep"
    guard = decision.guards[0]
    assert guard.outcome == "fails"
    assert guard.low is not None
    assert guard.low > 0.03
    assert guard.reason in decision.reason


def test_forgetting_within_the_margin_is_let_through() -> None:
    """A margin is an allowance, not a test of equality."""
    decision = decide(*make_sides(forgetting=0.015), RULE)
    assert decision.guards[0].outcome == "holds"
    assert decision.outcome == "promote"


def test_a_guard_at_its_margin_is_inconclusive_and_says_how_many_texts_it_takes() -> None:
    """Not shown to hold is not shown to fail."""
    champion, challenger = make_sides(forgetting=0.0275)
    decision = decide(champion, challenger, RULE)
    guard = decision.guards[0]
    assert (guard.outcome, decision.outcome) == ("unproven", "inconclusive")
    assert guard.low is not None
    assert guard.high is not None
    assert guard.low < 0.03 < guard.high
    assert guard.papers_needed is not None
    assert f"about {guard.papers_needed} texts would show it" in decision.reason


def test_a_guard_without_data_is_inconclusive_unless_it_is_optional() -> None:
    """An unmeasured harm is not the absence of harm."""
    champion, challenger = make_sides(general=None, metrics={"memorised_share": 0.0})
    decision = decide(champion, challenger, RULE)
    assert decision.outcome == "inconclusive"
    assert decision.guards[0].outcome == "no data"
    assert "general_bits_per_byte has no figure for models:/genomics/2" in decision.reason
    guards = tuple(guard.model_copy(update={"optional": True}) for guard in RULE.guards)
    decision = decide(champion, challenger, RULE.model_copy(update={"guards": guards}))
    assert decision.outcome == "promote"
    assert decision.guards[0].outcome == "not checked"
    assert "Optional guards without data: general_bits_per_byte." in decision.notes


@pytest.mark.parametrize(("share", "outcome"), [(0.19, "promote"), (0.21, "keep")])
def test_a_guard_with_a_reference_is_held_against_that_of_the_challenger(
    share: float, outcome: str
) -> None:
    """Real text holds unknown genes too; the champion's own share plays no part."""
    guard = Guard(
        metric="unknown_gene_share", margin=0.10, reference="reference_unknown_gene_share"
    )
    champion, challenger = make_sides()
    challenger = replace(
        challenger, metrics={"unknown_gene_share": share, "reference_unknown_gene_share": 0.10}
    )
    decision = decide(champion, challenger, RULE.model_copy(update={"guards": (guard,)}))
    assert decision.outcome == outcome
    assert decision.guards[0].reference == 0.10
    assert decision.guards[0].against == "reference_unknown_gene_share"
    assert any("point estimates" in note for note in decision.notes)


def test_counts_a_paper_turn_a_share_into_bounds() -> None:
    """The same point estimate, once from few and once from many symbols."""
    guard = Guard(
        metric="unknown_gene_share", margin=0.10, reference="reference_unknown_gene_share"
    )
    outcomes = {}
    for prompts in (8, 80):
        champion, challenger = make_sides()
        generator = np.random.default_rng(4)
        for side in (champion, challenger):
            asked = np.arange(80) < prompts
            side.per_paper["generated_symbols"] = 5 * asked
            side.per_paper["generated_symbols_unknown"] = generator.binomial(5, 0.12, 80) * asked
            side.per_paper["reference_symbols"] = 5 * asked
            side.per_paper["reference_symbols_unknown"] = generator.binomial(5, 0.1, 80) * asked
        decision = decide(champion, challenger, RULE.model_copy(update={"guards": (guard,)}))
        outcomes[prompts] = decision.guards[0]
    assert outcomes[8].outcome == "unproven"
    assert outcomes[80].outcome == "holds"
    assert outcomes[8].papers == 8


def test_copied_text_is_judged_by_bounds_over_the_papers_that_were_asked() -> None:
    """Four generations prove nothing either way; eighty do."""
    guard = Guard(metric="memorised_share", margin=0.02)
    outcomes = {}
    for prompts in (4, 80):
        champion, challenger = make_sides()
        asked = np.arange(80) < prompts
        generator = np.random.default_rng(5)
        for model in (champion, challenger):
            model.per_paper["generated_tokens"] = 64 * asked
            model.per_paper["memorised_tokens"] = generator.binomial(64, 0.01, 80) * asked
        decision = decide(champion, challenger, RULE.model_copy(update={"guards": (guard,)}))
        outcomes[prompts] = decision.guards[0]
    assert outcomes[80].outcome == "holds"
    assert outcomes[80].papers == 80
    assert outcomes[80].high is not None
    assert outcomes[80].high < 0.02
    assert outcomes[4].outcome == "unproven"


def test_a_guard_where_more_is_better_looks_the_other_way() -> None:
    """And a direction that contradicts the metric is refused."""
    right = Guard(metric="gene_cloze_accuracy", margin=0.05, direction="higher_is_better")
    champion, challenger = make_sides()
    decision = decide(champion, challenger, RULE.model_copy(update={"guards": (right,)}))
    assert decision.guards[0].outcome == "holds"
    decision = decide(challenger, champion, RULE.model_copy(update={"guards": (right,)}))
    assert decision.guards[0].outcome == "fails"
    wrong = right.model_copy(update={"direction": "lower_is_better"})
    with pytest.raises(UserError, match="expected higher_is_better"):
        decide(champion, challenger, RULE.model_copy(update={"guards": (wrong,)}))


def test_secondary_metrics_do_not_decide() -> None:
    """Worse on genes, better overall: promoted, and the table shows the loss."""
    champion, challenger = make_sides(papers=150)
    challenger.per_paper["nats_gene"] = champion.per_paper["nats_gene"] * 1.2
    decision = decide(champion, challenger, RULE)
    genes = next(m for m in decision.secondary if m.metric == "gene_bits_per_byte")
    assert genes.gain < 0
    assert genes.adjusted_p_value is not None
    assert genes.p_value <= genes.adjusted_p_value < 0.05
    assert decision.outcome == "promote"


def test_a_cloze_test_of_other_items_is_left_out() -> None:
    """Accuracies on different items are no pair."""
    champion, challenger = make_sides()
    assert "gene_cloze_accuracy" in [m.metric for m in decide(champion, challenger, RULE).secondary]
    challenger.per_paper["gene_cloze_items"] += np.arange(80) == 3
    decision = decide(champion, challenger, RULE)
    assert "gene_cloze_accuracy" not in [m.metric for m in decision.secondary]


def test_the_order_of_the_rows_does_not_matter() -> None:
    """Papers are paired by identifier."""
    champion, challenger = make_sides()
    shuffled = replace(champion, per_paper=champion.per_paper.sample(frac=1, random_state=0))
    assert decide(shuffled, challenger, RULE) == decide(champion, challenger, RULE)


def test_swapping_the_sides_turns_the_gain_around() -> None:
    """To the last digit."""
    champion, challenger = make_sides()
    there = decide(champion, challenger, NO_GUARDS).primary
    back = decide(challenger, champion, NO_GUARDS).primary
    assert back.gain == pytest.approx(-there.gain)
    assert (back.champion, back.challenger) == (there.challenger, there.champion)


@pytest.mark.parametrize("papers", [2, 5, 80])
def test_a_decision_is_valid_json(papers: int) -> None:
    """Without NaN or infinity, whatever the number of papers."""
    decision = decide(*make_sides(papers=papers), RULE, decisions_taken_before=2)
    written = json.loads(json.dumps(asdict(decision), allow_nan=False))
    assert written["primary"]["papers"] == papers
    assert written["decisions_taken_before"] == 2
    assert any("served 2 decisions before" in note for note in written["notes"])


def test_a_few_papers_that_get_much_worse_are_pointed_out() -> None:
    """Where p-values come out too small, the decision says so."""
    champion, challenger = make_sides()
    assert not any("skewness" in note for note in decide(champion, challenger, NO_GUARDS).notes)
    challenger.per_paper.loc[:1, "nats"] *= 1.2
    decision = decide(champion, challenger, NO_GUARDS)
    assert any("A few papers get much worse (skewness -" in note for note in decision.notes)


def test_masked_models_are_compared_by_their_own_metrics() -> None:
    """The loss of the masked targets."""
    rule = NO_GUARDS.model_copy(update={"metric": "mlm_loss", "min_gain": 0.01})
    columns = {"nats": "mlm_nats", "bytes": "mlm_targets"}
    champion, challenger = (
        replace(side, objective="masked", per_paper=side.per_paper.rename(columns=columns))
        for side in make_sides(gain=0.1)
    )
    decision = decide(champion, challenger, rule)
    assert decision.outcome == "promote"
    assert decision.primary.gain == pytest.approx(0.1 * math.log(2), abs=0.01)
    challenger.per_paper["mlm_targets"] += np.arange(80) == 0
    with pytest.raises(UserError, match=r"set comparison\.metric to pseudo_bits_per_byte"):
        decide(champion, challenger, rule)


Change = Callable[[EvaluatedModel], EvaluatedModel]


def with_figure(column: str, value: float) -> Change:
    """A side in which one figure of the third paper is another."""

    def change(side: EvaluatedModel) -> EvaluatedModel:
        frame = side.per_paper.astype({column: float})
        frame.loc[2, column] = value
        return replace(side, per_paper=frame)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: replace(s, version="genomics/1"), "both are version genomics/1"),
        (lambda s: replace(s, dataset_digest="sha256:bb"), "dataset digest sha256:aa against"),
        (lambda s: replace(s, split="validation"), "split test against validation"),
        (lambda s: replace(s, metric_version="2"), "metric version 1 against 2"),
        (lambda s: replace(s, objective="masked"), "objective causal against masked"),
        (
            lambda s: replace(s, per_paper=s.per_paper.iloc[:-2]),
            "2 only in the former, 0 only in the latter (first: PMID0078)",
        ),
        (
            lambda s: replace(s, per_paper=s.per_paper.assign(paper_id=lambda f: "x" + f.paper_id)),
            "none of their papers in common (80 and 80)",
        ),
        (
            lambda s: replace(s, per_paper=pd.concat([s.per_paper, s.per_paper.iloc[:1]])),
            "papers hold PMID0000 twice",
        ),
        (lambda s: replace(s, per_paper=s.per_paper.iloc[:0]), "there are no papers"),
        (
            lambda s: replace(s, per_paper=s.per_paper.drop(columns="nats")),
            "no column nats, which bits_per_byte needs",
        ),
        (
            lambda s: replace(s, general=s.general.iloc[1:]),
            "different general texts: 1 only in the former",
        ),
        (with_figure("nats", math.nan), "nats of paper PMID0002 is nan"),
        (with_figure("nats_gene", math.inf), "nats_gene of paper PMID0002 is inf"),
        (with_figure("bytes", 7.0), "bytes of PMID0002 is"),
    ],
)
def test_sides_that_do_not_compare_are_refused_by_name(change: Change, message: str) -> None:
    """One line that names both sides, or the one at fault, and the difference."""
    champion, challenger = make_sides()
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        check_comparable(champion, change(challenger))
    assert "models:/genomics/" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_single_paper_is_refused() -> None:
    """There is nothing to resample."""
    with pytest.raises(UserError, match=r"a single paper \(PMID0000\)"):
        check_comparable(*make_sides(papers=1))


def test_papers_without_a_byte_are_refused() -> None:
    """There is no ratio."""
    champion, challenger = make_sides()
    for side in (champion, challenger):
        side.per_paper["bytes"] = 0.0
    with pytest.raises(UserError, match="bytes is 0 in all papers"):
        check_comparable(champion, challenger)


def test_a_metric_that_does_not_fit_the_models_is_refused() -> None:
    """With the ones that do."""
    with pytest.raises(UserError, match=r"set comparison\.metric to pseudo_bits_per_byte or mlm"):
        check_comparable(*make_sides(objective="masked"))
    with pytest.raises(UserError, match=r"set comparison\.metric to bits_per_byte"):
        check_comparable(*make_sides(), "mlm_loss")
    with pytest.raises(UserError, match=r"comparison\.metric is 'rouge': expected one of"):
        check_comparable(*make_sides(), "rouge")


def test_a_figure_of_a_guard_that_is_no_number_is_refused() -> None:
    """NaN is neither within a margin nor beyond it."""
    with pytest.raises(UserError, match="memorised_share is nan"):
        decide(*make_sides(metrics={"memorised_share": math.nan}), RULE)


def test_a_ranking_puts_the_best_first_and_tests_all_pairs() -> None:
    """Two that differ by chance are not told apart."""
    base, better = make_sides(gain=0.05, spread=0.005)
    twin = replace(
        better,
        name="models:/genomics/3",
        version="genomics/3",
        per_paper=better.per_paper.assign(
            nats=lambda f: f["nats"] + np.where(np.arange(len(f)) % 2 == 0, 0.4, -0.39)
        ),
    )
    ranking = rank([base, better, twin], NO_GUARDS)
    assert [side.rank for side in ranking.models] == [1, 2, 3]
    assert ranking.models[-1].name == base.name
    values = [side.value for side in ranking.models]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(decide(base, better, NO_GUARDS).primary.champion)
    for side in ranking.models:
        assert side.low is not None
        assert side.high is not None
        assert side.low < side.value < side.high
    told_apart = {
        frozenset((pair.better, pair.worse)): pair.adjusted_p_value < 0.05 for pair in ranking.pairs
    }
    assert told_apart == {
        frozenset((base.name, better.name)): True,
        frozenset((base.name, twin.name)): True,
        frozenset((better.name, twin.name)): False,
    }
    assert all(pair.gain >= 0 and pair.adjusted_p_value >= pair.p_value for pair in ranking.pairs)


def test_a_ranking_needs_two_models() -> None:
    """One alone has nothing to be ranked against."""
    with pytest.raises(UserError, match="at least 2 models, not 1"):
        rank(make_sides()[:1], NO_GUARDS)


def test_what_a_budget_cut_differently_is_not_compared_and_that_is_said() -> None:
    champion, challenger = (
        replace(
            side,
            per_paper=side.per_paper.assign(
                gene_cloze_items=10, gene_cloze_hits=hits, memorised_tokens=0, generated_tokens=50
            ),
        )
        for side, hits in zip(make_sides(), (1, 9), strict=True)
    )
    cut = replace(challenger, cuts={"gene_cloze": [10, 20], "generation": [4, 8]})
    for first, second in ((champion, cut), (replace(champion, cuts=cut.cuts), challenger)):
        decision = decide(first, second, RULE)
        assert not [one for one in decision.secondary if "cloze" in one.metric]
        # The guard has no figures, which is no pass.
        assert {guard.metric: guard.outcome for guard in decision.guards} == {
            "general_bits_per_byte": "holds",
            "memorised_share": "no data",
        }
        assert decision.outcome != "promote"
        said = " ".join(decision.notes)
        assert "Not compared: gene cloze, of which evaluation.budget_minutes left" in said
        assert "10 of 20 for" in said and "all for" in said
    same = decide(replace(champion, cuts=cut.cuts), cut, RULE)
    assert [one for one in same.secondary if one.metric == "gene_cloze_accuracy"]
    assert same.outcome == "promote"
    assert "Not compared" not in " ".join(same.notes)
