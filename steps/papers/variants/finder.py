"""Sequence variants in the text of a paper: c.35delG, V600E, C677T, rs7903146, 17p13.1.

The grammar follows the HGVS nomenclature (https://hgvs-nomenclature.org) and adds the
older free-text forms that papers still use: IVS2+1G>A, 1691G>A, delF508, Arg506 to Gln,
"C-->T transition at nucleotide 3916".

    find_variants("The BRAF V600E (c.1799T>A) mutation")
    -> V600E (protein_substitution), c.1799T>A (hgvs_coding)

The patterns are put together from a few small parts. Every repetition in them is bounded, so
the work at one character of the text is bounded too and the whole scan is linear in the
length of the text, whatever the text. Most of a text names no variant: every notation says
which anchors (600E, an arrow, "c.") its matches hold, and reads only the text around those.

What is told in words alone ("a C to T transition at nucleotide 12", "arginine to glutamine at
residue 753") is left out, as it is in annotated corpora of variant mentions; so are alleles
without a position (I/D, 4G/5G, a 32-bp deletion), and L367L unless the text calls it silent.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import regex

from steps.papers.variants.anchors import PATTERN_ANCHORS, WORD_ANCHORS
from steps.papers.variants.grammar import (
    BETWEEN_LIST_ITEMS,
    CHROMOSOME_ARM,
    CYTOBAND,
    EITHER_KIND,
    GENOTYPE_AFTER,
    HGVS_CODING,
    HGVS_GENOMIC,
    HGVS_PROTEIN,
    NOT_VARIANTS,
    ONLY_RESIDUES,
    PROTEIN_WORD_AFTER,
    PROTEIN_WORD_BEFORE,
    RSID,
    SILENT,
    SILENT_AFTER,
    SILENT_BEFORE,
    UNCHANGED,
    UNDOTTED_CODING,
    UNDOTTED_GENOMIC,
)
from steps.papers.variants.grammar_dna import (
    ALLELES_FIRST,
    BARE_CHANGE,
    BRACKETED_POSITION,
    CHROMOSOME_POSITION,
    CODON_CHANGE,
    CODON_INDEL,
    CODON_TO_CODON,
    COMMA_POSITION,
    DASH_ALLELES,
    DASH_PHRASE,
    DELTA,
    DELTA_INDEL,
    FLANKED_POSITION,
    INDEL_FIRST,
    INTRON_ALLELE,
    INTRON_CHANGE,
    LOWER_CASE_PHRASE,
    MISSING_ALLELE,
    OFFSET_ALLELE,
    POSITION_FIRST,
    POSITION_INDEL,
    REPEAT,
    RUN_CHANGE,
    RUN_LENGTHS,
    SNP_ALLELES,
    SUBSTITUTION_PHRASE,
    TO_PHRASE,
    TRANSLATED_CODONS,
)
from steps.papers.variants.grammar_protein import (
    BARE_FRAMESHIFT,
    BARE_RESIDUE_CHANGE,
    CODED_RESIDUES,
    ONE_LETTER_ARROW,
    ONE_LETTER_SUBSTITUTION,
    RESIDUE_CHANGE_PHRASE,
    RESIDUE_DELETION,
    RESIDUE_INDEL,
    RESIDUE_NAME_SUBSTITUTION,
    RESIDUE_PAIR,
    SIGNAL_PEPTIDE_SUBSTITUTION,
    START_SUBSTITUTION,
    THREE_LETTER_SUBSTITUTION,
)

VariantKind = Literal[
    "hgvs_coding",
    "hgvs_protein",
    "hgvs_genomic",
    "protein_substitution",
    "nucleotide_substitution",
    "rsid",
    "indel",
    "protein_indel",
    "cytoband",
]


@dataclass(frozen=True)
class VariantMention:
    """One variant named in a text.

    Attributes:
        start: First character, counted from 0.
        end: One past the last character.
        kind: Which notation the variant is written in. `hgvs_genomic` covers the
            reference types g., m., n., o. and r.; `indel` covers deletions, insertions,
            duplications and counted repeats, (CAG)36, without an HGVS prefix, `protein_indel`
            those of residues (F508del) and frameshifts (Arg97fs).
        surface: The mention as it stands, `text[start:end]`.
    """

    start: int
    end: int
    kind: VariantKind
    surface: str


@dataclass(frozen=True)
class _Notation:
    """One notation.

    Attributes:
        kind: The kind of what it matches.
        pattern: The notation itself.
        anchors: Groups of anchors; every match holds an anchor of one of them.
    """

    kind: VariantKind
    pattern: str
    anchors: frozenset[str]

    @cached_property
    def compiled(self) -> regex.Pattern[str]:
        """The pattern, compiled when a text first holds an anchor: all of them take seconds."""
        return regex.compile(self.pattern)


def _notation(kind: VariantKind, pattern: str, anchors: str) -> _Notation:
    return _Notation(kind, pattern, frozenset(anchors.split()))


_NOTATIONS = (
    _notation("hgvs_coding", HGVS_CODING, "prefix"),
    _notation("hgvs_coding", UNDOTTED_CODING, "arrow indel"),
    _notation("hgvs_genomic", UNDOTTED_GENOMIC, "arrow indel"),
    _notation("hgvs_protein", HGVS_PROTEIN, "prefix"),
    _notation("hgvs_genomic", HGVS_GENOMIC, "prefix"),
    _notation("rsid", RSID, "number"),
    _notation("nucleotide_substitution", SUBSTITUTION_PHRASE, "arrow slash"),
    _notation("nucleotide_substitution", LOWER_CASE_PHRASE, "arrow"),
    _notation("nucleotide_substitution", COMMA_POSITION, "arrow"),
    _notation("nucleotide_substitution", BRACKETED_POSITION, "letter_behind_mark"),
    _notation("nucleotide_substitution", TO_PHRASE, "to_base"),
    _notation(
        "nucleotide_substitution", POSITION_FIRST, "arrow slash bases bases_apart bases_in_brackets"
    ),
    _notation("nucleotide_substitution", ALLELES_FIRST, "arrow slash"),
    _notation("nucleotide_substitution", CHROMOSOME_POSITION, "arrow slash"),
    _notation(
        "nucleotide_substitution",
        FLANKED_POSITION,
        "letter bases codon letter_apart letter_behind_mark arrow",
    ),
    _notation("nucleotide_substitution", INTRON_CHANGE, "intron"),
    _notation("nucleotide_substitution", INTRON_ALLELE, "intron"),
    _notation("nucleotide_substitution", OFFSET_ALLELE, "offset offset_apart"),
    _notation("nucleotide_substitution", BARE_CHANGE, "arrow"),
    _notation("nucleotide_substitution", SNP_ALLELES, "slash dash to_allele"),
    _notation("nucleotide_substitution", DASH_ALLELES, "dash"),
    _notation("nucleotide_substitution", DASH_PHRASE, "dash"),
    _notation(
        "nucleotide_substitution", CODON_CHANGE, "arrow slash bases_apart code_apart to_codon"
    ),
    _notation("nucleotide_substitution", CODON_TO_CODON, "to_codon"),
    _notation("nucleotide_substitution", TRANSLATED_CODONS, "arrow to_codon"),
    _notation("protein_substitution", CODED_RESIDUES, "arrow to_codon"),
    _notation(
        "protein_substitution",
        THREE_LETTER_SUBSTITUTION,
        "code code_apart code_behind_mark arrow stop stop_word star",
    ),
    _notation("protein_substitution", RESIDUE_CHANGE_PHRASE, "arrow to for slash"),
    _notation("protein_substitution", ONE_LETTER_SUBSTITUTION, "letter bases stop stop_word star"),
    _notation("protein_substitution", ONE_LETTER_ARROW, "arrow letter_apart letter_behind_mark"),
    _notation("protein_substitution", BARE_RESIDUE_CHANGE, "arrow"),
    _notation("protein_substitution", RESIDUE_PAIR, "letter code code_apart code_behind_mark"),
    _notation(
        "protein_substitution",
        RESIDUE_NAME_SUBSTITUTION,
        "code_apart code_behind_mark arrow to_name",
    ),
    _notation("protein_substitution", SIGNAL_PEPTIDE_SUBSTITUTION, "letter"),
    _notation("protein_substitution", START_SUBSTITUTION, "letter stop star"),
    _notation(
        "indel",
        POSITION_INDEL,
        "bases indel indel_apart indel_behind_mark frameshift"
        " base_indel base_indel_apart bracket_indel bracket_indel_apart",
    ),
    _notation("indel", RUN_LENGTHS, "runs"),
    _notation("indel", RUN_CHANGE, "run_arrow"),
    _notation("indel", CODON_INDEL, "signed signed_apart"),
    _notation("indel", REPEAT, "repeat"),
    _notation("indel", DELTA_INDEL, "delta"),
    _notation("indel", INDEL_FIRST, "event number"),
    _notation("protein_indel", RESIDUE_DELETION, "event delta"),
    _notation("protein_indel", RESIDUE_INDEL, "frameshift indel indel_apart"),
    _notation("protein_indel", BARE_FRAMESHIFT, "indel frameshift stop star"),
    _notation("indel", DELTA, "delta"),
    _notation("indel", MISSING_ALLELE, "slash"),
    _notation("cytoband", CYTOBAND, "arm"),
    _notation("cytoband", CHROMOSOME_ARM, "arm"),
)
# G20210A is a base before it is a residue, whichever anchor comes first in the text.
_ORDER = {notation.kind: -place for place, notation in enumerate(reversed(_NOTATIONS))}
_GROUPS = frozenset().union(*(notation.anchors for notation in _NOTATIONS))
NOTATIONS_OF = {
    group: tuple(notation for notation in _NOTATIONS if group in notation.anchors)
    for group in sorted(_GROUPS)
}

# So far from an anchor a mention may reach, to the left and to the right, and beyond that what the
# notations may ask of the context.
FAR = (90, 130)
NEAR = (40, 40)
_FAR_GROUPS = {
    *("arrow", "prefix", "slash", "event", "delta", "intron"),
    *("to_base", "to_codon", "to_allele", "dash", "to_name", "for", "repeat"),
}
REACH = {group: FAR if group in _FAR_GROUPS else NEAR for group in NOTATIONS_OF} | {
    "indel": (60, 90),
    "indel_apart": (60, 90),
    "number": (30, 90),
}
CONTEXT = 24


def find_variants(text: str) -> list[VariantMention]:
    """Find the sequence variants and cytobands named in a text.

    Where two notations overlap the longer match wins, so "c.1799T>A" is one mention and
    not also "1799T>A".

    Args:
        text: A title, an abstract or a section.

    Returns:
        Mentions in reading order; no two overlap.
    """
    return _find_in(
        text,
        [
            (start, end, NOTATIONS_OF[group])
            for group, places in _anchors(text).items()
            for start, end in _windows(places, REACH[group], len(text))
        ],
    )


def _find_in(
    text: str, windows: list[tuple[int, int, tuple[_Notation, ...]]]
) -> list[VariantMention]:
    """Read stretches of a text, each from start to end with some notations."""
    found = [mention for window in windows for mention in _read_window(text, *window)]
    return _settle_kinds(text, _keep_longest(found)) if found else []


def _anchors(text: str) -> dict[str, list[int]]:
    """Where a text holds anchors, by their group, in reading order within one search."""
    places: dict[str, list[int]] = {}
    for pattern in PATTERN_ANCHORS:
        for match in pattern.finditer(text):
            places.setdefault(match.lastgroup or "", []).append(match.start())
    for word, group, beside in WORD_ANCHORS:
        place = text.find(word) if word[0] in text else -1
        while place >= 0:
            if beside is None or beside.match(text, place):
                places.setdefault(group, []).append(place)
            place = text.find(word, place + 1)
    return places


def _windows(places: list[int], reach: tuple[int, int], length: int) -> list[tuple[int, int]]:
    """The stretches around some places, those that touch joined."""
    windows: list[tuple[int, int]] = []
    for place in sorted(places):
        left = max(0, place - reach[0] - CONTEXT)
        right = min(length, place + reach[1] + CONTEXT)
        if windows and left <= windows[-1][1]:
            windows[-1] = (windows[-1][0], right)
        else:
            windows.append((left, right))
    return windows


def _read_window(
    text: str, start: int, end: int, notations: tuple[_Notation, ...]
) -> Iterator[VariantMention]:
    """The matches of some notations in one stretch, but those that its ends may have cut."""
    whole_from = start + CONTEXT if start else 0
    whole_until = end - CONTEXT if end < len(text) else end
    for notation in notations:
        for match in notation.compiled.finditer(text, start, end):
            if (
                whole_from <= match.start()
                and match.end() <= whole_until
                and match.group() not in NOT_VARIANTS
                and (not UNCHANGED.fullmatch(match.group()) or _is_silent(text, *match.span()))
            ):
                yield VariantMention(match.start(), match.end(), notation.kind, match.group())


def _is_silent(text: str, start: int, end: int) -> bool:
    """Whether L367L, which may be a genotype, is told as a silent change."""
    return (
        SILENT.fullmatch(text, start, end) is not None
        and GENOTYPE_AFTER.match(text, end) is None
        and (
            SILENT_BEFORE.search(text[max(0, start - 80) : start]) is not None
            or SILENT_AFTER.match(text, end) is not None
        )
    )


def _keep_longest(found: list[VariantMention]) -> list[VariantMention]:
    """Of matches that overlap keep the longest, and of equals the first notation's."""
    by_start = sorted(found, key=lambda mention: (mention.start, _ORDER[mention.kind]))
    kept: list[VariantMention] = []
    for mention in by_start:
        if not kept or kept[-1].end <= mention.start:
            kept.append(mention)
        elif mention.end - mention.start > kept[-1].end - kept[-1].start:
            kept[-1] = mention
    return kept


