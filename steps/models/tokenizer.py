"""Tokenizers, and the special tokens that they put around a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.errors import UserError, first_line


def load_tokenizer(folder: Path) -> Any:
    """Load the fast tokenizer, padding on the right with a token that is never the EOS.

    Code that comes with a folder is never run, whatever stands on standard input. With pad = eos
    the end-of-text token is masked out of the loss, and generation never stops. Padding on the
    left would make the first real token a target predicted from a pad.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"the tokenizer of model {folder.name} cannot be loaded: {first_line(error)}. Add its "
            "tokenizer.json (or the vocabulary that it is made from) to the model's folder"
        ) from None
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        taken = {tokenizer.eos_token_id, tokenizer.bos_token_id, None}
        unknown = tokenizer.unk_token_id
        reserved = [i for i in tokenizer.added_tokens_decoder if i not in taken]
        if unknown not in taken:
            tokenizer.pad_token = tokenizer.unk_token
        elif reserved:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(reserved[0])
        else:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def start_token(tokenizer: Any) -> int:
    """The token after which the first one is scored: BOS, or EOS where there is no BOS.

    Raises:
        UserError: If the tokenizer has neither.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r} has neither a BOS nor an EOS token: expected "
            "one to score the first token after; set bos_token in its tokenizer_config.json"
        )
    return int(start)


def with_special_tokens(tokenizer: Any, ids: Sequence[int]) -> tuple[list[int], int]:
    """Put a row between the tokens that the model saw around text (CLS and SEP).

    Returns:
        The token ids, and how many stand in front of the text.
    """
    before, after = special_tokens(tokenizer)
    return [*before, *ids, *after], len(before)


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that a tokenizer puts before and after a text; each list holds one id or none."""
    before, after = tokenizer.cls_token_id, tokenizer.sep_token_id
    return ([] if before is None else [before]), ([] if after is None else [after])
