"""Makes a small store with the code of a commit, for tests/test_earlier_stores.py to read.

    python tests/support/make_store.py tests/fixtures/stores/7dc8622.tar.gz --project ../before

It uses what every commit has: the command lines of the steps, `benchmarks/tiny_models.py` and the
demo papers. The store holds a dataset, a model that was trained, registered, evaluated and
promoted, and a second training that was killed in the middle. What it is worth (figures, an
answer of the model, the losses of the second training untouched) stands in `store.json`.

Takes about two minutes. Run it on an idle machine: the second training has to be killed between
two of its checkpoints.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from stores import (
    CONFIG,
    DATABASE,
    FACTS,
    MODEL,
    PROJECT_PLACEHOLDER,
    STORE_PLACEHOLDER,
    Facts,
    Killed,
    relocate,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

LARGEST_ARCHIVE = 1_000_000
NAME = "tiny"
PROMPT, NEW_TOKENS = "The BRCA1 gene is", 8
# Small adapters, and few tokens in the vocabulary: each checkpoint counts in the archive.
CONTENT = """
extends: {project}/configs/training.yaml
training:
  model: {{name: {model}, max_length: 256}}
  qlora:
    {{method: lora, r: 2, lora_alpha: 4, lora_dropout: 0.0, target_modules: [v_proj, down_proj]}}
  hyperparameters:
    {{batch_size: 2, gradient_accumulation_steps: 1, max_steps: 30, learning_rate: 2e-2}}
  scientific_data:
    data_file: {project}/data/high_quality_papers_demo.json
    filters: {{min_score: 50}}
    sections: [title, abstract]
    split: {{validation_fraction: 0.1, test_fraction: 0.25}}
    num_workers: 1
  logging: {{log_steps: 5, eval_steps: 15, save_steps: 15}}
  memory_optimization: {{gradient_checkpointing: false}}
  hardware: {{device: cpu, bf16: false}}
  mlflow: {{experiment_name: {name}, registered_model_name: {name}, system_metrics_seconds: 0}}
  evaluation: {{generation: {{prompts: 2, max_new_tokens: 50}}, cloze_items: 10}}
"""
# 32 rows a step make steps slow enough to be killed between two checkpoints.
KILLED_STEPS, KILLED_AFTER = 12, 8
KILLED_OVERRIDES = (
    f"training.hyperparameters.seed=7 training.hyperparameters.max_steps={KILLED_STEPS} "
    "training.hyperparameters.gradient_accumulation_steps=16 training.logging.log_steps=2 "
    "training.logging.eval_steps=4 training.logging.save_steps=4"
)
# Large, and read by nobody.
DISPENSABLE = ("figures", "tables", "logs", "environment", "report.html", "__pycache__")
# Who made the store, and from where.
PRIVATE_TAGS = ("mlflow.user", "mlflow.source.git.repoURL")
SAVE_MODEL = """
import sys

import torch
from benchmarks.tiny_models import save_tiny_llama
from transformers import AutoModelForCausalLM

folder = sys.argv[1]
save_tiny_llama(folder, sys.stdin.read().split(chr(0)), vocabulary=400)
# Half the bytes; random weights are none the worse for it.
AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
"""
ASK_MODEL = """
import json
import sys

import mlflow

