"""Precision and recall of `find_variants` on abstracts that nobody tuned on.

    python -m benchmarks.unseen_variants ABSTRACTS.jsonl

The annotation is `benchmarks/unseen_variants.jsonl`: for each mention its abstract's PMID, the
part, the span and the type, no text. It was made by reading, without a look at the code or at
what it finds, before the grammar was mended; PMIDs that any development data holds were left
out. The texts have to be fetched: each line of ABSTRACTS is {"pmid", "title", "abstract"}, taken
from the files that the annotation's first line names.

A mention is found where a span of the right type is the same (exact) or shares a character with
it (overlap). Doubtful mentions count on neither side. Intervals resample abstracts.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.variant_recognition import TYPE_OF_KIND
from steps.papers.variants.finder import find_variants

ANNOTATION = Path(__file__).with_suffix(".jsonl")
TYPE_OF_CORPUS = {"DNAMutation": "DNA", "ProteinMutation": "protein", "SNP": "SNP"}
TYPES = ("DNA", "protein", "SNP", "all")
RESAMPLES = 2000

Span = tuple[int, int]


def counts_of(
    annotated: Sequence[dict[str, Any]], found: Sequence[tuple[int, int, str]]
) -> dict[str, np.ndarray]:
    """Counts of one text by type: annotated, of those exact and overlapped; found, the same."""
    firm = [(m["start"], m["end"], m["type"]) for m in annotated if not m["doubtful"]]
    doubtful = [(m["start"], m["end"], m["type"]) for m in annotated if m["doubtful"]]
    certain = [span for span in found if not any(_overlap(span, other) for other in doubtful)]
    counts = {}
    for name in TYPES:
        wanted = [span for span in firm if name in (span[2], "all")]
        given = [span for span in certain if name in (span[2], "all")]
        counts[name] = np.array(
            [
                len(wanted),
                sum(any(span[:2] == other[:2] for other in found) for span in wanted),
                sum(any(_overlap(span, other) for other in found) for span in wanted),
                len(given),
                sum(any(span[:2] == other[:2] for other in firm) for span in given),
                sum(any(_overlap(span, other) for other in firm) for span in given),
            ]
        )
    return counts


def _overlap(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return bool(one[0] < other[1] and other[0] < one[1])


def shares(counts: np.ndarray) -> np.ndarray:
    """Recall exact and by overlap, precision exact and by overlap, of summed counts."""
    wanted, exact, near, given, right, nearly = counts
    wanted, given = max(wanted, 1), max(given, 1)
    return np.array([exact / wanted, near / wanted, right / given, nearly / given])


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.argument("abstracts_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--list-misses", is_flag=True, help="Print misses and false alarms.")
def main(abstracts_file: Path, list_misses: bool) -> None:
    """Score all abstracts."""
    lines = ANNOTATION.read_text(encoding="utf-8").splitlines()[1:]
    annotation = [json.loads(line) for line in lines]
    per_abstract: list[dict[str, np.ndarray]] = []
    for line in abstracts_file.read_text(encoding="utf-8").splitlines():
        abstract = json.loads(line)
        total = {name: np.zeros(6) for name in TYPES}
        for part in ("title", "abstract"):
            mentions = [m for m in annotation if (m["pmid"], m["part"]) == (abstract["pmid"], part)]
            found = [
                (m.start, m.end, TYPE_OF_CORPUS[TYPE_OF_KIND[m.kind]])
                for m in find_variants(abstract[part])
                if m.kind != "cytoband"
            ]
            for name, counts in counts_of(mentions, found).items():
                total[name] = total[name] + counts
            if list_misses:
                _list(abstract, part, mentions, found)
        per_abstract.append(total)
    chance = np.random.default_rng(0)
    picks = chance.integers(0, len(per_abstract), (RESAMPLES, len(per_abstract)))
    heads = ("recall exact", "by overlap", "precision exact", "by overlap")
    click.echo(f"{'':<9}{'n':>5}  " + "".join(f"{head:<21}" for head in heads))
    for name in TYPES:
        table = np.array([counts[name] for counts in per_abstract])
        point = shares(table.sum(axis=0))
        drawn = np.array([shares(table[pick].sum(axis=0)) for pick in picks])
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        cells = "  ".join(
            f"{p:.3f} ({a:.3f}-{b:.3f})" for p, a, b in zip(point, low, high, strict=True)
        )
        click.echo(f"{name:<9}{int(table[:, 0].sum()):>5}  {cells}")


def _list(
    abstract: dict[str, str],
    part: str,
    mentions: list[dict[str, Any]],
    found: list[tuple[int, int, str]],
) -> None:
    text = abstract[part]
    for m in mentions:
        span = (m["start"], m["end"])
        if not m["doubtful"] and not any(span == other[:2] for other in found):
            near = [text[s:e] for s, e, _ in found if _overlap(span, (s, e))]
            click.echo(f"missed {abstract['pmid']} {m['type']:<8}{text[slice(*span)]!r} {near}")
    for start, end, kind in found:
        if not any(_overlap((start, end), (m["start"], m["end"])) for m in mentions):
            click.echo(f"false  {abstract['pmid']} {kind:<8}{text[start:end]!r}")


if __name__ == "__main__":
    main()
