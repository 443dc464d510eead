"""Precision and recall of `find_variants` on abstracts with annotated variant mentions.

    python -m benchmarks.variant_recognition variant_mentions.jsonl

Each line of the file is an abstract: {"pmid", "title", "text", "mentions"}, where a mention
is [surface, type, normal form] and stands once for each time it occurs (the layout made
from the tmVar corpus). A hit is an exact surface in the right abstract, counted as often as
it was annotated. Cytobands are found too, but not annotated there, so they are not scored.

Both halves of the tmVar sample have been read while the grammar was written, so its figures say
that the grammar covers the notation, not how it does on papers that nobody has looked at.
"""

import json
from collections import Counter
from pathlib import Path

import click

from steps.papers.variants.finder import VariantKind, VariantMention, find_variants

TYPE_OF_KIND: dict[VariantKind, str] = {
    "hgvs_coding": "DNAMutation",
    "hgvs_genomic": "DNAMutation",
    "nucleotide_substitution": "DNAMutation",
    "indel": "DNAMutation",
    "hgvs_protein": "ProteinMutation",
    "protein_substitution": "ProteinMutation",
    "protein_indel": "ProteinMutation",
    "rsid": "SNP",
}

Scored = Counter[tuple[str, str, str]]  # (pmid, surface, type) -> how often


def score_abstracts(abstracts: list[dict[str, object]]) -> tuple[Scored, Scored, Scored]:
    """Compare what is found with what is annotated.

    A hit carries its annotated type; a false alarm the type that its kind stands for.

    Returns:
        Hits, misses and false alarms.
    """
    hits: Scored = Counter()
    misses: Scored = Counter()
    false_alarms: Scored = Counter()
    for abstract in abstracts:
        pmid = str(abstract["pmid"])
        found: dict[str, list[VariantMention]] = {}
        for part in ("title", "text"):
            for mention in find_variants(str(abstract[part])):
                if mention.kind != "cytoband":
                    found.setdefault(mention.surface, []).append(mention)
        for surface, annotated_type, _ in abstract["mentions"]:  # type: ignore[attr-defined]
            if found.get(surface):
                found[surface].pop()
                hits[pmid, surface, annotated_type] += 1
            else:
                misses[pmid, surface, annotated_type] += 1
        for mentions in found.values():
            for mention in mentions:
                false_alarms[pmid, mention.surface, TYPE_OF_KIND[mention.kind]] += 1
    return hits, misses, false_alarms


def print_scores(name: str, hits: Scored, misses: Scored, false_alarms: Scored) -> None:
    """Print precision, recall and F1 for each annotated type and for all."""
    click.echo(f"\n{name:<24}{'hits':>6}{'missed':>8}{'false':>7}{'P':>8}{'R':>8}{'F1':>8}")
    for kind in ("DNAMutation", "ProteinMutation", "SNP", "all"):
        hit, missed, false = (
            sum(n for (_, _, its), n in counts.items() if kind in (its, "all"))
            for counts in (hits, misses, false_alarms)
        )
        precision = hit / (hit + false) if hit + false else 0.0
        recall = hit / (hit + missed) if hit + missed else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
        click.echo(
            f"  {kind:<22}{hit:>6}{missed:>8}{false:>7}{precision:>8.3f}{recall:>8.3f}{f1:>8.3f}"
        )


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.argument("abstracts_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--list-half",
    type=click.Choice(["even", "odd", "both", "none"]),
    default="both",
    show_default=True,
    help="Whose misses and false alarms to list: even are lines 1, 3, 5 ... of the file.",
)
def main(abstracts_file: Path, list_half: str) -> None:
    """Score both halves of the file and the whole of it."""
    lines = abstracts_file.read_text(encoding="utf-8").splitlines()
    abstracts = [json.loads(line) for line in lines]
    for name, part in (("even", abstracts[::2]), ("odd", abstracts[1::2]), ("both", abstracts)):
        hits, misses, false_alarms = score_abstracts(part)
        print_scores(f"{name} ({len(part)} abstracts)", hits, misses, false_alarms)
        if name == list_half:
            for label, counts in (("missed", misses), ("false", false_alarms)):
                for (pmid, surface, kind), n in sorted(counts.items()):
                    click.echo(f"  {label:<7}{pmid:<10}{kind:<17}{n}x {surface!r}")


if __name__ == "__main__":
    main()
