"""Facts that papers state: which gene has which variant, goes with which disease, gene or number.

    stated = [statement for paper in papers for statement in statements(paper)]
    facts = facts_of_two(stated)

A statement is a sentence of a paper that names two things together: a gene and a variant, a gene
and a disease, two genes, or a number with its unit and what it measures. That is co-occurrence,
not understanding: a sentence that denies a link states it too. What two papers put together
independently, though, is more often than not a fact of the field (benchmarks/RESULTS.md has the
share that was judged right by hand), and it can be told in a way that no style gives away.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from steps.config.facts_section import FACT_KINDS, FactKind
from steps.papers.diseases import find_diseases
from steps.papers.numbers import NUMBER_WITH_UNIT
from steps.papers.sentences import is_sentence, sentence_spans
from steps.papers.text import PaperText, Span

# Subject and object stand this near to one another, in characters.
_NEAR = 100
# A sentence that names more is a list, of which any two would make a "fact".
_MOST_GENES, _MOST_DISEASES = 3, 2
# Genes of one family give each other away by their spelling: BRCA1 and BRCA2.
_FAMILY = 3
# Words that say how one gene acts on another, or what the two do together.
_RELATION = re.compile(
    r"\b(?:activat|bind|bound|inhibit|regulat|interact|induc|phosphorylat|repress|express|"
    r"associat|complex|heterodimer|target|stimulat|suppress|block|mediat|transactivat|dimeri|"
    r"ligand|receptor|cleav|degrad|recruit|signal|pathway|downstream|upstream|encod|mutat)",
    re.IGNORECASE,
)
# The long form of an abbreviation, and an abbreviation behind its long form.
_LONG_FORM = re.compile(r"\s?(?:\w+\s)?[(\[]\s?[A-Z]")
_SHORT_FORM = re.compile(r"[(\[]\s?\Z")
_WORD_AFTER = re.compile(r"[ -]([A-Za-z][A-Za-z-]{3,})")
# What a number is said of in every text, which makes it no fact.
_NO_SUBJECT = (
    "after before from with were that which when than into have only they this these those and "
    "later earlier post prior more less each between during within among about under over while "
    "whereas respectively compared confidence follow intervals interval using upon treatment "
    "incubation increase decrease higher lower reduction older younger cases patients subjects "
    "identical similar being both some other most"
)
_NO_SUBJECTS = frozenset(_NO_SUBJECT.split())


class Fact(NamedTuple):
    """Two things that belong together; of two genes the one that the alphabet has first."""

    kind: FactKind
    first: str
    second: str


@dataclass(frozen=True)
class Statement:
    """A sentence of a paper that states a fact, one side of which is left open.

    Attributes:
        kind: gene_variant, gene_disease, gene_gene or number.
        subject: What it is about: a gene's symbol, or the word that a number measures.
        object: The variant, disease, other gene, or number with its unit, in one spelling.
        paper_id: The paper.
        before: The sentence up to the object.
        surface: The object as it is written.
        after: The sentence behind it.
        species: Of an object that is a gene; else "".
    """

    kind: FactKind
    subject: str
    object: str
    paper_id: str
    before: str
    surface: str
    after: str
    species: str

    @property
    def fact(self) -> Fact:
        """The fact, whichever side of it is left open."""
        sides = (self.subject, self.object)
        return Fact(self.kind, *(sorted(sides) if self.kind == "gene_gene" else sides))


def statements(paper: PaperText, kinds: Sequence[FactKind] = FACT_KINDS) -> Iterator[Statement]:
    """The facts that the sentences of a paper state, in reading order.

    Args:
        paper: The paper with its gene and variant mentions.
        kinds: Which kinds of facts.
    """
    for start, end in sentence_spans(paper):
        sentence = _Sentence(paper, start, end)
        if is_sentence(sentence.text):
            yield from (s for kind in kinds for s in _FINDERS[kind](sentence))


def facts_of_two(stated: Iterable[Statement]) -> dict[Fact, set[str]]:
    """The facts that at least two papers state, with these papers."""
    papers: dict[Fact, set[str]] = defaultdict(set)
    for statement in stated:
        papers[statement.fact].add(statement.paper_id)
    return {fact: stating for fact, stating in papers.items() if len(stating) > 1}


class _Sentence:
    """A sentence with the mentions in it; positions are those of the paper's text."""

    def __init__(self, paper: PaperText, start: int, end: int) -> None:
        self.paper, self.start, self.end = paper, start, end
        self.text = paper.text[start:end]
        self.genes = self._inside(paper.genes)
        self.symbols = {gene.label for gene in self.genes}

    def _inside(self, spans: Sequence[Span]) -> list[Span]:
        return [span for span in spans if self.start <= span.start and span.end <= self.end]

    @property
    def variants(self) -> list[Span]:
        """The variants; a band of a chromosome is marked among them, and is none."""
        return [span for span in self._inside(self.paper.variants) if span.label != "cytoband"]

    def words(self, span: Span) -> str:
        """What a span covers."""
        return self.paper.text[span.start : span.end]

    def statement(self, kind: FactKind, subject: str, found: Span) -> Iterator[Statement]:
        """The sentence with the object left open, unless it could be copied from beside the gap."""
        surface = self.words(found)
        before = self.paper.text[self.start : found.start]
        after = self.paper.text[found.end : self.end]
        copied = self.text.casefold().count(surface.casefold()) > 1
        explained = _LONG_FORM.match(after) or _SHORT_FORM.search(before)
        if not copied and (kind == "gene_variant" or not explained):
            yield Statement(
                kind,
                subject,
                found.label,
                self.paper.paper_id,
                before,
                surface,
                after,
                found.species,
            )


