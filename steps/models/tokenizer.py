"""Tokenizers, and the special tokens that they put around a text.

One definition of each: what pads (`load_tokenizer`), how a paper opens and closes for a causal
model (`start_token`, `end_token`), what stands around a text for a masked one (`special_tokens`),
and what a model wrote (`continuation`).
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from steps.digests import folder_sha256
from steps.errors import UserError, first_line
from steps.models.sources import Base, Objective
from steps.models.token_spans import check_spans
from steps.models.tokenizer_files import as_its_files_say, fault_of_files

# Special tokens are written like this; the bytes of a byte-fallback vocabulary are none.
_WRITTEN_LIKE_A_SPECIAL_TOKEN = re.compile(r"(?!<0x)(<.+>|\[.+\])")
# Any word: what a tokenizer puts around it, it puts around every text.
_PROBE_WORD = "gene"
# Words, amino acids and bases: of one of these every vocabulary has something.
_PROBE_WORDS = "the gene of MKTAYIAKQR is ACGTACGTACGT acgtacgt"


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a folder, padding on the right.

    Code that comes with a folder is never run, whatever stands on standard input. Padding on the
    left would make the first real token a target predicted from a pad.

    A tokenizer without a padding token, or with one that the model has no embedding for, pads
    with its EOS: labels and attention masks are explicit everywhere, so nothing is hidden by it.
    An ordinary word that pads would become a special token, and vanish from what the model
    writes. One without an EOS takes the ids that the folder's config.json or
    generation_config.json states.

    Raises:
        UserError: There is none that transformers can load, or one that knows no word.
    """
    from transformers import AutoTokenizer

    remedy = "add its tokenizer.json (or the vocabulary that it is made from) to the model's folder"
    broken = f"the tokenizer of model {folder.name} cannot be loaded"
    if fault := fault_of_files(folder):
        raise UserError(f"{broken}: {fault}; {remedy}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, TypeError) as error:
        raise UserError(f"{broken}: {first_line(error)}; {remedy}") from None
    tokenizer = as_its_files_say(tokenizer, folder)
    known = {*tokenizer(_PROBE_WORDS, add_special_tokens=False).input_ids}
    if not known - {*tokenizer.all_special_ids}:
        raise UserError(f"the tokenizer of model {folder.name} knows no word: {remedy}")
    tokenizer.padding_side = "right"
    _take_ends_from_config(tokenizer, folder)
    _take_padding_from_its_own(tokenizer, _vocabulary_of_model(folder))
    return tokenizer


def tokenizer_digest(tokenizer: Any) -> str:
    """A SHA-256 of all that decides which tokens a text becomes, wherever the tokenizer lies."""
    digest = hashlib.sha256()
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        # What the last call has set is no part of it; transformers sets it anew in each call.
        backend.no_truncation()
        backend.no_padding()
        digest.update(backend.to_str().encode())
    else:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_vocabulary(folder)
            digest.update(folder_sha256(Path(folder)).encode())
        settings = {
            name: value
            for name, value in tokenizer.init_kwargs.items()
            if isinstance(value, bool | int | float) or value is None
        }
        digest.update(json.dumps(settings, sort_keys=True).encode())
    named = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    described = [type(tokenizer).__name__, len(tokenizer), named, added, tokenizer.all_special_ids]
    digest.update(json.dumps(described, sort_keys=True).encode())
    return digest.hexdigest()


def _take_padding_from_its_own(tokenizer: Any, size: int | None) -> None:
    """Pad with a special token that the model has, where the padding token is none of these."""
    limit = len(tokenizer) if size is None else size
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id < limit:
        return
    reserved = (i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    own = (tokenizer.eos_token_id, tokenizer.unk_token_id, *reserved)
    usable = [i for i in own if i is not None and i < limit]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(usable[0]) if usable else None


def _take_ends_from_config(tokenizer: Any, folder: Path) -> None:
    """Give a tokenizer that names no EOS the one (and the BOS) of the model's configuration."""
    if tokenizer.eos_token_id is not None:
        return
    settings = list(_settings_of(folder))
    for name in ("eos_token", "bos_token"):
        if getattr(tokenizer, f"{name}_id") is None:
            stated = (content.get(f"{name}_id") for content in settings)
            firsts = (value[0] if isinstance(value, list) and value else value for value in stated)
            special = (_special_token(tokenizer, i) for i in firsts if isinstance(i, int))
            token = next((token for token in special if token is not None), None)
            if token is not None:
                setattr(tokenizer, name, token)


def _vocabulary_of_model(folder: Path) -> int | None:
    """How many tokens the model of a folder has embeddings for, as its config.json states."""
    sizes = (content.get("vocab_size") for content in _settings_of(folder))
    return next((size for size in sizes if isinstance(size, int)), None)


def _settings_of(folder: Path) -> Iterator[dict[str, Any]]:
    """What is stated about a model, where its folder has it."""
    for name in ("config.json", "generation_config.json"):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            yield content
            if isinstance(content.get("text_config"), dict):
                yield content["text_config"]


def _special_token(tokenizer: Any, token_id: int) -> str | None:
    """The token of an id, if it is one that no text is made of.

    Configurations state ids that nobody chose (LLaMA's defaults are 1 and 2), which are ordinary
    words in another vocabulary.
    """
    if not 0 <= token_id < len(tokenizer) or token_id == tokenizer.unk_token_id:
        return None
    added = tokenizer.added_tokens_decoder.get(token_id)
    token: str | None = tokenizer.convert_ids_to_tokens(token_id)
    if token is None or not (
        (added is not None and added.special) or _WRITTEN_LIKE_A_SPECIAL_TOKEN.fullmatch(token)
    ):
        return None
    return token


def check_tokenizer(tokenizer: Any, base: Base) -> str:
    """Refuse a tokenizer that does not fit its model, before any weight is loaded.

    Args:
        tokenizer: From `load_tokenizer`.
        base: The model.

    Returns:
        What a reader should know about tokens that the model does not have, or "".

    Raises:
        UserError: Its tokens cannot be traced back to a text, some lie beyond the model's
            embeddings, or, for a causal model, it has none to open and close a paper with.
    """
    check_spans(tokenizer)
    if base.objective == "causal":
        start_token(tokenizer)
        end_token(tokenizer)
    size = _vocabulary_of_model(base.folder)
    if size is None:
        return ""
    vocabulary = tokenizer.get_vocab()
    beyond = sorted((i, token) for token, i in vocabulary.items() if i >= size)
    if not beyond:
        return ""
    names = ", ".join(token for _, token in beyond[:3]) + (", …" if len(beyond) > 3 else "")
    if not {i for i, _ in beyond} <= _never_in_use(tokenizer, base.objective):
        raise UserError(
            f"the tokenizer of model {base.name} has {max(vocabulary.values()) + 1} tokens, the "
            f"model {size} (vocab_size in its config.json): {names} would have no embedding; use "
            "the tokenizer that the model was saved with, or save the model anew after "
            "resize_token_embeddings"
        )
    return (
        f"the tokenizer of {base.name} has {len(beyond)} special tokens that the model does not "
        f"have ({names}): no paper may contain them"
    )


def _never_in_use(tokenizer: Any, objective: Objective) -> set[int]:
    """Ids of special tokens that neither come out of a text nor are put into or around one."""
    used = {tokenizer.pad_token_id, tokenizer.unk_token_id}
    used |= {i for side in special_tokens(tokenizer) for i in side}
    if objective == "masked":
        used.add(tokenizer.mask_token_id)
    else:
        used |= {start_token(tokenizer), end_token(tokenizer)}
    added = tokenizer.added_tokens_decoder.items()
    return {i for i, token in added if token.special} - used


def start_token(tokenizer: Any) -> int:
    """The token that opens a paper, after which its first one is scored.

    What the tokenizer itself puts in front of a text where that is one token (BioGPT: EOS,
    though it has a BOS); else BOS; else EOS.

    Raises:
        UserError: The tokenizer has none of these.
    """
    before, _ = special_tokens(tokenizer)
    own = before[0] if len(before) == 1 else None
    for token in (own, tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UserError(
        f"tokenizer {tokenizer.name_or_path!r} has neither a BOS nor an EOS token: expected "
        "one to score the first token after; set bos_token in its tokenizer_config.json"
    )


def end_token(tokenizer: Any) -> int:
    """The token that closes a paper: EOS.

    Raises:
        UserError: The tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r} has no EOS token, and no config.json beside it "
            "states an eos_token_id that is a special token: expected one to close a paper with; "
            "set eos_token in its tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def with_special_tokens(tokenizer: Any, ids: Sequence[int]) -> tuple[list[int], int]:
    """Put a row between the tokens that the model saw around text (`special_tokens`).

    Returns:
        The token ids, and how many stand in front of the text.
    """
    before, after = special_tokens(tokenizer)
    return [*before, *ids, *after], len(before)


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that a tokenizer puts before and after a text, as it does so itself.

    The names of its special tokens do not tell: ESM closes with EOS and has no SEP, GPT-2's have
    names and stand nowhere.
    """
    plain = list(tokenizer(_PROBE_WORD, add_special_tokens=False).input_ids)
    whole = list(tokenizer(_PROBE_WORD).input_ids)
    for place in range(len(whole) - len(plain) + 1):
        if plain and whole[place : place + len(plain)] == plain:
            return whole[:place], whole[place + len(plain) :]
    return [], []


def continuation(tokenizer: Any, prompt: Sequence[int], written: Sequence[int]) -> str:
    """The text that a model wrote after a prompt, so that the two joined are one text.

    Decoded alone, the first word of a SentencePiece vocabulary would lose the space in front.

    Args:
        tokenizer: The model's.
        prompt: Token ids that the model was given.
        written: Token ids that it wrote.
    """
    settings = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before: str = tokenizer.decode(list(prompt), **settings)
    joined: str = tokenizer.decode([*prompt, *written], **settings)
    if joined.startswith(before):
        return joined[len(before) :]
    return str(tokenizer.decode(list(written), **settings))
