"""What keeps a small p-value from being taken for evidence, and how decisions are worded."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from steps.comparison.comparable import EvaluatedModel
from steps.comparison.decision import beaten, decide, not_moved
from steps.config.measurement_sections import Comparison
from steps.errors import UserError
from tests.support.synthetic_results import make_sides

NO_GUARDS = Comparison(min_papers=6, bootstrap_samples=1000, permutations=2000, guards=())


def skewed_sides(papers: int, gain: float, seed: int = 0) -> tuple[EvaluatedModel, EvaluatedModel]:
    """A few papers get much worse, most a little better."""
    generator = np.random.default_rng(seed)
    champion, challenger = make_sides(papers=papers)
    size = champion.per_paper["bytes"]
    shape = generator.lognormal(0, 1.2, papers)
    moved = gain - 0.02 * (shape - shape.mean()) / shape.std()
    nats = champion.per_paper["nats"] - np.log(2) * size * moved
    return champion, replace(challenger, per_paper=champion.per_paper.assign(nats=nats))


def test_where_a_few_papers_get_much_worse_a_small_p_value_is_not_enough() -> None:
    decision = decide(*skewed_sides(100, 0.0062), NO_GUARDS)
    assert 0.01 < decision.primary.p_value <= 0.04
    assert decision.outcome == "inconclusive"
    assert "a few papers get much worse (skewness -" in decision.reason
    assert decide(*skewed_sides(100, 0.03), NO_GUARDS).outcome == "promote"


def test_of_few_papers_one_that_is_missing_may_not_undo_the_gain() -> None:
    decision = decide(*make_sides(papers=20, gain=0.009, spread=0.012), NO_GUARDS)
    assert decision.primary.p_value <= 0.04
    assert decision.outcome == "inconclusive"
    assert "20 are few: one more paper that gets much worse" in decision.reason
    clear = decide(*make_sides(papers=20, gain=0.05, spread=0.012), NO_GUARDS)
    assert clear.outcome == "promote"
    assert clear.reason.endswith("Few papers: below 60 the interval is rough.")
    assert "Few papers" not in decide(*make_sides(papers=60, gain=0.05), NO_GUARDS).reason


def test_without_guards_none_is_said_to_hold() -> None:
    reason = decide(*make_sides(), NO_GUARDS).reason
    assert "no guard was asked" in reason and "0 of 0" not in reason


@pytest.mark.parametrize("field", ["trained", "unverified"])
def test_a_gain_that_is_no_evidence_is_never_promoted(field: str) -> None:
    champion, challenger = make_sides(gain=0.5)
    decision = decide(champion, replace(challenger, **{field: "the reason why"}), NO_GUARDS)
    assert decision.outcome == "inconclusive"
    assert "the reason why" in decision.reason


def test_a_champion_may_know_the_papers_but_its_figures_have_to_be_right() -> None:
    champion, challenger = make_sides(gain=0.5)
    unverified = decide(replace(champion, unverified="changed"), challenger, NO_GUARDS)
    assert unverified.outcome == "inconclusive"
    trained = decide(replace(champion, trained="it knows them"), challenger, NO_GUARDS)
    assert trained.outcome == "promote"


def test_papers_of_one_group_count_as_one() -> None:
    """Four papers of a group that say the same are one paper, not four."""
    champion, challenger = make_sides(papers=30, gain=0.006, spread=0.012)
    four_times = [
        replace(
            side,
            per_paper=pd.concat(
                [
                    side.per_paper.assign(paper_id=side.per_paper["paper_id"] + str(i), journal=ids)
                    for i in range(4)
                ]
            ),
        )
        for side in (champion, challenger)
        for ids in [side.per_paper["paper_id"]]
    ]
    alone = decide(champion, challenger, NO_GUARDS)
    apart = decide(*four_times, NO_GUARDS)
    grouped = decide(*four_times, NO_GUARDS.model_copy(update={"cluster_by": "journal"}))
    assert (grouped.papers, grouped.groups) == (120, 30)
    assert grouped.primary.p_value == pytest.approx(alone.primary.p_value, abs=0.02)
    assert apart.primary.p_value < grouped.primary.p_value / 2
    assert "over 120 papers in 30 groups by journal" in grouped.reason


def test_papers_without_a_group_stand_for_themselves() -> None:
    champion, challenger = make_sides(papers=80)
    none = [None] * 80
    sides = [replace(s, per_paper=s.per_paper.assign(journal=none)) for s in (champion, challenger)]
    grouped = decide(*sides, NO_GUARDS.model_copy(update={"cluster_by": "journal"}))
    assert grouped.groups == 80
    assert grouped.primary == decide(champion, challenger, NO_GUARDS).primary


def test_groups_that_the_papers_do_not_name_are_refused() -> None:
    with pytest.raises(UserError, match="cluster_by is 'author'"):
        decide(*make_sides(), NO_GUARDS.model_copy(update={"cluster_by": "author"}))


def test_of_several_that_are_better_one_takes_the_place() -> None:
    champion, best = make_sides(gain=0.05)
    _, other = make_sides(gain=0.03)
    other = replace(other, name="models:/genomics/3")
    first, second = (decide(champion, one, NO_GUARDS) for one in (best, other))
    lost = beaten(second, first)
    assert lost.outcome == "keep"
    assert "takes the place" not in lost.reason
    assert "better than models:/genomics/1 too, but models:/genomics/2 gains more" in lost.reason
    kept = not_moved(first, "no alias is moved (promote=never)")
    assert kept.outcome == "promote" and "takes the place" not in kept.reason
