"""Speed and memory of preprocessing on a corpus of any size.

    python -m benchmarks.preprocess --papers papers.json --size 20000 --size 200000
    python -m benchmarks.preprocess --papers papers.json --form pubmed_xml --size 10000
    python -m benchmarks.preprocess --papers fulltext.json --form jats --size 400
    python -m benchmarks.preprocess --papers papers.json --against-datatrove PYTHON

The corpus is made from the seed papers: each is repeated with three in ten of its words
exchanged for words of another paper, which is no near-duplicate any more; one repeat in
twenty is edited lightly, which is one. Every size runs in a process of its own, so that
its peak memory is its own. On a busy machine, compare the processor time. With two sizes
or more, the slope says what a paper costs.

With `--against-datatrove`, an interpreter that has datatrove runs the same jobs on the same
files (see `benchmarks.datatrove_pipeline` for which they are and which only we do), in turn
with ours: three rounds, the ratio of each, their median and their spread. Both sides are timed
from when they are imported until all is written, with the start of their workers.
"""

import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import click

from steps.papers.formats.papers_json import read_records
from steps.papers.inputs import resolve_inputs

EXCHANGED_WORDS = 0.3
LIGHTLY_EDITED = 0.05
ROUNDS = 3
FILES = 8  # in the comparison: datatrove shares out whole files
DATATROVE_JOBS = {
    "datatrove, the common jobs": (),
    "datatrove, genes and variants too": ("--annotate",),
}


@click.command()
@click.option("--papers", required=True, help="Seed papers: file, folder or glob.")
@click.option("--size", "sizes", multiple=True, type=int, default=(20_000,), help="Papers.")
@click.option("--workers", default=0, show_default=True, help="Processes; 0: one a core.")
@click.option("--form", type=click.Choice(["jsonl", "pubmed_xml", "jats"]), default="jsonl")
@click.option(
    "--against-datatrove", default=None, metavar="PYTHON", help="Interpreter that has datatrove."
)
@click.option("--run-one", hidden=True, is_flag=True, help="Prepare the papers themselves.")
def main(
    papers: str,
    sizes: tuple[int, ...],
    workers: int,
    form: str,
    against_datatrove: str | None,
    run_one: bool,
) -> None:
    """Measure papers a second and peak memory."""
    files = resolve_inputs(papers)
    if run_one:
        click.echo(json.dumps(prepare(files, workers)))
        return
    seeds = [
        json.loads(record.data) for file in files for record in read_records(file, 10**10, 10**8)
    ]
    if against_datatrove is not None:
        for size in sizes:
            compare_with_datatrove(against_datatrove, seeds, size, workers or os.cpu_count() or 1)
        return
    measured: list[tuple[int, float]] = []
    for size in sorted(sizes):
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "corpus"
            write_corpus(corpus, seeds, size, form=form)
            megabytes = sum(file.stat().st_size for file in corpus.iterdir()) / 1e6
            figures = run_ours(corpus, workers)
        measured.append((size, figures["peak_bytes"]))
        click.echo(
            f"{size:,} papers ({megabytes:.0f} MB): {size / figures['seconds']:,.0f} papers/s, "
            f"peak {figures['peak_bytes'] / 1e6:,.0f} MB here and "
            f"{figures['peak_bytes_of_worker'] / 1e6:,.0f} MB in the largest worker"
        )
        click.echo(
            f"  processor time a paper: {1e6 * figures['own_cpu_seconds'] / size:,.0f} µs here, "
            f"{1e6 * figures['worker_cpu_seconds'] / size:,.0f} µs in the workers"
        )
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in figures["stages"].items())
        click.echo(f"  {stages}; {figures['accepted']:,} accepted, rejected {figures['rejected']}")
    for (fewer, before), (more, after) in pairwise(measured):
        click.echo(f"{(after - before) / (more - fewer):,.0f} bytes of memory a paper")


