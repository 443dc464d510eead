"""Headings of a paper, and the section that each begins."""

import re
from typing import get_args

from steps.config.paper_sections import SectionName

NUMBERING = re.compile(
    r"(?:section\s+)?(\d{1,2}(?:\.\d{1,2}){0,3}|[IVX]{1,4}(?=[.)]))[.)]?\s+", re.I
)

SECTION_NAMES: tuple[str, ...] = get_args(SectionName)
DROPPED = "dropped"
_HEADINGS_OF_SECTION = {
    "abstract": "abstract; structured abstract; abstract and keywords; extended abstract",
    "introduction": """introduction; background; backgroud; general introduction; introductory
        remarks; background and aims; background and purpose; background and objectives;
        rationale; objective; objectives; aims; aim of the study; aims and scope""",
    "methods": """methods; method; materials and methods; material and methods; methods and
        materials; methods and material; materials; patients and methods; subjects and methods;
        participants and methods; patients, materials, and methods; animals and methods;
        cases and methods; experimental procedures; experimental procedure; experimental
        section; experimental; experimental methods; experimental design; methodology; study
        design; study design and methods; design and methods; research design and methods;
        procedures; online methods; method details; methods summary; star methods;
        star★methods; materials and experimental methods; computational methods; statistical
        methods; system and methods; implementation; algorithm""",
    "results": "results; result; findings; experimental results; main results; main text results",
    "discussion": "discussion; general discussion; comment; comments; interpretation",
    "conclusion": """conclusion; conclusions; concluding remarks; conclusion and perspectives;
        conclusions and perspectives; conclusions and future directions; future directions;
        future perspectives; perspectives; perspective; outlook; general conclusions;
        summary and conclusions; summary and conclusion; conclusions and outlook""",
    "keywords": "keywords; keyword; key words; key word; index terms; mesh terms; subject headings",
    "other": """author summary; significance; significance statement; highlights; lay summary;
        plain language summary; editorial summary; in brief; key points; what is known;
        case report; case reports; case presentation; case description; case history; appendix;
        main text; main; body""",
    DROPPED: """references; reference; refrences; bibliography; literature cited; literature; works
        cited; references and notes; references cited; cited literature; further reading;
        acknowledgements; acknowledgments; acknowledgement; acknowledgment; acknowlegements;
        acknowlegments; acknowledgements and funding; funding; funding information; funding
        sources; funding statement; funding source; financial support; role of the funding
        source; sources of funding; grant support; grants; financial disclosure; financial
        disclosures; author contributions; authors' contributions; authors contributions;
        author's contributions; author contribution; authors' contribution; contributions;
        contributors; contributor information; authorship contributions; credit authorship
        contribution statement; competing interests; competing interest; competing financial
        interests; declaration of competing interest; declaration of competing interests;
        declaration of interest; declaration of interests; conflict of interest; conflicts of
        interest; conflict of interests; conflict of interest statement; conflict of interest
        disclosure; duality of interest; disclosure; disclosures; disclosure statement;
        disclosure of interest; declarations; declaration; supplementary material;
        supplementary materials; supplementary information; supplementary data; supplemental
        material; supplemental materials; supplemental information; supplemental data;
        supplemental experimental procedures; supporting information; additional information;
        additional data files; additional data; additional file; additional files; electronic
        supplementary material; extended data; abbreviations; abbreviation; abbreviations used;
        abbreviations used in this paper; list of abbreviations; non-standard abbreviations;
        nonstandard abbreviations; glossary; nomenclature; footnotes; footnote; notes; figures;
        tables; figures and tables; tables and figures; figure legends; figure legend; figure
        captions; legends; legends to figures; table legends; graphical abstract; data
        availability; data availability statement; availability of data and materials;
        availability of data and material; availability of supporting data; data and code
        availability; code availability; data access; data deposition; accession numbers;
        accession number; accession codes; ethics statement; ethics approval; ethical approval;
        ethics approval and consent to participate; ethics declarations; ethical standards;
        consent for publication; consent to participate; informed consent; institutional review
        board statement; informed consent statement; publisher's note; pre-publication history;
        author information; authors' information; about the authors; author details;
        affiliations; correspondence; corresponding author; reviewer information; peer review;
        peer review information; reporting summary; open access; rights and permissions; about
        this article; cite this article; copyright; web resources; electronic database
        information; urls; provenance and peer review; transparency document; dedication""",
}
_SECTION_OF_HEADING = {
    " ".join(heading.split()): section
    for section, headings in _HEADINGS_OF_SECTION.items()
    for heading in headings.split(";")
}
_LONGEST_HEADING = 80  # characters

