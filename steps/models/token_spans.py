"""Where in a text each of its tokens stands, and which word it is from.

Fast tokenizers know. Of those written in Python (BioGPT's, CTRL's, ESM's) the pieces are laid
along the text again: a word's pieces spell it, but for the mark that says whether it goes on
(`</w>`, `@@`) and for what Moses escapes (`&apos;`, `@-@`).
"""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steps.errors import UserError

# What Moses writes for a character.
_ESCAPED = re.compile(r"&(?:#\d+|[a-z]+);")
# A word that does not stand where it should is looked for so far ahead, if it is so long that
# no other will be taken for it.
_LOOK_AHEAD = 64
_TELLING_LENGTH = 4
# Holds what such tokenizers treat specially: hyphens, quotes, brackets, ampersands.
_PROBE_TEXT = "cell's 5'-ACGT-3' (n=2) & [A|B] <i>x</i>, \"p53-null\" ABT-263.\nβ µM MKTAYIAK"


@dataclass(frozen=True)
class Encoded:
    """A text as tokens, without special ones around it.

    Attributes:
        ids: Token ids.
        spans: First character and the one past the last, of each token. Tokens that share a
            character (its bytes, or `&`, `apos` and `;` of an apostrophe) all span it; one that
            stands for nothing spans nothing.
        words: The number of the word that each is from; those of one word follow each other.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    words: list[int | None]


def encode_all(tokenizer: Any, texts: Sequence[str]) -> list[Encoded]:
    """Tokenise several texts at once, which takes a fast tokenizer less time.

    Args:
        tokenizer: A `transformers` tokenizer, fast or not.
        texts: Any texts.
    """
    if not tokenizer.is_fast:
        return [_encoded_slowly(tokenizer, text) for text in texts]
    # verbose=False: a paper longer than the model is cut into windows later, no warning needed.
    encoded = tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    each = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [Encoded(ids, spans, encoded.word_ids(n)) for n, (ids, spans) in enumerate(each)]


def encode(tokenizer: Any, text: str) -> Encoded:
    """Tokenise one text; see `encode_all`."""
    return encode_all(tokenizer, [text])[0]


def _encoded_slowly(tokenizer: Any, text: str) -> Encoded:
    pieces = tokenizer.tokenize(text)
    spans: list[tuple[int, int]] = []
    words: list[int | None] = []
    position = 0
    by_moses = any(piece.endswith("</w>") for piece in pieces)
    for number, word in enumerate(_words(pieces, frozenset(tokenizer.all_special_tokens))):
        found = _place(text, word, position, escaped=by_moses)
        spans += found
        words += [number] * len(word)
        position = max(position, found[-1][1])
    return Encoded(tokenizer.convert_tokens_to_ids(pieces), spans, words)


def check_spans(tokenizer: Any) -> None:
    """Refuse a tokenizer whose tokens cannot be traced back to the text, by trying.

    Raises:
        UserError: Of a text with all that tokenizers treat specially, some character belongs to
            no token.
    """
    if tokenizer.is_fast:
        return
    covered = {i for start, end in encode(tokenizer, _PROBE_TEXT).spans for i in range(start, end)}
    lost = [c for i, c in enumerate(_PROBE_TEXT) if i not in covered and not c.isspace()]
    if lost:
        raise UserError(
            f"tokenizer {type(tokenizer).__name__} does not tell which part of a text a token "
            f"stands for (it loses {''.join(lost)[:20]!r}): expected a fast tokenizer; add its "
            "tokenizer.json to the model's folder"
        )


def _words(pieces: list[str], special: frozenset[str]) -> Iterator[list[str]]:
    """The pieces of each word, without the marks of whether it goes on.

    A vocabulary without any such marks (ESM: one token an amino acid) makes each token a word.
    """
    ended = any(piece.endswith("</w>") for piece in pieces)
    begun = any(piece.startswith("\u2581") for piece in pieces)
    word: list[str] = []
    for piece in pieces:
        if word and (piece in special or (begun and piece.startswith("\u2581"))):
            yield word
            word = []
        spelled = piece.removesuffix("</w>") if ended else piece.removesuffix("@@")
        word.append(spelled.removeprefix("\u2581") if begun else spelled)
        goes_on = begun or (not piece.endswith("</w>") if ended else piece.endswith("@@"))
        if piece in special or not goes_on:
            yield word
            word = []
    if word:
        yield word


def _place(text: str, word: list[str], position: int, *, escaped: bool) -> list[tuple[int, int]]:
    """The span of each piece of a word that follows a position of the text.

    A word that cannot be found spans nothing: its characters go to the token after it.
    """
    meant, which = _meant("".join(word), escaped=escaped)
    places = _match(text, meant, position)
    if places is None and len(meant) >= _TELLING_LENGTH:
        start = text.find(meant, position, position + _LOOK_AHEAD)
        places = None if start < 0 else list(range(start, start + len(meant)))
    if not places:
        return [(position, position)] * len(word)
    spans = []
    done = 0
    for piece in word:
        standing = [places[i] for i in which[done : done + len(piece)]]
        spans.append((standing[0], standing[-1] + 1) if standing else (position, position))
        position = spans[-1][1]
        done += len(piece)
    return spans


def _match(text: str, word: str, position: int) -> list[int] | None:
    """Where the characters of a word stand, if it is the next.

    White space in front of it is passed over, and so are control characters anywhere, which
    tokenizers drop.
    """
    places: list[int] = []
    for letter in word:
        while (
            position < len(text)
            and text[position] != letter
            and (
                unicodedata.category(text[position]) in ("Cc", "Cf")
                or (not places and text[position].isspace())
            )
        ):
            position += 1
        if position == len(text) or text[position] != letter:
            return None
        places.append(position)
        position += 1
    return places


def _meant(word: str, *, escaped: bool) -> tuple[str, list[int]]:
    """The characters that a word stands for, and which of them each of its own belongs to."""
    if not escaped:
        return word, list(range(len(word)))
    if word == "@-@":
        return "-", [0, 0, 0]
    meant = ""
    which: list[int] = []
    done = 0
    for found in [*_ESCAPED.finditer(word), None]:
        start, end = found.span() if found else (len(word), len(word))
        which += range(len(meant), len(meant) + start - done)
        meant += word[done:start]
        character = html.unescape(word[start:end])
        if len(character) == 1:
            which += [len(meant)] * (end - start)
        else:
            which += range(len(meant), len(meant) + len(character))
        meant += character
        done = end
    return meant, which
