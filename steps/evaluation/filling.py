"""What a masked model would put in place of the masks of a text."""

import re
from dataclasses import dataclass
from typing import Any

from steps.models.tokenizer import with_special_tokens


@dataclass(frozen=True)
class Word:
    """A word that a model finds likely.

    Attributes:
        word: The token as text.
        probability: That it stands in place of the mask.
    """

    word: str
    probability: float


def masked_ids(tokenizer: Any, text: str) -> list[int]:
    """A text as token ids, with the special tokens that stand around it.

    A hidden word takes its space with it: by itself, the space is a token that no row of the
    training has there (RoBERTa's and ModernBERT's vocabularies).
    """
    joined = re.sub(rf"\s+(?={re.escape(tokenizer.mask_token)})", "", text)
    ids = tokenizer(joined, add_special_tokens=False, verbose=False).input_ids
    return with_special_tokens(tokenizer, ids)[0]


def fill(model: Any, tokenizer: Any, ids: list[int], count: int, device: str) -> list[list[Word]]:
    """The likeliest words for each mask, the best first.

    Args:
        model: A masked `PreTrainedModel`, or one wrapped by peft.
        tokenizer: Its tokenizer.
        ids: From `masked_ids`.
        count: Words a mask.
        device: Where the model is.
    """
    import torch

    places = [place for place, one in enumerate(ids) if one == tokenizer.mask_token_id]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids], device=device)).logits[0, places].float()
    likeliest = logits.softmax(dim=-1).topk(count)
    return [
        [Word(tokenizer.decode([one]).strip(), value) for one, value in zip(row, of, strict=True)]
        for row, of in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    ]
