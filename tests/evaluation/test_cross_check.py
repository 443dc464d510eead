"""Our likelihoods beside those of lm-evaluation-harness, on a real model and real texts."""

import math

import numpy as np
import pytest

from benchmarks.evaluation import load, our_nats, papers_of, peer_nats, read_texts
from steps.metrics import METRICS
from tests.support.project import ROOT, SHARED_DATA

# Short, so that many texts are longer and the test stays within minutes.
CONTEXT = 96
CHARACTERS = 600


def fifty_texts() -> list[str]:
    """Beginnings of real abstracts where they are, else of the demo papers."""
    real = SHARED_DATA / "genomics_abstracts.json"
    file = real if real.is_file() else ROOT / "data" / "high_quality_papers_demo.json"
    return [text[:CHARACTERS] for text in read_texts(file, 50)]


@pytest.mark.slow
@pytest.mark.parametrize(("bf16", "tolerance"), [("true", 1e-3), ("false", 1e-5)])
def test_figures_are_those_of_lm_evaluation_harness(bf16: str, tolerance: float) -> None:
    adapted = load(str(ROOT / "configs/demo.yaml"), f"training.hardware.bf16={bf16}")
    texts = fifty_texts()
    papers = papers_of(texts)
    ours = our_nats(adapted, papers, CONTEXT, batch_tokens=1024)
    theirs = peer_nats(adapted, texts, CONTEXT, batch=1)
    tokens = [len(adapted.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
    assert len(texts) == 50
    assert sum(count > CONTEXT for count in tokens) > 10, "hardly a text is longer than a window"
    assert str(adapted.dtype) == ("torch.bfloat16" if bf16 == "true" else "torch.float32")

    size = sum(len(text.encode()) for text in texts)
    words = sum(len(text.split()) for text in texts)
    for name, count in (
        ("bits_per_byte", size),
        ("perplexity", sum(tokens)),
        ("word_perplexity", words),
    ):
        metric = METRICS[name]
        mine, peers = (
            float(metric.value({metric.numerator: nats.sum(), metric.denominator: count}))
            for nats in (ours, theirs)
        )
        # A perplexity magnifies: its logarithm is what both sides measured.
        if metric.exponential:
            mine, peers = math.log(mine), math.log(peers)
        assert mine == pytest.approx(peers, rel=tolerance), name
    np.testing.assert_allclose(ours, theirs, rtol=10 * tolerance)
