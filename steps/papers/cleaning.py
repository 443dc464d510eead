"""Text of a genomics paper, cleaned by a list of small rules.

    clean_text("BRCA1 c.68_69del [12,15–18] (P=.03)")       # "BRCA1 c.68_69del (P = 0.03)"

`RECIPE` is the list; each rule is a function from text to text, switched by its name. What
makes this cleaning one for genomics is what it leaves alone: gene symbols, HGVS names, rs
numbers, cytobands, coordinates, accessions, HLA alleles, isotopes, karyotypes, sequences,
Greek letters and primes come through letter for letter.

Numbers get one form each: powers of ten as 5e-8 (digits of the mantissa as the authors gave
them), P values as P = 0.03, temperatures as 37 °C, shares as 50%.

`clean_text` is idempotent, and takes time linear in the length of the text: patterns are
bounded, possessive or anchored, and everything costly hides behind an `in`.
"""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import cycle, islice, pairwise

import ftfy
from ftfy.chardata import UTF8_CLUES

from steps.errors import UserError
from steps.papers.sections import section_of_heading

# A removal may uncover work for an earlier rule ("&amp;amp;lt;", "[e.g. [24]]"), so the recipe
# runs until nothing changes. Real text needs two or three rounds.
_MOST_ROUNDS = 20

_LONGEST_WRAPPED_LINE = 120  # characters; a longer line is a paragraph of its own

# Unicode and markup ---------------------------------------------------------------------------

_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_LINE_BREAK = re.compile("[\x0b\x0c\x85\u2028\u2029]")
_ODD_SPACE = re.compile(r"[^\S\n\t ]")  # no-break and thin ones; tabs still part table cells
_HYPHEN = re.compile("[\u2010\u2011]")
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
        text = ftfy.fix_text(text, _FTFY)
    text = _ODD_SPACE.sub(" ", text)
    if "\u2010" in text or "\u2011" in text:
        text = _HYPHEN.sub("-", text)
    return unicodedata.normalize("NFC", text)


