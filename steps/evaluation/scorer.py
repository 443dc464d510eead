"""A causal model taken apart for scoring: what makes hidden states, and what makes nats of them.

    with torch.no_grad(), open_scorer(model, documents) as scorer:
        hidden, starts = scorer.read(documents[:8])
        nats = scorer.nats(hidden, positions, targets)

Logits exist for a tile of positions by vocabulary at a time: all of them over a whole row would
need gigabytes, and writing them to memory takes longer than computing them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steps.distributed.sharing import agreed
from steps.models.adapters import is_wrapped_by_peft, unwrapped
from steps.models.attention import per_document_attention
from steps.models.heads import LogitHead, find_logit_head, output_head, scale_and_cap
from steps.models.layout import RowLayout, bears_branches, find_layout, packed_batch, padded_batch
from steps.models.sharded import is_partitioned

if TYPE_CHECKING:
    import torch

    from steps.models.branches import Branched

# Logits that exist at one time: positions by entries of the vocabulary. On a CPU a tile should
# stay in its caches; a GPU has to be kept busy. 512 by 65,536 in float32 are 134 MB.
_POSITIONS_AT_A_TIME = 512
_VOCABULARY_AT_A_TIME = {"cpu": 4_096}
_VOCABULARY_AT_A_TIME_ELSEWHERE = 65_536


@dataclass(frozen=True)
class Scorer:
    """A model taken apart into what makes hidden states and what makes logits of them.

    Attributes:
        hidden_states: From a batch to `[rows, tokens, width]`; of a model that cannot be taken
            apart, the logits.
        head: Makes logits of them; None where they are logits.
        layout: How the model bears documents.
        pad_id: What rows are filled up with.
        device: Where the model is.
        model: The model inside any adapter.
    """

    hidden_states: Callable[..., "torch.Tensor"]
    head: LogitHead | None
    layout: RowLayout
    pad_id: int
    device: "torch.device"
    model: Any

    def read(self, documents: Sequence[Sequence[int]]) -> "tuple[torch.Tensor, list[int]]":
        """Read documents in one forward pass.

        Args:
            documents: Token ids.

        Returns:
            `[positions, width]`, and at which position each document begins.
        """
        lengths = [len(document) for document in documents]
        if self.layout.kind == "packed":
            rows = packed_batch(documents, self.layout.first_position)
            starts = [0, *np.cumsum(lengths)[:-1].tolist()]
        else:
            rows = padded_batch(documents, self.pad_id)
            starts = [place * max(lengths) for place in range(len(lengths))]
        # The borders are read on the CPU.
        placed = {k: v if k == "cu_seq_lens_q" else v.to(self.device) for k, v in rows.items()}
        return self.hidden_states(**placed).flatten(0, 1), starts

    def bears_branches(self, group: "Branched") -> bool:
        """Whether texts that begin alike may be read by `read_branched`; tried on one such group.

        Args:
            group: The one with the longest text.
        """
        if self.layout.kind != "packed":
            return False
        return bool(agreed(bears_branches(self.model, group, self.layout.first_position)))

    def read_branched(self, groups: "Sequence[Branched]") -> "torch.Tensor":
        """Read groups of texts that begin alike, each one's prefix once: `[positions, width]`."""
        from steps.models.branches import branched_batch

        batch = branched_batch(groups, self.layout.first_position, self.device)
        return self.hidden_states(**batch).flatten(0, 1)

    def nats(
        self, hidden: "torch.Tensor", positions: Sequence[int], targets: Sequence[int]
    ) -> "npt.NDArray[np.float32]":
        """Negative log-likelihood of targets.

        Args:
            hidden: What was read.
            positions: Of it, those that predict a target.
            targets: Token ids, one a position.
        """
        import torch

        hidden = hidden[torch.tensor(positions, device=hidden.device)]
        target = torch.tensor(targets, device=hidden.device)
        nats = [
            _nats_of_targets(
                self.head,
                hidden[start : start + _POSITIONS_AT_A_TIME],
                target[start : start + _POSITIONS_AT_A_TIME],
            )
            for start in range(0, len(targets), _POSITIONS_AT_A_TIME)
        ]
        return torch.cat(nats).cpu().numpy()


