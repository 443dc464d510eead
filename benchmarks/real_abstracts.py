"""Does it work on real papers: base, LoRA, QLoRA, a second seed, a control, a broken adapter.

    python -m benchmarks.real_abstracts --genomics genomics.json --general general.json --folder out

Runs the steps as a user would, each a process of its own, over one store in the folder:
SmolLM2-135M learns from about 500 genomics abstracts with LoRA (two seeds) and with QLoRA; a
control learns from as many abstracts of other fields; and one adapter is broken on purpose (its
update is turned round). All are scored on the same held-out genomics abstracts and on general
ones that none has seen. Then the decisions: the base against LoRA has to promote, LoRA against
its other seed and against the broken one must not. Last, base, LoRA and control are asked for facts
(docs/facts.md) in all the abstracts that none of them was trained on: those of the test split, the
ones that were not taken, and the longer ones. A step that is done is not run again, so that an
interrupted benchmark goes on where it was. `--only-facts` leaves out all but the two trainings and
the facts.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import yaml

from benchmarks.facts import facts_file, read_facts, report

ROOT = Path(__file__).resolve().parent.parent
# Abstracts of ordinary length; the general ones at hand are longer.
FEWEST_WORDS, MOST_WORDS, MOST_GENERAL_WORDS = 60, 200, 400
GENERAL_HELD_OUT = 60
SETTINGS: dict[str, Any] = {
    "hyperparameters": {
        "batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": -1,
        "num_epochs": 1,
        "learning_rate": 5e-4,
    },
    "scientific_data": {
        "filters": {"min_score": None},
        "split": {"validation_fraction": 0.08, "test_fraction": 0.17},
    },
    "logging": {"log_steps": 1, "eval_steps": 15, "save_steps": 15},
    "evaluation": {"generation": {"prompts": 20, "max_new_tokens": 48}, "cloze_items": 40},
    "mlflow": {
        "experiment_name": "real-abstracts",
        "registered_model_name": "real-abstracts",
    },
    "variants": {"default": {}},
}
LORA = "training.qlora.method=lora"
# Who is asked for facts.
ASKED = ("base", "lora", "control")
SEEDED = f"{LORA} training.hyperparameters.seed=7"


@click.command()
@click.option("--genomics", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--general", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--folder", required=True, type=click.Path(path_type=Path))
@click.option("--papers", default=700, show_default=True, help="Genomics abstracts.")
@click.option("--steps", default=-1, show_default=True, help="Of each training; -1: one epoch.")
@click.option("--facts", default=400, show_default=True, help="Facts that are asked for.")
@click.option("--only-facts", is_flag=True, help="Two trainings, and what they know.")
def main(
    genomics: Path,
    general: Path,
    folder: Path,
    papers: int,
    steps: int,
    facts: int,
    only_facts: bool,
) -> None:
    """Train, score, compare, and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = choose(genomics, MOST_WORDS)[:papers]
    write_json(folder / "all.json", choose(genomics, sys.maxsize))
    others = choose(general, MOST_GENERAL_WORDS)
    write_json(folder / "genomics.json", chosen)
    write_json(folder / "control.json", as_many_words(others[GENERAL_HELD_OUT:], chosen))
    write_json(
        folder / "general_texts.json",
        {
            "texts": [
                {"id": paper["pmid"], "text": f"{paper['title']}\n\n{paper['abstract']}"}
                for paper in others[:GENERAL_HELD_OUT]
            ]
        },
    )
    bench = Benchmark(folder)
    bench.write_config(steps)

    control_data = bench.step("control data", "preprocess", papers="control.json")
    data = bench.step("data", "preprocess", papers="genomics.json")
    sides = {"base": "base"}
    trainings = {"lora": (data, LORA), "control": (control_data, LORA)}
    if not only_facts:
        trainings["qlora"] = (data, "training.qlora.method=qlora")
        trainings["lora, another seed"] = (data, SEEDED)
    for name, (dataset, overrides) in trainings.items():
        run = bench.step(name, "finetune", overrides=overrides, dataset=dataset)
        sides[name] = f"runs:/{run}/adapter"
    if not only_facts:
        sides["broken"] = bench.broken_adapter(sides["lora"].split("/")[1])
        bench.decide(sides, data)
        click.echo(bench.table(list(sides)))
    bench.ask_facts(data, facts)
    tokens = {name: bench.tokens(name) for name in ("lora", "control")}
    write_json(folder / "facts-tokens.json", tokens)
    for line in report(read_facts(folder, ASKED), tokens):
        click.echo(line)


