"""Does an interpolation of two adapters say which share of replay to train with?

    python -m benchmarks.replay_dial --papers genomics.json --general general.json --folder out
    python -m benchmarks.replay_dial --folder out --report

One adapter learns from papers alone, one from general texts alone, for fewer steps than a run
takes. Between them stands (1 - w) times the update of the first plus w times that of the second;
scored for several w on held-out papers and on held-out general texts, this is the predicted
frontier: what a run with the share w of replay would gain and forget. Three runs with truly mixed
texts are what it is held against: same ranking, within 0.003 bits per byte, in at most 70% of
their processor time, all evaluation counted. A finished part is a file of the folder, so that an
interrupted benchmark goes on where it was.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.real_abstracts import GENERAL_HELD_OUT, MOST_GENERAL_WORDS, choose
from benchmarks.study_texts import SETTINGS, configured, refuse_other_conditions, split_papers
from steps.config.sections import Training
from steps.evaluation.likelihood import score_papers
from steps.models.adapters import add_adapter
from steps.models.devices import Placement
from steps.models.loading import load_model
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from steps.papers.text import PaperText, Span
from steps.training.context import TrainingContext
from steps.training.mixing import Mixture
from steps.training.trainer import ModelTrainer

SHARES = (0.1, 0.25, 0.5)
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0)
CLOSE = 0.003
MOST_TIME = 0.7
WINDOW: dict[str, Any] = {"context": 512, "stride": 256, "batch_tokens": 2048}
Scores = dict[str, float]


@click.command()
@click.option("--papers", type=click.Path(exists=True, path_type=Path), help="Abstracts.")
@click.option("--general", type=click.Path(exists=True, path_type=Path), help="Of other fields.")
@click.option("--folder", required=True, type=click.Path(path_type=Path))
@click.option("--count", default=700, show_default=True, help="Abstracts that are taken.")
@click.option("--scored", default=100, show_default=True, help="Held-out papers that are scored.")
@click.option("--steps", default=20, show_default=True, help="Of a mixed run, 8 rows each.")
@click.option("--single-steps", default=16, show_default=True, help="Of the two adapters.")
@click.option("--report", "only_report", is_flag=True, help="Only print what was measured.")
def main(
    papers: Path | None,
    general: Path | None,
    folder: Path,
    count: int,
    scored: int,
    steps: int,
    single_steps: int,
    only_report: bool,
) -> None:
    """Train and score what is not there yet, and print all."""
    if not only_report:
        if papers is None or general is None:
            raise click.UsageError("--papers and --general are needed to measure")
        folder.mkdir(parents=True, exist_ok=True)
        conditions = {"count": count, "scored": scored, "steps": steps, "single": single_steps}
        refuse_other_conditions(folder, {**SETTINGS, **conditions})
        train, test = split_papers(papers, folder, SETTINGS, count)
        others = [general_text(paper) for paper in choose(general, MOST_GENERAL_WORDS)]
        texts = {"papers": test[:scored], "general": others[:GENERAL_HELD_OUT]}
        Dial(folder, train, others[GENERAL_HELD_OUT:], texts).measure(steps, single_steps)
    for line in report(json.loads((folder / "dial.json").read_text(encoding="utf-8"))):
        click.echo(line)


def general_text(paper: dict[str, Any]) -> PaperText:
    """Title and abstract of another field."""
    text = f"{paper['title']}\n\n{paper['abstract']}"
    return PaperText(paper["pmid"], text, (Span(0, len(text), "abstract"),))


class Dial:
    """What is trained and scored, and how long each part took.

    Args:
        folder: Where parts that are done stand.
        train: Papers to learn from.
        replayed: General texts to learn from.
        texts: Held-out papers and general texts.
    """

    def __init__(
        self,
        folder: Path,
        train: Sequence[PaperText],
        replayed: Sequence[PaperText],
        texts: Mapping[str, Sequence[PaperText]],
    ) -> None:
        self.folder, self.train, self.replayed, self.texts = folder, train, replayed, texts
        self.file = folder / "dial.json"
        self.done: dict[str, dict[str, float]] = (
            json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {}
        )

    def measure(self, steps: int, single_steps: int) -> None:
        """All parts that are not done yet."""
        if "base" not in self.done:
            self._note("base", lambda: self._score(self._adapted(configured(SETTINGS))))
        for name in ("papers", "general"):
            self._trained(name, 0.0, single_steps)
        for weight in WEIGHTS:
            name = f"between {weight}"
            if name not in self.done:
                self._note(name, lambda weight=weight: self._score(self._between(weight)))
        for share in SHARES:
            self._trained(f"mixed {share}", share, steps)
            if f"score {share}" not in self.done:
                model = self._adapted(configured(SETTINGS))
                tensors = torch.load(self.folder / f"mixed {share}.pt")
                model.load_state_dict(tensors, strict=False)
                self._note(f"score {share}", lambda model=model: self._score(model))

    def _trained(self, name: str, share: float, steps: int) -> None:
        """Train an adapter and keep its tensors."""
        if name in self.done:
            return
        own = {**SETTINGS, "hyperparameters.max_steps": steps}
        if share:
            own |= {"replay.source": self.folder / "papers.json", "replay.share": share}
        training = configured(own)
        learned = self.replayed if name == "general" else self.train

        def train() -> Scores:
            model = self._adapted(training)
            trainer = ModelTrainer(
                training,
                model,
                load_tokenizer(resolve_base(training.model).folder),
                learned,
                [],
                self.folder / "run",
                context=TrainingContext(placement=Placement("cpu", "float32")),
                mixture=Mixture(self.replayed if share else ()),
            )
            trainer.train()
            tensors = {n: t.detach() for n, t in model.named_parameters() if t.requires_grad}
            torch.save(tensors, self.folder / f"{name}.pt")
            return {"tokens": trainer.progress.tokens_seen}

        self._note(name, train)

    def _adapted(self, training: Training) -> Any:
        """The base with a new adapter, the same one each time."""
        base = resolve_base(training.model)
        torch.manual_seed(training.hyperparameters.seed)
        model = load_model(base, training.qlora.quantization, 16, torch.float32, "cpu")
        return add_adapter(model, training.qlora, "causal")

    def _between(self, weight: float) -> Any:
        """(1 - weight) times the update of papers plus weight times that of general texts.

        Both stand in one adapter of twice the rank, so that the sum is exact.
        """
        plain = configured(SETTINGS)
        qlora = {"qlora.r": 2 * plain.qlora.r, "qlora.lora_alpha": 2 * plain.qlora.lora_alpha}
        model = self._adapted(configured({**SETTINGS, **qlora}))
        own, other = (torch.load(self.folder / f"{name}.pt") for name in ("papers", "general"))
        parameters = dict(model.named_parameters())
        for name, tensor in own.items():
            if "lora_B" in name:
                both = torch.cat([(1 - weight) * tensor, weight * other[name]], dim=1)
            else:
                both = torch.cat([tensor, other[name]])
            parameters[name].data.copy_(both)
        return model

    def _score(self, model: Any) -> Scores:
        """Bits per byte of both kinds of held-out text."""
        tokenizer = load_tokenizer(resolve_base(configured(SETTINGS).model).folder)
        model.eval()
        scores = {}
        for name, texts in self.texts.items():
            frame = score_papers(model, tokenizer, texts, **WINDOW)
            scores[name] = float(frame["nats"].sum() / (math.log(2) * frame["bytes"].sum()))
        return scores

    def _note(self, name: str, part: Any) -> None:
        began = time.process_time()
        self.done[name] = {**part(), "seconds": time.process_time() - began}
        self.file.write_text(json.dumps(self.done, indent=1), encoding="utf-8")
        click.echo(f"{name}: {self.done[name]}")


def report(done: dict[str, Scores]) -> Iterator[str]:
    """The frontier as predicted and as measured, as lines of Markdown."""
    columns = "predicted | mixed | difference"
    yield f"| share | papers: {columns} | general: {columns} |"
    yield "|---|---|---|---|---|---|---|"
    worst = 0.0
    for share in SHARES:
        predicted, measured = done[f"between {share}"], done[f"score {share}"]
        cells = [f"{share}"]
        for text in ("papers", "general"):
            difference = predicted[text] - measured[text]
            worst = max(worst, abs(difference))
            cells += [f"{predicted[text]:.4f}", f"{measured[text]:.4f}", f"{difference:+.4f}"]
        yield f"| {' | '.join(cells)} |"
    used = ["papers", "general", *(f"between {share}" for share in SHARES)]
    dial = sum(done[name]["seconds"] for name in used)
    truly = sum(
        done[f"{part} {share}"]["seconds"] for share in SHARES for part in ("mixed", "score")
    )
    yield f"\nlargest difference {worst:.4f} (at most {CLOSE}); {dial:,.0f} s of processor time"
    yield f"against {truly:,.0f} s of the mixed runs: {dial / truly:.2f} (at most {MOST_TIME})"
    for name in ("base", "between 0.0", "between 1.0"):
        yield f"{name}: papers {done[name]['papers']:.4f}, general {done[name]['general']:.4f}"


if __name__ == "__main__":
    main()
