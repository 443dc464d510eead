"""What a causal model writes when it is given a title, and how far it can be trusted.

    prompts = generation_prompts(papers, count=32)
    rows = generate(model, tokenizer, prompts, max_new_tokens=64)
    frame = generation_scores(rows, papers, training_texts, tokenizer, find_symbols, spellings)

Three questions: are the genes that it writes those of the paper; does it make symbols up;
and does it copy its training texts. Likelihood answers none of them.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from steps.distributed.sharing import Progress, agreed, share_out
from steps.evaluation.byte_spans import tokens_and_bytes
from steps.evaluation.sampling import Draws, Sampling, generators
from steps.evaluation.seeds import generator_for
from steps.models.adapters import unwrapped
from steps.models.attention import rounding_tolerance
from steps.models.lengths import longest_text
from steps.models.tokenizer import continuation, start_token
from steps.papers.deduplication import hash_words, ngram_hashes
from steps.papers.sentences import SENTENCE_END
from steps.papers.text import PART_SEPARATOR, PaperText

if TYPE_CHECKING:
    import pandas as pd

# A verbatim run of this many tokens counts as memorised (Carlini et al. 2023, Quantifying
# Memorization Across Neural Language Models, section 3).
COPY_TOKENS = 50

# Tokens of the trial that tells whether prompts can be padded: the second one reads a cache.
_TRIED_TOKENS = 2

# A step of writing reads all weights, however many texts it goes on with: tokens of one call, whose
# keys and values are held (2 GB for LLaMA-2 7B), and the fewest texts, whatever their length.
TOKENS_TOGETHER = 4096
FEWEST_TOGETHER = 8

# Written like a gene: capitals and digits, two capitals first. V600E is not, nor is a word.
GENE_LIKE = re.compile(r"(?<![\w-])[A-Z]{2}[A-Z0-9]*[0-9][A-Z0-9]*(?![\w])")


@dataclass(frozen=True)
class Prompt:
    """The beginning of a paper, and how the paper goes on.

    Attributes:
        paper_id: The paper.
        prompt: Its text up to some point.
        continuation: All of its text from there on.
    """

    paper_id: str
    prompt: str
    continuation: str


def generation_prompts(
    papers: Sequence[PaperText],
    *,
    count: int,
    kind: Literal["title", "first_sentence"] = "title",
    seed: int = 0,
) -> list[Prompt]:
    """Choose papers and cut them into prompt and continuation.

    Args:
        papers: Held-out papers; one that has nothing after its prompt is passed over.
        count: Most prompts.
        kind: "title": the first section and the blank line after it. "first_sentence": that
            and the first sentence of the next section.
        seed: Seed of the choice, together with the papers' identifiers.

    Returns:
        At most `count` prompts, the same whatever the order of the papers.
    """
    prompts = []
    for paper in papers:
        end = _end_of_prompt(paper, kind)
        if end is not None and paper.text[end:].strip():
            prompts.append(Prompt(paper.paper_id, paper.text[:end], paper.text[end:]))
    prompts.sort(key=lambda prompt: generator_for(seed, "prompt", prompt.paper_id).random())
    return prompts[:count]


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    batch_size: int | None = None,
    sampling: Sampling | None = None,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Let a causal model go on from each prompt.

    Args:
        model: A causal `PreTrainedModel`, or one wrapped by peft, on any device.
        tokenizer: Its fast tokenizer.
        prompts: From `generation_prompts`.
        max_new_tokens: Most tokens to write; EOS ends a text earlier.
        batch_size: As in `write_on`.
        sampling: As in `write_on`.
        progress: As in `write_on`.

    Returns:
        One row a prompt, in order: `paper_id`, `prompt`, `generation`, and `reference`, the
        first `max_new_tokens` tokens of how the paper really goes on.
    """
    import pandas as pd

    start = start_token(tokenizer)
    longest = longest_text(model.config) or 10**9
    room = max(1, longest - max_new_tokens)
    encoded = [
        [start, *tokens_and_bytes(tokenizer, prompt.prompt)[0]][-room:] for prompt in prompts
    ]
    written = write_on(
        model,
        tokenizer,
        encoded,
        max_new_tokens=[max_new_tokens] * len(encoded),
        batch_size=batch_size,
        sampling=sampling,
        progress=progress,
    )
    generations = [
        continuation(tokenizer, ids, new) for ids, new in zip(encoded, written, strict=True)
    ]
    return pd.DataFrame(
        {
            "paper_id": [prompt.paper_id for prompt in prompts],
            "prompt": [prompt.prompt for prompt in prompts],
            "generation": generations,
            "reference": [
                _first_tokens(tokenizer, prompt.continuation, max_new_tokens) for prompt in prompts
            ],
        }
    )


