"""Gene mentions in the text of a paper, found with a dictionary.

The dictionary is data/gene_symbols.tsv.gz (human genes of NCBI Entrez Gene). All its spellings
go into one Aho-Corasick automaton, which reads a text once; what it finds must then be a whole
token, and a symbol that is also an English word or a common abbreviation (WAS, CAT, AR) must
have evidence that a gene is meant. One rule for all of these:

- The lexicon marks the symbol (column `ambiguous`: in the English word list, in the list of
  abbreviations, or of one or two characters). Short aliases (ERA, p27) and mouse spellings of
  three letters (Ngf) are in the same doubt, by their shape.
- Beside it stands a word that says so ("the WAS gene", "mutations in WAS", "WAS mRNA"), or it
  stands in a list with a gene that is sure, or it was told so elsewhere in the text.
- It is refused in a line of capitals, where the text defines it as something else ("syndrome
  (WAS)"), and before what only the other sense has ("WAS patients").
- Only the casing of the lexicon counts: "was" and "Was" are words.

A mouse gene is told by its casing alone: a capital and small letters (Trp53, S100a4) are the
mouse spelling of the human symbol; a symbol in doubt has no mouse spelling.

    lexicon = GeneLexicon.load()
    find_genes("Trp53-null mice and TP53 mutations", lexicon)
    -> Trp53 (TP53, mouse), TP53 (TP53, human)
"""

import gzip
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ahocorasick_rs import AhoCorasick, MatchKind

from steps.errors import UserError

SHIPPED_LEXICON = Path(__file__).resolve().parents[2] / "data" / "gene_symbols.tsv.gz"
COLUMNS = ["symbol", "entrez_id", "gene_type", "ensembl_id", "aliases", "ambiguous"]


class GeneMention(NamedTuple):
    """One gene named in a text.

    Attributes:
        start: First character, counted from 0.
        end: One past the last character.
        symbol: The human symbol; for a mouse spelling that of the gene it is spelt like.
        species: "human" or "mouse", by the spelling alone (TP53, Trp53).
        surface: The mention as it stands, `text[start:end]`.
    """

    start: int
    end: int
    symbol: str
    species: str
    surface: str


class Spelling(NamedTuple):
    """What one spelling stands for, and whether it needs evidence in its context."""

    symbol: str
    species: str
    needs_evidence: bool


@dataclass(frozen=True)
class GeneLexicon:
    """All spellings of all genes, ready to search with.

    Attributes:
        spellings: Spelling to what it stands for.
        surfaces: The spellings in the order of the automaton's pattern numbers.
        automaton: Finds the leftmost longest spellings in a text.
    """

    spellings: dict[str, Spelling]
    surfaces: tuple[str, ...]
    automaton: AhoCorasick

    @classmethod
    def load(cls, path: Path | None = None) -> "GeneLexicon":
        """Read a lexicon and build its automaton; takes under a second, so do it once a process.

        Args:
            path: A file made by data/build_gene_symbols.py; None takes the shipped one.

        Raises:
            UserError: The file is missing, is not gzipped text or lacks a column.
        """
        rows = _read_rows(path or SHIPPED_LEXICON)
        spellings = _collect_spellings(rows)
        surfaces = tuple(spellings)
        automaton = AhoCorasick(surfaces, matchkind=MatchKind.LeftmostLongest, store_patterns=False)
        return cls(spellings, surfaces, automaton)


# --- reading the lexicon -----------------------------------------------------------------


def _read_rows(path: Path) -> list[list[str]]:
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the gene lexicon {path} ({error}): "
            "expected the gzipped table that data/build_gene_symbols.py writes"
        ) from error
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    header = lines[0].split("\t") if lines else []
    if header != COLUMNS:
        raise UserError(
            f"gene lexicon {path}: columns are {header}, expected {COLUMNS}: "
            "build it with data/build_gene_symbols.py"
        )
    rows = [line.split("\t") for line in lines[1:]]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(COLUMNS):
            raise UserError(
                f"gene lexicon {path}: record {number} has {len(row)} columns, expected "
                f"{len(COLUMNS)}: build it with data/build_gene_symbols.py"
            )
    return rows


