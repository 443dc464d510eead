"""Cleaning, sections, genes and variants take time linear in the text, however hostile it is.

No clock is read. Two things are checked instead:

- Counted work. The modules run with their lines, the characters that their patterns may read and
  the items that `any` and its like take counted; four times the text may make at most four times
  the work, and a little more. This finds the loop in a loop, and the text that is searched anew at
  each mention.
- The patterns. What goes on inside of a pattern cannot be counted from outside. So every repetition
  without a bound must be of a kind that cannot be begun anew within itself, or stand in a table
  with the reason why it is harmless.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from re import _compiler, _constants, _parser  # type: ignore[attr-defined]
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any

import pytest
import regex

from steps.papers import genes
from steps.papers.cleaning.recipe import clean_text
from steps.papers.genes import GeneLexicon, find_genes
from steps.papers.sections import drop_repeated_front, split_sections
from steps.papers.variants.finder import _Notation as Notation
from steps.papers.variants.finder import find_variants


def _modules_behind(*functions: Callable[..., Any]) -> list[ModuleType]:
    """The modules of some functions, and those that they take functions and classes from."""
    found: dict[str, ModuleType] = {}
    waiting = {function.__module__ for function in functions}
    while waiting:
        name = waiting.pop()
        found[name] = sys.modules[name]
        used = {str(getattr(value, "__module__", "")) for value in vars(found[name]).values()}
        waiting |= {name for name in used if name.startswith("steps.papers.")} - found.keys()
    return [found[name] for name in sorted(found)]


MODULES = _modules_behind(clean_text, split_sections, find_genes, find_variants)
FILES = frozenset(str(module.__file__) for module in MODULES)
LEXICON = GeneLexicon.load()
SHORT = 2_400  # characters; the long text has four times as many
MOST_GROWTH = 4.5


# --- counting ----------------------------------------------------------------------------


class Work:
    """The work done so far: lines run, characters that patterns may read, items taken."""

    def __init__(self) -> None:
        self.done = 0

    def trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_code.co_filename not in FILES:
            return None
        self.done += event == "line"
        return self.trace

    def items(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.done += 1
            yield item


class CountedText(str):
    """A text that counts the characters which are cut out of it."""

    work: Work

    def __getitem__(self, key: Any) -> str:
        piece = super().__getitem__(key)
        self.work.done += len(piece)
        return piece


class CountedPattern:
    """A compiled pattern that counts the characters it may read."""

    def __init__(self, pattern: Any, work: Work) -> None:
        self._pattern, self._work = pattern, work

    def _read(self, text: str, start: int = 0, end: int = sys.maxsize) -> None:
        self._work.done += 1 + max(0, min(end, len(text)) - start)

    def search(self, text: str, *span: int) -> Any:
        found = self._pattern.search(text, *span)
        start, end = (*span, *(0, len(text))[len(span) :])
        self._read(text, start, found.end() if found else end)
        return found

    def match(self, text: str, *span: int) -> Any:
        found = self._pattern.match(text, *span)
        self._work.done += 1 + (len(found[0]) if found else 0)
        return found

    def fullmatch(self, text: str, *span: int) -> Any:
        found = self._pattern.fullmatch(text, *span)
        self._work.done += 1 + (len(found[0]) if found else 0)
        return found

    def finditer(self, text: str, *span: int) -> Any:
        self._read(text, *span)
        return self._pattern.finditer(text, *span)

    def findall(self, text: str, *span: int) -> Any:
        self._read(text, *span)
        return self._pattern.findall(text, *span)

    def split(self, text: str) -> Any:
        self._read(text)
        return self._pattern.split(text)

    def sub(self, new: Any, text: str) -> Any:
        self._read(text)
        return self._pattern.sub(new, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pattern, name)


def _counted(value: Any, work: Work) -> Any:
    """The value with the patterns in it counted; the value itself where it holds none."""
    if isinstance(value, re.Pattern | regex.Pattern):
        return CountedPattern(value, work)
    if type(value) is tuple:
        items = tuple(_counted(item, work) for item in value)
        return value if all(map(_is, items, value)) else items
    if type(value) is dict:
        entries = {key: _counted(item, work) for key, item in value.items()}
        return value if all(map(_is, entries.values(), value.values())) else entries
    if isinstance(value, Notation):
        notation = replace(value)
        # Where it keeps the pattern once it is compiled.
        vars(notation)["compiled"] = _counted(value.compiled, work)
        return notation
    return value


def _is(one: object, other: object) -> bool:
    return one is other


def _instrument(module: ModuleType, work: Work, patch: pytest.MonkeyPatch) -> None:
    """Count the patterns of a module, what it asks of `re`, and what it gives to `any`."""
    for name, value in list(vars(module).items()):
        if not name.startswith("__") and _counted(value, work) is not value:
            patch.setattr(module, name, _counted(value, work))

    for function in (any, all, sum, sorted):
        patch.setattr(module, function.__name__, _taking(function, work), raising=False)
    if hasattr(module, "Counter"):
        patch.setattr(module, "Counter", _taking(Counter, work))
    if getattr(module, "re", None) is re:
        patch.setattr(module, "re", _counted_re(work))


def _taking(function: Callable[..., Any], work: Work) -> Callable[..., Any]:
    return lambda items=(), *more, **how: function(work.items(items), *more, **how)


def _counted_re(work: Work) -> SimpleNamespace:
    """`re`, of which the functions count as the patterns do."""

    def called(name: str) -> Callable[..., Any]:
        return lambda pattern, *arguments: getattr(CountedPattern(re.compile(pattern), work), name)(
            *arguments
        )

    counted = {name: called(name) for name in ("search", "match", "fullmatch", "findall", "sub")}
    return SimpleNamespace(**{**vars(re), **counted, "split": called("split")})


@pytest.fixture(scope="module")
def work() -> Iterator[Work]:
    """Counts what the modules do, as long as their tracing is on."""
    work = Work()
    CountedText.work = work
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            _instrument(module, work, patch)
        yield work


def _work_of(function: Callable[[str], object], text: str, work: Work) -> int:
    before, tracing = work.done, sys.gettrace()
    sys.settrace(work.trace)
    try:
        function(CountedText(text))
    finally:
        sys.settrace(tracing)
    return work.done - before


# --- hostile texts -------------------------------------------------------------------------

# Each is repeated to the length that is wanted.
REPEATED = [
    # genes and variants
    "CAT and ", "TAT, REV and PI3 or ", "CAT or CAT, ", "WAS/", "(SET) ", "p53-", "c/CAT ",
    "C/EBP ", "STAT5-B ", "TP53, WAS and ", "hepatocellular carcinoma (MET) ", "DMD patients ",
    "BRAFV600E", "mutations in REST ", "the CAT-", "V600E ", "A49T and ", "c.1A>", "c.(?_",
    "c.[1A>G;", "p.Arg1", "delA", "1del", "IVS1+", "rs1", "17q21.", "A/G ", "G-->A ", "Arg 1 to ",
    "46,XX,", "46,XX[20],", "del(5)(q", "t(9;22)(q34;q11)", "CAG[",
    # brackets and markup
    "(", "[", "((a) ", "([", "(a [b] ", "[1] ", "[1,", "[[1]", "(12", ")", "]", "{", "{a}", "}",
    "$", "$a", "\\", "\\cite{", "\\text{a", "\\documentclass", "^{", "<", "<a ", '<a b="',
    "<sup>1</", "<!--", "<!-- ", "<p>", "<![CDATA[", "]]>", "<xref bibr", "&", "&amp;", "&#",
    "amp;", '"', "'",
    # marks and numbers
    "-", "--", "->", "-->", "---", "=>", ">", "→", "–", "- ", "a-", "+", "*", "_", "#", "##", "/",
    "//", ".", ". ", "..", ",", ";", ":", "?", "!", "%", "=", "~", "·", "×", "1", "1 ", "1,2", "1.",
    "10-", "10(-", "10^", "5 x 10", "P = .", "1e-", "12-", "¹", "¹²,", "1 %", "10mM", "1-2",
    # citations and links
    "(Doe et al., 2019) ", "(Doe, ", "Doe (2019) ", "(see ", "(ref. 1, ", "Doe J, ", "A. ", "Aa, ",
    "O'", "[12,15–18]", "and ", "et al. ", "http://a.", "http://", "(http://a", "[http://a",
    "www.a[", "a-b.", "10.1234/a(", "doi:", "a@", "a.b@c.", "at http://a ", "see www.a ",
    # lines and characters
    "\n", "\n\n", "\na", "\n1", "a-\n", "-\n", "\xad", "\xad\n", "\t", "\t\t\n", "a | b | c\n", " ",
    "\r", "\x0b", "\u200b", "a\u200b", "\ufeff", "\xa0", "\u2009", "ﬁ", "e\u0301", "Ã©", "â€",
    "\x00", "(\x00", "中", "x",
    # headings and pages
    "Keywords\n", "Keywords\n\n", "Keywords: a\n", "Summary\n", "Introduction\nSummary\n",
    "Abstract\n", "Abstract\nMethods\n", "1. ", "1. Methods\na\n", "2.1 a\n", "A: ", "# a\n",
    "a\n===\n", "**a**\n", "Abbreviations\n", "References\n", "[1] Doe J. 1990\n", "Funding: a\n",
    "We thank ", "Copyright A", ".CopyrightA", "(c) 2001 ", "[see text]", "Figure 1\n\n",
    "Figure 1. A\n\n", "(A) \n\n", "Page 1 of ", "aaaa bbb\n", "aaaa bbb\n1\n",
]  # fmt: skip

# What is bad only in its place: the beginning, what is repeated, and the end.
FRAMED = [
    ("(", "b;", ")"), ("(2019 ", "Doe, ", ")"), ("(", "A. ", ", 2019)"), ("[", "1,", "x"),
    ("<a ", "b=c ", ""), ('<a b="', "x", ""), ("&", "amp;", "#"), ("http://a", ".", ""),
    ("http://a", "(b)", ""), ("[http://a", "!", ""), ("CAT homozygo", "a", "!"),
    ("Ab", " ", ": c"), ("1", " ", "x"), ("x", " ", "1"), ("section", " ", "1"), ("A.", "\t", "b"),
    ("\\cite{", "a", "}"), ("# a ", "{a}", ""), ("Keywords\n", "\n", "a"),
    ("Abstract\nBackground\n", "a b ", ""), ("Abstract\n", "a b\n\n", ""),
    ("The TP53 gene. ", "WAS, ", "TP53"), ("V400R V401R ", "A49T ", ""),
]  # fmt: skip


def _blank_lines_over_titles(length: int) -> str:
    return "\n" * (length // 2) + "Aaaa bbb c\n" * (length // 22)


def _many_residues(length: int) -> str:
    residues = " ".join(f"W{20_000 + number}L" for number in range(length // 16))
    return residues + " A49T" * (length // 10)


def _parts_and_summaries(length: int) -> str:
    return "Methods\na\nSummary\nb\n" * (length // 20)


def _numbered_headings(length: int) -> str:
    return "\n".join(f"{number % 99 + 1}. Heading\ntext" for number in range(length // 20))


def _different_lines(length: int) -> str:
    return "\n".join(f"Line {number} of it" for number in range(length // 15))


def _repeated(before: str, piece: str, after: str) -> Callable[[int], str]:
    return lambda length: before + piece * (length // len(piece)) + after


HOSTILE: dict[str, Callable[[int], str]] = {
    **{ascii(piece): _repeated("", piece, "") for piece in REPEATED},
    **{ascii(parts): _repeated(*parts) for parts in FRAMED},
    **{
        made.__name__.strip("_"): made
        for made in (
            _blank_lines_over_titles,
            _many_residues,
            _parts_and_summaries,
            _numbered_headings,
            _different_lines,
        )
    },
}
READERS: dict[str, Callable[[str], object]] = {
    "cleaning": clean_text,
    "sections": split_sections,
    "genes": lambda text: find_genes(text, LEXICON),
    "variants": find_variants,
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("reader", READERS)
def test_work_grows_no_faster_than_the_text(reader: str, hostile: str, work: Work) -> None:
    little = _work_of(READERS[reader], HOSTILE[hostile](SHORT), work)
    much = _work_of(READERS[reader], HOSTILE[hostile](4 * SHORT), work)
    assert much <= MOST_GROWTH * max(little, SHORT), f"{little} steps, then {much}"


def test_a_repeated_abstract_is_looked_for_in_one_reading(work: Work) -> None:
    def drop(text: str) -> object:
        return drop_repeated_front([("other", text), ("abstract", "a b")], "x", text[::2])

    little = _work_of(drop, "ab cd\n\n" * (SHORT // 7), work)
    much = _work_of(drop, "ab cd\n\n" * (4 * SHORT // 7), work)
    assert much <= MOST_GROWTH * little, f"{little} steps, then {much}"


def test_a_search_anew_at_each_mention_would_be_noticed(work: Work) -> None:
    def anew(text: str) -> object:
        return [genes._SMALL_LETTERS.search(text) for _ in range(0, len(text), 8)]

    little = _work_of(anew, "CAT AND " * (SHORT // 8), work)
    much = _work_of(anew, "CAT AND " * (4 * SHORT // 8), work)
    assert much > 2 * MOST_GROWTH * little, "the counting does not see what a pattern reads"


# --- the patterns --------------------------------------------------------------------------

_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)
_LOOKS = (_constants.ASSERT, _constants.ASSERT_NOT)
_ALPHABET = [*map(chr, range(9, 14)), *map(chr, range(32, 127)), *"\0\xa0éα²\u0301\u2009–→中"]

# Patterns with an unbounded repetition that the rule below does not clear, and why no text can
# make them read its characters again and again.
HARMLESS = {
    "back_matter._COPYRIGHT": "what it has read in vain behind a mark is passed over",
    "citations._GROUP": "possessive; it runs only over brackets that close within a bounded length",
    "counts._REPEATED": "searched in the 60 characters before a bracket",
    "genes._DEFINED_AS": "searched in the 30 characters before a mention",
    "genes._LONG_MOUSE_ALIAS": "reads the lexicon",
    "genes._MOUSE_ABLE": "reads the lexicon",
    "genes._NOT_A_GENE": "reads a word from `_DEFINED_AS`",
    "links._LINK": "an address that its bracket does not close is a link without the bracket",
    "links._PREPOSITION_OF_GONE": "blanks are read from the mark before them only",
    "markup._COMMENT": "stops at the next comment's beginning",
    "markup._JATS_CITATION": "begins with two characters, of which it runs over the first only",
    "markup._LATEX_DOCUMENT": "stops at the next document's beginning",
    "pages._PAGE_EDGE": "reads lines of 110 characters at most",
}


def _patterns() -> dict[str, Any]:
    """All compiled patterns of the modules by the name of the module and their own."""
    found: dict[str, Any] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, re.Pattern | regex.Pattern):
            if all(value is not other for other in found.values()):
                found[name] = value
        elif isinstance(value, Notation):
            collect(name, value.compiled)
        elif type(value) is dict:
            for key, item in value.items():
                collect(f"{name}[{key}]", item)
        elif type(value) is tuple:
            for number, item in enumerate(value):
                collect(f"{name}[{number}]", item)

    for module in MODULES:
        for name, value in vars(module).items():
            collect(f"{module.__name__.rpartition('.')[2]}.{name}", value)
    return found


PATTERNS = _patterns()


def _children(operation: Any, argument: Any) -> list[Any]:
    """The parts of one element of a pattern, as sequences of elements."""
    if operation in _REPEATS:
        return [argument[2]]
    if operation is _constants.BRANCH:
        return list(argument[1])
    if operation is _constants.SUBPATTERN:
        return [argument[3]]
    if operation is _constants.ATOMIC_GROUP:
        return [argument]
    return [argument[1]] if operation in _LOOKS else []


def _unbounded(sequence: Any, tail: bool = True) -> Iterator[tuple[Any, bool]]:
    """The unbounded repetitions of a pattern, and whether each ends it.

    What ends a pattern cannot fail any more, so the search goes on behind what it has read.
    """
    elements = list(sequence)
    for place, (operation, argument) in enumerate(elements):
        rest = _parser.SubPattern(sequence.state, elements[place + 1 :])
        ends = tail and operation not in _LOOKS and all(_may_miss(*one) for one in rest)
        if operation in _REPEATS and argument[1] is _constants.MAXREPEAT:
            yield argument[2], ends and operation is not _constants.MIN_REPEAT
        for child in _children(operation, argument):
            yield from _unbounded(child, ends)


def _may_miss(operation: Any, argument: Any) -> bool:
    return operation in _REPEATS and argument[0] == 0


def _read_by(sequence: Any, flags: int) -> set[str]:
    """The characters that any element of a sequence may read."""
    read: set[str] = set()
    for operation, argument in sequence:
        children = [] if operation in _LOOKS else _children(operation, argument)
        if not children and operation not in (*_LOOKS, _constants.AT):
            one = _parser.SubPattern(sequence.state, [(operation, argument)])
            compiled = _compiler.compile(one, flags)
            read.update(filter(compiled.fullmatch, _ALPHABET))
        for child in children:
            read |= _read_by(child, flags)
    return read


def _first(sequence: Any, flags: int) -> set[str]:
    """The characters with which a match may begin."""
    first: set[str] = set()
    for operation, argument in sequence:
        alone = _parser.SubPattern(sequence.state, [(operation, argument)])
        for child in _children(operation, argument):
            first |= _first(child, flags)
        if not _children(operation, argument):
            first |= _read_by(alone, flags)
        if alone.getwidth()[0]:
            break
    return first


def _is_cleared(pattern: Any) -> bool:
    """Whether no text can make a search with this pattern read its characters again and again.

    An unbounded repetition must end the pattern, or read no character with which a match may
    begin: then a search that begins anew stands behind all that was read before.
    """
    flags = pattern.flags & (re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE)
    # Of the classes that only `regex` knows, any characters tell the same here.
    tree = _parser.parse(re.sub(r"\\p\{\w+\}", "[\u0300-\u036f]", pattern.pattern), flags)
    first = None
    for body, ends in _unbounded(tree):
        if not ends:
            first = _first(tree, flags) if first is None else first
            if first & _read_by(body, flags):
                return False
    return True


@pytest.mark.parametrize("name", PATTERNS)
def test_no_pattern_reads_the_same_characters_again_and_again(name: str) -> None:
    if name not in HARMLESS:
        assert _is_cleared(PATTERNS[name]), (
            f"{name} has a repetition without a bound that may be begun anew within itself: bound "
            f"it, or say in HARMLESS why it is none: {PATTERNS[name].pattern[:200]}"
        )


def test_what_is_said_to_be_harmless_is_there_and_needs_it() -> None:
    needless = [name for name in HARMLESS if name not in PATTERNS or _is_cleared(PATTERNS[name])]
    assert not needless, "strike these out"


@pytest.mark.parametrize(
    ("pattern", "cleared"),
    [
        (r"a+b", False), (r"a++b", False), (r"(?:ab?)*c", False), (r"x\s*a.*b", False),
        (r"(?=a*b)c", False), (r"\s+$", False), (r"a{1,9}b", True), (r"[A-Z]+", True),
        (r"<[^<>]*>", True), (r"<!--[^<]*+-->", True), (r"&(?:amp;)*lt;", True),
        (r"[.!?]\s+[A-Z]", True), (r"(?i)a[b-z]*!", True), (r"(?i)A[a-z]*!", False),
    ],
)  # fmt: skip
def test_the_rule_tells_patterns_apart(pattern: str, cleared: bool) -> None:
    assert _is_cleared(re.compile(pattern)) is cleared, pattern
