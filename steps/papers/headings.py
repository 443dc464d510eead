"""Headings of a paper, and the section that each begins."""

import re
from typing import get_args

from steps.config.sections import SectionName

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


def section_of_heading(line: str) -> str | None:
    """Canonical name of a heading line, `DROPPED`, or None where it is no known heading.

    Numbering ("2.", "IV."), Markdown marks and a final colon or full stop are ignored, and
    "Results and discussion" counts as its first half. A heading begins with a capital.

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
    line = line.strip()
    if not 3 <= len(line) <= _LONGEST_HEADING + 12:
        return None
    line = line.strip("#*_ ").rstrip(":. ")
    numbering = NUMBERING.match(line)
    if numbering:
        line = line[numbering.end() :]
    if not line[:1].isupper():
        return None
    return " ".join(line.replace("&", " and ").replace("’", "'").lower().split())