GREEK = {
    "alpha": "\u03b1",
    "beta": "\u03b2",
    "gamma": "\u03b3",
    "delta": "\u03b4",
    "epsilon": "\u03b5",
    "kappa": "\u03ba",
}
_GREEK_NAME = re.compile("|".join(GREEK))
_SHORT_ALIAS = re.compile(r"[A-Za-z]{1,4}|[A-Za-z]{2}\d|(?!IL)[A-Za-z]{2}-\d|[A-Z]\d[A-Z]")
_SMALL_P = re.compile(r"p\d{2,3}")
_LETTERS_THEN_NUMBER = re.compile(r"(IL|[A-Z]{3,6})(\d{1,2}[A-Z]?)")
_MICRORNA = re.compile(r"MIR(\d{1,4}[A-Z]?)")
_MOUSE_ABLE = re.compile(
    r"[A-Z]{2,}\d[A-Z0-9]*(?:-\d{1,2})?|[A-Z]{3,}|S100[A-Z]\d{0,2}|[A-Z]\d{1,2}[A-Z]{3,}\d{0,2}"
)
_THREE_LETTERS = re.compile(r"[A-Z]{3}")
_LONG_MOUSE_ALIAS = re.compile(r"[A-Z]{3,}\d{2,}|[A-Z]{4,}\d[A-Z0-9]*")
# Title case would read as an ion (Ca2), a residue (Met1), a helper cell (Th1), a figure.
_NOT_MOUSE = re.compile(
    r"(?:Ca|Co|Cu|Fe|Mn|Na|Ni|Zn|Mg|Hg|Pb|Cr|Se|Si|Cl|Sr|Ba|Al|Li|Ag|Au|Pt|Th|Tc)\d|Cd2\Z"
    r"|(?!Trp53)(?:Ala|Arg|Asn|Asp|Cys|Gln|Glu|Gly|His|Ile|Leu|Lys|Met|Phe|Pro|Ser|Thr|Trp|Tyr|Val)\d+"
    r"|(?:Chr|Fig|Exp|Tab|Ref|Vol|Day|Grp|Sup|Eq)\d+"
)


def _collect_spellings(rows: Iterable[list[str]]) -> dict[str, Spelling]:
    """All spellings; where two genes claim one, a symbol goes before an alias before a variant."""
    spellings: dict[str, Spelling] = {}
    rows = list(rows)
    for symbol, _, _, _, _, ambiguous in rows:
        spellings[symbol] = Spelling(symbol, "human", bool(ambiguous))
    for symbol, _, _, _, aliases, _ in rows:
        for alias in aliases.split("|") if aliases else ():
            doubtful = _SHORT_ALIAS.fullmatch(alias) or (
                _SMALL_P.fullmatch(alias) and alias != "p53"
            )
            spellings.setdefault(alias, Spelling(symbol, "human", bool(doubtful)))
    for surface, spelling in list(spellings.items()):
        for variant in _spelling_variants(surface):
            spellings.setdefault(variant, Spelling(spelling.symbol, "human", False))
    for symbol, _, gene_type, _, aliases, ambiguous in rows:
        if gene_type != "protein-coding":
            continue
        names = [] if ambiguous else [symbol]
        names += [alias for alias in aliases.split("|") if alias[:3].isalpha()]
        for name in names:
            mouse = name[0] + name[1:].lower() if name else ""
            if (
                _MOUSE_ABLE.fullmatch(name)
                and not _NOT_MOUSE.match(mouse)
                and (name == symbol or _LONG_MOUSE_ALIAS.fullmatch(name))
            ):
                doubtful = _THREE_LETTERS.fullmatch(name) is not None  # Ngf, but also Ref and Tab
                spellings.setdefault(mouse, Spelling(symbol, "mouse", doubtful))
    return spellings


def _spelling_variants(surface: str) -> list[str]:
    """Other usual spellings: TNF-\u03b1 of TNF-alpha, IL-2 of IL2, miR-21 of MIR21."""
    variants = []
    if _GREEK_NAME.search(surface):
        greek = _GREEK_NAME.sub(lambda name: GREEK[name.group()], surface)
        variants += [greek, greek.replace("-", "")]
    if match := _LETTERS_THEN_NUMBER.fullmatch(surface):
        variants.append(f"{match[1]}-{match[2]}")
    if match := _MICRORNA.fullmatch(surface):
        variants.append(f"miR-{match[1].lower()}")
    return [variant for variant in variants if len(variant) > 2]


