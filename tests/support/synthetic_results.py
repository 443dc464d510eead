"""Made-up evaluations of two models on the same papers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from steps.comparison.comparable import EvaluatedModel

PARTS = ("gene", "variant", "section_abstract", "section_methods")


def frame_of_papers(
    papers: int, gain: float, spread: float, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Champion and challenger: `gain` bits per byte apart, give or take `spread` a paper."""
    generator = np.random.default_rng(seed)
    size = generator.integers(800, 2500, papers).astype(float)
    bits = 0.95 + generator.normal(0, 0.08, papers)
    moved = gain + spread * generator.standard_t(5, papers)
    shared = {"paper_id": [f"PMID{i:04}" for i in range(papers)], "bytes": size}
    champion = pd.DataFrame({**shared, "nats": np.log(2) * size * bits})
    challenger = pd.DataFrame({**shared, "nats": np.log(2) * size * (bits - moved)})
    for part in PARTS:
        share = np.where(generator.random(papers) < 0.8, generator.uniform(0, 0.2, papers), 0)
        for frame in (champion, challenger):
            frame[f"bytes_{part}"] = np.floor(share * size)
            frame[f"nats_{part}"] = frame["nats"] * frame[f"bytes_{part}"] / size
    items = generator.integers(1, 6, papers)
    champion["gene_cloze_items"] = challenger["gene_cloze_items"] = items
    champion["gene_cloze_hits"] = generator.binomial(items, 0.4)
    challenger["gene_cloze_hits"] = generator.binomial(items, 0.7)
    return champion, challenger


def make_sides(
    papers: int = 80,
    gain: float = 0.02,
    spread: float = 0.01,
    forgetting: float = 0.0,
    seed: int = 0,
    **fields: Any,
) -> tuple[EvaluatedModel, EvaluatedModel]:
    """Two comparable sides; further keyword arguments replace fields of both."""
    frames = frame_of_papers(papers, gain, spread, seed)
    general = frame_of_papers(60, -forgetting, 0.005, seed + 1)
    champion, challenger = (
        EvaluatedModel(
            name=f"models:/genomics/{version}",
            version=f"genomics/{version}",
            dataset_digest="sha256:aa",
            split="test",
            metric_version="1",
            objective="causal",
            per_paper=frames[version - 1],
            general=general[version - 1],
            metrics={
                "memorised_share": 0.01,
                "unknown_gene_share": 0.12,
                "reference_unknown_gene_share": 0.10,
            },
        )
        for version in (1, 2)
    )
    return replace(champion, **fields), replace(challenger, **fields)