def choose(file: Path, most_words: int) -> list[dict[str, Any]]:
    """The abstracts of ordinary length, in an order that only their identifiers decide."""
    content = json.loads(file.read_text(encoding="utf-8"))
    papers = content["papers"] if isinstance(content, dict) else content
    fitting = [paper for paper in papers if FEWEST_WORDS <= num_words(paper) <= most_words]
    return sorted(
        fitting, key=lambda paper: hashlib.sha256(str(paper["pmid"]).encode()).hexdigest()
    )


def num_words(paper: dict[str, Any]) -> int:
    """Words of the abstract."""
    return len((paper.get("abstract") or "").split())


def as_many_words(
    papers: list[dict[str, Any]], example: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """So many of the papers that they hold about as many words as the example."""
    words = sum(map(num_words, example))
    taken: list[dict[str, Any]] = []
    for paper in papers:
        if words <= 0:
            break
        taken.append(paper)
        words -= num_words(paper)
    return taken


def write_json(file: Path, content: Any) -> None:
    """Write a file that the steps read."""
    file.write_text(json.dumps(content), encoding="utf-8")


class Benchmark:
    """One store, and which of its runs did what."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.uri = f"sqlite:///{self.folder / 'mlflow.db'}"
        self.done_file = self.folder / "done.json"
        self.done: dict[str, str] = (
            json.loads(self.done_file.read_text()) if self.done_file.exists() else {}
        )

    def write_config(self, steps: int) -> None:
        """An overlay of the demo's configuration."""
        training = SETTINGS | {
            "hyperparameters": SETTINGS["hyperparameters"] | {"max_steps": steps},
            "evaluation": SETTINGS["evaluation"]
            | {"general_texts": str(self.folder / "general_texts.json")},
            "mlflow": SETTINGS["mlflow"] | {"tracking_uri": self.uri},
        }
        content = {"extends": str(ROOT / "configs" / "demo.yaml"), "training": training}
        (self.folder / "real.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    def step(self, name: str, step: str, **options: str) -> str:
        """Run a step as a process, unless it is done; the id of its run."""
        if name in self.done:
            return self.done[name]
        click.echo(f"== {name}")
        command = [sys.executable, "-m", f"steps.{step}", "--config", "real.yaml"]
        for option, value in options.items():
            command += [f"--{option}", value]
        # The steps are found from the project, the files from the folder.
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=self.folder, check=True, env=environment)
        return self.note(name, self._newest(step))

    def note(self, name: str, run: str) -> str:
        """Remember what has been done."""
        self.done[name] = run
        self.done_file.write_text(json.dumps(self.done, indent=1))
        return run

    def _client(self) -> Any:
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        return mlflow.MlflowClient()

    def _newest(self, step: str) -> str:
        client = self._client()
        experiment = client.get_experiment_by_name(SETTINGS["mlflow"]["experiment_name"])
        runs = client.search_runs(
            [experiment.experiment_id],
            f"tags.`forge.step` = '{step}'",
            order_by=["start_time DESC"],
            max_results=1,
        )
        return str(runs[0].info.run_id)

    def broken_adapter(self, source: str) -> str:
        """The adapter of a run with its update turned round, in a run of its own."""
        if "broken" not in self.done:
            import mlflow
            from safetensors.torch import load_file, save_file

            client = self._client()
            run = client.get_run(source)
            folder = Path(
                mlflow.artifacts.download_artifacts(run_id=source, artifact_path="adapter")
            )
            file = folder / "adapter_model.safetensors"
            tensors = load_file(file)
            save_file({n: -t if "lora_B" in n else t for n, t in tensors.items()}, file)
            tags = {k: v for k, v in run.data.tags.items() if k.startswith("forge.")}
            tags.pop("forge.model_version", None)
            broken = client.create_run(run.info.experiment_id, tags=tags, run_name="broken")
            client.log_artifacts(broken.info.run_id, str(folder), "adapter")
            client.set_terminated(broken.info.run_id)
            self.note("broken", broken.info.run_id)
        return f"runs:/{self.done['broken']}/adapter"

    def decide(self, sides: dict[str, str], data: str) -> None:
        """Score every side on the same papers, and compare."""
        for name, side in sides.items():
            self.step(f"evaluate {name}", "evaluate", model=side, dataset=data)
        for champion, challenger in (
            ("base", "lora"),
            ("lora", "lora, another seed"),
            ("lora", "broken"),
            ("base", "qlora"),
            ("base", "control"),
        ):
            self.step(
                f"{challenger} against {champion}",
                "ab_compare",
                champion=sides[champion],
                challenger=sides[challenger],
                promote="never",
            )

    def ask_facts(self, data: str, count: int) -> None:
        """Ask base, LoRA and control for facts of all abstracts that none was trained on.

        Args:
            data: The run of the dataset that LoRA was trained on.
            count: Most facts.
        """
        from steps.config.file import load_config
        from steps.evaluation.asking import ask_facts, fact_items_of
        from steps.papers.stored_papers import read_papers
        from steps.tracking.measurement import load_model_of

        trained = self.artifact(data, "dataset")
        # The papers of the first dataset stay where they were, and hardly a new one is left over.
        split = "training.scientific_data.split"
        wider = self.step(
            "facts data",
            "preprocess",
            papers="all.json",
            overrides=f"{split}.previous_manifest={trained / 'manifest.json'} "
            f"{split}.validation_fraction=0.02 {split}.test_fraction=0.97",
        )
        held_out = read_papers(self.artifact(wider, "dataset"), "test")
        train = read_papers(trained, "train")
        config = self.folder / "real.yaml"
        training = load_config(str(config), f"training.evaluation.facts.items={count}").training
        items = fact_items_of(training, held_out, train)
        for name in ASKED:
            file = facts_file(self.folder, name)
            if file.is_file():
                continue
            click.echo(f"== facts {name}")
            adapter = None if name == "base" else self.artifact(self.done[name], "adapter")
            adapted = load_model_of(training, adapter)
            with adapted.autocast():
                asked = ask_facts(training, adapted, items)
            if asked is None:
                raise click.ClickException("no two abstracts state the same fact")
            asked.to_parquet(file)

    def artifact(self, run: str, path: str) -> Path:
        """A folder that a run has left, on the local disk."""
        target = self.folder / "fetched" / run
        if not (target / path).is_dir():
            target.mkdir(parents=True, exist_ok=True)
            self._client().download_artifacts(run, path, str(target))
        return target / path

    def tokens(self, name: str) -> int:
        """Target tokens that a training has learned from."""
        return int(self._client().get_run(self.done[name]).data.metrics["train/tokens_seen"])

    def table(self, names: list[str]) -> str:
        """The figures of each model, and the decisions."""
        client = self._client()
        lines = [
            "| model | genomics bits/byte | genes | variants | general |",
            "|---|---|---|---|---|",
        ]
        for name in names:
            metrics = client.get_run(self.done[f"evaluate {name}"]).data.metrics
            figures = [
                f"{metrics[f'test/{metric}']:.4f}" if f"test/{metric}" in metrics else "none"
                for metric in (
                    "bits_per_byte",
                    "gene_bits_per_byte",
                    "variant_bits_per_byte",
                    "general_bits_per_byte",
                )
            ]
            lines.append(f"| {name} | {' | '.join(figures)} |")
        for name, run in self.done.items():
            if " against " in name:
                data = client.get_run(run).data
                lines.append(f"{name}: {data.tags.get('forge.decision')} {data.metrics}")
        return "\n".join(lines)


if __name__ == "__main__":
    main()