@contextmanager
def open_scorer(model: Any, documents: Sequence[Sequence[int]]) -> Iterator[Scorer]:
    """Take a model apart for the time of a block, in evaluation mode.

    Args:
        model: A causal `PreTrainedModel`, or one wrapped by peft, on any device.
        documents: Token ids of all that is going to be read.
    """
    wrapped = is_wrapped_by_peft(model)
    virtual_tokens = wrapped and model.active_peft_config.is_prompt_learning
    # LoRA and its like live inside the base model; virtual tokens live in the wrapper alone.
    inner = unwrapped(model)
    device = inner.get_input_embeddings().weight.device
    was_training = model.training
    model.eval()
    try:
        if virtual_tokens:
            yield Scorer(_whole_logits(model), None, RowLayout("single"), 0, device, inner)
            return
        # Any token will do: what is filled up is masked, and never scored.
        pad_id = documents[0][0] if documents else 0
        found = find_layout(inner, documents, pad_id) if documents else RowLayout("single")
        layout: RowLayout = agreed(found)
        head = find_logit_head(inner)
        states = _whole_logits(model) if head is None else _head_input(inner, head)
        attention = per_document_attention(inner) if layout.kind == "packed" else nullcontext()
        with attention:
            yield Scorer(states, head, layout, pad_id, device, inner)
    finally:
        model.train(was_training)


def _nats_of_targets(
    head: LogitHead | None, hidden: "torch.Tensor", targets: "torch.Tensor"
) -> "torch.Tensor":
    """Negative log-likelihood of each target, in float32.

    The head is applied to one part of the vocabulary after the other; of each part only the log
    of the sum of its exponentials stays, and the logit of the targets within it.

    Args:
        head: Makes logits of hidden states; None where `hidden` is logits.
        hidden: `[positions, width]`.
        targets: int64 `[positions]`.
    """
    import torch
    from torch.nn.functional import cross_entropy, linear

    if head is None:
        return cross_entropy(hidden.float(), targets, reduction="none")
    module = output_head(head.model)
    if is_partitioned(module):
        # Its weight comes together only while it is called.
        made = scale_and_cap(module(hidden).float(), head.scale, head.soft_cap)
        return cross_entropy(made, targets, reduction="none")
    weight, whole_bias = head.weight, head.bias
    size = _VOCABULARY_AT_A_TIME.get(hidden.device.type, _VOCABULARY_AT_A_TIME_ELSEWHERE)
    sums = []
    logit = torch.zeros(len(targets), device=hidden.device)
    for start in range(0, weight.shape[0], size):
        bias = None if whole_bias is None else whole_bias[start : start + size]
        part = linear(hidden, weight[start : start + size], bias).float()
        part = scale_and_cap(part, head.scale, head.soft_cap)
        sums.append(torch.logsumexp(part, dim=-1))
        inside = (targets >= start) & (targets < start + part.shape[1])
        place = (targets - start).clamp(0, part.shape[1] - 1)
        logit += part.gather(1, place[:, None])[:, 0].where(inside, 0.0)
    return torch.logsumexp(torch.stack(sums), dim=0) - logit


def _head_input(model: Any, head: LogitHead) -> Callable[..., "torch.Tensor"]:
    def forward(**arguments: "torch.Tensor") -> "torch.Tensor":
        return head.hidden_states(model, use_cache=False, **arguments)

    return forward


def _whole_logits(model: Any) -> Callable[..., "torch.Tensor"]:
    def forward(input_ids: "torch.Tensor", **arguments: "torch.Tensor") -> "torch.Tensor":
        logits: torch.Tensor = model(input_ids=input_ids, use_cache=False, **arguments).logits
        # Virtual tokens in front have logits too.
        return logits[:, -input_ids.shape[1] :]

    return forward
