"""Speed and memory of preprocessing on a corpus of any size.

    python -m benchmarks.preprocess --papers papers.json --size 20000 --size 200000

The corpus is made from the seed papers: each is repeated with three in ten of its words
exchanged for words of another paper, which is no near-duplicate any more; one repeat in
twenty is edited lightly, which is one. Every size runs in a process of its own, so that
its peak memory is its own. On a busy machine, compare the processor time. With two sizes
or more, the slope says what a paper costs.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from steps.papers.records import read_records, resolve_inputs

EXCHANGED_WORDS = 0.3
LIGHTLY_EDITED = 0.05


@click.command()
@click.option("--papers", required=True, help="Seed papers: file, folder or glob.")
@click.option("--size", "sizes", multiple=True, type=int, default=(20_000,), help="Papers.")
@click.option("--workers", default=0, show_default=True, help="Processes; 0: one a core.")
@click.option("--run-one", hidden=True, is_flag=True, help="Prepare the papers themselves.")
def main(papers: str, sizes: tuple[int, ...], workers: int, run_one: bool) -> None:
    """Measure papers a second and peak memory."""
    files = resolve_inputs(papers)
    if run_one:
        click.echo(json.dumps(prepare(files, workers)))
        return
    seeds = [
        json.loads(record.data) for file in files for record in read_records(file, 10**10, 10**8)
    ]
    measured: list[tuple[int, float]] = []
    for size in sorted(sizes):
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "papers.jsonl"
            write_corpus(corpus, seeds, size)
            megabytes = corpus.stat().st_size / 1e6
            command = [sys.executable, "-m", "benchmarks.preprocess", "--run-one"]
            command += ["--papers", str(corpus), "--workers", str(workers)]
            figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
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


def prepare(files: list[Path], workers: int) -> dict[str, Any]:
    """Prepare the papers and say what it took."""
    from steps.config import ScientificData
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


def write_corpus(path: Path, seeds: list[dict[str, Any]], size: int) -> None:
    """Write `size` papers as JSON Lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(paper) + "\n" for paper in repeated(seeds, size))


def repeated(seeds: list[dict[str, Any]], size: int) -> Iterator[dict[str, Any]]:
    """The seed papers, then edited repeats of them, under identifiers of their own."""
    rng = random.Random(0)
    for number in range(size):
        paper = dict(seeds[number % len(seeds)])
        if number >= len(seeds):
            share = 0.01 if rng.random() < LIGHTLY_EDITED else EXCHANGED_WORDS
            words = str(rng.choice(seeds).get("abstract") or "gene").split()
            for key in ("title", "abstract"):
                paper[key] = " ".join(
                    rng.choice(words) if rng.random() < share else word
                    for word in str(paper.get(key) or "").split()
                )
        yield paper | {"pmid": str(10**8 + number), "doi": None, "score": number % 100}


if __name__ == "__main__":
    main()
