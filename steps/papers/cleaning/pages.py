"""What page layout leaves in a text: running heads, page numbers, broken words, figures."""

import re
from collections import Counter

from steps.papers.cleaning.characters import LONGEST_WRAPPED_LINE
from steps.papers.headings import section_of_heading
from steps.papers.possessive import compile_possessive

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
    begun = False  # whether a line of text is kept
    for line in bare:
        numbered = len(line) <= 110 and len(line.split()) > 3 and _PAGE_EDGE.sub("", line) in heads
        if (line in heads or numbered) and not (line == title and not begun):
            continue
        if not _RUNNING_NOTE.fullmatch(line):
            kept.append(line)
            begun = begun or line != ""
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
_WORD = compile_possessive(r"[a-z]++(?:-[a-z]++)*+")
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


_FIGURE = (
    r"(?:(?:Supplementary|Supplemental|Extended Data|Additional)\s)?"
    r"(?:Figure|Fig\.?|FIGURE|FIG\.?|Table|TABLE|Scheme|Plate|Video|Movie)"
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
        open_block = bool(line) and len(line) <= LONGEST_WRAPPED_LINE
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