_ENTITY = re.compile(r"&(?:amp;)*(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Greek entities of ISO 8879, which PubMed's older records hold and HTML does not know.
_ISO_GREEK_NAMES = "a b g d e z ee th i k l m n x o p r s t u ph kh ps oh"
_ISO_GREEK = {
    name + "gr": letter
    for name, letter in zip(
        _ISO_GREEK_NAMES.split(),
        "αβγδεζηθικλμνξοπρστυφχψω",
        strict=True,
    )
}
_ISO_GREEK |= {name[:-2].upper() + "gr": letter.upper() for name, letter in _ISO_GREEK.items()}


def decode_entities(text: str) -> str:
    """Turn entities into characters: &lt; &alpha; &#946; &mgr; and &amp;beta; encoded twice."""
    if "&" not in text or ";" not in text:
        return text
    return _ENTITY.sub(lambda match: _entity(match[1]), text)


def _entity(name: str) -> str:
    return _ISO_GREEK.get(name) or html.unescape(f"&{name};")


_SUPERSCRIPT_OF = str.maketrans("0123456789+-−–", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻")


def _superscript(raised: str) -> str:
    """Raised text as Unicode superscript where it is a number or a charge, else as it is.

    Commas and dashes between numbers stay, which keeps a raised citation (12,15–18) readable
    as one.
    """
    raised = raised.strip()
    if re.fullmatch(r"[-+−–]?\d{1,4}|\d?[-+−–]", raised):
        return raised.translate(_SUPERSCRIPT_OF)
    if re.fullmatch(r"\d{1,3}(?:\s?[,;–-]\s?\d{1,3}){1,30}", raised):
        return re.sub(r"\d", lambda digit: digit[0].translate(_SUPERSCRIPT_OF), raised)
    return raised


_LATEX_SYMBOLS = {
    name: letter
    for names, letters in (
        (
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi "
            "rho sigma tau upsilon phi chi psi omega varepsilon varphi vartheta",
            "αβγδεζηθικλμνξοπρστυφχψωεφϑ",
        ),
        ("Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega", "ΓΔΘΛΞΠΣΥΦΨΩ"),
        ("times cdot pm mp div ast prime circ degree infty sum prod", "×·±∓÷*′°°∞∑∏"),
        ("leq le geq ge neq ne ll gg approx sim simeq equiv propto", "≤≤≥≥≠≠≪≫≈~≃≡∝"),
        ("rightarrow to leftarrow leftrightarrow uparrow downarrow Rightarrow", "→→←↔↑↓⇒"),
        ("in subset cup cap partial nabla ldots dots micro", "∈⊂∪∩∂∇……μ"),
    )
    for name, letter in zip(names.split(), letters, strict=True)
}
_LATEX_NOTHING = (
    " left right displaystyle textstyle limits nolimits noindent par rm it bf em sc tt small big "
    "Big bigl bigr mathstrut protect nonumber newline quad qquad hfill centering "
)
# Springer's abstracts hold whole LaTeX documents around one symbol.
_LATEX_DOCUMENT = re.compile(
    r"\\documentclass(?:(?!\\documentclass|\\begin\{document\}).)*+\\begin\{document\}"
    r"((?:(?!\\documentclass|\\end\{document\}).)*+)\\end\{document\}",
    re.DOTALL,
)
_LATEX_MATH = re.compile(r"\$\$?([^$\n]{1,200})\$\$?")
_LATEX_IS_MATH = re.compile(r"[\\^_{}]|^['′]$|^\s?[A-Za-z]\s?[=<>]\s?[\d.]+\s?$")
_LATEX_WITH_TEXT = re.compile(
    r"\\(?:text[a-z]{0,12}|emph|math(?:rm|bf|it|sf|cal|bb)|mbox|underline|overline|operatorname"
    r"|ensuremath|hat|bar|tilde)\s?\{([^{}\n]{0,300})\}"
)
_LATEX_SWITCH = re.compile(r"\{\\(?:it|bf|em|rm|sc|tt)\s([^{}\n]{1,200})\}")
_LATEX_FRACTION = re.compile(r"\\frac\s?\{([^{}\n]{0,100})\}\s?\{([^{}\n]{0,100})\}")
_LATEX_REFERENCE = re.compile(
    r"[~ ]?\\(?:ref|eqref|label|footnotemark|vspace|hspace)\*?\{[^{}\n]{0,100}\}"
)
_LATEX_COMMAND = re.compile(r"\\([A-Za-z]{2,16})(?![A-Za-z])(?:\{\})?")
_LATEX_ESCAPE = re.compile(r"\\([%&#_${}])")
_LATEX_SPACE = re.compile(r"\\[,;:! ]|\\[()\[\]]|\\\\")
_LATEX_RAISED = re.compile(r"\^\{([^{}\n]{1,60})\}")
_LATEX_LOWERED = re.compile(r"_\{([^{}\n]{1,60})\}")


def strip_latex(text: str) -> str:
    r"""Turn LaTeX into plain text: $\alpha$ to α, 10^{-8} to 10⁻⁸, \textit{BRCA1} to BRCA1.

    A dollar that is money stays. \cite{...} is left for `remove_citations`.
    """
    if "\\" not in text and "$" not in text and "^{" not in text and "_{" not in text:
        return text
    if "\\documentclass" in text:
        text = _LATEX_DOCUMENT.sub(r"\1", text)
    if "$" in text:
        text = _LATEX_MATH.sub(
            lambda math: math[1] if _LATEX_IS_MATH.search(math[1]) else math[0], text
        )
    if "\\" in text:
        text = _LATEX_WITH_TEXT.sub(r"\1", text)
        text = _LATEX_SWITCH.sub(r"\1", text)
        text = _LATEX_FRACTION.sub(r"\1/\2", text)
        text = _LATEX_REFERENCE.sub("", text)
        text = _LATEX_COMMAND.sub(lambda command: _latex_command(command[0], command[1]), text)
        text = _LATEX_ESCAPE.sub(r"\1", text)
        text = _LATEX_SPACE.sub(" ", text)
    text = _LATEX_RAISED.sub(lambda raised: _superscript(raised[1]), text)
    return _LATEX_LOWERED.sub(r"\1", text)


def _latex_command(whole: str, name: str) -> str:
    return "" if f" {name} " in _LATEX_NOTHING else _LATEX_SYMBOLS.get(name, whole)


_ATTRIBUTES = r"""(?:\s++[\w:.-]++\s*+=\s*+(?:"[^"<>]*+"|'[^'<>]*+'|[^\s"'<>]++))*+\s*+"""
_INLINE_TAG = re.compile(
    r"</?(?:i|b|u|a|s|em|strong|small|big|tt|sc|span|font|abbr|cite|code|kbd|mark|q|var|wbr|img|hr"
    r"|italic|bold|underline|monospace|roman|sans-serif|styled-content|named-content|ext-link|uri"
    r"|email|xref|inline-formula|inline-graphic|disp-formula|tex-math|alternatives|label|graphic"
    r"|mml:[a-z]{1,20}|math|m[inors]|mrow|msu[bp]|mtext|jats:(?!p\b|title\b|sec\b)[a-z-]{1,20})"
    + _ATTRIBUTES
    + r"/?>",
    re.IGNORECASE,
)
_BLOCK_TAG = re.compile(
    r"</?(?:p|br|div|h[1-6]|ul|ol|li|dl|dt|dd|table|thead|tbody|tfoot|tr|td|th|caption|blockquote"
    r"|pre|section|article|header|footer|sec|title|abstract|abstracttext|list|list-item|body|html"
    r"|head|fig|table-wrap|jats:(?:p|title|sec))" + _ATTRIBUTES + r"/?>",
    re.IGNORECASE,
)
_BREAK_TAG = re.compile(r"<(/?)(td|th|br)\b", re.IGNORECASE)
_COMMENT = re.compile(
    r"<!--(?:(?!<!--|-->).)*+-->|<!\[CDATA\[|\]\]>|<[!?][A-Za-z][^<>]{0,300}>", re.DOTALL
)
_RAISED_TAG = re.compile(r"<sup" + _ATTRIBUTES + r">([^<>]{0,120})</sup\s?>", re.IGNORECASE)
_RAISED_OR_LOWERED_TAG = re.compile(r"</?su[bp]" + _ATTRIBUTES + r"/?>", re.IGNORECASE)
_JATS_REFERENCE = r"<xref(?=[^<>]{0,200}bibr)" + _ATTRIBUTES + r">\s*+\d{1,3}\s*+</xref>"
_JATS_CITATION = re.compile(
    rf"\(\s?({_JATS_REFERENCE}(?:\s?[,;–-]\s?{_JATS_REFERENCE}){{0,30}})\s?\)", re.IGNORECASE
)


def strip_tags(text: str) -> str:
    """Take out HTML, JATS and MathML tags by name, raising what <sup> raises.

    Only known names count, so that "p<b and c>d" and the <DEL> and <DUP> of variant files stay.
    A JATS citation in round brackets gets square ones, by which it can be told from "(2)".
    """
    if "<" not in text or ">" not in text:
        return "".join(text.split("]]>")) if "]]>" in text else text
    text = _COMMENT.sub("", text)
    if "bibr" in text:
        text = _JATS_CITATION.sub(r"[\1]", text)
    text = _INLINE_TAG.sub("", text)
    text = _BLOCK_TAG.sub(_block_break, text)
    text = _RAISED_TAG.sub(lambda raised: _superscript(raised[1]), text)
    return _RAISED_OR_LOWERED_TAG.sub("", text)


def _block_break(tag: re.Match[str]) -> str:
    inner = _BREAK_TAG.match(tag[0])
    return "\n\n" if inner is None else " " if inner[2].lower() != "br" else "\n"


_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
_LIGATURE = re.compile("[ﬀ-ﬆ]")


def expand_ligatures(text: str) -> str:
    """Write the typesetter's ﬁ, ﬂ, ﬀ, ﬃ, ﬄ, ﬅ and ﬆ as letters; æ and œ are letters already."""
    if text.isascii():
        return text
    return _LIGATURE.sub(lambda ligature: _LIGATURES[ligature[0]], text)


# Pages ----------------------------------------------------------------------------------------

_PAGE_EDGE = re.compile(r"^\d{1,5}\s+|\s+\d{1,5}$")
_RUNNING_NOTE = re.compile(
    r"\(?page number not for citation purposes\)?|NIH-PA Author Manuscript"
    r"|Author manuscript; available in PMC .{4,40}|Downloaded from .{3,120}"
    r"|bioRxiv preprint .{3,300}|medRxiv preprint .{3,300}|Page \d{1,4} of \d{1,4}",
    re.IGNORECASE,
)


def remove_running_heads(text: str) -> str:
    """Drop lines that stand on page after page: short journal, author and title lines.

    A head is a line of two words or more that comes three times, or a line of three words or
    more that comes three times with a page number before or after it. A first line of the text
    that comes again is the title, and stays once.
    """
    if "\n" not in text:
        return text
    lines = text.split("\n")
    bare = [line.strip() for line in lines]
    counts = Counter(
        _PAGE_EDGE.sub("", line) for line in bare if 8 <= len(line) <= 110 and " " in line
    )
    heads = {
        head
        for head, count in counts.items()
        if count >= 3 and len(head.split()) >= 2 and section_of_heading(head) is None
    }
    title = next((line for line in bare if line), "")
    kept: list[str] = []
    for line in bare:
        numbered = len(line) <= 110 and len(line.split()) > 3 and _PAGE_EDGE.sub("", line) in heads
        if (line in heads or numbered) and not (line == title and not any(kept)):
            continue
        if not _RUNNING_NOTE.fullmatch(line):
            kept.append(line)
    return text if kept == bare else "\n".join(kept)


_PAGE_NUMBER = re.compile(
    r"\n[ \t]{0,80}(?:[-–—] ?\d{1,4} ?[-–—]|\d{1,4}|(?:Page|page|PAGE|p\.) \d{1,4})[ \t]{0,80}"
    r"(?=\n|$)"
)


def remove_page_numbers(text: str) -> str:
    """Drop lines that hold nothing but a page number: "12", "- 12 -", "Page 12"."""
    if "\n" not in text:
        return text
    return _PAGE_NUMBER.sub("", text)


_BROKEN_WORD = re.compile(r"(?<=[\w′'’)+])-[ \t]{0,3}\n[ \t]{0,20}(?=[^\W_])")
_SOFT_HYPHEN = re.compile("\xad+(?:[ \t]{0,3}\n[ \t]{0,20})?")
_WORD = re.compile(r"[a-z]++(?:-[a-z]++)*+")
_LAST_LETTERS = re.compile(r"(?<![^\s(/\[-])[a-z]{2,30}$")
_FIRST_LETTERS = re.compile(r"[a-z]{2,30}(?![\w-])")
# First halves of compounds, which keep their hyphen at a line's end.
_COMPOUNDING = (
    "age allele anti auto base beta calcium case cell cis co copy cross dose double down drug "
    "early eight end evidence fine five follow four frame full gain gene genome germ half heat "
    "high higher hormone insulin intra knock large late ligand linkage long loss low lower meta "
    "mid multi near new next nine non nonsense off one open out over pair patient peer pre point "
    "population post quality rapid read real risk sample self semi sense sequence seven sex "
    "short sib side single site six small splice stage start state steady stop ten third three "
    "time tissue trans two type ultra up user variant very well whole wide wild x year zinc"
)
_KEEP_HYPHEN = frozenset(_COMPOUNDING.split())


def join_broken_words(text: str) -> str:
    """Join words broken at a line's end, and take out soft hyphens.

    The hyphen goes only from between two runs of small letters ("muta-" + "tion"), and not when
    the text writes the compound with a hyphen elsewhere, or its first half is one that takes
    hyphens ("wild-" + "type"). HLA-DRB1, IL-6 and TNF-α keep theirs.
    """
    if "\xad" in text:
        text = _SOFT_HYPHEN.sub("", text)
    if "\n" not in text or not _BROKEN_WORD.search(text):
        return text
    words = set(_WORD.findall(text))

    def joined(match: re.Match[str]) -> str:
        left = _LAST_LETTERS.search(text[max(0, match.start() - 32) : match.start()])
        right = _FIRST_LETTERS.match(text, match.end())
        if left is None or right is None:
            return "-"
        if left[0] + right[0] in words:
            return ""
        hyphenated = f"{left[0]}-{right[0]}" in words or left[0] in _KEEP_HYPHEN
        return "-" if hyphenated else ""

    return _BROKEN_WORD.sub(joined, text)


# Back matter ----------------------------------------------------------------------------------

_REFERENCES = re.compile(
    r"[\W\d]{0,6}(?:references?(?: cited| and notes)?|bibliography|(?:literature|works) cited"
    r"|cited literature)\W{0,3}",
    re.IGNORECASE,
)
_REFERENCE_ENTRY = re.compile(
    r"\s{0,8}(?:\[\d{1,3}\]|\d{1,3}[.)]?)\s{1,4}(?:[A-Z]\.[ ]?){0,3}[^\W\d_][\w'’-]{1,30},?\s"
    r"(?:[A-Z]{1,3}\b|[A-Z]\.)[^\n]{10,600}\b(?:19|20)\d\d\b"
)
_REFERENCES_RUN_IN = re.compile(
    r"(?:(?<=[.!?\])] )|(?<=\n)|\A)(?:References|REFERENCES|Bibliography|Literature Cited)"
    r"[:.]? {1,3}(?:\[1\]|1[.)])\s?[A-Z][^\n]*"
)


def remove_reference_list(text: str) -> str:
    """Drop the list of references: under its heading, run in, or three entries in a row.

    Under a heading it ends at the next heading of an article, else at the end of the text.
    """
    if "eferences" in text or "EFERENCES" in text or "ibliography" in text or "Cited" in text:
        text = _REFERENCES_RUN_IN.sub("", text)
    if "\n" not in text:
        return text
    text = _without_section(text, _REFERENCES)
    lines = text.split("\n")
    entries = [bool(_REFERENCE_ENTRY.match(line)) for line in lines]
    if sum(entries) < 3:
        return text
    return "\n".join(
        line
        for line, entry, run in zip(lines, entries, _in_run_of_three(lines, entries), strict=True)
        if not (entry and run)
    )


def _in_run_of_three(lines: list[str], entries: list[bool]) -> list[bool]:
    """For each line, whether it belongs to three or more entries with only blanks between."""
    in_run = [False] * len(lines)
    run: list[int] = []
    for position, (line, entry) in enumerate(zip(lines, entries, strict=True)):
        if entry:
            run.append(position)
        elif line.strip():
            run = []
        if len(run) >= 3:
            for member in run[-3:]:
                in_run[member] = True
    return in_run


def _without_section(text: str, heading: re.Pattern[str]) -> str:
    """The text without the lines from a matching heading line to the next known heading."""
    lines = text.split("\n")
    kept: list[str] = []
    dropping = False
    for line in lines:
        if len(line) < 100 and section_of_heading(line) is not None:
            dropping = heading.fullmatch(line.strip()) is not None
        if not dropping:
            kept.append(line)
    return text if len(kept) == len(lines) else "\n".join(kept)


_ACKNOWLEDGEMENTS = re.compile(
    r"[\W\d]{0,6}(?:acknowle?d?ge?ments?(?: and funding)?"
    r"|funding(?: information| sources?| statement)?|financial support|grant support)\W{0,3}",
    re.IGNORECASE,
)
_ACKNOWLEDGEMENTS_RUN_IN = re.compile(
    r"^[ \t]{0,8}(?:Acknowledge?ments?|ACKNOWLEDGE?MENTS?|Funding|FUNDING"
    r"|Grant [Ss]upport|Financial [Ss]upport)(?:\s?[:.—–]\s{1,3}|\s(?=We (?:thank|are grateful)))"
    r"\S[^\n]*",
    re.MULTILINE,
)


def remove_acknowledgements(text: str) -> str:
    """Drop acknowledgements and funding: under a heading, or a paragraph that begins so."""
    if "\n" in text:
        text = _without_section(_ACKNOWLEDGEMENTS_RUN_IN.sub("", text), _ACKNOWLEDGEMENTS)
    elif text.startswith(("Ackno", "ACKNO", "Fund", "FUND", "Grant", "Finan")):
        text = _ACKNOWLEDGEMENTS_RUN_IN.sub("", text)
    return text


_FIGURE = (
    r"(?:(?:Supplementary|Supplemental|Extended Data|Additional)\s)?"
    r"(?:Figure|Fig\.?|FIGURE|FIG\.?|Table|TABLE|Scheme|Box|Plate|Video|Movie)"
    r"\s?[A-Z]?\d{1,3}[A-Za-z]?"
)
_FIGURE_LABEL = re.compile(_FIGURE + r"\s?[.:|]?")
_CAPTION = re.compile(_FIGURE + r"(?:\s?[.:|—–]\s{1,3}(?=\S)|\s(?=[A-Z][a-z]))")
_PANEL = re.compile(r"\([A-H](?:[-–,][ ]?[A-H]){0,4}\)\s|\((?:Left|Right|Top|Bottom)\)\s")
_VIEWER_NOTE = re.compile(
    r"\W{0,3}(?:Click here (?:for|to)|Open in (?:a )?(?:new|separate)|View (?:larger|this)"
    r"|Download (?:figure|table|PowerPoint|as)|Full size (?:image|table))[^\n]{0,80}",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W\d_]")


def remove_figure_debris(text: str) -> str:
    """Drop captions left in the flow, table rows, axis numbers and viewer's notes.

    A caption is the paragraph behind a line that is only "Figure 1", or one that begins
    "Figure 1. Loss of"; "Figure 1 shows" begins a sentence of the text and stays.
    """
    if "\n" not in text:
        return text
    blocks = _blocks(text)
    kept: list[str] = []
    expecting = False  # a caption, since the block before was its label
    in_panels = False  # a caption's paragraphs (A), (B), ... may follow
    for block in blocks:
        first = block.split("\n", 1)[0]
        if _FIGURE_LABEL.fullmatch(first) and len(block) < _LONGEST_CAPTION:
            expecting = first == block
            in_panels = not expecting
        elif expecting and section_of_heading(first) is None:
            expecting, in_panels = False, True
        elif in_panels and _PANEL.match(block):
            continue
        elif _CAPTION.match(block) and len(block) < _LONGEST_CAPTION:
            expecting, in_panels = False, True
        else:
            expecting = in_panels = False
            body = _without_table_rows(block)
            if body and not _is_debris(body):
                kept.append(body)
    return text if kept == blocks else "\n\n".join(kept)


_LONGEST_CAPTION = 3000  # characters; a longer block is a page without blank lines


def _blocks(text: str) -> list[str]:
    """Paragraphs: parted by blank lines, or by the end of a line too long to be wrapped."""
    blocks: list[list[str]] = []
    open_block = False
    for line in text.split("\n"):
        line = line.strip()
        if line and open_block:
            blocks[-1].append(line)
        elif line:
            blocks.append([line])
        open_block = bool(line) and len(line) <= _LONGEST_WRAPPED_LINE
    return ["\n".join(block) for block in blocks]


def _without_table_rows(block: str) -> str:
    """The block without lines of three cells or more, parted by tabs or bars."""
    if "\t" not in block and "|" not in block:
        return block
    lines = block.split("\n")
    return "\n".join(line for line in lines if line.count("\t") < 2 and line.count(" | ") < 2)


def _is_debris(block: str) -> bool:
    """Whether a paragraph is three or more bare numbers, or a note of the journal's viewer."""
    if "\n" not in block and _VIEWER_NOTE.fullmatch(block):
        return True
    return _LETTER.search(block) is None and len(block.split()) >= 3


_EDITORIAL_NOTE = re.compile(
    r" {0,3}(?:\(ABSTRACT TRUNCATED(?: AT \d{2,4} WORDS)?\)|ABSTRACT TRUNCATED AT \d{2,4} WORDS"
    r"|\[(?:corrected|(?:formula|figure|table|equation|image|text|structure)s?:? see text)\])",
    re.IGNORECASE,
)
# The mark begins a sentence or a line, and only names and a few small words follow to the end.
_COPYRIGHT = re.compile(
    "|".join(
        rf"{mark}(?:(?<=[.!?)] {mark})|(?<=[.!?)\n]{mark})|(?<=\A{mark}))"
        for mark in ("Copyright", "©", r"\([Cc]\)(?= ?(?:19|20)\d\d)")
    ).join(("(?:", ")"))
    + r"(?:\s?(?:[A-Z][\w.&,'’/-]*|©|\([Cc]\)|(?:19|20)\d\d[,.;]?|by|the|of|and|for|on|behalf|in|&"
    r"|rights|reserved\.?)(?=\s|$)){1,30}+ ?(?=\n|\Z)"
)
_RIGHTS = re.compile(r"All [Rr]ights [Rr]eserved\.?")


def remove_publisher_notes(text: str) -> str:
    """Drop what the database or the publisher added: truncation marks, copyright lines."""
    if "TRUNCATED" in text or "see text" in text or "[corrected]" in text:
        text = _EDITORIAL_NOTE.sub("", text)
    if "Copyright" in text or "©" in text or "(c) " in text or "(C) " in text:
        text = _COPYRIGHT.sub("", text)
    return _RIGHTS.sub("", text) if "All " in text else text


# Removed pieces -----------------------------------------------------------------------------

_LEAD_WORDS = (
    r"(?:see|also|e\.g\.?|i\.e\.?|cf\.?|reviewed|review|reviews|in|by|from|as|described|for|an?"
    r"|examples?|adapted|modified|according|to|and|but)"
)
_WORDS_LEFT_ALONE = (
    rf"(?:{_LEAD_WORDS}|refs?\.?|references?|URLs?|at|available|[Ww]eb ?site|[Ee]-?mail|[Cc]ontact)"
)
_ALMOST_NOTHING = rf"(?:[\s,;:.&\x00]|{_WORDS_LEFT_ALONE}\b){{0,12}}+"
_EMPTY_BRACKETS = re.compile(rf"\({_ALMOST_NOTHING}\)|\[{_ALMOST_NOTHING}\]")
_GONE = "\x00"  # what a removed piece leaves, until the spaces before it are taken out too
_SPACE_AND_GONE = re.compile(" {0,3}\x00")
_GONE_BETWEEN_STOPS = re.compile(r"([.,;])(?: {0,3}\x00){1,9}(?=\1)")  # "ten minutes. [13]."


def _close_gaps(text: str) -> str:
    """Take out the marks of removed pieces, the brackets left empty and the spaces before.

    Empty brackets are such as " ()", "[e.g. ]" and "(reviewed in )".
    """
    if _GONE not in text:
        return text
    emptied = _EMPTY_BRACKETS.sub(lambda match: _GONE if _GONE in match[0] else match[0], text)
    return _SPACE_AND_GONE.sub("", _GONE_BETWEEN_STOPS.sub("", emptied))


# Links ----------------------------------------------------------------------------------------

# Up to white space, round brackets only in pairs, and not the punctuation behind the address.
_REST_OF_ADDRESS = r"(?:[^\s<>\"“”()\x00]|\([^\s<>\"“”()\x00]{0,60}\))*(?<![.,;:!?'’‘\[\]{}])"
_ADDRESS = (
    rf"(?:(?:https?|ftps?)://|www\d?\.)(?=[\w~]){_REST_OF_ADDRESS}"
    rf"|(?<![\w./-])(?:doi:?\s?|DOI:?\s?)?10\.\d{{4,9}}/(?=\w){_REST_OF_ADDRESS}"
    r"|(?<![\w@./-])(?:[a-z][a-z0-9-]{1,40}\.){1,4}(?:org|com|edu|gov|net|info|ac\.uk)(?![\w-])"
    rf"(?:/{_REST_OF_ADDRESS})?"
)
_LINK = re.compile(
    rf"[(\[<]\s?(?:(?:URLs?|see|at|available at|via)\b:?\s?)?(?:{_ADDRESS})\s?[)\]>]|{_ADDRESS}"
)
_MAYBE_LINK = re.compile(r"\.(?:org|com|edu|gov|net|info|ac\.uk|\d{4,9}/)")
_PREPOSITION_OF_GONE = re.compile(r"(?<=\S) (?:at|from|via|under|on) {1,2}(?=\x00)")


def remove_links(text: str) -> str:
    """Drop URLs, bare web hosts and DOIs, with the brackets or the "at" that held them."""
    if "://" not in text and "www" not in text and not _MAYBE_LINK.search(text):
        return text
    cut = _LINK.sub(_GONE, text)
    return _close_gaps(_PREPOSITION_OF_GONE.sub("", cut)) if _GONE in cut else text


_MAIL_ADDRESS = r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,6}[A-Za-z]{2,24}(?![\w-])"
_MAIL_LABEL = r"(?:E-?mails?|e-?mails?|Contact|CONTACT|Electronic address|mailto)\s?:\s?"
_MAIL = rf"(?:{_MAIL_LABEL})?{_MAIL_ADDRESS}"
_EMAIL = re.compile(rf"[(\[<]\s?{_MAIL}\s?[)\]>]|{_MAIL}")


def remove_emails(text: str) -> str:
    """Drop e-mail addresses, with the brackets and the "E-mail:" that held them."""
    if "@" not in text:
        return text
    return _close_gaps(_EMAIL.sub(_GONE, text))


# Citations ------------------------------------------------------------------------------------


def remove_citations(text: str) -> str:
    r"""Drop citations: [12,15–18], raised ¹², (Doe et al., 2019), \cite{doe}.

    What looks like one and is not stays: [3H], (n = 12), del(5q), c.[123A>G], [Ca2+], 10⁻⁸, m²,
    repeat counts CAG[36], karyotypes 46,XX[20], ranges "median 5 [3–7]". Of "(TP53; Doe 2019)"
    the gene stays; of "Doe et al. (2019) found" the year goes.
    """
    if "\\" in text:
        text = _LATEX_CITATION.sub(_GONE, text)
    if "[@" in text or "^" in text:
        text = _MARKDOWN_CITATION.sub(_GONE, text)
    century = "19" in text or "20" in text or "18" in text
    if (century and _MAYBE_YEAR.search(text)) or any(mark in text for mark in _MAYBE_GROUP):
        text = _GROUP.sub(_without_author_year, text)
        text = _YEAR_AFTER_NAME.sub(_without_narrative_year, text)
    if "[" in text:
        text = _NUMBERS_IN_BRACKETS.sub(_without_numbers, text)
    if not text.isascii():
        text = _RAISED_NUMBERS.sub(_without_raised_numbers, text)
    return _close_gaps(text)


_LATEX_CITATION = re.compile(
    r"[~ ]?\\[A-Za-z]{0,12}cite[A-Za-z]{0,12}\*?(?:\[[^\]\n]{0,80}\]){0,2}\{[^{}\n]{0,400}\}"
)

# Numbers in square brackets, "[12,15–18]", "[1], [2] and [3]", "[[81]]".
_NUMBER = r"[1-9]\d{0,2}"
_DASH = r"[-–—−]"
_LIST = rf"{_NUMBER}(?:\s?(?:[,;](?: and\b)?|{_DASH}|\band\b|&)\s?{_NUMBER}){{0,60}}+"
_MARKDOWN_CITATION = re.compile(
    rf"\[-?@[A-Za-z][^\[\]\n]{{1,300}}\]|\[\^[\w-]{{1,30}}\]|\^\[?{_LIST}\]?\^"
)
_NUMBERS = rf"\[\s?(?:refs?\.?\s)?{_LIST}\s?\]"
_BRACKET = rf"(?:\[{_NUMBERS}\]|{_NUMBERS})"
_BRACKETS = rf"{_BRACKET}(?:\s?(?:[,;]|{_DASH}|and\b|)\s?{_BRACKET}){{0,60}}+"
_NUMBERS_IN_BRACKETS = re.compile(
    rf"\(\s?(?:{_WORDS_LEFT_ALONE}[\s,]{{1,2}}){{0,4}}({_BRACKETS})\s?\)"
    rf"|({_BRACKETS})(?!\w|-[A-Za-z]| ?P\d?(?![A-Za-z])|\s?=)"
)
_SINGLE_RANGE = re.compile(rf"\[(\d+)\s?{_DASH}\s?(\d+)\]")
# What stands right before a bracket that counts rather than cites: the repeat of "c.-128GGC",
# "CAG" or "(CA)", a karyotype, a peptide of which "[1-42]" names the residues.
_COUNTED = re.compile(
    r"(?:(?<![A-Za-z])[ACGTU]{3,}|[cgmnr]\.[-*\d_+?]{1,20}[ACGTN]{0,20}|\(?[ACGTN]{2,20}\)"
    r"|[ACGT]\]|(?:^|[\s(/])\d{2}(?:[~-]\d{2})?,X[^\s]{0,40})$"
)
_IN_A_RANGE = re.compile(
    r"\b(?:CI|IQR|interval|interquartile|ranges?|ranging|median|bounds?)\b[^.]{0,30}$"
)


def _without_numbers(match: re.Match[str]) -> str:
    bracket = match[1] or match[2]
    start = match.start(1) if match[1] else match.start(2)
    before = match.string[max(0, start - 60) : start]
    first = bracket[: bracket.index("]") + 1]
    attached = before[-1:].strip() != ""
    span = _SINGLE_RANGE.fullmatch(first)
    counts = attached and "," not in first and _COUNTED.search(before)
    residues = attached and span is not None and int(span[1]) == 1 and int(span[2]) > 10
    if counts or residues:
        return first if first == bracket else first + _GONE
    if ("," in first or span is not None) and _IN_A_RANGE.search(before):
        return match[0]
    return _GONE


# Raised numbers, from <sup>, LaTeX or the text itself.
_RAISED = "[⁰¹²³⁴-⁹]"
_RAISED_NUMBERS = re.compile(
    rf"{_RAISED}(?<!{_RAISED}.){_RAISED}{{0,3}}(?:[ ]?[,;⁻⁃–-][ ]?{_RAISED}{{1,4}}){{0,40}}+"
    rf"(?!{_RAISED}|[⁺⁻\w])"
)
_POWER_BASE = re.compile(r"(?:(?:^|[^\w.,])|\d ?[xX])(?:10|2|e)$")
_UNIT = re.compile(
    r"(?:^|[^A-Za-z])(?:[kcdmnpµμ]?m|in|ft|Å|mol|[kmµμ]?g|s|sec|min|h|L|l|me[123]?|log)$"
)
_VARIABLE = re.compile(r"(?:^|[^\w])(?:[A-Za-zα-ωΑ-Ω]|[Cc]hi|[Ee]ta|[Oo]mega)$")


def _without_raised_numbers(match: re.Match[str]) -> str:
    raised, start = match[0], match.start()
    before = match.string[max(0, start - 24) : start].rstrip(" ")
    last = before[-1:]
    if not last or last in "([{/⁻\n":
        return match[0]  # an isotope, an exponent behind a raised minus
    if _POWER_BASE.search(before) or (raised in ("²", "³") and _is_squared(before)):
        return match[0]
    return _GONE


def _is_squared(before: str) -> bool:
    """Whether ² or ³ behind this belongs to a unit, a variable or a small number."""
    number = re.search(r"(?:^|[^\w.,])\d{1,2}$", before)
    return bool(number or _UNIT.search(before) or _VARIABLE.search(before))


# Author and year. A name has small letters and no digits, which no symbol of a human gene has.
_YEAR = r"(?:1[89]|20)\d\d(?!\d)"
_YEARS = rf"{_YEAR}[a-z]?(?:\s?(?:,|and|&)\s?(?:{_YEAR}[a-z]?|[a-z]\b)){{0,8}}"
_NO_NAME = (
    r"(?!(?:January|February|March|April|May|June|July|August|September|October|November"
    r"|December|Spring|Summer|Autumn|Winter|Fall|Figures?|Figs?|Tables?|Box|Version|Release|Build"
    r"|Since|Until|Before|After|During|In|From|By|Between|The|Chapter|Supplementary|Chr|Chromosome"
    r"|Exons?|Introns?|Codons?|Residues?|Positions?|Days?|Weeks?|Years?|Patients?|Cases?|Day|Homo"
    r"|Mus|Arg|Ala|Asn|Asp|Cys|Gln|Glu|Gly|His|Ile|Leu|Lys|Met|Phe|Pro|Ser|Thr|Trp|Tyr|Val)\b)"
)
_SMALL = r"[^\W\d_A-Z]"
_CAPITAL = "[A-ZÀ-ÖØ-ÞĀ-Ž]"
_NAME = (
    rf"(?:[A-Z]['’])?{_CAPITAL}{_SMALL}{{1,30}}(?:[A-Z]{_SMALL}{{1,30}})?"
    r"(?:[-'’][^\W\d_]{1,30}){0,2}(?!\w)"
)
_INITIALS = r"[A-Z]\.?(?:[ -]?[A-Z]\.?){0,2}(?!\w)"
_PARTICLES = (
    r"(?:(?:[Vv]an|[Vv]on|der|den|[Dd]e|[Dd]el|della|[Dd]i|[Dd]a|dos|[Dd]u|[Ll]a|[Ll]e|[Ee]l|[Aa]l|ten|ter"
    r"|bin|zu)[ -]){0,3}"
)
# Atomic: an initial belongs to the name before it, unless a name follows. With the choice left
# open, a list of forty authors has more readings than there is time for.
_AUTHOR = (
    rf"(?>{_NO_NAME}(?:{_INITIALS} ?){{0,2}}{_PARTICLES}{_NAME}(?: {_NAME})?"
    rf"(?:,? {_INITIALS}(?! ?{_CAPITAL}{_SMALL}))?(?:,? Jr\.?)?)"
)
_ET_AL = r"(?:,? ?et\.? ?al\b\.?,?|,? and (?:colleagues|co-?workers))"
_AUTHORS = rf"{_AUTHOR}(?:(?:,? (?:and|&) |, ?){_AUTHOR}){{0,10}}{_ET_AL}?"
_STATUS = (
    r"(?:in press|submitted(?: for publication)?|unpublished(?: (?:data|results|observations?))?"
    r"|personal communication|in preparation|manuscript(?: in preparation)?|this issue|preprint)"
)
_AUTHOR_YEAR = re.compile(
    rf"{_AUTHORS},?[.:]? ?(?:(?:bioR|medR|arX)[Xx]?iv,? )?\(?(?:{_YEARS}|{_STATUS})\)?"
    r"(?:[,:]? ?pp?\.? ?\d{1,5}(?:[–-]\d{1,5})?)?"
    rf"(?:,? (?:for (?:an? )?reviews?|and references therein|and {_STATUS}|{_STATUS}))?"
    rf"|{_AUTHOR}(?:, ?{_AUTHOR}){{0,10}}{_ET_AL}(?:, {_STATUS})?"
    rf"|[A-Z][A-Z'’-]{{1,24}}(?:,? {_INITIALS})?{_ET_AL} ?\(?{_YEARS}\)?"
    rf"|(?:[Tt]he )?(?:(?:[A-Z][\w'’-]{{0,30}}|\d{{1,4}}|of|for|the|and|on|in) ){{0,8}}"
    r"(?:Consortium|Organi[sz]ation|Group|Collaboration|Committee|Network|Initiative|Association"
    rf"|Society|Agency|Institute),? \(?{_YEARS}\)?"
)
_IDENTIFIER = re.compile(
    r"PMIDs?:? ?\d{5,9}(?:[,;] ?(?:PMID:? ?)?\d{5,9}){0,20}"
    rf"|[Rr]ef(?:s|erences?)?\.? ?{_LIST}"
)
_LEAD = re.compile(
    rf"(?:\s?{_LEAD_WORDS}\b[\s,:.]{{0,3}}){{0,6}}(?=[A-Z(\d]|(?:van|von|de|di|da|le|la)\b|refs?\b)"
)
_PAGES = re.compile(
    r"\d \((?:19|20)\d\d\),? \d|\d(?:\(\d{1,4}\))?\s?[:,;]\s?[A-Z]?\d|\d[–-]\d"
    r"|\d\s{1,3}\d{1,5}[–-]\d"
)
_REFERENCE_TOKEN = re.compile(r"[^\W_]+")
_SMALL_WORDS = (
    "and et al in press of the de van der von den la le du di da for on pp p vol no eds ed suppl "
    "part sect ser e a"
)
_SMALL_WORDS_IN_REFERENCE = frozenset(_SMALL_WORDS.split())
_STARTS_LIKE_REFERENCE = re.compile(
    rf"\({_YEAR}\)|(?:[A-Z]\.[ -]?){{1,3}}|{_NO_NAME}{_NAME}(?=[\s,.:;&])"
)
_NOT_IN_REFERENCE = re.compile(r"[*<>=+_%~|]")
_ANY_YEAR = re.compile(rf"(?<!\d){_YEAR}")
_MAYBE_YEAR = re.compile("(?:1[89]|20)[0-9][0-9]")  # no look-behind: five times as fast

# A pair of brackets, with others at most two deep inside, on one line. Possessive, so that a
# bracket that never closes is read once.
_PLAIN = r"[^()\[\]\n]{0,80}"
_INNERMOST = rf"(?:(?:\({_PLAIN}\)|\[{_PLAIN}\]){_PLAIN}){{0,6}}"
_INNER_ROUND = rf"\({_PLAIN}{_INNERMOST}\)"
_INNER_SQUARE = rf"\[{_PLAIN}{_INNERMOST}\]"
_GROUP = re.compile(
    rf"\(((?:[^()\[\]\n]++|{_INNER_ROUND}|{_INNER_SQUARE})*+)\)"
    rf"|\[((?:[^()\[\]\n]++|{_INNER_ROUND}|{_INNER_SQUARE})*+)\]"
)
_LONGEST_CITATION = 1500  # characters
_MAYBE_GROUP = ("et al", "PMID", "(ref", "ref. ", "refs")


def _without_author_year(match: re.Match[str]) -> str:
    """The brackets without their citations; nothing where they held nothing else."""
    content = match[1] if match[1] is not None else match[2]
    if len(content) > _LONGEST_CITATION or not _may_cite(content):
        return match[0]
    if _is_citation(content):
        return _GONE
    segments = content.split(";")
    kept = [kept for segment in segments if (kept := _without_last_citation(segment))]
    if kept == segments:
        return match[0]
    if not kept:
        return _GONE
    return match[0][0] + ";".join(kept).strip() + match[0][-1]


def _may_cite(content: str) -> bool:
    return (
        _ANY_YEAR.search(content) is not None
        or "et al" in content
        or "PMID" in content
        or "ref" in content
        or "Ref" in content
    )


def _without_last_citation(segment: str) -> str:
    """Cut "rs7903146, Doe et al. 2019" to "rs7903146"; a segment without citation stays."""
    if not _may_cite(segment):
        return segment
    if _is_citation(segment):
        return ""
    comma = segment.find(", ")
    for _ in range(12):
        if comma < 0:
            break
        if _is_citation(segment[comma + 2 :]):
            return segment[:comma]
        comma = segment.find(", ", comma + 2)
    return segment


def _is_citation(content: str) -> bool:
    """Whether this is authors and year, a reference in full, or an identifier of a paper."""
    content = content.strip(" ,.;")
    if _IDENTIFIER.fullmatch(content):
        return True
    lead = _LEAD.match(content)
    content = content[lead.end() :] if lead else content
    if _AUTHOR_YEAR.fullmatch(content) or _IDENTIFIER.fullmatch(content):
        return True
    return _is_full_reference(content)


def _is_full_reference(content: str) -> bool:
    """Whether this reads like "E. Verdin, J. Virol. 65:6790-6799, 1991".

    A year, a volume with pages, and no word that is small or mixes letters and digits, as
    words of the text and names of variants do.
    """
    if not (_ANY_YEAR.search(content) and _PAGES.search(content)):
        return False
    if not _STARTS_LIKE_REFERENCE.match(content) or _NOT_IN_REFERENCE.search(content):
        return False
    return all(
        token.isdigit()
        or (token.isalpha() and (token[0].isupper() or token in _SMALL_WORDS_IN_REFERENCE))
        for token in _REFERENCE_TOKEN.findall(content)
    )


_YEAR_AFTER_NAME = re.compile(rf"[(\[](?<= .){_YEARS}[)\]]")
_NAME_BEFORE = re.compile(rf"(?:\bal\.?,?|\bcolleagues|\bco-?workers|(?<!\w){_NO_NAME}{_NAME})$")


def _without_narrative_year(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 60) : match.start()].rstrip(" ")
    return _GONE if _NAME_BEFORE.search(before) else match[0]