# As Pandoc writes them: "{-}", "{#s2 .unnumbered}", "{#s2 key="a value"}" at a heading's end.
_NAME = r"(?:-|[#.][A-Za-z_][\w:.-]{0,100})"
_PAIR = r"[A-Za-z][\w:-]{0,40}=(?:\"[^\"{}\n]{0,100}\"|[^\s\"{}]{1,100})"
_ATTRIBUTES = re.compile(rf"\{{\s{{0,4}}{_NAME}(?:\s{{1,4}}(?:{_NAME}|{_PAIR})){{0,9}}\s{{0,4}}\}}")
_LONGEST_ATTRIBUTES = 400  # characters
_HASHES = re.compile(r"#{1,6}[ \t]{1,8}(?=\S)")
_CLOSING_HASHES = re.compile(r"(?<=\S)[ \t]{1,8}#{1,6}$")
_SHORTEST_UNDERLINE = 3  # characters


def section_of_heading(line: str) -> str | None:
    """Canonical name of a heading line, `DROPPED`, or None where it is no known heading.

    Numbering ("2.", "IV."), Markdown marks, attributes ("{#s2 .unnumbered}") and a final colon
    or full stop are ignored, and "Results and discussion" counts as its first half. A heading
    begins with a capital.

    Args:
        line: One line, without the line break.
    """
    heading = plain_heading(line)
    return None if heading is None else lookup(heading)


def lookup(heading: str) -> str | None:
    """As `section_of_heading`, for a heading that comes from `plain_heading`."""
    section = _SECTION_OF_HEADING.get(heading)
    if section is not None or len(heading) > _LONGEST_HEADING:
        return section
    if heading == "summary":
        return "abstract"
    if heading.startswith(("supplementary ", "supplemental ", "supporting information ")):
        return DROPPED
    halves = re.split(r",? and |, | / |/", heading)
    sections = [_SECTION_OF_HEADING.get(half) for half in halves]
    return sections[0] if len(halves) > 1 and None not in sections else None


def plain_heading(line: str) -> str | None:
    """The heading in lower case without number, marks and end, or None if it cannot be one."""
    line = _without_attributes(line.strip())
    if not 3 <= len(line) <= _LONGEST_HEADING + 12:
        return None
    line = line.strip("#*_ ").rstrip(":. ")
    numbering = NUMBERING.match(line)
    if numbering:
        line = line[numbering.end() :]
    if not line[:1].isupper():
        return None
    return " ".join(line.replace("&", " and ").replace("’", "'").lower().split())


def without_heading_marks(text: str) -> str:
    """Take the marks of Markdown off the headings of a text; every other line stays as it is.

    "## Results {#s3} ##" becomes "Results", and the row of "=" or "-" under a heading becomes
    a blank line, which keeps the heading apart from its text.
    """
    if not ("# " in text or "#\t" in text or "}" in text or "===" in text or "---" in text):
        return text
    lines: list[str] = []
    above_had_marks = False
    for line in text.split("\n"):
        if lines and _underlines(line, lines[-1], above_had_marks):
            lines.append("")
        else:
            lines.append(heading_without_marks(line))
        above_had_marks = bool(lines[-1]) and lines[-1] != line
    return "\n".join(lines)


def heading_without_marks(line: str) -> str:
    """The heading without hashes and attributes; a line that can be no heading as it is."""
    bare = line.strip()
    if not bare.startswith("#") and not bare.endswith("}"):
        return line
    heading = _without_attributes(bare)
    has_name = heading != bare and not bare.endswith("{-}")  # no sentence ends with "{#s2}"
    hashes = _HASHES.match(heading)
    if hashes:
        heading = _CLOSING_HASHES.sub("", heading[hashes.end() :])
    return heading if has_name or plain_heading(heading) is not None else line


def _without_attributes(line: str) -> str:
    """The line without the attributes in braces at its end."""
    end = len(line)
    while end and line[end - 1] == "}":
        start = line.rfind("{", max(0, end - _LONGEST_ATTRIBUTES), end)
        if start < 0 or _ATTRIBUTES.fullmatch(line, start, end) is None:
            break
        end = start
        while end and line[end - 1].isspace():
            end -= 1
    return line[:end]


def _underlines(line: str, above: str, above_had_marks: bool) -> bool:
    """Whether the line is a row of "=" under a line of text, or one of "-" under a heading."""
    line = line.strip()
    if len(line) < _SHORTEST_UNDERLINE or line.strip(line[0]) or line[0] not in "=-":
        return False
    if line[0] == "=":
        return bool(above.strip())
    return above_had_marks or plain_heading(above) is not None
