"""Texts that begin alike, in one row: what they have in common is computed once.

    row:        prefix | branch | branch | branch | prefix | branch | branch | ...
    positions:  0 .. P | P+1 .. | P+1 .. | P+1 .. | 0 .. Q | Q+1 .. | Q+1 ..

A token of a branch sees the prefix and its own branch, as if the two stood alone. Everything but
attention looks at one token at a time, so it is enough that attention knows the borders
(`steps.models.attention`), and that nothing else carries a text on. That is tried, not presumed:
see `steps.models.layout.bears_branches`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Branched:
    """Texts that begin alike.

    Attributes:
        prefix: The tokens that all begin with; at least one.
        branches: What each goes on with; at least one token.
    """

    prefix: Sequence[int]
    branches: Sequence[Sequence[int]]

    @property
    def tokens(self) -> int:
        """Of the prefix and of all branches."""
        return len(self.prefix) + sum(len(branch) for branch in self.branches)


@dataclass(frozen=True)
class Borders:
    """Where the tokens of one `Branched` stand, counted from its own first one.

    Attributes:
        prefix: Tokens of the prefix.
        tokens: Of the prefix and of all branches.
        queries: `[branches, longest]`, the tokens of each branch, filled up with its last one.
        keys: `[branches, prefix + longest]`, those of the prefix in front.
        kept: Which of `queries`, one branch after the other, are no filling.
    """

    prefix: int
    tokens: int
    queries: Tensor
    keys: Tensor
    kept: Tensor


def branched_batch(
    groups: Sequence[Branched], first_position: int, device: "torch.device"
) -> dict[str, Any]:
    """Arguments of a model for a row of groups, under `per_document_attention`.

    Args:
        groups: What to read.
        first_position: See `steps.models.layout.RowLayout`.
        device: Where the model is.

    Returns:
        `input_ids` and `position_ids`, int64 `[1, tokens]`, and the borders.
    """
    ids: list[int] = []
    positions: list[int] = []
    for group in groups:
        start = len(group.prefix)
        ids += group.prefix
        positions += range(start)
        for branch in group.branches:
            ids += branch
            positions += range(start, start + len(branch))
    return {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": torch.tensor([positions], device=device) + first_position,
        "branch_borders": [_borders(group, device) for group in groups],
    }


def _borders(group: Branched, device: "torch.device") -> Borders:
    lengths = torch.tensor([len(branch) for branch in group.branches])
    prefix = len(group.prefix)
    starts = prefix + lengths.cumsum(0) - lengths
    place = torch.arange(int(lengths.max()))
    queries = starts[:, None] + torch.minimum(place[None], lengths[:, None] - 1)
    keys = torch.cat([torch.arange(prefix).expand(len(lengths), -1), queries], dim=1)
    kept = (place[None] < lengths[:, None]).flatten().nonzero()[:, 0]
    return Borders(prefix, group.tokens, queries.to(device), keys.to(device), kept.to(device))


def branched_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: Sequence[Borders],
    *,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """Causal attention of each branch to itself and to its prefix.

    Args:
        query: `[1, heads, tokens, head_dim]`.
        key: `[1, key-value heads, tokens, head_dim]`.
        value: As `key`.
        groups: What stands in the row, one after the other.
        scaling: Factor on the scores; None takes `head_dim ** -0.5`.
        sliding_window: Tokens that a token sees, itself included; None takes all.

    Returns:
        `[1, tokens, heads, head_dim]`.
    """
    settings: dict[str, Any] = {"scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    made = []
    start = 0
    for one in groups:
        place = slice(start, start + one.tokens)
        start += one.tokens
        # [heads, tokens of the group, head_dim]
        q, k, v = query[0, :, place], key[0, :, place], value[0, :, place]
        common = slice(0, one.prefix)
        seen = _seen(one.prefix, one.prefix, sliding_window, q.device)
        prefix = scaled_dot_product_attention(
            q[None, :, common], k[None, :, common], v[None, :, common], attn_mask=seen, **settings
        )
        longest = one.queries.shape[1]
        seen = _seen(longest, one.prefix + longest, sliding_window, q.device)
        branches = scaled_dot_product_attention(
            q[:, one.queries].transpose(0, 1),
            k[:, one.keys].transpose(0, 1),
            v[:, one.keys].transpose(0, 1),
            attn_mask=seen,
            **settings,
        )
        made += [prefix[0].transpose(0, 1), branches.transpose(1, 2).flatten(0, 1)[one.kept]]
    return torch.cat(made)[None]


def _seen(queries: int, keys: int, window: int | None, device: "torch.device") -> Tensor:
    """True where one of the last `queries` of `keys` tokens may look, `[queries, keys]`."""
    last = torch.arange(keys - queries, keys, device=device)
    distance = last[:, None] - torch.arange(keys, device=device)[None]
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)