# Numbers and units ----------------------------------------------------------------------------

_MINUS = "[-−–⁻]"
_RAISED_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_EXPONENT = (
    rf"(?:\s?\(\s?({_MINUS}?)\s?(\d{{1,2}})\s?\)(?!\s?:)|\s?\^\s?[{{(]?({_MINUS}?)\s?(\d{{1,2}})[}})]?(?!\d)"
    rf"|(⁻?)({_RAISED}{{1,2}})(?!{_RAISED}))"
)
_TIMES = r"\s?(?:[×xX·∙⋅*✕]|\\times)\s?"
_MANTISSA = r"(?<![\w.,])(\d{1,6}(?:\.\d{1,6}|\. \d{1,4})?)"
_POWER_WITH_MANTISSA = re.compile(
    rf"{_MANTISSA}{_TIMES}10(?:{_EXPONENT}|\s?({_MINUS})\s?(\d{{1,2}})(?!\.?\d))"
)
_BARE_POWER = re.compile(rf"(?<![\w.,])(?<![A-Za-z][-–])10{_EXPONENT}")
# "5 × 106 cells", "1.6 × 106": the exponent lost its raising, as the noun or the decimals show.
_FLAT_POWER = re.compile(
    r"(?<![\w.,])(\d{1,6}(?:\.\d{1,6})?)\s?[×xX]\s?10([3-9]|1[0-2])(?!\d|\.\d)"
    r"(?=\s?(?:/\s?[mnμ]?[lLg]\b|(?:[a-z]{1,12}\s)?(?:cells?|clones?|cfu|CFU|pfu|PFU|cpm|dpm|copies"
    r"|molecules|reads|particles|spores|bacteria|platelets|lymphocytes|c\.p\.m|per)\b"
    r"|(?:to|and|or|–|-)\s?\d[\d.]{0,5}\s?[×x]\s?10\d))"
    r"|(?<![\w.,])(\d\.\d{1,6})\s?[×xX]\s?10([3-9]|1[0-2])(?!\d|\.\d|\s?(?:[cmnμ]?m|[km]?g|in|bp|kb)\b)"
)
_FLAT_NEGATIVE_POWER = re.compile(
    r"(?<![\w.*/-])([Pp](?:[- ]?[Vv]alues?)? ?[<=≤] ?)10[-−–](\d{1,3})(?!\.?\d|%)"
    r"|(?<![\w.,–-])()10[-−]([3-9]|1[0-2])(?=\s?(?:M|mol)\b)"
)
_E_NOTATION = re.compile(rf"([0-9])[eE]{_MINUS}0{{0,2}}(\d{{1,3}})(?!\w|\.\d)")
_E_MANTISSA = re.compile(r"(?<![\w.,-])\d{1,3}(?:\.\d{1,6})?[eE][^eE]{2,6}$")
# Cheap to search for, since it begins with letters of its own.
_MAYBE_POWER = re.compile(rf"10(?:\s?\(\s?[-−–⁻\d]|\s?\^|⁻|{_RAISED}|\s?[-−–]\s?\d|[3-9]|1[0-2])")
# From the rare end: the sign of a product right before a ten.
_MAYBE_FLAT_POWER = re.compile(r"10(?:(?<=[×xX]10)|(?<=[×xX]\s10))")
_P_VALUE = re.compile(r"([<>=≤≥]=?) ?(?:([01]?) ?\. ?(\d{1,9})(?!\w)|(?=\d))")
_DECIMAL_MIDDLE_DOT = re.compile(r"(?<![\w.·])(\d{0,4})·(\d{1,6})(?![\w·])")  # 0·05, in the Lancet
_P_BEFORE = re.compile(r"(?<![\w.*/-])[Pp](?:[- ]?[Vv]alues?)?( ?)$")
_BARE_FRACTION = re.compile(r"([<>=≤≥±] ?[-−]?)\.(?=\d)")