def _settle_kinds(text: str, mentions: list[VariantMention]) -> list[VariantMention]:
    """Tell mutants such as G57T from nucleotide changes such as G1691A."""
    if not any(EITHER_KIND.fullmatch(mention.surface) for mention in mentions):
        return mentions
    residues = {
        int(match[1])
        for mention in mentions
        if (match := ONLY_RESIDUES.fullmatch(mention.surface))
        and not EITHER_KIND.fullmatch(mention.surface)
    }
    settled: list[VariantMention] = []
    first = 0
    while first < len(mentions):
        last = first
        while last + 1 < len(mentions) and BETWEEN_LIST_ITEMS.fullmatch(
            text, mentions[last].end, mentions[last + 1].start
        ):
            last += 1
        items = mentions[first : last + 1]
        of_proteins = any(
            ONLY_RESIDUES.fullmatch(item.surface) and not EITHER_KIND.fullmatch(item.surface)
            for item in items
        ) or bool(
            PROTEIN_WORD_AFTER.match(text, items[-1].end)
            or PROTEIN_WORD_BEFORE.search(text, max(0, items[0].start - 40), items[0].start)
        )
        settled.extend(
            replace(item, kind="protein_substitution")
            if EITHER_KIND.fullmatch(item.surface)
            and (of_proteins or _is_among_residues(item.surface, residues))
            else item
            for item in items
        )
        first = last + 1
    return settled


def _is_among_residues(surface: str, residues: set[int]) -> bool:
    """Whether a text that names residues means one here: A49T, where V89L and R246W stand too.

    Not so where one of the residues lies in that codon (T704C is M235T), give or take a
    signal peptide, or where the position is beyond most proteins.
    """
    position = int(surface[1:-1])
    return (
        len(residues) > 1
        and position < 1000
        and not any(
            residue in residues and abs(position / 3 - residue) < 10
            for residue in range(position // 3 - 10, position // 3 + 11)
        )
    )