# --- finding genes -----------------------------------------------------------------------


def find_genes(text: str, lexicon: GeneLexicon) -> list[GeneMention]:
    """Find the genes named in a text.

    A spelling that is also a word or an abbreviation counts where its context says that a
    gene is meant, and then in the rest of that text too, unless the text defines it as
    something else, as in "Wiskott-Aldrich syndrome (WAS)".

    Args:
        text: A title, an abstract or a section.
        lexicon: From `GeneLexicon.load`.

    Returns:
        Mentions in reading order; no two overlap.
    """
    mentions = []
    for number, start, end in lexicon.automaton.find_matches_as_indexes(text):
        if not _starts_token(text, start, lexicon):
            continue
        surface = lexicon.surfaces[number]
        if not _ends_token(text, end, lexicon):
            end = _shorter_token(text, start, end, lexicon)
            if not end:
                continue
            surface = text[start:end]
        symbol, species, _ = lexicon.spellings[surface]
        mentions.append(GeneMention(start, end, symbol, species, surface))
    return _drop_other_senses(text, mentions, lexicon) if mentions else []


# --- whole tokens only -------------------------------------------------------------------

_PREFIX = re.compile(r"([A-Za-z0-9]{1,12})[-\u2010\u2011]\Z")
_SUFFIX = re.compile(r"[-\u2010\u2011\u2013]([A-Za-z0-9]{1,20})")
_HYPHENS = "-\u2010\u2011\u2013"
_VARIANT = re.compile(r"[A-Z]\d{2,4}(?:[A-Z*]|fs|del)(?![A-Za-z0-9])")
_CONSTRUCT_NAMES = (
    "WT KO GFP EGFP YFP Luc Fc Cre ERT2 TKO DKO null siRNA shRNA mRNA RNA cDNA DNA Ab Abs mAb Ig "
    "AS1 AS2 IT1 Flag FLAG HA His GST"
)
_CONSTRUCTS = frozenset(_CONSTRUCT_NAMES.split())


def _starts_token(text: str, start: int, lexicon: GeneLexicon) -> bool:
    if start == 0:
        return True
    before = text[start - 1]
    if before == " ":
        return True
    if before.isalnum() or before in "_*":
        return False
    if before == "/" and start > 1 and text[start - 2] in "cC" and text.startswith("EBP", start):
        return False  # C/EBP is another family
    if before == ".":
        return start == 1 or not text[start - 2].isalnum()
    if before in _HYPHENS:
        prefix = _PREFIX.search(text, max(0, start - 14), start)
        if prefix is None:
            return True  # a dash, not a hyphen
        word = prefix[1]
        return (len(word) > 1 and (word.islower() or word.istitle())) or word in lexicon.spellings
    return True


def _ends_token(text: str, end: int, lexicon: GeneLexicon) -> bool:
    if end == len(text):
        return True
    after = text[end]
    if after == " ":
        return True
    if after.isalnum():
        return _VARIANT.match(text, end) is not None  # BRAFV600E
    if after == "_":
        return False
    if after == ".":
        return not text[end + 1 : end + 2].isalnum()
    if after in _HYPHENS:
        suffix = _SUFFIX.match(text, end)
        if suffix is None:
            return True
        word = suffix[1]
        return (
            (word.islower() and len(word) > 2 and word not in GREEK)
            or word in _CONSTRUCTS
            or word in lexicon.spellings
            or _VARIANT.match(text, end + 1) is not None
        )
    return True


def _shorter_token(text: str, start: int, end: int, lexicon: GeneLexicon) -> int:
    """End of a shorter spelling that is a whole token, or 0: STAT5 where STAT5-B ran on."""
    for shorter in range(end - 1, start + 1, -1):
        if text[start:shorter] in lexicon.spellings and _ends_token(text, shorter, lexicon):
            return shorter
    return 0


# --- is a gene meant? --------------------------------------------------------------------