def normalize_scientific_notation(text: str) -> str:
    """Write powers of ten as 5e-8 and P values as P = 0.03.

    "5 × 10−8", "3.2x10-5", "10(-6) M", "10^-8", "10⁻⁸" and "1.5E-05" become 5e-8, 3.2e-5,
    1e-6 M, 1e-8, 1e-8 and 1.5e-5. The mantissa keeps the authors' digits (16.5e-6 stays so).
    A bare "10-8" is a range and stays, except behind "P <" and before "M".
    """
    if _MAYBE_POWER.search(text):
        text = _POWER_WITH_MANTISSA.sub(_power, text)
        if _MAYBE_FLAT_POWER.search(text):
            text = _FLAT_POWER.sub(lambda m: f"{m[1] or m[3]}e{m[2] or m[4]}", text)
        text = _BARE_POWER.sub(_bare_power, text)
        if "10-" in text or "10−" in text or "10–" in text:
            text = _FLAT_NEGATIVE_POWER.sub(lambda m: f"{m[1] or ''}1e-{int(m[2] or m[4])}", text)
    if "·" in text:
        text = _DECIMAL_MIDDLE_DOT.sub(r"\1.\2", text)
    if "E-" in text or "e-0" in text or "E−" in text or "e−" in text or "E–" in text:
        text = _E_NOTATION.sub(_e_notation, text)
    if "=" in text or "<" in text or ">" in text or "≤" in text or "≥" in text or "±" in text:
        text = _P_VALUE.sub(_p_value, text)
        text = _BARE_FRACTION.sub(r"\g<1>0.", text)
    return text


