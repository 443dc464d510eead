"""The benchmark of facts finds what a model knows, and finds nothing where nothing is true."""

import numpy as np
import pandas as pd

from benchmarks.facts import (
    MOST_GAINS,
    PERMUTATIONS,
    gain_of,
    gains_of_permuted_truths,
    report,
)
from steps.evaluation.cloze import ranks_of
from steps.evaluation.facts import facts_per_paper

PAPERS, CANDIDATES = 150, 10


def asked(knowledge: float, seed: int) -> pd.DataFrame:
    """Items of 150 papers under a model that lifts the right candidate by so many nats."""
    generator = np.random.default_rng(seed)
    items = 2 * PAPERS
    shared = np.random.default_rng(99).normal(50, 2, (items, CANDIDATES))
    nats = shared + generator.normal(0, 1, (items, CANDIDATES))
    nats[:, 0] -= knowledge
    return pd.DataFrame(
        {
            "paper_id": [f"paper{number % PAPERS}" for number in range(items)],
            "candidates": [[f"c{place}" for place in range(CANDIDATES)]] * items,
            "nats": nats.tolist(),
            "truth": 0,
            "rank": ranks_of(nats.tolist()),
            "kind": "gene_gene",
            "stratum": ["seen" if number < PAPERS else "unseen" for number in range(items)],
            "after": False,
        }
    )


def test_permuted_truths_show_no_gain_where_the_true_ones_do() -> None:
    base, knowing = asked(0.0, 1), asked(2.0, 2)
    gain = gain_of(facts_per_paper(base), facts_per_paper(knowing), "fact_cloze_accuracy")
    assert gain.gain > 0.1
    assert gain.p < 0.01
    found = gains_of_permuted_truths(base, knowing)
    assert 0 <= found <= MOST_GAINS
    assert PERMUTATIONS == 200


def test_a_side_that_is_handicapped_whatever_is_true_is_found_out() -> None:
    base = asked(0.0, 1)
    # A model without opinion gets none right, by convention, so that any other one "gains".
    silent = base.assign(nats=[[0.0] * CANDIDATES for _ in range(len(base))])
    assert gains_of_permuted_truths(silent, base, permutations=20) > 2


def test_the_verdict_follows_the_gain_over_the_control() -> None:
    models = {"base": asked(0.0, 1), "lora": asked(2.5, 2), "control": asked(0.5, 3)}
    tokens = {"lora": 100_000, "control": 100_000}
    lines = "\n".join(report(models, tokens, permutations=4))
    assert "beat the control on facts: yes" in lines
    turned = {**models, "lora": models["control"], "control": models["lora"]}
    assert "beat the control on facts: no" in "\n".join(report(turned, tokens, permutations=4))
    assert "of 100,000 tokens" in lines