def write_on(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: Sequence[int],
    batch_size: int | None = None,
    sampling: Sampling | None = None,
    stops: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> list[list[int]]:
    """Let a causal model go on from token ids; the same alone and in any batch.

    Args:
        model: A causal `PreTrainedModel`, or one wrapped by peft, on any device.
        tokenizer: Its tokenizer.
        prompts: Token ids to go on from.
        max_new_tokens: Most tokens to write after each.
        batch_size: Most prompts of one call; None: as many as make `TOKENS_TOGETHER` with what is
            written, and at least `FEWEST_TOGETHER`.
        sampling: How tokens are chosen; None: the most probable one each time.
        stops: Tokens that end a text; None: EOS.
        progress: Called with prompts done and prompts in all.

    Returns:
        What was written after each; filled up with padding where it ended early.
    """
    import torch

    start = start_token(tokenizer)
    settings: dict[str, Any] = {"do_sample": False}
    if stops is not None:
        settings["eos_token_id"] = list(stops)
    drawn_by = generators(sampling, prompts) if sampling and sampling.temperature > 0 else []
    made: list[list[int]] = [[] for _ in prompts]
    with torch.no_grad(), _ready_to_write(model, tokenizer) as device:
        if not agreed(_bears_padding_in_front(model, prompts, start, device)):
            batch_size = 1

        def write_batch(batch: list[int]) -> list[list[int]]:
            ids, most = [prompts[n] for n in batch], [max_new_tokens[n] for n in batch]
            if sampling and drawn_by:
                settings["logits_processor"] = [Draws(sampling, [drawn_by[n] for n in batch])]
            written = _write(model, ids, start, device, max(most), **settings)
            new_tokens = written[:, max(map(len, ids)) :].tolist()
            return [new[:count] for new, count in zip(new_tokens, most, strict=True)]

        batches = _batches(prompts, max_new_tokens, batch_size)
        written = share_out(batches, write_batch, size=len, progress=progress)
    for batch, texts in zip(batches, written, strict=True):
        for number, text in zip(batch, texts, strict=True):
            made[number] = text
    return made


def _batches(
    prompts: Sequence[list[int]], max_new_tokens: Sequence[int], batch_size: int | None
) -> list[list[int]]:
    """Numbers of prompts that are gone on from together; those of a batch take about as long."""
    order = sorted(range(len(prompts)), key=lambda n: (max_new_tokens[n], len(prompts[n])))
    batches: list[list[int]] = []
    longest = 0
    for number in order:
        longest = max(longest, len(prompts[number]) + max_new_tokens[number])
        most = batch_size or max(FEWEST_TOGETHER, TOKENS_TOGETHER // longest)
        if not batches or len(batches[-1]) >= most:
            batches.append([])
            longest = len(prompts[number]) + max_new_tokens[number]
        batches[-1].append(number)
    return batches


def generation_scores(
    generations: "pd.DataFrame",
    papers: Sequence[PaperText],
    training_texts: Sequence[str],
    tokenizer: Any,
    find_symbols: Callable[[str], Iterable[str]],
    known_symbols: Container[str],
) -> "pd.DataFrame":
    """Count genes, made-up symbols, repetition and copies in generations.

    Args:
        generations: From `generate`.
        papers: Papers with at least those of the generations.
        training_texts: What the model was trained on.
        tokenizer: Its fast tokenizer, in whose tokens copies are measured.
        find_symbols: The genes named in a text, as the labels of `PaperText.genes`.
        known_symbols: Every spelling of every gene.

    Returns:
        One row a paper, for `steps.evaluation.summary`: `gene_hits`, `genes_generated`,
        `genes_expected`: different genes of both, of the generation, and of the whole paper;
        `generated_symbols`, `generated_symbols_unknown`: what is written like a gene, and
        what of it no lexicon knows, and `reference_symbols`, `reference_symbols_unknown` of
        the real continuation, whose cell lines and proteins are unknown too;
        `distinct_words`, `generated_words`, `distinct_word_pairs`, `generated_word_pairs`
        (distinct-n within a generation, Li et al. 2016, section 5.2);
        `memorised_tokens`, `generated_tokens`: tokens within a verbatim run of 50 or more
        of a training text; `longest_verbatim_words`: longest run of words, without
        regard to case and punctuation, that stands in a training text.
    """
    import pandas as pd

    texts = generations["generation"].tolist()
    expected = {paper.paper_id: {gene.label for gene in paper.genes} for paper in papers}
    runs = _longest_runs(hash_words(texts), hash_words(training_texts))
    memorised = _memorised_tokens(tokenizer, texts, training_texts)
    rows = []
    columns = ("paper_id", "generation", "reference")
    columns_of_rows = zip(*(generations[column].tolist() for column in columns), strict=True)
    for number, (paper_id, generation, reference) in enumerate(columns_of_rows):
        genes = set(find_symbols(generation))
        words = generation.split()
        pairs = list(pairwise(words))
        symbols = GENE_LIKE.findall(generation)
        real_symbols = GENE_LIKE.findall(reference)
        memorised_tokens, tokens = memorised[number]
        rows.append(
            {
                "paper_id": paper_id,
                "gene_hits": len(genes & expected[paper_id]),
                "genes_generated": len(genes),
                "genes_expected": len(expected[paper_id]),
                "generated_symbols": len(symbols),
                "generated_symbols_unknown": _unknown(symbols, known_symbols),
                "reference_symbols": len(real_symbols),
                "reference_symbols_unknown": _unknown(real_symbols, known_symbols),
                "distinct_words": len(set(words)),
                "generated_words": len(words),
                "distinct_word_pairs": len(set(pairs)),
                "generated_word_pairs": len(pairs),
                "memorised_tokens": memorised_tokens,
                "generated_tokens": tokens,
                "longest_verbatim_words": runs[number],
            }
        )
    return pd.DataFrame(rows)


def _end_of_prompt(paper: PaperText, kind: str) -> int | None:
    """Where the prompt of a paper ends, or None if the paper has but one section."""
    if len(paper.sections) < 2:
        return None
    end = paper.sections[0].end + len(PART_SEPARATOR)
    if kind == "title":
        return end
    first_sentence = SENTENCE_END.search(paper.text, end, paper.sections[1].end)
    return first_sentence.start() if first_sentence else paper.sections[1].end


def _first_tokens(tokenizer: Any, text: str, count: int) -> str:
    lengths = tokens_and_bytes(tokenizer, text)[1]
    return text.encode()[: int(lengths[:count].sum())].decode(errors="ignore")


@contextmanager
def _ready_to_write(model: Any, tokenizer: Any) -> Iterator[Any]:
    """Evaluation mode, and none of the sampling that a model folder may bring along."""
    from transformers import GenerationConfig

    inner = unwrapped(model)
    start = start_token(tokenizer)
    before, was_training = inner.generation_config, model.training
    inner.generation_config = GenerationConfig(
        bos_token_id=start,
        eos_token_id=tokenizer.eos_token_id,
        # Only fills up texts that have ended; special, so that it is not shown.
        pad_token_id=start if tokenizer.eos_token_id is None else tokenizer.eos_token_id,
    )
    model.eval()
    try:
        yield inner.get_input_embeddings().weight.device
    finally:
        inner.generation_config = before
        model.train(was_training)


def _write(
    model: Any, prompts: Sequence[list[int]], padding: int, device: Any, count: int, **settings: Any
) -> Any:
    """Let a model go on from prompts of unequal length.

    Padding stands in front, where the model's next token does not follow it.
    """
    import torch

    width = max(len(ids) for ids in prompts)
    padded = [[padding] * (width - len(ids)) + ids for ids in prompts]
    seen = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
    return model.generate(
        input_ids=torch.tensor(padded, device=device),
        attention_mask=torch.tensor(seen, device=device),
        max_new_tokens=count,
        use_cache=True,
        **settings,
    )


def _bears_padding_in_front(
    model: Any, prompts: Sequence[list[int]], padding: int, device: Any
) -> bool:
    """Whether a short prompt is continued beside a long one as it is alone.

    Positions that count the padding (CTRL), states that have read it, or long RoPE make another
    text of it without a word.
    """
    import torch

    ordered = sorted(prompts, key=len)
    if not ordered or len(ordered[0]) == len(ordered[-1]):
        return True

    def scores(batch: list[list[int]]) -> Any:
        trial = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        made = _write(model, batch, padding, device, _TRIED_TOKENS, **trial)
        return torch.stack([logits[0] for logits in made.logits]).to(model.dtype)

    alone, beside = scores([ordered[0]]), scores([ordered[0], ordered[-1]])
    if alone.shape != beside.shape:
        return False
    difference = (alone - beside).float().norm()
    return bool(difference <= rounding_tolerance(model, alone) * alone.float().norm())


def _unknown(symbols: Iterable[str], known_symbols: Container[str]) -> int:
    return sum(symbol not in known_symbols for symbol in symbols)


def _longest_runs(
    texts: "Sequence[npt.NDArray[np.uint32]]", training: "Sequence[npt.NDArray[np.uint32]]"
) -> list[int]:
    """For each text, the length of its longest run that stands in a training text."""
    longest = [0] * len(texts)
    alive = list(range(len(texts)))
    length = 0
    # A run of n + 1 words holds one of n: whoever has none of n is done.
    while alive:
        length += 1
        copied = _copied_runs([texts[n] for n in alive], training, length)
        alive = [n for n, run in zip(alive, copied, strict=True) if run.any()]
        for n in alive:
            longest[n] = length
    return longest


def _memorised_tokens(
    tokenizer: Any, texts: Sequence[str], training_texts: Sequence[str]
) -> list[tuple[int, int]]:
    """For each text, its tokens within copied runs of `COPY_TOKENS`, and its tokens in all."""

    def tokens_of(text: str) -> "npt.NDArray[np.uint32]":
        return np.array(tokens_and_bytes(tokenizer, text)[0], dtype=np.uint32)

    written = [tokens_of(text) for text in texts]
    if all(len(tokens) < COPY_TOKENS for tokens in written):
        return [(0, len(tokens)) for tokens in written]
    training = [tokens_of(text) for text in training_texts]
    counts = []
    for tokens, runs in zip(written, _copied_runs(written, training, COPY_TOKENS), strict=True):
        copied = np.zeros(len(tokens), dtype=np.bool_)
        for start in np.flatnonzero(runs):
            copied[start : start + COPY_TOKENS] = True
        counts.append((int(copied.sum()), len(tokens)))
    return counts


def _copied_runs(
    texts: "Sequence[npt.NDArray[np.uint32]]",
    training: "Sequence[npt.NDArray[np.uint32]]",
    length: int,
) -> "list[npt.NDArray[np.bool_]]":
    """For each text, which of its runs of some length stand in a training text."""
    runs = [_runs_of([text], length) for text in texts]
    wanted = np.unique(np.concatenate(runs))
    found = np.zeros(len(wanted), dtype=np.bool_)
    if len(wanted):
        # The training texts are the many: each of their runs is looked up once, none is sorted.
        seen = _runs_of(training, length)
        places = np.minimum(np.searchsorted(wanted, seen), len(wanted) - 1)
        found[places[wanted[places] == seen]] = True
    return [found[np.searchsorted(wanted, each)] for each in runs]


def _runs_of(texts: "Sequence[npt.NDArray[np.uint32]]", length: int) -> "npt.NDArray[np.uint64]":
    """Hashes of all runs of `length` words or tokens, none across two texts."""
    runs = [ngram_hashes(words, length) for words in texts if len(words) >= length]
    return np.concatenate(runs) if runs else np.empty(0, dtype=np.uint64)
