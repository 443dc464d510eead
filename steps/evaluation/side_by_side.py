"""What the base and the model that was adapted from it make of the same prompts.

    answered = ask_both(training, adapter, prompts)
    answered[0].written["base"], answered[0].written["model"]

The base is the model with its adapter switched off, so that one model is in memory. Where it is
not (all weights were trained, or biases, or tokens were added), it is loaded after the other.
"""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from steps.config.generate_section import Generate
from steps.config.sections import Quantization, Training
from steps.distributed.sharing import Progress
from steps.errors import UserError
from steps.evaluation.answers import say_next
from steps.evaluation.filling import fill, masked_ids
from steps.evaluation.generation import write_on
from steps.evaluation.prompts import AskedPrompt
from steps.evaluation.sampling import Sampling
from steps.messages import Message
from steps.models.adapted import AdaptedModel, load_adapted, load_base, read_description
from steps.models.chat import CannotRender, Chat
from steps.models.lengths import longest_text
from steps.models.sources import Base, Task, resolve_base, resolve_description, task_trained
from steps.models.tokenizer import continuation, load_tokenizer, start_token
from steps.progress import ProgressLine

# Words that a masked model names for each mask.
TOP_WORDS = 5


@dataclass(frozen=True)
class Question:
    """A prompt as a model reads it.

    Attributes:
        ids: Token ids.
        chat: Whether it is a conversation, which the model goes on with a turn.
        cut: Tokens that were left out at its beginning, since the model cannot read so many.
    """

    ids: list[int]
    chat: bool
    cut: int


@dataclass(frozen=True)
class Answered:
    """A prompt and what was written.

    Attributes:
        prompt: The prompt.
        cut: As in `Question`, of the adapted model.
        written: By "base" and "model": texts, one a sample; of masked models, the likeliest
            words for each mask (`list[list[Word]]`).
    """

    prompt: AskedPrompt
    cut: int
    written: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """How a model reads prompts; needs none of its weights.

    Attributes:
        base: The base.
        tokenizer: Of the model.
        task: What the model was trained for.
        template: A chat template that the configuration names, or None.
    """

    base: Base
    tokenizer: Any
    task: Task
    template: str | None = None

    @cached_property
    def chat(self) -> Chat:
        """How conversations are written.

        Raises:
            UserError: There is no template for it.
        """
        return Chat.of(self.tokenizer, self.template, self.base.name)

    def prepared(self, prompts: Sequence[AskedPrompt], settings: Generate) -> list[Question]:
        """The prompts as token ids.

        Raises:
            UserError: One that this model cannot be asked, or not at this length.
        """
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.base.folder, trust_remote_code=False)
        longest = longest_text(config)
        if self.task == "masked":
            return [self._with_mask(prompt, longest) for prompt in prompts]
        room = None if longest is None else longest - settings.max_new_tokens
        if room is not None and room < 1:
            raise UserError(
                f"training.generate.max_new_tokens is {settings.max_new_tokens}, and "
                f"{self.base.name} reads {longest} tokens in all: lower it"
            )
        return [self._written(prompt, room) for prompt in prompts]

    def _with_mask(self, prompt: AskedPrompt, longest: int | None) -> Question:
        mask = self.tokenizer.mask_token
        if prompt.messages:
            raise UserError(
                f"{prompt.place} is a conversation, and {self.base.name} fills masks: give a "
                f"prompt with {mask}"
            )
        ids = masked_ids(self.tokenizer, prompt.text)
        if self.tokenizer.mask_token_id not in ids:
            raise UserError(
                f"{prompt.place} ({_beginning(prompt.text)}) has no {mask}, and {self.base.name} "
                f"fills masks: write {mask} where a word is asked for"
            )
        most = min(longest or len(ids), self.tokenizer.model_max_length)
        if len(ids) > most:
            raise UserError(
                f"{prompt.place} ({_beginning(prompt.text)}) has {len(ids)} tokens, and "
                f"{self.base.name} reads {most}: shorten it"
            )
        return Question(ids, chat=False, cut=0)

    def _written(self, prompt: AskedPrompt, room: int | None) -> Question:
        if prompt.messages or self.task == "instruction":
            return self._asked(prompt, room)
        start = start_token(self.tokenizer)
        ids = list(self.tokenizer(prompt.text, add_special_tokens=False, verbose=False).input_ids)
        # Somebody may have written the opening into the text.
        ids = ids if ids[:1] == [start] else [start, *ids]
        cut = 0 if room is None else max(0, len(ids) - room)
        return Question(ids[cut:], chat=False, cut=cut)

    def _asked(self, prompt: AskedPrompt, room: int | None) -> Question:
        messages = prompt.messages or (Message("user", prompt.text),)
        try:
            ids = self.chat.ids(self.chat.prompt(messages))
        except CannotRender as error:
            raise UserError(
                f"{prompt.place}: the chat template of {self.base.name} refuses it ({error})"
            ) from None
        if room is not None and len(ids) > room:
            raise UserError(
                f"{prompt.place} ({_beginning(prompt.text)}) has {len(ids)} tokens, and "
                f"{self.base.name} reads {room} beside its answer: shorten it, or lower "
                "training.generate.max_new_tokens"
            )
        return Question(ids, chat=True, cut=0)