model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict([sys.argv[2]], params={"max_new_tokens": int(sys.argv[3])})
print(json.dumps(answer[0]))
"""


@dataclass(frozen=True)
class Maker:
    """Makes one store.

    Attributes:
        project: The checkout whose code makes it.
        folder: The store.
        scratch: For what is not packed: caches, working folders, temporary files.
    """

    project: Path
    folder: Path
    scratch: Path

    @property
    def uri(self) -> str:
        """Its tracking URI."""
        return f"sqlite:///{self.folder / DATABASE}"

    def environment(self, *, with_project: bool = True) -> dict[str, str]:
        """Of the processes: nothing of the caller's store, caches or project."""
        ours = ("MLFLOW_", "FORGE_", "PYTHONPATH")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return kept | {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "FORGE_CACHE": str(self.scratch / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            # A killed process leaves its temporary folder behind.
            "TMPDIR": str(self.scratch),
            **({"PYTHONPATH": str(self.project)} if with_project else {}),
        }

    def python(self, *arguments: str, given: str = "", with_project: bool = True) -> str:
        """Run Python in the store's folder, and return what it prints."""
        finished = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment(with_project=with_project),
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            raise click.ClickException(f"{arguments[:2]}: {finished.stderr[-2000:]}")
        return finished.stdout

    def step(self, name: str, config: Path, *arguments: str) -> "Run":
        """Run a step, and return its run."""
        click.echo(f"{name} {' '.join(arguments)}")
        self.python("-m", f"steps.{name}", "--config", str(config), *arguments)
        return self.runs(name)[0]

    def runs(self, name: str) -> "list[Run]":
        """The runs of a step, newest first."""
        import mlflow

        client = mlflow.MlflowClient(self.uri)
        experiment = client.get_experiment_by_name(NAME)
        return list(client.search_runs([experiment.experiment_id], f"tags.`forge.step` = '{name}'"))


@click.command()
@click.argument("archive", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--project",
    default=".",
    show_default=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Checkout whose code makes the store.",
)
def main(archive: Path, project: Path) -> None:
    """Make a store with the code of a commit and pack it into ARCHIVE."""
    with tempfile.TemporaryDirectory(prefix="forge-store-") as name:
        top = Path(name).resolve()
        maker = Maker(project.resolve(), top / "store", top / "scratch")
        untouched = Maker(project.resolve(), top / "untouched", top / "scratch")
        for folder in (maker.folder, untouched.folder, maker.scratch):
            folder.mkdir()
        facts = make(maker, untouched)
        (maker.folder / FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(facts)) + b"\n")
        pack(maker, archive)
    click.echo(f"{archive}: {archive.stat().st_size:,} bytes")


def make(maker: Maker, untouched: Maker) -> Facts:
    """Run the steps, and say what became of them.

    Args:
        maker: Of the store.
        untouched: Of another store, in which the second training is not killed.
    """
    papers = json.loads(
        (maker.project / "data" / "high_quality_papers_demo.json").read_text(encoding="utf-8")
    )
    texts = [f"{paper['title']}\n\n{paper['abstract']}" for paper in papers["papers"][:52]]
    model = maker.folder / MODEL
    maker.python("-c", SAVE_MODEL, str(model), given=chr(0).join(texts))
    config = maker.scratch / "tiny.yaml"
    config.write_text(
        CONTENT.format(project=maker.project, model=model, name=NAME), encoding="utf-8"
    )

    runs = {name: maker.step(name, config) for name in ("preprocess", "finetune")}
    runs["evaluate"] = maker.step("evaluate", config, "--split", "test")
    runs["ab_compare"] = maker.step("ab_compare", config)
    if runs["ab_compare"].data.tags["forge.decision"] != "promote":
        raise click.ClickException(f"not promoted: {runs['ab_compare'].data.tags}")
    scored = {run.data.tags["forge.model_uri"]: run for run in maker.runs("evaluate")}
    runs["evaluate"] = scored[f"models:/{NAME}/1"]
    asked = (f"models:/{NAME}@champion", PROMPT, str(NEW_TOKENS))
    answer = json.loads(maker.python("-c", ASK_MODEL, *asked, with_project=False).splitlines()[-1])

    losses = train_untouched(untouched, config)
    killed, checkpoint = train_and_kill(maker, config)
    # The whole of what the run was made with, whatever later commits have for defaults.
    shutil.copy(_artifacts(maker, runs["finetune"]) / CONFIG, maker.folder / CONFIG)
    return Facts(
        commit=_commit(maker.project),
        registered_model=NAME,
        runs={name: run.info.run_id for name, run in runs.items()},
        bits_per_byte={
            "champion": runs["evaluate"].data.metrics["test/bits_per_byte"],
            "base": scored["base"].data.metrics["test/bits_per_byte"],
        },
        prompt=PROMPT,
        answer=answer,
        new_tokens=NEW_TOKENS,
        killed=Killed(killed, KILLED_OVERRIDES, checkpoint, KILLED_STEPS, losses),
    )


def train_untouched(maker: Maker, config: Path) -> dict[int, float]:
    """Train from the first step to the last, and return the losses by step."""
    import mlflow

    maker.step("preprocess", config)
    overrides = f"{KILLED_OVERRIDES} training.mlflow.log_model=false"
    run = maker.step("finetune", config, "--overrides", overrides)
    history = mlflow.MlflowClient(maker.uri).get_metric_history(run.info.run_id, "train/loss")
    return {point.step: point.value for point in history}


