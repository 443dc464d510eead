"""Characters and white space."""

import re
import unicodedata
from itertools import pairwise

import ftfy
import regex
from ftfy.chardata import UTF8_CLUES

# Unicode and markup ---------------------------------------------------------------------------

_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_LINE_BREAK = re.compile("[\x0b\x0c\x85\u2028\u2029]")
_ODD_SPACE = re.compile(r"[^\S\n\t ]")  # no-break and thin ones; tabs still part table cells
_HYPHEN = re.compile("[\u2010\u2011]")

# Marks above and below a letter, of which no writing piles up thirty. To bring many into order, as
# NFC does, takes time with the square of their number.
_MAYBE_MANY_MARKS = re.compile("[\u0300-\U0010ffff]{31}")
_TOO_MANY_MARKS = regex.compile(r"(\p{M}{30})\p{M}++")

# Two neighbours that can be the first bytes of UTF-8 read in a one-byte code page. ftfy takes
# half a millisecond to say the same of an abstract.
_MAYBE_MOJIBAKE = re.compile(
    "[{utf8_first_of_2}{utf8_first_of_3}{utf8_first_of_4}][{continuation}]".format(
        **UTF8_CLUES, continuation=UTF8_CLUES["utf8_continuation"].replace(" ", "")
    )
    + "|[\x80-\x84\x86-\x9f\ud800-\udfff\uff01-\uffef]"
)
_FTFY = ftfy.TextFixerConfig(
    explain=False,
    unescape_html=False,  # a rule of its own
    uncurl_quotes=False,  # 5’-UTR keeps its prime
    fix_latin_ligatures=False,  # a rule of its own
    normalization=None,  # done below, where it is needed
)


def repair_unicode(text: str) -> str:
    """Mend mojibake, odd widths, control characters, line breaks, hyphens and composition.

    NFC, not NFKC: the latter turns 10⁻⁸ into 10−8 and m² into m2. The two typographic hyphens
    become "-", so that HLA‑DRB1 is the HLA-DRB1 of the gene list; dashes and minus stay.
    """
    if not text.isprintable():
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        text = _CONTROL.sub("", _LINE_BREAK.sub("\n", text))
    if text.isascii():
        return text
    if _MAYBE_MOJIBAKE.search(text):
        # ftfy goes line by line itself; to a whole article for one odd pair it takes 15 ms.
        text = "\n".join(
            ftfy.fix_text(line, _FTFY) if _MAYBE_MOJIBAKE.search(line) else line
            for line in text.split("\n")
        )
    text = _ODD_SPACE.sub(" ", text)
    if "\u2010" in text or "\u2011" in text:
        text = _HYPHEN.sub("-", text)
    if _MAYBE_MANY_MARKS.search(text):
        text = _TOO_MANY_MARKS.sub(r"\1", text)
    return unicodedata.normalize("NFC", text)


_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
_LIGATURE = re.compile("[ﬀ-ﬆ]")


def expand_ligatures(text: str) -> str:
    """Write the typesetter's ﬁ, ﬂ, ﬀ, ﬃ, ﬄ, ﬅ and ﬆ as letters; æ and œ are letters already."""
    if text.isascii():
        return text
    return _LIGATURE.sub(lambda ligature: _LIGATURES[ligature[0]], text)


# Whitespace -----------------------------------------------------------------------------------

_SPACES = re.compile(" {2,}")
_AROUND_BREAK = re.compile(" ?\n ?")
_BLANK_LINES = re.compile("\n{2,}")


def normalize_whitespace(text: str) -> str:
    """One space between words, one blank line between paragraphs, wrapped lines joined.

    A single line break is a wrap, and becomes a space, unless the line before it is too long
    to have been wrapped: then it ends a paragraph.
    """
    if "\t" in text:
        text = text.replace("\t", " ")
    if not text.isascii():
        text = _ODD_SPACE.sub(" ", text)
    if "  " in text:
        text = _SPACES.sub(" ", text)
    if "\n" in text:
        text = _BLANK_LINES.sub("\n\n", _AROUND_BREAK.sub("\n", text).strip("\n"))
        text = "\n\n".join(_unwrapped(paragraph) for paragraph in text.split("\n\n"))
    return text.strip()


def _unwrapped(paragraph: str) -> str:
    lines = paragraph.split("\n")
    pieces = [lines[0]]
    for before, line in pairwise(lines):
        pieces.append("\n\n" if len(before) > LONGEST_WRAPPED_LINE else " ")
        pieces.append(line)
    return "".join(pieces)


LONGEST_WRAPPED_LINE = 120  # characters; a longer line is a paragraph of its own

# Raised numbers, from <sup>, LaTeX or the text itself.
RAISED = "[⁰¹²³⁴-⁹]"