def _e_notation(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 10) : match.end()]
    number = _E_MANTISSA.search(before)
    return match[0] if number is None else f"{match[1]}e-{int(match[2])}"


def _power(match: re.Match[str]) -> str:
    mantissa = match[1]
    groups = match.groups()[1:]
    sign, digits = next((groups[i], groups[i + 1]) for i in range(0, 8, 2) if groups[i + 1])
    if (
        match[9] is not None
        and match[8] in ("-", "–")
        and _FOLLOWED_BY_SPAN.match(match.string, match.end())
    ):
        return match[0]  # "2 x 10-15 min" are two spells of 10 to 15 minutes
    if ". " in mantissa:
        # "P = 5. 22 x 10(-4)" is 5.22; in "group 1. 5 x 10(-6) M" the stop ends a sentence.
        before = match.string[max(0, match.start() - 4) : match.start()]
        joint = "" if _NUMBER_EXPECTED.search(before) else " "
        mantissa = mantissa.replace(". ", "." + joint)
    return f"{mantissa}e{'-' if sign else ''}{_exponent(digits)}"


_FOLLOWED_BY_SPAN = re.compile(
    r"\s?(?:min|s|sec|h|hours?|days?|weeks?|years?|minutes?|times|cycles|mg|m?l|[cm]m|bp|kb)\b"
)
_NUMBER_EXPECTED = re.compile(r"(?:[=<>≤≥~(]|\b(?:be|of|is|to))\s?$")