def _beginning(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def reader_of(training: Training, adapter: Path | None, *, of_base: bool = False) -> Reader:
    """How a model reads, or the base alone.

    Args:
        training: The configuration: the base, where there is no adapter.
        adapter: The adapter folder; None: the base that the configuration names.
        of_base: With an adapter: how the base of it reads, whose tokenizer is its own.

    Raises:
        UserError: The base or its tokenizer are out of reach.
    """
    if adapter is None:
        base = resolve_base(training.model)
        task = task_trained(training, base.objective)
        tokenizer = load_tokenizer(base.folder)
        return Reader(base, tokenizer, task, training.instructions.chat_template)
    description = read_description(adapter)
    base = resolve_description(description["base"])
    task = "instruction" if description.get("task") == "instruction" else base.objective
    tokenizer = load_tokenizer(adapter)
    if of_base:
        template, tokenizer = tokenizer.chat_template, load_tokenizer(base.folder)
        # Both are asked in the same words.
        tokenizer.chat_template = template or tokenizer.chat_template
    own = None if tokenizer.chat_template else training.instructions.chat_template
    return Reader(base, tokenizer, task, own)


def base_is_in(adapter: Path) -> bool:
    """Whether the base is what is left when the adapter is switched off.

    It is not where all weights were trained, or biases (which stay when peft switches an adapter
    off), or where there are more tokens than the base has.
    """
    settings = adapter / "adapter_config.json"
    if not settings.is_file():
        return False
    content = json.loads(settings.read_text(encoding="utf-8"))
    return content.get("bias", "none") == "none" and not content.get("trainable_token_indices")


def ask_both(
    training: Training, adapter: Path | None, prompts: Sequence[AskedPrompt]
) -> list[Answered]:
    """Let a model and its base write; what cannot be asked is refused before weights are loaded.

    Args:
        training: The configuration: the section `generate`, and the base where it is asked alone.
        adapter: The adapter folder; None: only the base is asked.
        prompts: What is asked.

    Raises:
        UserError: A prompt that the model cannot be asked, or a model that cannot be loaded.
    """
    settings = training.generate
    reader = reader_of(training, adapter)
    questions = reader.prepared(prompts, settings)
    pairs = zip(prompts, questions, strict=True)
    answered = [Answered(prompt, question.cut) for prompt, question in pairs]
    if adapter is None:
        adapted = load_base(reader.base, hardware=training.hardware)
        _note(answered, "base", _write("base", adapted, reader, questions, settings))
        return answered
    apart = None if base_is_in(adapter) else reader_of(training, adapter, of_base=True)
    # Before minutes go into the model.
    asked_of_base = questions if apart is None else apart.prepared(prompts, settings)
    adapted = load_adapted(adapter, training.hardware)
    _note(answered, "model", _write("model", adapted, reader, questions, settings))
    if apart is None:
        with adapted.model.disable_adapter():
            written = _write("base", adapted, reader, questions, settings)
    else:
        description = adapted.description
        # Two do not fit where one does.
        del adapted
        _release()
        adapted = load_base(
            apart.base,
            bits=description["bits"],
            quantization=Quantization(**description["quantization"]),
            hardware=training.hardware,
            dtype_name=description["dtype"],
            tokenizer=apart.tokenizer,
        )
        written = _write("base", adapted, apart, asked_of_base, settings)
    _note(answered, "base", written)
    return answered


def _release() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _note(answered: Sequence[Answered], side: str, written: Sequence[Any]) -> None:
    for one, texts in zip(answered, written, strict=True):
        one.written[side] = texts


def _write(
    side: str,
    adapted: AdaptedModel,
    reader: Reader,
    questions: Sequence[Question],
    settings: Generate,
) -> list[Any]:
    """What one model makes of each question: texts, or words for each mask."""
    with adapted.autocast(), ProgressLine(side, "texts") as line:
        if reader.task == "masked":
            words = []
            for done, question in enumerate(questions, start=1):
                ids, device = question.ids, adapted.device
                words.append(fill(adapted.model, reader.tokenizer, ids, TOP_WORDS, device))
                line.show(done, len(questions))
            return words
        return _texts(adapted, reader, questions, settings, line.show)


def _texts(
    adapted: AdaptedModel,
    reader: Reader,
    questions: Sequence[Question],
    settings: Generate,
    progress: Progress,
) -> list[list[str]]:
    """Conversations and texts are written on apart: they end at other tokens."""
    sampling = Sampling(settings.temperature, settings.top_p, settings.seed)
    written: list[list[str]] = [[] for _ in questions]
    for chat in (True, False):
        # A prompt stands there once a sample.
        places = [
            place
            for place, question in enumerate(questions)
            if question.chat == chat
            for _ in range(settings.num_samples)
        ]
        if not places:
            continue
        ids = [questions[place].ids for place in places]
        limits = [settings.max_new_tokens] * len(ids)
        common: dict[str, Any] = {
            "max_new_tokens": limits,
            "sampling": sampling,
            "progress": progress,
        }
        if chat:
            said = say_next(adapted.model, reader.chat, ids, **common)
            texts = [one.text for one in said]
        else:
            new = write_on(adapted.model, reader.tokenizer, ids, **common)
            texts = [
                continuation(reader.tokenizer, prompt, more)
                for prompt, more in zip(ids, new, strict=True)
            ]
        for place, text in zip(places, texts, strict=True):
            written[place].append(text)
    return written
