"""Time, memory and bytes of preprocessing by processes, on one Ray node and on two.

    python -m benchmarks.preprocess_engines --size 5000 --size 200000

Made-up papers, one in twenty with a near-duplicate. The Ray nodes are network namespaces with
addresses of their own and one core each (`benchmarks.ray_nodes`): needs root, and Ray on
`PYTHONPATH`. Time is that of the step's work, without the start of cluster and interpreter; memory
is the highest sum of the proportional set sizes of all processes of one side, taken every half
second; bytes are what the machines sent over the wire between them. All digests have to be equal.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from benchmarks.ray_nodes import RayNodes, two_ray_nodes

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("local, 1 process", "local, 2 processes", "Ray, 1 node", "Ray, 2 nodes")
SAMPLE_SECONDS = 0.5


@click.command()
@click.option("--size", "sizes", multiple=True, type=int, default=(5_000,), help="Papers.")
@click.option("--side", "sides", multiple=True, type=click.Choice(SIDES), default=SIDES)
@click.option("--run-one", nargs=3, hidden=True, help="Prepare FILE by ENGINE in N processes.")
def main(sizes: tuple[int, ...], sides: tuple[str, ...], run_one: tuple[str, str, str]) -> None:
    """Measure each side on the same papers."""
    if run_one:
        click.echo(json.dumps(prepare(Path(run_one[0]), run_one[1], int(run_one[2]))))
        return
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            papers = Path(folder) / "papers.jsonl"
            write_papers(papers, size)
            click.echo(f"{size:,} papers, {papers.stat().st_size / 1e6:,.0f} MB")
            digests = {measure(side, papers, Path(folder)) for side in sides}
            if len(digests) > 1:
                raise click.ClickException(f"the digests differ: {digests}")


def write_papers(file: Path, size: int) -> None:
    """Papers of random sentences; one in twenty is another one with a sentence more."""
    from tests.support.made_up_papers import made_up_papers

    with file.open("w", encoding="utf-8") as stream:
        for start in range(0, size, 1000):
            # Identifiers follow from the seed, a thousand to each.
            papers = made_up_papers(min(1000, size - start), start // 1000)
            for n in range(19, len(papers), 20):
                text = f"{papers[n - 1]['abstract']} Indeed it does."
                papers[n] = papers[n - 1] | {"pmid": papers[n]["pmid"], "abstract": text}
            stream.writelines(json.dumps(paper) + "\n" for paper in papers)


def measure(side: str, papers: Path, folder: Path) -> str:
    """Let one side prepare the papers, say what it took, and return the digest."""
    engine, number = side.split(", ")
    count = int(number.split()[0])
    command = [sys.executable, "-m", "benchmarks.preprocess_engines", "--run-one", str(papers)]
    output = folder / f"{side}.txt"
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    with ExitStack() as stack:
        nodes: RayNodes | None = None
        if engine == "Ray":
            nodes = stack.enter_context(two_ray_nodes(folder, environment, both=count == 2))
            process = nodes.start([*command, "ray", "0"], output)
        else:
            process = subprocess.Popen(
                [*command, "local", str(count)],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=output.open("wb"),
                stderr=subprocess.STDOUT,
            )
        peak = _peak_memory(process, lambda: _processes_of(process, nodes))
        sent = sum(m.bytes_sent() for m in (nodes.first, nodes.second)) if nodes else 0
    said = output.read_text(encoding="utf-8")
    if process.returncode:
        raise click.ClickException(f"{side}: {said[-2000:]}")
    figures = json.loads(said.splitlines()[-1])
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in figures["stages"].items())
    click.echo(
        f"{side}: {figures['seconds']:.1f} s ({stages}); all processes {peak / 1e6:,.0f} MB, the "
        f"step {figures['peak_bytes'] / 1e6:,.0f} MB; {sent / 1e6:,.1f} MB sent"
    )
    return str(figures["digest"])


def prepare(papers: Path, engine: str, processes: int) -> dict[str, Any]:
    """Prepare the papers and say what it took."""
    import resource

    from steps.config.paper_sections import ScientificData
    from steps.papers.engines.choice import choose_engine
    from steps.papers.pipeline import prepare_dataset

    settings = ScientificData.model_validate({"engine": engine, "num_workers": processes})
    moments: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory() as output,
        choose_engine(settings, [papers]).opened(settings) as opened,
    ):
        start = time.perf_counter()
        preparation = prepare_dataset(
            [papers],
            settings,
            Path(output),
            lambda stage, done: moments.update({stage: time.perf_counter()}),
            engine=opened,
        )
        stop = time.perf_counter()
    ends = [start, *moments.values(), stop]
    names = ("prepare", "identifiers", "duplicates", "leakage", "write")
    return {
        "seconds": stop - start,
        "stages": {name: b - a for name, a, b in zip(names, ends, ends[1:], strict=False)},
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "digest": preparation.digest,
    }


def _peak_memory(process: "subprocess.Popen[bytes]", processes: Callable[[], Iterator[int]]) -> int:
    """The highest sum of proportional set sizes, in bytes, until the process ends."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_proportional_bytes, processes())))
        time.sleep(SAMPLE_SECONDS)
    return peak


def _processes_of(process: "subprocess.Popen[bytes]", nodes: RayNodes | None) -> Iterator[int]:
    if nodes is not None:
        yield from (*nodes.first.processes(), *nodes.second.processes())
        return
    yield process.pid
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if children.exists():
        yield from map(int, children.read_text().split())


def _proportional_bytes(process: int) -> int:
    """What a process takes, shared pages by its share of them; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