_EVIDENCE_AFTER = re.compile(
    r"\)?[\s-](?:(?:tumou?r suppressor|target|fusion|wild-type|mutant)\s)?"
    r"(?:(?:proto-?onco|onco)?genes?|proteins?|mRNAs?|cDNAs?|transcripts?|promoters?|expression"
    r"|overexpression|mutations?|mutants?|alleles?|locus|loci|knock-?outs?|knock-?down|null"
    r"|deficient|exons?|introns?|polymorphisms?|variants?|haploinsufficiency|isoforms?|siRNA"
    r"|shRNA|antibod(?:y|ies)|phosphorylation|homozygo\w+|signall?ing|kinase|receptors?)\b"
)
_EVIDENCE_BEFORE = re.compile(
    r"(?:\b(?:genes?|oncogene|proteins?|proto-oncogene|suppressor|receptor|kinase|factor|ligand"
    r"|homolog(?:ue)?|enzyme|antigen|hydroxylase|synthase|reductase|transferase|oxidase)"
    r"(?:\s(?:of|for|called|named))?[\s,:(]{1,3}"
    r"|\b(?:mutations?|mutated|polymorphisms?|variants?|deletions?|exons?(?:\s\d{1,2})?|introns?)"
    r"\s(?:in|of|within)\s"
    r"|\b(?:expression|over-?expression|transcription|knock-?down|silencing|phosphorylation)\sof\s"
    r"|\b(?:encod(?:es|ing|ed\sby)|expressing|overexpressing|expressed|anti-|phospho-|c-)\s?)"
    r"(?:the\s)?(?:human\s|mouse\s|murine\s|wild-type\s|mutant\s)?\Z"
)
_OTHER_SENSE_AFTER = re.compile(
    r"\)?[\s-](?:patients?|disease|syndromes?|famil(?:y|ies)|kindreds?|pedigrees?|carriers?|cases?"
    r"|phenotypes?|boys|males|females|probands?|subjects|individuals|diagnosis|risk|scans?|box(?:es)?"
    r"|content|rich|assays?|reporters?|vectors?|constructs?|units?)\b"
)
_DEFINED_AS = re.compile(r"([A-Za-z]+)\s?[(\[]\s?\Z")
# Heads of long forms that name no gene: "hepatocellular carcinoma (HCC)".
_NOT_A_GENE = re.compile(
    r"diseases?|syndromes?|\w*(?:omas?|emias?|aemias?|trophy|plasia|pathy|itis|osis|ectomy|graphy"
    r"|scopy|phoresis|metry|plasty|penia|uria)|cancers?|tumou?rs?|disorders?|ataxia|palsy|failure"
    r"|infections?|virus(?:es)?|tests?|assays?|analysis|analyses|scores?|scales?|index|indices|ratios?"
    r"|rates?|imaging|resonance|therapy|treatments?|surgery|transplant\w*|cells?|lymphocytes?"
    r"|monocytes|macrophages|neurons?|density|pressure|volume|mass|acids?|reaction|hybridi[sz]ation"
    r"|criteria|organi[sz]ation|association|cent(?:er|re)|institute|questionnaire|trials?|program|model"
    r"|algorithm|methods?|techniques?|stud(?:y|ies)|intervals?|regions?|sequences?|elements?|sites?"
    r"|units?|retardation|deficiency|polyposis|coma|stroke|pain|seizures?|sclerosis|delay|loss|age"
    r"|time|error|deviation|range|years?|days?|dose|system|network|project|database|curve|tissue"
    r"|bypass|care|quality|life|survival|practi[ct]\w+|medicine|frequency|fractures?|function|flow|fraction|distress|stress|behaviou?r"
    r"|management|interventions?|education|skills|training|groups?|status|events?|levels?|response|strains?|mice|rats?|medium|buffer|serum|solution"
)
_RIVAL_READINGS = {
    "CAT": re.compile(r"chloramphenicol|\bCAT[\s-](?:assay|reporter|construct|activity|scan|gene)"),
    "PI3": re.compile(r"PI3[\s-]?[Kk]"),
    "TAT": re.compile(r"HIV|\bTat\b"),
    "REV": re.compile(r"HIV|\bRev\b"),
}
_SMALL_LETTERS = re.compile(r"[a-z]{3}")
_LIST_GAP = re.compile(r"\s?(?:[,/+;]|,?\s(?:and|or|plus|versus|but not)\s)\s?")