def _distance(one: Span, other: Span) -> int:
    """Characters between two spans; negative where they overlap."""
    return max(one.start - other.end, other.start - one.end)


def _nearest(span: Span, others: Sequence[Span]) -> Span | None:
    near = [other for other in others if 0 <= _distance(span, other) <= _NEAR]
    return min(near, key=lambda other: _distance(span, other), default=None)


def _gene_variants(sentence: _Sentence) -> Iterator[Statement]:
    if len(sentence.symbols) > _MOST_GENES:
        return
    for variant in sentence.variants:
        gene = _nearest(variant, sentence.genes)
        if gene is not None:
            named = replace(variant, label=same_variant(sentence.words(variant)))
            yield from sentence.statement("gene_variant", gene.label, named)


def _gene_diseases(sentence: _Sentence) -> Iterator[Statement]:
    if not 1 <= len(sentence.symbols) <= _MOST_GENES:
        return
    diseases = [
        Span(sentence.start + span.start, sentence.start + span.end, span.label)
        for span in find_diseases(sentence.text)
    ]
    if len({disease.label for disease in diseases}) > _MOST_DISEASES:
        return
    for disease in diseases:
        gene = _nearest(disease, sentence.genes)
        apart = all(_distance(disease, other) >= 0 for other in sentence.genes)
        if gene is not None and apart:
            yield from sentence.statement("gene_disease", gene.label, disease)


def _gene_genes(sentence: _Sentence) -> Iterator[Statement]:
    """Pairs of genes, either of them left open: rather the later one, which much stands before."""
    if len(sentence.symbols) != 2 or not _RELATION.search(sentence.text):
        return
    for first, second in pairwise(sentence.genes):
        family = sentence.words(first)[:_FAMILY] == sentence.words(second)[:_FAMILY]
        near = 0 < _distance(first, second) <= _NEAR
        if first.label == second.label or family or not near:
            continue
        for subject, found in ((first, second), (second, first)):
            if sum(gene.label == found.label for gene in sentence.genes) == 1:
                yield from sentence.statement("gene_gene", subject.label, found)


def _numbers(sentence: _Sentence) -> Iterator[Statement]:
    """A number with its unit, said of the word behind it or of the only gene of the sentence."""
    text = sentence.paper.text
    named = [*sentence.genes, *sentence.variants]
    for match in NUMBER_WITH_UNIT.finditer(text, sentence.start, sentence.end):
        number = Span(match.start(), match.end(), re.sub(r"[ \u00a0-]", " ", match[0]))
        if any(_distance(number, other) < 0 for other in named):
            continue
        word = _WORD_AFTER.match(text, number.end)
        if word is None or word[1].casefold() in _NO_SUBJECTS:
            continue
        gene = _nearest(number, sentence.genes)
        if gene is None:
            yield from sentence.statement("number", word[1].casefold().removesuffix("s"), number)
        elif len(sentence.symbols) == 1:
            yield from sentence.statement("number", gene.label, number)


_FINDERS = {
    "gene_variant": _gene_variants,
    "gene_disease": _gene_diseases,
    "gene_gene": _gene_genes,
    "number": _numbers,
}

_RESIDUES = "Ala Arg Asn Asp Cys Gln Glu Gly His Ile Leu Lys Met Phe Pro Ser Thr Trp Tyr Val"
_THREE_TO_ONE = dict(zip(_RESIDUES.split(), "ARNDCQEGHILKMFPSTWYV", strict=True))
_RESIDUE = re.compile("|".join(_THREE_TO_ONE))


def same_variant(written: str) -> str:
    """One spelling for the usual writings of a variant: V600E of p.(Val600Glu) and V600E.

    Args:
        written: A mention as it stands in a text.
    """
    name = re.sub(r"^[cgp]\.|[()\[\] ]", "", written)
    return _RESIDUE.sub(lambda residue: _THREE_TO_ONE[residue[0]], name)
