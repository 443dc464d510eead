"""Which bytes of a text each token stands for, to the byte.

Likelihoods are compared over tokenizers by the bytes they explain, so every byte has to
belong to exactly one token. Offset mappings alone do not give that: they skip the space
in front of a word, and give each of the tokens that share a multi-byte character the whole
of it. Byte-level and sentencepiece vocabularies spell their bytes out, so these are read
first and believed where they spell the text exactly; for all others (WordPiece, a normaliser
that rewrites characters) the offsets are laid end to end.
"""

import re
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from steps.models.token_spans import encode

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def tokens_and_bytes(tokenizer: Any, text: str) -> tuple[list[int], "npt.NDArray[np.int64]"]:
    """Tokenise a text without special tokens and count the bytes of each token.

    Args:
        tokenizer: A `transformers` tokenizer.
        text: Any text.

    Returns:
        Token ids, and the UTF-8 bytes that each stands for, int64 `[tokens]`. The bytes of
        a token follow those of the token before it, and they sum to `len(text.encode())`
        (where there is any token at all). A token that stands for none has 0.
    """
    encoded = encode(tokenizer, text)
    ids = encoded.ids
    if not ids:
        return ids, np.zeros(0, dtype=np.int64)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    lengths = _spelled_bytes(pieces, text.encode())
    if lengths is None:
        lengths = _offset_bytes(encoded.spans, text)
    return ids, lengths


def character_bytes(text: str) -> "npt.NDArray[np.int64]":
    """Byte position of each character of a text, and of its end.

    Returns:
        int64 `[characters + 1]`, cumulative from 0 to `len(text.encode())`.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(widths)])


@lru_cache(maxsize=1)
def _byte_of_letter() -> dict[str, int]:
    """The letters in which byte-level BPE writes bytes (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    letters.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return letters


@lru_cache(maxsize=262_144)
def _byte_level(piece: str) -> bytes | None:
    letters = _byte_of_letter()
    try:
        return bytes(letters[letter] for letter in piece)
    except KeyError:
        return None


@lru_cache(maxsize=262_144)
def _sentencepiece(piece: str) -> bytes:
    if byte := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(byte.group(1), 16)])
    return piece.replace("\u2581", " ").encode()


def _spelled_bytes(pieces: list[str], text: bytes) -> "npt.NDArray[np.int64] | None":
    """Bytes of each piece if the vocabulary spells the text exactly, else None."""
    as_byte_level = [_byte_level(piece) for piece in pieces]
    for spelled in (as_byte_level, [_sentencepiece(piece) for piece in pieces]):
        known = [piece for piece in spelled if piece is not None]
        if len(known) < len(pieces):
            continue
        lengths = np.array([len(piece) for piece in known], dtype=np.int64)
        joined = b"".join(known)
        if joined == text:
            return lengths
        # Sentencepiece puts a space in front of the text that is not in it.
        if joined == b" " + text:
            lengths[0] -= 1
            return lengths
    return None


def _offset_bytes(offsets: list[tuple[int, int]], text: str) -> "npt.NDArray[np.int64]":
    """Bytes of each token from its characters, laid end to end without gap or overlap.

    What no offset covers (spaces, mostly) goes to the token that follows, as it would in a
    vocabulary with leading spaces. Tokens that share one character share its bytes evenly.
    """
    bytes_at = character_bytes(text)
    starts = bytes_at[[start for start, _ in offsets]]
    ends = np.maximum.accumulate(bytes_at[[end for _, end in offsets]])
    borders = np.concatenate([np.zeros(1, dtype=np.int64), ends])
    borders[-1] = bytes_at[-1]
    first = 0
    while first < len(offsets):
        last = first
        while last + 1 < len(offsets) and starts[last + 1] < ends[last] == ends[last + 1]:
            last += 1
        sharing = last - first + 1
        if sharing > 1:
            shared_from = max(int(starts[last]), int(borders[first]))
            shared = int(ends[last]) - shared_from
            for place in range(1, sharing):
                borders[first + place] = shared_from + shared * place // sharing
        first = last + 1
    return np.diff(borders)
