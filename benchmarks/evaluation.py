"""Speed and memory of scoring papers, beside lm-evaluation-harness.

    python -m benchmarks.evaluation --texts ABSTRACTS.json --count 24 --rounds 3

Both sides score the same texts with the same weights, window by window without overlap, and
take turns in one process (on a busy machine, compare the processor time). What each needs at
most in memory is measured in a process of its own. The model and its number format are those of
the configuration (the demo's by default).
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from steps.config.file import load_config
from steps.papers.text import PaperText, Span

if TYPE_CHECKING:
    from steps.models.adapted import AdaptedModel

SIDES = ("this project", "lm-evaluation-harness")


@click.command()
@click.option("--texts", required=True, help="Papers as JSON; title and abstract are scored.")
@click.option("--count", default=24, show_default=True, help="Texts.")
@click.option("--rounds", default=3, show_default=True, help="Turns of each side.")
@click.option("--context", default=2048, show_default=True, help="Tokens of a window.")
@click.option("--batch-tokens", default=1024, show_default=True, help="Ours: tokens of a row.")
@click.option("--peer-batch", default=1, show_default=True, help="Its texts in a batch.")
@click.option("--config", "config_path", default="configs/demo.yaml", show_default=True)
@click.option("--overrides", default="", help='Such as "training.hardware.bf16=false".')
@click.option("--only", hidden=True, type=click.Choice(SIDES), help="One side, once.")
def main(
    texts: str,
    count: int,
    rounds: int,
    context: int,
    batch_tokens: int,
    peer_batch: int,
    config_path: str,
    overrides: str,
    only: str | None,
) -> None:
    """Measure tokens a second and peak memory of both."""
    # Before this process grows: what a process was when it was forked counts as its own peak.
    peaks = {} if only else {side: peak_bytes(side, sys.argv[1:]) for side in SIDES}
    papers = papers_of(read_texts(Path(texts), count))
    adapted = load(config_path, overrides)

    def score(side: str) -> "npt.NDArray[np.float64]":
        if side == SIDES[0]:
            return our_nats(adapted, papers, context, batch_tokens)
        return peer_nats(adapted, [paper.text for paper in papers], context, peer_batch)

    if only is not None:
        score(only)
        click.echo(
            json.dumps({"peak_kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss})
        )
        return

    tokens = sum(len(adapted.tokenizer(p.text, add_special_tokens=False).input_ids) for p in papers)
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    cpu_seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    nats: dict[str, float] = {}
    score(SIDES[0])
    for turn in range(rounds):
        # Who goes first changes, so that neither always finds the caches warm.
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            start, cpu_start = time.perf_counter(), time.process_time()
            nats[side] = float(score(side).sum())
            seconds[side].append(time.perf_counter() - start)
            cpu_seconds[side].append(time.process_time() - cpu_start)
    click.echo(f"{len(papers)} texts, {tokens:,} tokens, {adapted.dtype}, {adapted.device}")
    for side in SIDES:
        rates = sorted(tokens / each for each in seconds[side])
        click.echo(
            f"{side}: {median(rates):,.0f} tokens/s ({rates[0]:,.0f} to {rates[-1]:,.0f}), "
            f"peak {peaks[side] / 1e6:,.0f} MB, {nats[side] / tokens:.5f} nats a token"
        )
    for what, taken in (("wall time", seconds), ("processor time", cpu_seconds)):
        ratios = sorted(b / a for a, b in zip(*(taken[side] for side in SIDES), strict=True))
        click.echo(f"{what}: {median(ratios):.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def load(config_path: str, overrides: str = "") -> "AdaptedModel":
    """The base model of a configuration, ready to be scored."""
    from steps.models.adapted import load_base
    from steps.models.sources import resolve_base

    training = load_config(config_path, overrides).training
    return load_base(resolve_base(training.model), hardware=training.hardware)


def read_texts(file: Path, count: int) -> list[str]:
    """Titles and abstracts of the first papers that have both."""
    content = json.loads(file.read_text(encoding="utf-8"))
    records = content["papers"] if isinstance(content, dict) else content
    both = [r for r in records if r.get("title") and r.get("abstract")]
    return [f"{record['title']}\n\n{record['abstract']}" for record in both[:count]]


def papers_of(texts: Sequence[str]) -> list[PaperText]:
    """Texts as papers of one section."""
    return [
        PaperText(str(number), text, (Span(0, len(text), "abstract"),))
        for number, text in enumerate(texts)
    ]


def our_nats(
    adapted: "AdaptedModel", papers: Sequence[PaperText], context: int, batch_tokens: int
) -> "npt.NDArray[np.float64]":
    """Negative log-likelihood of each paper as the evaluate step computes it."""
    from steps.evaluation.likelihood import score_papers

    with adapted.autocast():
        frame = score_papers(
            adapted.model,
            adapted.tokenizer,
            papers,
            context=context,
            stride=context,
            batch_tokens=batch_tokens,
        )
    return frame["nats"].to_numpy()


def peer_nats(
    adapted: "AdaptedModel", texts: Sequence[str], context: int, batch: int
) -> "npt.NDArray[np.float64]":
    """Negative rolling log-likelihood of each text by lm-evaluation-harness."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    peer: Any = HFLM(
        pretrained=adapted.model,
        tokenizer=adapted.tokenizer,
        backend="causal",
        max_length=context,
        batch_size=batch,
        add_bos_token=False,
    )
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
        for text in texts
    ]
    return -np.array(peer.loglikelihood_rolling(requests, disable_tqdm=True))


def peak_bytes(side: str, arguments: Sequence[str]) -> int:
    """Peak memory of a process that loads the model and scores all texts by one side."""
    command = [sys.executable, "-m", "benchmarks.evaluation", *arguments, "--only", side]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return 1024 * int(json.loads(said.splitlines()[-1])["peak_kilobytes"])


if __name__ == "__main__":
    main()