def _bare_power(match: re.Match[str]) -> str:
    groups = match.groups()
    sign, digits = next((groups[i], groups[i + 1]) for i in range(0, 6, 2) if groups[i + 1])
    before = match.string[max(0, match.start() - 2) : match.start()]
    spaced = match[0].startswith("10 ")
    if re.search(r"\d ?$", before) or (spaced and not sign):
        return match[0]  # "0.4 10(-18)" lacks its sign; "10 (6)" is a number and a count
    return f"1e{'-' if sign else ''}{_exponent(digits)}"


def _exponent(digits: str) -> int:
    return int(digits.translate(_RAISED_DIGITS))


def _p_value(match: re.Match[str]) -> str:
    p_before = _P_BEFORE.search(match.string, max(0, match.start() - 10), match.start())
    if p_before is None:
        return match[0]
    fraction = "" if match[3] is None else f"{match[2] or 0}.{match[3]}"
    return f"{'' if p_before[1] else ' '}{match[1]} {fraction}"


_MICRO = re.compile(r"micro(?<![A-Za-z-]micro)(M|g|l|L|m|Ci|mol)(?![A-Za-z])")
_ASCII_MICRO = re.compile(r" u(?<=[0-9] u)([MgLlm]|Ci|mol)(?![\w-])")
_MAYBE_ASCII_MICRO = (" uM", " ug", " uL", " ul", " um", " uCi", " umol")
_DEGREES = re.compile(r"(?<=\d)\s?(?:[°º˚]\s?|degrees?\s)([CF])\b")
_PERCENT = re.compile(r"(?<=\d)\s%")
_AMOUNT = re.compile(
    r"[0-9](?=[mμnpckMH])(?=([mμnp]M|[mμnpk]g|[mμ][lL]|[mμnp]mol|[nμmc]m|kDa|[kM]?Hz)"
    r"(?!\w|[-–]|/(?!(?:kg|g|[mdμ]?[lL]|day|d|h|min|cm|mm)\b)))"
)
_NUMBER_OF_AMOUNT = re.compile(r"(?<![\w.,:+*/–−-])\d{1,6}(?:\.\d{1,4})?$")


