"""Drawn tokens: the same for a prompt alone and in any batch, on any process.

    draws = Draws(Sampling(temperature=0.8, seed=1), [generator_for(...), ...])
    model.generate(..., do_sample=False, logits_processor=[draws])

transformers' own draws come from one generator for a whole batch, so that a text changes with its
neighbours. Here each text has a generator, and the token that it draws is made the only possible
one. Two models that are asked the same draw by the same numbers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steps.evaluation.seeds import generator_for


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the most probable token each time; above, tokens are drawn.
        top_p: Tokens are drawn among the most probable ones that hold this share together.
        seed: Of the draws.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def generators(sampling: Sampling, prompts: Sequence[Sequence[int]]) -> list[np.random.Generator]:
    """A generator a prompt, by its tokens; one that stands there again has another one each time.

    Args:
        sampling: The seed is read.
        prompts: Token ids.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    found = []
    for prompt in prompts:
        ids = tuple(prompt)
        found.append(generator_for(sampling.seed, "draw", seen[ids], *ids))
        seen[ids] += 1
    return found


class Draws:
    """Draws the next token of each text of a batch; a logits processor of transformers.

    Attributes:
        drawn_by: A generator a row.
    """

    def __init__(self, sampling: Sampling, drawn_by: Sequence[np.random.Generator]) -> None:
        """Take what transformers' own rules of sampling do before the draw."""
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        self.drawn_by = drawn_by
        self._rules: list[Any] = [TemperatureLogitsWarper(float(sampling.temperature))]
        if sampling.top_p < 1:
            self._rules.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Leave one token a row.

        Args:
            input_ids: What there is so far.
            scores: Logits of the next token, `[rows, vocabulary]`.
        """
        import torch

        for rule in self._rules:
            scores = rule(input_ids, scores)
        reached = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
        numbers = [[generator.random()] for generator in self.drawn_by]
        wanted = torch.tensor(numbers, dtype=reached.dtype, device=reached.device) * reached[:, -1:]
        # The first token at which the sum passes the number: one of probability 0 never is.
        chosen = torch.searchsorted(reached, wanted, right=True)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, chosen.clamp(max=scores.shape[1] - 1), 0.0)