def _drop_other_senses(
    text: str, mentions: list[GeneMention], lexicon: GeneLexicon
) -> list[GeneMention]:
    """Keep the sure mentions, and of the doubtful ones those with evidence.

    Doubt is settled in three rounds: by the words beside a mention, by a gene beside it in a
    list, and by what the same spelling meant elsewhere in the text.
    """
    doubtful = [lexicon.spellings[mention.surface].needs_evidence for mention in mentions]
    rivalled = _read_otherwise(text, mentions)
    # What is neither in doubt nor letters alone, such as BRCA1, has no other sense.
    refused = [
        (doubt or mention.surface.isalpha())
        and (mention.surface in rivalled or _means_something_else(text, mention, doubt))
        for mention, doubt in zip(mentions, doubtful, strict=True)
    ]
    if not any(doubtful) and not any(refused):
        return mentions
    sure = [
        not no_gene and (not doubt or _has_evidence(text, mention))
        for mention, doubt, no_gene in zip(mentions, doubtful, refused, strict=True)
    ]
    if not all(sure):
        _spread_along_lists(text, mentions, sure, refused)
    defined_otherwise = {
        mention.surface
        for mention, no_gene in zip(mentions, refused, strict=True)
        if no_gene and _is_defined_otherwise(text, mention)
    }
    if all(sure) and not defined_otherwise:
        return mentions
    meant = {mention.surface for mention, is_sure in zip(mentions, sure, strict=True) if is_sure}
    return [
        mention
        for mention, is_sure, no_gene in zip(mentions, sure, refused, strict=True)
        if (
            _EVIDENCE_AFTER.match(text, mention.end) is not None and not no_gene
            if mention.surface in defined_otherwise
            else is_sure or (mention.surface in meant and not no_gene)
        )
    ]


def _read_otherwise(text: str, mentions: list[GeneMention]) -> set[str]:
    """The spellings that this text uses for something else: CAT where it has chloramphenicol.

    Each is looked up once a text: once a mention would be quadratic, since it reads the whole text.
    """
    named = {mention.surface for mention in mentions}
    return {
        surface
        for surface, rival in _RIVAL_READINGS.items()
        if surface in named and rival.search(text) is not None
    }


def _means_something_else(text: str, mention: GeneMention, doubtful: bool) -> bool:
    """Whether the words around a mention rule a gene out: "DMD patients"."""
    if doubtful and (_among_capitals(text, mention) or _is_subscript(text, mention)):
        return True
    return _OTHER_SENSE_AFTER.match(text, mention.end) is not None or _is_defined_otherwise(
        text, mention
    )


def _is_defined_otherwise(text: str, mention: GeneMention) -> bool:
    """Whether a mention is the short form of no gene: "hepatocellular carcinoma (HCC)"."""
    if text[max(0, mention.start - 1)] not in "([" or not mention.surface.isalpha():
        return False
    head = _DEFINED_AS.search(text, max(0, mention.start - 30), mention.start)
    return head is not None and _NOT_A_GENE.fullmatch(head[1].lower()) is not None


def _spread_along_lists(
    text: str, mentions: list[GeneMention], sure: list[bool], refused: list[bool]
) -> None:
    """Make sure, in place, what stands in a list with a sure mention: "TP53, MET and KIT"."""
    pairs = [(index, index + 1) for index in range(len(mentions) - 1)]
    for first, second in (*pairs, *reversed(pairs)):
        if sure[first] != sure[second] and _LIST_GAP.fullmatch(
            text, mentions[first].end, mentions[second].start
        ):
            sure[first] = not refused[first]
            sure[second] = not refused[second]


def _has_evidence(text: str, mention: GeneMention) -> bool:
    return (
        _EVIDENCE_AFTER.match(text, mention.end) is not None
        or _EVIDENCE_BEFORE.search(text, max(0, mention.start - 50), mention.start) is not None
    )


def _is_subscript(text: str, mention: GeneMention) -> bool:
    """Whether a mention is glued to what it qualifies, as CS in DNA-PK(CS)."""
    before = text[max(0, mention.start - 2) : mention.start]
    return before.endswith("(") and before[0].isalnum()


def _among_capitals(text: str, mention: GeneMention) -> bool:
    """Whether a mention stands in a title or heading all in capitals: "THE IMPACT OF REST"."""
    around = text[max(0, mention.start - 20) : mention.start] + text[mention.end : mention.end + 20]
    if _SMALL_LETTERS.search(around):
        return False
    words = re.findall(r"[A-Za-z]{3,}", around)
    return len(words) > 1 and all(word.isupper() for word in words)
