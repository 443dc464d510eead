"""How unlikely a causal model finds sentences that differ in one place.

    nats = candidate_nats(model, groups, batch_tokens=4096)

The ten sentences of a cloze item begin alike up to the gap. Where the model bears it
(`steps.models.branches`), that beginning is read once, and the logits after it are computed once;
what follows the gap is read for each candidate, as it depends on it. Other models read sentence
after sentence, with the same result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steps.distributed.sharing import Progress, share_out
from steps.evaluation.likelihood import sequence_nats
from steps.evaluation.scorer import Scorer, open_scorer
from steps.models.branches import Branched
from steps.models.lengths import longest_text

if TYPE_CHECKING:
    from collections.abc import Iterator


def candidate_nats(
    model: Any,
    groups: Sequence[Sequence[Sequence[int]]],
    *,
    batch_tokens: int,
    progress: Progress | None = None,
) -> list[list[float]]:
    """Negative log-likelihood of texts, each given its first token.

    Args:
        model: A causal `PreTrainedModel`, or one wrapped by peft, on any device.
        groups: Token ids of texts; those of a group begin alike, with the token that is given.
        batch_tokens: Tokens of one forward pass. Changes speed and memory, no figure.
        progress: Called with tokens done and tokens in all.

    Returns:
        For each group the nats of its texts, summed over their tokens.
    """
    import torch

    if not groups:
        return []
    longest = max(len(text) for group in groups for text in group)
    room = longest_text(model.config)
    parts = _parts(groups, batch_tokens)
    if parts and (room is None or longest <= room):
        longest_group = max(parts, key=lambda part: max(map(len, part.texts)))
        documents = [text[:-1] for group in groups for text in group]
        with torch.no_grad(), open_scorer(model, documents) as scorer:
            if scorer.bears_branches(longest_group.branched):
                return _branched_nats(scorer, groups, parts, batch_tokens, progress)
    texts = [text for group in groups for text in group]
    window = longest if room is None else min(room, longest)
    nats = sequence_nats(
        model, texts, context=window, stride=window, batch_tokens=batch_tokens, progress=progress
    )
    sums = iter([float(each.sum()) for each in nats])
    return [[next(sums) for _ in group] for group in groups]


@dataclass(frozen=True)
class _Part:
    """Texts of one group that go into one forward pass.

    Attributes:
        group: Which group.
        first: Which of its texts is the first of these.
        prefix: Tokens that all of them begin with; the last token of a text is no input.
        texts: Their token ids.
    """

    group: int
    first: int
    prefix: int
    texts: Sequence[Sequence[int]]

    @property
    def branched(self) -> Branched:
        """What is read: the last token of a text is only predicted."""
        branches = [text[self.prefix : -1] for text in self.texts]
        return Branched(self.texts[0][: self.prefix], branches)


def _parts(groups: Sequence[Sequence[Sequence[int]]], batch_tokens: int) -> list[_Part]:
    """All texts, as many of a group together as fit; [] if some do not begin alike."""
    parts: list[_Part] = []
    for number, group in enumerate(groups):
        # At least one token of each is left to be read after the prefix.
        prefix = min(_tokens_in_common(group), min(map(len, group)) - 2)
        if prefix < 1:
            return []
        first, tokens = 0, prefix
        for place, text in enumerate(group):
            length = len(text) - 1 - prefix
            if place > first and tokens + length > batch_tokens:
                parts.append(_Part(number, first, prefix, group[first:place]))
                first, tokens = place, prefix
            tokens += length
        parts.append(_Part(number, first, prefix, group[first:]))
    return parts


def _tokens_in_common(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all texts begin with."""
    columns = zip(*texts, strict=False)
    return next(
        (place for place, column in enumerate(columns) if len(set(column)) > 1),
        min(map(len, texts)),
    )


def _branched_nats(
    scorer: Scorer,
    groups: Sequence[Sequence[Sequence[int]]],
    parts: Sequence[_Part],
    batch_tokens: int,
    progress: Progress | None,
) -> list[list[float]]:
    nats = [[0.0] * len(group) for group in groups]
    batches = list(_batches(parts, batch_tokens))
    scored = share_out(
        batches,
        lambda batch: _score(scorer, batch),
        size=lambda batch: sum(part.branched.tokens for part in batch),
        progress=progress,
    )
    for batch, of_batch in zip(batches, scored, strict=True):
        for part, sums in zip(batch, of_batch, strict=True):
            nats[part.group][part.first : part.first + len(sums)] = sums
    return nats


def _batches(parts: Sequence[_Part], batch_tokens: int) -> "Iterator[list[_Part]]":
    batch: list[_Part] = []
    tokens = 0
    for part in parts:
        if batch and tokens + part.branched.tokens > batch_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(part)
        tokens += part.branched.tokens
    if batch:
        yield batch


def _score(scorer: Scorer, batch: Sequence[_Part]) -> list[list[float]]:
    """The nats of the texts of each part, from one forward pass."""
    hidden = scorer.read_branched([part.branched for part in batch])
    positions: list[int] = []
    targets: list[int] = []
    # Tokens of the common beginning, then those of each text after it.
    counts: list[int] = []
    start = 0
    for part in batch:
        common = part.texts[0][1 : part.prefix]
        end_of_prefix = start + part.prefix - 1
        positions += range(start, end_of_prefix)
        targets += common
        counts.append(len(common))
        start += part.prefix
        for text in part.texts:
            own = text[part.prefix :]
            positions += [end_of_prefix, *range(start, start + len(own) - 1)]
            targets += own
            counts.append(len(own))
            start += len(own) - 1
    nats = np.split(scorer.nats(hidden, positions, targets).astype(np.float64), np.cumsum(counts))
    sums = iter([float(each.sum()) for each in nats[:-1]])
    made = []
    for part in batch:
        common_nats = next(sums)
        made.append([common_nats + next(sums) for _ in part.texts])
    return made