def normalize_units(text: str) -> str:
    """Write 5 microM as 5 μM, 10mM as 10 mM, 37 degrees C as 37 °C, 50 % as 50%.

    One μ (Greek) for the two in Unicode. Lengths of sequence (24bp, 3kb) stay as they are,
    since they stand in names of variants.
    """
    if "µ" in text:
        text = text.replace("µ", "μ")
    if "micro" in text:
        text = _MICRO.sub(r"μ\1", text)
    if any(amount in text for amount in _MAYBE_ASCII_MICRO):
        text = _ASCII_MICRO.sub(r" μ\1", text)
    if "°" in text or "degree" in text or "º" in text or "˚" in text:
        text = _DEGREES.sub(r" °\1", text)
    if " %" in text:
        text = _PERCENT.sub("%", text)
    return _AMOUNT.sub(_spaced, text)


def _spaced(match: re.Match[str]) -> str:
    number = _NUMBER_OF_AMOUNT.search(match.string, max(0, match.start() - 14), match.end())
    return match[0] if number is None else match[0] + " "


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
        pieces.append("\n\n" if len(before) > _LONGEST_WRAPPED_LINE else " ")
        pieces.append(line)
    return "".join(pieces)


# The recipe -----------------------------------------------------------------------------------

Recipe = tuple[Callable[[str], str], ...]