def train_and_kill(maker: Maker, config: Path) -> tuple[str, int]:
    """Train, kill the process, and return the run and the step of its newest checkpoint."""
    import mlflow

    click.echo(f"finetune, to be killed after checkpoint-{KILLED_AFTER}")
    finished = {run.info.run_id for run in maker.runs("finetune")}
    client = mlflow.MlflowClient(maker.uri)
    experiment = client.get_experiment_by_name(NAME).experiment_id
    name = f"checkpoint-{KILLED_AFTER}"
    # Its metrics come last, when its files are all there.
    ranked = f"name = '{name}' and metrics.`validation/bits_per_byte` > 0"
    arguments = ["--config", str(config), "--overrides", KILLED_OVERRIDES]
    process = subprocess.Popen(
        [sys.executable, "-m", "steps.finetune", *arguments],
        cwd=maker.folder,
        env=maker.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not client.search_logged_models([experiment], ranked):
        time.sleep(0.05)
    process.kill()
    process.wait()
    (run,) = [run for run in maker.runs("finetune") if run.info.run_id not in finished]
    folder = _artifacts(maker, run) / "checkpoints"
    # The manifest of a checkpoint is uploaded last.
    steps = [int(p.parent.name.rpartition("-")[2]) for p in folder.glob("*/manifest.json")]
    if run.info.status != "RUNNING" or not 0 < max(steps, default=0) < KILLED_STEPS:
        raise click.ClickException(
            f"the training was not killed in the middle: its run is {run.info.status}, its "
            f"checkpoints are {sorted(steps)}; try again"
        )
    return str(run.info.run_id), max(steps)


def pack(maker: Maker, archive: Path) -> None:
    """Drop what nobody needs, take this machine out of the rest, and write the archive."""
    for path in sorted(maker.folder.rglob("*")):
        if path.name in DISPENSABLE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _forget_this_machine(maker.folder / DATABASE)
    replacements = {str(maker.folder): STORE_PLACEHOLDER, str(maker.project): PROJECT_PLACEHOLDER}
    relocate(maker.folder, replacements)
    with closing(sqlite3.connect(maker.folder / DATABASE)) as connection:
        connection.execute("VACUUM")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz", compresslevel=9) as packed:
        for path in sorted(maker.folder.iterdir()):
            packed.add(path, path.name, filter=_of_nobody)
    if archive.stat().st_size > LARGEST_ARCHIVE:
        raise click.ClickException(f"{archive} has {archive.stat().st_size:,} bytes: too large")


def _forget_this_machine(database: Path) -> None:
    """Make the runs those of another machine, from which nothing has been heard for a day.

    Whether a RUNNING run of this machine lives, its process tells; of another one, the age of its
    last sign does. Then the store reads the same wherever and whenever it is unpacked.
    """
    host = socket.gethostname()
    with closing(sqlite3.connect(database)) as connection, connection:
        marks = ", ".join("?" * len(PRIVATE_TAGS))
        for table, column in (("tags", "key"), ("logged_model_tags", "tag_key")):
            connection.execute(f"DELETE FROM {table} WHERE {column} IN ({marks})", PRIVATE_TAGS)
        connection.execute(
            "UPDATE tags SET value = 'elsewhere:' || substr(value, ?) WHERE value LIKE ? || ':/%'",
            (len(host) + 2, host),
        )
        rows = connection.execute("SELECT rowid, value FROM tags WHERE key = 'forge.heartbeat'")
        for row, value in rows.fetchall():
            sign: dict[str, Any] = json.loads(value)
            sign |= {"host": "elsewhere", "time": sign["time"] - 86400}
            changed = json.dumps(sign, separators=(",", ":"))
            connection.execute("UPDATE tags SET value = ? WHERE rowid = ?", (changed, row))


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _artifacts(maker: Maker, run: "Run") -> Path:
    """Where the artifacts of a run lie."""
    uri = str(run.info.artifact_uri).removeprefix("file://")
    return maker.folder / uri


def _commit(project: Path) -> str:
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty"]
    described = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    return described.stdout.strip()


if __name__ == "__main__":
    main()