def run_ours(corpus: Path, workers: int) -> dict[str, Any]:
    """Prepare a corpus in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.preprocess", "--run-one"]
    return run_side([*command, "--papers", str(corpus), "--workers", str(workers)])


def run_side(command: list[str]) -> dict[str, Any]:
    """Run one side; the figures that it prints as its last line."""
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise click.ClickException(f"{command}: {finished.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return figures


def compare_with_datatrove(
    python: str, seeds: list[dict[str, Any]], size: int, workers: int
) -> None:
    """Let both sides prepare the same corpus in turn, and say how much longer datatrove takes."""
    script = str(Path(__file__).with_name("datatrove_pipeline.py"))
    ratios: dict[str, list[float]] = {name: [] for name in DATATROVE_JOBS}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        write_corpus(corpus, seeds, size, FILES)
        for number in range(1, ROUNDS + 1):
            ours = run_ours(corpus, workers)
            said = [f"ours {ours['seconds']:.1f} s ({ours['accepted']:,} accepted)"]
            for name, options in DATATROVE_JOBS.items():
                with tempfile.TemporaryDirectory() as output:
                    command = [python, script, str(corpus), output, "--workers", str(workers)]
                    theirs = run_side([*command, *options])
                ratios[name].append(theirs["seconds"] / ours["seconds"])
                said.append(f"{name} {theirs['seconds']:.1f} s ({theirs['accepted']:,})")
            click.echo(f"{size:,} papers, {workers} workers, round {number}: {'; '.join(said)}")
    for name, values in ratios.items():
        click.echo(
            f"{name}: {statistics.median(values):.2f} times as long as ours "
            f"({min(values):.2f} to {max(values):.2f})"
        )


def prepare(files: list[Path], workers: int) -> dict[str, Any]:
    """Prepare the papers and say what it took."""
    from steps.config.paper_sections import ScientificData
    from steps.papers.pipeline import prepare_dataset

    start = time.perf_counter()
    ends: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as output:
        preparation = prepare_dataset(
            files,
            ScientificData(num_workers=workers),
            Path(output),
            lambda stage, done: ends.update({stage: time.perf_counter()}),
        )
    stop = time.perf_counter()
    # A stage is reported when it begins, "read" whenever a chunk is done.
    moments = [start, *ends.values(), stop]
    own = resource.getrusage(resource.RUSAGE_SELF)
    workers_usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    names = ["read and prepare", "identifiers", "deduplicate", "leakage", "write"]
    return {
        "seconds": stop - start,
        "stages": {name: b - a for name, (a, b) in zip(names, pairwise(moments), strict=True)},
        "own_cpu_seconds": own.ru_utime + own.ru_stime,
        "worker_cpu_seconds": workers_usage.ru_utime + workers_usage.ru_stime,
        "peak_bytes": 1024 * own.ru_maxrss,
        "peak_bytes_of_worker": 1024 * workers_usage.ru_maxrss,
        "accepted": preparation.num_accepted,
        "rejected": preparation.rejected,
    }


def write_corpus(
    folder: Path, seeds: list[dict[str, Any]], size: int, files: int = 1, form: str = "jsonl"
) -> None:
    """Write `size` papers: as JSON Lines in files of about as many, as PubMed XML, or as JATS."""
    folder.mkdir()
    papers = repeated(seeds, size)
    if form == "pubmed_xml":
        with (folder / "pubmed.xml").open("w", encoding="utf-8") as file:
            file.write('<?xml version="1.0" encoding="UTF-8"?>\n<PubmedArticleSet>\n')
            file.writelines(pubmed_record(paper) for paper in papers)
            file.write("</PubmedArticleSet>\n")
        return
    if form == "jats":
        for paper in papers:
            (folder / f"{paper['pmid']}.nxml").write_text(jats_article(paper), encoding="utf-8")
        return
    for number in range(files):
        share = size * (number + 1) // files - size * number // files
        with (folder / f"papers-{number}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(paper) + "\n" for paper in islice(papers, share))


# What a record of PubMed and an article of PMC hold besides the text, about as much as real ones.
_PUBMED_AUTHORS = "".join(
    f"<Author><LastName>Name{n}</LastName><ForeName>Ada B</ForeName><AffiliationInfo><Affiliation>"
    f"Department {n} of Some Science, Some University, Some City.</Affiliation></AffiliationInfo>"
    "</Author>"
    for n in range(8)
)
_PUBMED_HEADINGS = "".join(
    f'<MeshHeading><DescriptorName UI="D{n}">Some Heading {n}</DescriptorName></MeshHeading>'
    for n in range(12)
)
_PUBMED_REFERENCES = "".join(
    f"<Reference><Citation>Name A. A title of a cited paper. J. {n}</Citation><ArticleIdList>"
    f'<ArticleId IdType="pubmed">{n + 5}</ArticleId></ArticleIdList></Reference>'
    for n in range(20)
)


def pubmed_record(paper: dict[str, Any]) -> str:
    """The paper as a record of PubMed, of about the size that those have."""
    title, abstract = (escape(str(paper.get(key) or "")) for key in ("title", "abstract"))
    return (
        f"<PubmedArticle><MedlineCitation><PMID>{paper['pmid']}</PMID><Article><Journal>"
        "<JournalIssue><PubDate><Year>2020</Year><Month>May</Month></PubDate></JournalIssue><Title>"
        f"A journal</Title></Journal><ArticleTitle>{title}</ArticleTitle>"
        f"<Abstract><AbstractText>{abstract}</AbstractText></Abstract>"
        f"<AuthorList>{_PUBMED_AUTHORS}</AuthorList><Language>eng</Language></Article>"
        f"<MeshHeadingList>{_PUBMED_HEADINGS}</MeshHeadingList></MedlineCitation><PubmedData>"
        f"<ReferenceList>{_PUBMED_REFERENCES}</ReferenceList></PubmedData></PubmedArticle>\n"
    )


def jats_article(paper: dict[str, Any]) -> str:
    """The full text as an article of PMC, a paragraph for each of its lines, marks in each."""
    body = "".join(
        f'<p>{escape(line)} <italic>TP53</italic> [<xref ref-type="bibr" rid="r1">1</xref>].</p>'
        for line in str(paper.get("full_text") or paper.get("abstract")).splitlines()
        if line.strip()
    )
    references = "".join(
        f'<ref id="r{n}"><element-citation><article-title>A cited title {n}</article-title>'
        f'<pub-id pub-id-type="pmid">{n + 5}</pub-id></element-citation></ref>'
        for n in range(60)
    )
    return (
        '<article><front><article-meta><article-id pub-id-type="pmid">'
        f"{paper['pmid']}</article-id><title-group><article-title>{escape(str(paper.get('title')))}"
        f"</article-title></title-group></article-meta></front><body><sec><title>Main</title>{body}"
        f"</sec></body><back><ref-list>{references}</ref-list></back></article>"
    )


def repeated(seeds: list[dict[str, Any]], size: int) -> Iterator[dict[str, Any]]:
    """The seed papers, then edited repeats of them, under identifiers of their own."""
    rng = random.Random(0)
    for number in range(size):
        paper = dict(seeds[number % len(seeds)])
        if number >= len(seeds):
            share = 0.01 if rng.random() < LIGHTLY_EDITED else EXCHANGED_WORDS
            words = str(rng.choice(seeds).get("abstract") or "gene").split()
            for key in ("title", "abstract", "full_text"):
                paper[key] = re.sub(
                    r"\S+",
                    lambda word: rng.choice(words) if rng.random() < share else word[0],  # noqa: B023
                    str(paper.get(key) or ""),
                )
        yield paper | {"pmid": str(10**8 + number), "doi": None, "score": number % 100}


if __name__ == "__main__":
    main()
