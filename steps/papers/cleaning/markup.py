"""Entities, LaTeX, tags and the marks of Markdown headings."""

import html
import re

from steps.papers.headings import without_heading_marks
from steps.papers.possessive import compile_possessive

# Greek entities of ISO 8879, which PubMed's older records hold and HTML does not know.
_ISO_NAMES = "a b g d e z ee th i k l m n x o p r s t u ph kh ps oh"
_ISO_GREEK = {
    name + "gr": letter
    for name, letter in zip(
        _ISO_NAMES.split(),
        "αβγδεζηθικλμνξοπρστυφχψω",
        strict=True,
    )
}
_ISO_GREEK |= {name[:-2].upper() + "gr": letter.upper() for name, letter in _ISO_GREEK.items()}

_ENTITY = re.compile(r"&(?:amp;)*(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


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
_LATEX_DOCUMENT = compile_possessive(
    r"\\documentclass(?:(?!\\documentclass|\\begin\{document\}).)*+\\begin\{document\}"
    r"((?:(?!\\documentclass|\\end\{document\}).)*+)\\end\{document\}",
    re.DOTALL,
)
# What converters of LaTeX leave in place of citations, figures and formulas.
_PLACEHOLDER = re.compile(r"\{\{(?:cite|figure|table|formula|equation|ref):[^{}\n]{0,100}\}\}")
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
    if "{{" in text:
        text = _PLACEHOLDER.sub("", text)
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
_INLINE_TAG = compile_possessive(
    r"</?(?:i|b|u|a|s|em|strong|small|big|tt|sc|span|font|abbr|cite|code|kbd|mark|q|var|wbr|img|hr"
    r"|italic|bold|underline|monospace|roman|sans-serif|styled-content|named-content|ext-link|uri"
    r"|email|xref|inline-formula|inline-graphic|disp-formula|tex-math|alternatives|label|graphic"
    r"|mml:[a-z]{1,20}|math|m[inors]|mrow|msu[bp]|mtext|jats:(?!p\b|title\b|sec\b)[a-z-]{1,20})"
    + _ATTRIBUTES
    + r"/?>",
    re.IGNORECASE,
)
_BLOCK_TAG = compile_possessive(
    r"</?(?:p|br|div|h[1-6]|ul|ol|li|dl|dt|dd|table|thead|tbody|tfoot|tr|td|th|caption|blockquote"
    r"|pre|section|article|header|footer|sec|title|abstract|abstracttext|list|list-item|body|html"
    r"|head|fig|table-wrap|jats:(?:p|title|sec))" + _ATTRIBUTES + r"/?>",
    re.IGNORECASE,
)
_BREAK_TAG = re.compile(r"<(/?)(td|th|br)\b", re.IGNORECASE)
_COMMENT = compile_possessive(
    r"<!--(?:(?!<!--|-->).)*+-->|<!\[CDATA\[|\]\]>|<[!?][A-Za-z][^<>]{0,300}>", re.DOTALL
)
_RAISED_TAG = compile_possessive(r"<sup" + _ATTRIBUTES + r">([^<>]{0,120})</sup\s?>", re.IGNORECASE)
_RAISED_OR_LOWERED_TAG = compile_possessive(r"</?su[bp]" + _ATTRIBUTES + r"/?>", re.IGNORECASE)
_JATS_REFERENCE = r"<xref(?=[^<>]{0,200}bibr)" + _ATTRIBUTES + r">\s*+\d{1,3}\s*+</xref>"
_JATS_CITATION = re.compile(
    rf"\(\s?({_JATS_REFERENCE}(?:\s?[,;–-]\s?{_JATS_REFERENCE}){{0,30}})\s?\)", re.IGNORECASE
)


def strip_tags(text: str) -> str:
    """Take out HTML, JATS and MathML tags by name, raising what <sup> raises.

    Only known names count, so that "p<b and c>d" and the <DEL> and <DUP> of variant files stay.
    A JATS citation in round brackets gets square ones, by which it can be told from "(2)". The
    marks of Markdown headings go too: "## Methods {#s2}", a row of "=" underneath.
    """
    text = without_heading_marks(text)
    if "<" not in text or ">" not in text:
        return "".join(text.split("]]>")) if "]]>" in text else text
    text = _COMMENT.sub("", text)
    if "bibr" in text:
        text = _JATS_CITATION.sub(r"[\1]", text)
    text = _INLINE_TAG.sub("", text)
    text = _BLOCK_TAG.sub(_block_break, text)
    text = _RAISED_TAG.sub(lambda raised: _superscript(raised[1]), text)
    return str(_RAISED_OR_LOWERED_TAG.sub("", text))


def _block_break(tag: re.Match[str]) -> str:
    inner = _BREAK_TAG.match(tag[0])
    return "\n\n" if inner is None else " " if inner[2].lower() != "br" else "\n"
