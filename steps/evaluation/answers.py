"""How well a model answers: its answers' likelihood, and what it says by itself.

    frame = score_answers(model, chat, items, context=1024, batch_tokens=4096)
    said = write_answers(model, chat, items[:200], max_new_tokens=64)

The unit is the paper that an item is about (the item itself where it names none), as for
everything else that is compared.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steps.distributed.sharing import Progress
from steps.evaluation.generation import write_on
from steps.evaluation.likelihood import sequence_nats
from steps.evaluation.sampling import Sampling
from steps.evaluation.seeds import generator_for
from steps.models.chat import CannotRender, Chat, Tokens, fit
from steps.models.lengths import longest_text
from steps.models.tokenizer import continuation
from steps.papers.instructions import InstructionItem

if TYPE_CHECKING:
    import pandas as pd

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Tokens that a model may take for an answer, by those of the right one.
_ROOM = 2


def score_answers(
    model: Any,
    chat: Chat,
    items: Sequence[InstructionItem],
    *,
    context: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """How likely a model finds the answers of items, each given all that was said before.

    Args:
        model: A causal `PreTrainedModel`, or one wrapped by peft, on any device.
        chat: Its tokenizer with a template.
        items: What is asked; one that the template cannot write is left out.
        context: Tokens that a window holds; a longer conversation is read in several.
        batch_tokens: Tokens of one forward pass. Changes speed and memory, no figure.
        progress: Called with tokens done and tokens in all.

    Returns:
        One row an item: `item_id`, `paper_id` (the unit), `answer_nats` (of the answers' words,
        without the token that ends a turn), `answer_bytes` (UTF-8), `answer_tokens`.
    """
    import pandas as pd

    scored = [(item, tokens) for item in items if (tokens := _tokens(chat, item)) is not None]
    nats = sequence_nats(
        model,
        [tokens.ids for _, tokens in scored],
        context=context,
        stride=max(1, context // 2),
        batch_tokens=batch_tokens,
        progress=progress,
    )
    rows = [
        {
            "item_id": item.item_id,
            "paper_id": item.unit,
            "answer_nats": float(of_item[tokens.said[1:]].sum()),
            "answer_bytes": sum(
                len(message.content.encode())
                for message in item.messages
                if message.role == "assistant"
            ),
            "answer_tokens": int(tokens.said[1:].sum()),
        }
        for (item, tokens), of_item in zip(scored, nats, strict=True)
    ]
    columns = ["item_id", "paper_id", "answer_nats", "answer_bytes", "answer_tokens"]
    return pd.DataFrame(rows, columns=columns)


def _tokens(chat: Chat, item: InstructionItem) -> Tokens | None:
    try:
        return chat.tokens(item.messages)
    except CannotRender:
        return None


def chosen_items(items: Sequence[InstructionItem], count: int, seed: int) -> list[InstructionItem]:
    """At most `count` items, the same whatever their order."""
    ordered = sorted(items, key=lambda item: generator_for(seed, "answer", item.item_id).random())
    return ordered[:count]


def write_answers(
    model: Any,
    chat: Chat,
    items: Sequence[InstructionItem],
    *,
    max_new_tokens: int,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Let a model answer the last question of each item, greedily.

    Args:
        model: As in `score_answers`.
        chat: As in `score_answers`.
        items: What is asked.
        max_new_tokens: Most tokens of an answer, and at least twice those of the right one.
        progress: Called with items done and items in all.

    Returns:
        One row an item: `item_id`, `paper_id` (the unit), `prompt` (what was asked),
        `generation`, `reference`, `exact_match`, `token_f1`, and `format_failure`: the answer is
        empty, or does not end where a turn ends.
    """
    import pandas as pd

    longest = longest_text(model.config) or 10**9
    asked = []
    for item in items:
        budget = max(max_new_tokens, _ROOM * len(chat.ids(item.messages[-1].content)))
        try:
            asked.append((item, _prompt_ids(chat, item, max(1, longest - budget)), budget))
        except CannotRender:
            continue
    asked.sort(key=lambda one: (one[2], len(one[1]), one[0].item_id))
    said = say_next(
        model,
        chat,
        [prompt for _, prompt, _ in asked],
        max_new_tokens=[budget for *_, budget in asked],
        progress=progress,
    )
    rows = [_row(item, one) for (item, *_), one in zip(asked, said, strict=True)]
    columns = ["item_id", "paper_id", "prompt", "generation", "reference"]
    columns += ["exact_match", "token_f1", "format_failure"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class Said:
    """What a model has said.

    Attributes:
        text: Its words, without what its template writes before an answer.
        ended: Whether it ended where a turn ends.
    """

    text: str
    ended: bool


def say_next(
    model: Any,
    chat: Chat,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: Sequence[int],
    sampling: Sampling | None = None,
    progress: Progress | None = None,
) -> list[Said]:
    """Let a model take the next turn of conversations.

    Args:
        model: As in `score_answers`.
        chat: As in `score_answers`.
        prompts: Token ids up to where the model begins to write.
        max_new_tokens: Most tokens of each turn.
        sampling: How tokens are chosen; None: the most probable one each time.
        progress: Called with conversations done and all.
    """
    written = write_on(
        model,
        chat.tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stops=chat.stops,
        progress=progress,
    )
    said = []
    for prompt, ids in zip(prompts, written, strict=True):
        ended = next((place for place, one in enumerate(ids) if one in chat.stops), None)
        text = continuation(chat.tokenizer, prompt, ids[:ended]).strip()
        said.append(Said(text.removeprefix(chat.preface).strip(), ended is not None))
    return said


def _row(item: InstructionItem, said: Said) -> dict[str, Any]:
    *before, answer = item.messages
    return {
        "item_id": item.item_id,
        "paper_id": item.unit,
        "prompt": before[-1].content,
        "generation": said.text,
        "reference": answer.content,
        "exact_match": float(normalised(said.text) == normalised(answer.content)),
        "token_f1": token_f1(said.text, answer.content),
        "format_failure": float(not said.ended or not said.text),
    }


def _prompt_ids(chat: Chat, item: InstructionItem, room: int) -> list[int]:
    """What the model is given, cut on the side of the context where it is longer than `room`."""
    *before, _ = item.messages
    ids = chat.ids(chat.prompt(before))
    if len(ids) <= room:
        return ids
    cut = fit(item.messages, chat, room)
    if cut is None:
        return ids[-room:]
    tokens, _ = cut
    last = np.flatnonzero(tokens.learned)
    gaps = np.flatnonzero(np.diff(last) > 1)
    start = int(last[gaps[-1] + 1] if len(gaps) else last[0])
    return tokens.ids[:start]


def per_unit(likelihood: "pd.DataFrame", said: "pd.DataFrame") -> "pd.DataFrame":
    """Sums over the items of each paper, for `steps.evaluation.summary`.

    Args:
        likelihood: From `score_answers`.
        said: From `write_answers`; may be empty.

    Returns:
        One row a unit: `paper_id`, `items`, `answer_nats`, `answer_bytes`, `answer_tokens`, and
        where something was said `answered_items`, `exact_matches`, `token_f1_sum`,
        `format_failures`.
    """
    sums = likelihood.groupby("paper_id", sort=True).agg(
        items=("item_id", "size"),
        answer_nats=("answer_nats", "sum"),
        answer_bytes=("answer_bytes", "sum"),
        answer_tokens=("answer_tokens", "sum"),
    )
    if len(said):
        of_answers = said.groupby("paper_id").agg(
            answered_items=("item_id", "size"),
            exact_matches=("exact_match", "sum"),
            token_f1_sum=("token_f1", "sum"),
            format_failures=("format_failure", "sum"),
        )
        sums = sums.join(of_answers).fillna(dict.fromkeys(of_answers.columns, 0))
    return sums.reset_index()


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and repeated blanks (SQuAD's own script)."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def token_f1(said: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words, each as often as it occurs (SQuAD)."""
    first, second = normalised(said).split(), normalised(reference).split()
    if not first or not second:
        return float(first == second)
    shared = sum((Counter(first) & Counter(second)).values())
    return 2 * shared / (len(first) + len(second))
