"""Memory and time of a finetune by the size of its corpus, on a tiny model.

    python -m benchmarks.corpus_memory --papers 10000,100000,500000
    python -m benchmarks.corpus_memory --papers 10000 --project /path/to/another/checkout

Each corpus is made-up abstracts of about 250 words (sentences of the demo papers in random order),
written as a dataset by the writer that preprocess uses, and put into a store of its own. A finetune
of a few steps follows, each a process of its own, as its user starts it: the first finds an empty
cache, the second what the first has left. Reported are the peaks of RssAnon (memory that is the
process's own) and of RssFile (pages of files that it has mapped, which the kernel takes back when
they are needed elsewhere) of the training process, the peak of RssAnon of the processes that it
starts, and the seconds until rows are made, which is when training begins.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from benchmarks.tiny_models import save_tiny_llama

ROOT = Path(__file__).resolve().parent.parent
PAPERS = ROOT / "data" / "high_quality_papers_demo.json"
WORDS = 250
HELD_OUT = 20
PIECE = 1_000
SECONDS_BETWEEN_LOOKS = 0.02
# What finetune says when its rows are made.
MADE = "training on "


@dataclass
class Peaks:
    """What a process held at most, in bytes, and how long it took.

    Attributes:
        anon: RssAnon of the training process.
        file: RssFile and RssShmem of it.
        workers: RssAnon of all processes that it has started, together.
        ready: Seconds until training began.
        seconds: Seconds in all.
    """

    anon: int = 0
    file: int = 0
    workers: int = 0
    ready: float = 0.0
    seconds: float = 0.0


def made_up_abstracts(count: int) -> Iterator[tuple[str, str]]:
    """Titles and abstracts."""
    content = json.loads(PAPERS.read_text(encoding="utf-8"))
    sentences = [
        f"{sentence.strip()}."
        for paper in content["papers"]
        for sentence in str(paper.get("abstract") or "").split(". ")
        if len(sentence.split()) > 5
    ]
    words = [len(sentence.split()) for sentence in sentences]
    draw = random.Random(0)
    for number in range(count):
        chosen: list[str] = []
        left = WORDS + draw.randrange(-60, 61)
        while left > 0:
            place = draw.randrange(len(sentences))
            chosen.append(sentences[place])
            left -= words[place]
        yield f"Study {number} of what is found in samples", " ".join(chosen)


def write_dataset(folder: Path, count: int) -> None:
    """A dataset with so many training papers, as preprocess lays it out, with its manifest."""
    from steps.papers.dataset import (
        SectionRow,
        SplitDigest,
        SplitSummary,
        combine_digests,
        paper_digest,
        rows_to_batch,
        write_splits,
    )

    splits = {"train": count, "validation": HELD_OUT, "test": HELD_OUT}
    digests = {name: SplitDigest() for name in splits}
    summaries = {name: SplitSummary() for name in splits}

    def pieces() -> "Iterator[tuple[str, object, list[str]]]":
        abstracts = made_up_abstracts(sum(splits.values()))
        number = 0
        for name, papers in splits.items():
            rows: list[SectionRow] = []
            for place in range(papers):
                number += 1
                paper_id, (title, abstract) = f"pmid:{10_000_000 + number}", next(abstracts)
                own = [
                    SectionRow(
                        paper_id, section, n, text, [], [], 80.0, "gold_standard", "J", "2020"
                    )
                    for n, (section, text) in enumerate([("title", title), ("abstract", abstract)])
                ]
                digests[name].add(paper_digest(own), paper_id)
                summaries[name].paper_ids.append(paper_id)
                rows += own
                if len(rows) >= PIECE or place == papers - 1:
                    yield name, rows_to_batch(rows), [row.paper_id for row in rows]
                    rows = []
            summaries[name].papers = papers
            summaries[name].sections = 2 * papers

    # The fingerprints of `datasets` only name what it caches, which is nothing here.
    write_splits(folder, dict.fromkeys(splits, "sha256:" + "0" * 64), pieces())  # type: ignore[arg-type]
    for name, digest in digests.items():
        summaries[name].digest = str(digest)
    manifest = {
        "dataset_digest": combine_digests({name: str(one) for name, one in digests.items()}),
        "splits": {name: asdict(summary) for name, summary in summaries.items()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def store_dataset(folder: Path, uri: str) -> None:
    """Put the dataset into a new store, as a preprocess run."""
    import mlflow

    digest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["dataset_digest"]
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("corpus", artifact_location=(folder.parent / "artifacts").as_uri())
    mlflow.set_experiment("corpus")
    with mlflow.start_run(tags={"forge.step": "preprocess", "forge.dataset_digest": digest}):
        mlflow.log_artifacts(str(folder), "dataset")


def write_config(folder: Path, steps: int, sections: str, project: Path) -> Path:
    """A tiny model, and a training of a few steps."""
    texts = [abstract for _, abstract in made_up_abstracts(50)]
    model = save_tiny_llama(folder / "model", texts)
    file = folder / "corpus.yaml"
    file.write_text(
        f"""
