"""Papers of random sentences, as many as wanted."""

import random
from typing import Any

NOUNS = [
    *("gene", "protein", "cell", "mutation", "variant", "pathway", "sample", "patient", "mouse"),
    *("genome", "sequence", "receptor", "kinase", "promoter", "exon", "intron", "transcript"),
    *("tumour", "tissue", "allele", "locus", "enhancer", "domain", "residue"),
]
VERBS = ["regulates", "binds", "alters", "encodes", "inhibits", "activates", "represses"]


def made_up_abstract(rng: random.Random, sentences: int = 8) -> str:
    return " ".join(
        f"The {rng.choice(NOUNS)} of the {rng.choice(NOUNS)} {rng.choice(VERBS)} a "
        f"{rng.choice(NOUNS)} in {rng.randrange(1000)} of the {rng.choice(NOUNS)} samples."
        for _ in range(sentences)
    )


def made_up_papers(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "pmid": str(1000 * (seed + 1) + n),
            "title": f"On {rng.choice(NOUNS)} number {rng.randrange(10**6)} of BRCA1 and its role",
            "abstract": made_up_abstract(rng),
            "score": round(rng.uniform(40, 110), 1),
            "tier": rng.choice(["gold_standard", "moderate_quality"]),
        }
        for n in range(count)
    ]
