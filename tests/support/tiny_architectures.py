"""Folders of the listed classes: a tiny model with a tokenizer of its objective, as on a disk."""

from functools import cache
from pathlib import Path
from typing import Any

from steps.models.sources import Objective
from tests.support.architectures import VOCABULARY, Architecture
from tests.support.project import demo_texts

# In this order, so that their ids are those that `Architecture.config` states.
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@cache
def tokenizer_for(objective: Objective) -> Any:
    """A byte-level BPE of a causal model, or a WordPiece with a template of a masked one."""
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = [*SPECIAL.values(), "<mask>"]
    if objective == "causal":
        byte_level = ByteLevelBPETokenizer()
        byte_level.train_from_iterator(
            demo_texts(), vocab_size=VOCABULARY - 10, special_tokens=special
        )
        return PreTrainedTokenizerFast(tokenizer_object=byte_level._tokenizer, **SPECIAL)
    pieces = BertWordPieceTokenizer(unk_token="<unk>", lowercase=True)
    pieces.train_from_iterator(
        demo_texts(), vocab_size=VOCABULARY - 10, special_tokens=special, min_frequency=1
    )
    backend = pieces._tokenizer
    backend.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        mask_token="<mask>",
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=512,
        **SPECIAL,
    )


def save(architecture: Architecture, folder: Path, **changes: Any) -> Path:
    """Write the tiny member of a class with its tokenizer into a folder."""
    architecture.build(**changes).save_pretrained(folder)
    tokenizer_for(architecture.objective).save_pretrained(folder)
    return folder
