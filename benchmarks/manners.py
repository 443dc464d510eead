"""What adapting an instruct model to papers costs it, with replay and without.

    python -m benchmarks.manners --papers genomics_abstracts.json --general general_abstracts.json

The demo's instruct model, LoRA on abstracts for the same number of optimiser steps, once on papers
alone and once with general texts among them (`training.replay`). Of each are measured the share of
rules of form that it follows (56 prompts, greedily), and bits per byte of held-out papers and of
held-out general texts. Differences to the model before are paired by prompt and by text.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.layouts import papers_of
from steps.config.file import load_config
from steps.config.sections import Training
from steps.evaluation.likelihood import score_papers
from steps.evaluation.manners import TOKENS_OF_AN_ANSWER, follow_rules, rule_prompts
from steps.models.adapters import add_adapter
from steps.models.chat import Chat
from steps.models.devices import Placement
from steps.models.loading import load_model
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from steps.papers.text import PaperText
from steps.training.context import TrainingContext
from steps.training.mixing import Mixture
from steps.training.trainer import ModelTrainer

HELD_OUT = 16


def adapted(
    training: Training, papers: Sequence[PaperText] | None, replayed: Sequence[PaperText]
) -> tuple[Any, Any]:
    """The instruct model with an adapter, trained on papers where there are some."""
    base = resolve_base(training.model)
    torch.manual_seed(training.hyperparameters.seed)
    model = load_model(base, training.qlora.quantization, 16, torch.float32, "cpu")
    tokenizer = load_tokenizer(base.folder)
    if papers is None:
        return model, tokenizer
    model = add_adapter(model, training.qlora, "causal")
    with tempfile.TemporaryDirectory() as folder:
        context = TrainingContext(placement=Placement("cpu", "float32"))
        trainer = ModelTrainer(
            training,
            model,
            tokenizer,
            papers,
            [],
            Path(folder),
            context=context,
            mixture=Mixture(replayed),
        )
        trainer.train()
    return model, tokenizer


def measured(
    model: Any, tokenizer: Any, papers: Sequence[PaperText], general: Sequence[PaperText]
) -> dict[str, Any]:
    """Rules followed, prompt by prompt, and nats and bytes text by text."""
    rules = follow_rules(
        model, Chat.of(tokenizer, None), rule_prompts(), max_new_tokens=TOKENS_OF_AN_ANSWER
    )
    window: dict[str, Any] = {"context": 512, "stride": 256, "batch_tokens": 2048}
    frames = {
        "papers": score_papers(model, tokenizer, papers, **window),
        "general": score_papers(model, tokenizer, general, **window),
    }
    likelihood = {
        name: [frame["nats"].tolist(), frame["bytes"].tolist()] for name, frame in frames.items()
    }
    return {"rules": rules["rules_followed"].tolist(), **likelihood}


def interval(differences: Sequence[float]) -> str:
    """Mean difference and its 95 % percentile interval over 2,000 resamples."""
    values = np.asarray(differences, dtype=np.float64)
    draws = np.random.default_rng(0).choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{values.mean():+.4f} ({low:+.4f} to {high:+.4f})"


def lines(results: dict[str, dict[str, Any]]) -> list[str]:
    """The figures as a Markdown table."""
    before = results["before"]
    made = [
        "| model | rules followed | change | papers, bits per byte | change | general | change |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        cells = [name, f"{np.mean(one['rules']):.3f}"]
        change = np.subtract(one["rules"], before["rules"]).tolist()
        cells.append("" if one is before else interval(change))
        for texts in ("papers", "general"):
            nats, size = one[texts]
            per_text = [n / (np.log(2) * b) for n, b in zip(nats, size, strict=True)]
            earlier = [n / (np.log(2) * b) for n, b in zip(*before[texts], strict=True)]
            cells.append(f"{sum(nats) / (np.log(2) * sum(size)):.4f}")
            moved = np.subtract(per_text, earlier).tolist()
            cells.append("" if one is before else interval(moved))
        made.append(f"| {' | '.join(cells)} |")
    return made


@click.command()
@click.option("--papers", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--general", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--steps", default=20, show_default=True, help="Of 4 rows of 512 tokens each.")
@click.option("--share", default=0.3, show_default=True, help="Of general texts, with replay.")
@click.option("--results", default="manners.json", type=click.Path(path_type=Path))
@click.option("--overrides", default="", help="Of the configuration.")
def main(
    papers: Path, general: Path, steps: int, share: float, results: Path, overrides: str
) -> None:
    """Measure what is not measured yet, and print all."""
    own, others = papers_of(papers, 400), papers_of(general, 400)
    held_out = own[:HELD_OUT], others[:HELD_OUT]
    settings = (
        f"training.hyperparameters.max_steps={steps} training.hyperparameters.learning_rate=2e-4 "
        f"training.logging.save_strategy=no training.logging.log_steps=5 {overrides}"
    )
    replay = f"training.replay.source={general} training.replay.share={share}"
    sides = {"before": None, "papers": settings, "papers and replay": f"{settings} {replay}"}
    found = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    for name, given in sides.items():
        if name in found:
            continue
        training = load_config("configs/demo.yaml", given or settings).training
        learned = None if given is None else own[HELD_OUT:]
        # The configuration says the share; the texts are those that nothing is measured on.
        replayed = others[HELD_OUT:] if training.replay.share else []
        found[name] = measured(*adapted(training, learned, replayed), *held_out)
        results.write_text(json.dumps(found), encoding="utf-8")
        click.echo(f"{name} is measured")
    for line in lines(found):
        click.echo(line)


if __name__ == "__main__":
    main()