RECIPE: Recipe = (
    repair_unicode,
    decode_entities,
    strip_latex,
    strip_tags,
    expand_ligatures,
    remove_running_heads,
    remove_page_numbers,
    join_broken_words,
    remove_reference_list,
    remove_acknowledgements,
    remove_figure_debris,
    remove_publisher_notes,
    remove_links,
    remove_emails,
    remove_citations,
    normalize_scientific_notation,
    normalize_units,
    normalize_whitespace,
)
"""All rules, in the order in which they run. Pages come before words, since a running head may
stand inside a broken word; markup before citations, since <sup>12</sup> becomes one."""

RULE_NAMES: tuple[str, ...] = tuple(rule.__name__ for rule in RECIPE)
"""The switches of single rules: the names of the functions of `RECIPE`."""

GROUP_SWITCHES: Mapping[str, tuple[str, ...]] = {
    "handle_special_tokens": (
        "repair_unicode",
        "decode_entities",
        "strip_latex",
        "strip_tags",
        "expand_ligatures",
    ),
}
"""Switches for several rules at once, known from older configuration files. A rule of a group
runs when its own switch and that of the group are both on."""


def clean_text(text: str, rules: Mapping[str, bool] | None = None) -> str:
    """Clean a text by the rules of `RECIPE` that are on, until they change nothing more.

    Args:
        text: Title, abstract, section or whole article.
        rules: Switches by name, of `RULE_NAMES` or `GROUP_SWITCHES`; what is not named is on.
            None switches everything on.

    Returns:
        The cleaned text; `clean_text(clean_text(x)) == clean_text(x)`.

    Raises:
        UserError: If a switch has a name that no rule has.
    """
    active = RECIPE if rules is None else _active(rules)
    idle = 0  # rules in a row that changed nothing
    for rule in islice(cycle(active), _MOST_ROUNDS * len(active)):
        cleaned = rule(text)
        idle = idle + 1 if cleaned == text else 0
        text = cleaned
        if idle == len(active):
            break
    return text


def _active(rules: Mapping[str, bool]) -> Recipe:
    return _recipe_of(tuple(rules.items()))


@lru_cache(maxsize=64)  # a run cleans a million texts with one set of switches
def _recipe_of(switches: tuple[tuple[str, bool], ...]) -> Recipe:
    rules = dict(switches)
    off = {name for name, on in switches if not on}
    unknown = [name for name in rules if name not in RULE_NAMES and name not in GROUP_SWITCHES]
    if unknown:
        raise UserError(
            f"preprocessing.{unknown[0]}: no cleaning rule has this name; "
            f"expected one of {', '.join((*RULE_NAMES, *GROUP_SWITCHES))}"
        )
    for group in off & GROUP_SWITCHES.keys():
        off.update(GROUP_SWITCHES[group])
    return tuple(rule for rule in RECIPE if rule.__name__ not in off)