extends: {project / "configs" / "training.yaml"}
training:
  model: {{name: {model}, max_length: 512}}
  qlora: {{method: lora, lora_dropout: 0.0, r: 4, lora_alpha: 8}}
  hyperparameters: {{batch_size: 2, gradient_accumulation_steps: 1, max_steps: {steps}}}
  scientific_data: {{sections: [{sections}]}}
  logging: {{log_steps: 1, eval_strategy: "no", save_steps: 1000, load_best_model_at_end: false}}
  memory_optimization: {{gradient_checkpointing: false}}
  hardware: {{device: cpu, bf16: false}}
  mlflow: {{experiment_name: corpus, log_model: false, system_metrics_seconds: 0}}
""",
        encoding="utf-8",
    )
    return file


def memory_of(pid: int) -> dict[str, int]:
    """The lines of /proc/PID/status that are in kB, in bytes; nothing of a process that is gone."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        pairs = (line.split(":") for line in lines if line.endswith(" kB"))
        return {name: int(value.split()[0]) * 1024 for name, value in pairs}
    return {}


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text(encoding="ascii").split()
            for child in map(int, children):
                found += [child, *descendants(child)]
    return found


def measure(project: Path, folder: Path, config: Path, uri: str) -> Peaks:
    """Run a finetune to its end, and look at its memory all the while."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "FORGE_")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    environment |= {
        "PYTHONPATH": str(project),
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "FORGE_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(folder),
    }
    peaks, began = Peaks(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "steps.finetune", "--config", str(config)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def look() -> None:
        while process.poll() is None:
            held = memory_of(process.pid)
            peaks.anon = max(peaks.anon, held.get("RssAnon", 0))
            peaks.file = max(peaks.file, held.get("RssFile", 0) + held.get("RssShmem", 0))
            others = (memory_of(child).get("RssAnon", 0) for child in descendants(process.pid))
            peaks.workers = max(peaks.workers, sum(others))
            time.sleep(SECONDS_BETWEEN_LOOKS)

    looking = threading.Thread(target=look)
    looking.start()
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if MADE in line and not peaks.ready:
            peaks.ready = time.perf_counter() - began
    looking.join()
    peaks.seconds = time.perf_counter() - began
    if process.returncode != 0:
        raise click.ClickException(f"finetune failed:\n{''.join(said)}")
    return peaks


@click.command()
@click.option("--papers", default="10000,100000,500000", show_default=True, help="Sizes.")
@click.option("--runs", default="cold,warm", show_default=True, help="Names of runs in a row.")
@click.option("--sections", default="title,abstract", show_default=True, help="What is learned.")
@click.option("--steps", default=4, show_default=True, help="Optimiser steps of each training.")
@click.option(
    "--project",
    default=ROOT,
    type=click.Path(path_type=Path),
    help="The checkout whose finetune is measured.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Keep the datasets there, for the next measurement; else a temporary one.",
)
def main(
    papers: str, runs: str, sections: str, steps: int, project: Path, folder: Path | None
) -> None:
    """Measure a finetune at several sizes of the corpus."""
    with tempfile.TemporaryDirectory(dir=folder and folder.parent) as scratch:
        click.echo(f"{'papers':>9} {'cache':>5} {'RssAnon':>9} {'RssFile':>9} {'workers':>9}  s")
        for count in map(int, papers.split(",")):
            dataset = (folder or Path(scratch)) / str(count) / "dataset"
            uri = f"sqlite:///{dataset.parent / 'mlflow.db'}"
            if not dataset.exists():
                dataset.parent.mkdir(parents=True)
                write_dataset(dataset, count)
                store_dataset(dataset, uri)
            place = Path(scratch) / f"run-{count}"
            place.mkdir()
            config = write_config(place, steps, sections, project)
            for cache in runs.split(","):
                found = measure(project, place, config, uri)
                sizes = "".join(
                    f" {n / 1e6:>6.0f} MB" for n in (found.anon, found.file, found.workers)
                )
                click.echo(
                    f"{count:>9,} {cache:>5}{sizes}  {found.ready:.1f} until training begins, "
                    f"{found.seconds:.1f} in all"
                )


if __name__ == "__main__":
    main()
