"""Made-up sentences and papers for the tests of evaluation."""

from steps.papers.text import PaperText, Span

SENTENCES = [
    "Loss of TP53 drives growth in 42 of 107 tumours.",
    "Mutation of BRCA1 was seen in naïve cells of 5 patients.",
    "The variant p.Val600Glu of BRAF raises α-catenin by 3.5-fold.",
    "Binding of MYC to the promoter of CDK4 was lost at 10–20 µM.",
    "日本 cohort: expression of EGFR and KRAS rose together.",
    "We sequenced 1,204 genomes and found no change in PTEN.",
]
GENES = ("TP53", "BRCA1", "BRAF", "MYC", "CDK4", "EGFR", "KRAS", "PTEN")
VARIANTS = ("p.Val600Glu",)


def paper_of(paper_id: str, *parts: tuple[str, str], score: float | None = None) -> PaperText:
    """A paper from (section, text) pairs, its gene and variant mentions found by search."""
    text = "\n\n".join(part for _, part in parts)
    sections, position = [], 0
    for name, part in parts:
        sections.append(Span(position, position + len(part), name))
        position += len(part) + 2

    def mentions(names: tuple[str, ...]) -> tuple[Span, ...]:
        found = []
        for name in names:
            start = text.find(name)
            while start >= 0:
                found.append(Span(start, start + len(name), name, "human"))
                start = text.find(name, start + 1)
        return tuple(sorted(found, key=lambda span: span.start))

    return PaperText(paper_id, text, tuple(sections), mentions(GENES), mentions(VARIANTS), score)
