"""Speed and memory of scoring papers, beside lm-evaluation-harness.

    python -m benchmarks.evaluation --texts ABSTRACTS.json --count 24 --rounds 7

Both sides score the same texts with the same weights, window by window without overlap. Each has
a process of its own, as its users start it: ours keeps freed memory, as every step does
(`steps.allocator`); the harness runs as it is installed, and once more with that setting. They
take turns (on a busy machine, compare the processor time). What each needs at most in memory is
that of its process. The model and its number format are those of the configuration (the demo's by
default).
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from steps.allocator import keep_freed_memory
from steps.config.file import load_config
from steps.papers.text import PaperText, Span

if TYPE_CHECKING:
    from steps.models.adapted import AdaptedModel

OURS = "this project"
PEER = "lm-evaluation-harness"
TUNED_PEER = f"{PEER}, keeping freed memory"
SIDES = (OURS, PEER, TUNED_PEER)
# In front of the line that says what a turn took; libraries write lines of their own.
TURN = "turn "


@dataclass(frozen=True)
class Turn:
    """One pass over all texts.

    Attributes:
        seconds: By the clock.
        cpu_seconds: Of the processor.
        nats: Of all texts.
        peak_bytes: Of the process, up to now.
    """

    seconds: float
    cpu_seconds: float
    nats: float
    peak_bytes: int


@click.command()
@click.option("--texts", required=True, help="Papers as JSON; title and abstract are scored.")
@click.option("--count", default=24, show_default=True, help="Texts.")
@click.option("--rounds", default=7, show_default=True, help="Turns of each side.")
@click.option("--context", default=2048, show_default=True, help="Tokens of a window.")
@click.option("--batch-tokens", default=1024, show_default=True, help="Ours: tokens of a row.")
@click.option("--peer-batch", default=1, show_default=True, help="Its texts in a batch.")
@click.option("--config", "config_path", default="configs/demo.yaml", show_default=True)
@click.option("--overrides", default="", help='Such as "training.hardware.bf16=false".')
@click.option("--serve", hidden=True, type=click.Choice(SIDES), help="A turn for each line.")
def main(
    texts: str,
    count: int,
    rounds: int,
    context: int,
    batch_tokens: int,
    peer_batch: int,
    config_path: str,
    overrides: str,
    serve: str | None,
) -> None:
    """Measure tokens a second and peak memory of both."""
    if serve is not None:
        if serve != PEER:
            keep_freed_memory()
        papers = papers_of(read_texts(Path(texts), count))
        adapted = load(config_path, overrides)
        if serve == OURS:
            take_turns(lambda: our_nats(adapted, papers, context, batch_tokens))
        else:
            whole = [paper.text for paper in papers]
            take_turns(lambda: peer_nats(adapted, whole, context, peer_batch))
        return

    with ExitStack() as stack:
        sides = {side: stack.enter_context(started(side, sys.argv[1:])) for side in SIDES}
        turns: dict[str, list[Turn]] = {side: [] for side in SIDES}
        for turn in range(rounds + 1):
            # Who goes first changes, so that neither always finds the caches warm.
            for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
                took = one_turn(sides[side])
                if turn:
                    turns[side].append(took)
    show(turns, tokens_of(read_texts(Path(texts), count), config_path, overrides))


def show(turns: dict[str, list[Turn]], tokens: int) -> None:
    """Print rates, memory, and how much faster than each peer ours is, round by round."""
    for side, taken in turns.items():
        rates = sorted(tokens / turn.seconds for turn in taken)
        click.echo(
            f"{side}: {median(rates):,.0f} tokens/s ({rates[0]:,.0f} to {rates[-1]:,.0f}), "
            f"peak {taken[-1].peak_bytes / 1e6:,.0f} MB, {taken[-1].nats / tokens:.5f} nats a token"
        )
    for peer in (PEER, TUNED_PEER):
        pairs = list(zip(turns[OURS], turns[peer], strict=True))
        for what, ratios in (
            ("wall time", sorted(b.seconds / a.seconds for a, b in pairs)),
            ("processor time", sorted(b.cpu_seconds / a.cpu_seconds for a, b in pairs)),
        ):
            shown = f"{median(ratios):.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            click.echo(f"{what} of {peer} by ours: {shown}")


def take_turns(score: "Callable[[], npt.NDArray[np.float64]]") -> None:
    """Score all texts for each line that comes in, and write what it took."""
    for _ in sys.stdin:
        start, cpu_start = time.perf_counter(), time.process_time()
        nats = float(score().sum())
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{TURN}{json.dumps([seconds, cpu_seconds, nats, peak])}", flush=True)


@contextmanager
def started(side: str, arguments: Sequence[str]) -> "Iterator[subprocess.Popen[str]]":
    """The process of a side, which ends with the block."""
    command = [sys.executable, "-m", "benchmarks.evaluation", *arguments, "--serve", side]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield process


def one_turn(process: "subprocess.Popen[str]") -> Turn:
    """Let a side score all texts once."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith(TURN):
            return Turn(*json.loads(line.removeprefix(TURN)))
    raise click.ClickException(f"{' '.join(map(str, process.args[1:]))} has ended")  # type: ignore[index]


def tokens_of(texts: Sequence[str], config_path: str, overrides: str) -> int:
    """How many tokens texts have."""
    from steps.models.sources import resolve_base
    from steps.models.tokenizer import load_tokenizer

    base = resolve_base(load_config(config_path, overrides).training.model)
    tokenizer = load_tokenizer(base.folder)
    return sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts)


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


if __name__ == "__main__":
    main()
