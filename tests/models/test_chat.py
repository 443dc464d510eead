"""Conversations as templates write them: what is learned is the answers, and nothing else."""

import copy
from pathlib import Path
from typing import Any

import pytest

from steps.errors import UserError
from steps.messages import Message
from steps.models.chat import CannotRender, Chat, fit

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# In the manner of LLaMA-2: BOS for each exchange, EOS after each answer, no system message.
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }} {{ eos_token }}"
    "{% else %}{{ raise_exception('no system message') }}{% endif %}{% endfor %}"
)
# Nothing says that an answer is over.
BARE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# Qwen3's trait: only the last answer comes with its (empty) reasoning.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# TRL's way to say in a template what is learned.
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{{ '\\n' }}"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Cohere's trait: two tokens end a turn.
TWICE = CHATML.replace("<|im_end|>", "<|im_end|></s>")
# The token that begins the next turn touches the one that ends this one, and is no part of it.
BEGUN_ANEW = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[Q]{{ m.content }}[/Q]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
TALK = [
    Message("user", "Which gene carries p.V600E?"),
    Message("assistant", "BRAF."),
    Message("user", "And R175H?"),
    Message("assistant", "TP53, in exon 5."),
]


@pytest.fixture
def tokenizer(byte_level_tokenizer: Any) -> Any:
    made = copy.deepcopy(byte_level_tokenizer)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return made


def chat_by(tokenizer: Any, template: str) -> Chat:
    tokenizer.chat_template = template
    return Chat.of(tokenizer, None)


def learned_text(chat: Chat, messages: list[Message]) -> list[str]:
    """The stretches of learned tokens, decoded; a token may bring the space before its word."""
    tokens = chat.tokens(messages)
    stretches: list[list[int]] = []
    before = False
    for token, learned in zip(tokens.ids, tokens.learned, strict=True):
        if learned and not before:
            stretches.append([])
        if learned:
            stretches[-1].append(token)
        before = learned
    return [chat.tokenizer.decode(stretch).strip() for stretch in stretches]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["BRAF.<|im_end|>", "TP53, in exon 5.<|im_end|>"]),
        (INST, ["BRAF. </s>", "TP53, in exon 5. </s>"]),
        (BARE, ["BRAF.", "TP53, in exon 5.</s>"]),
        (THINKING, ["BRAF.<|im_end|>", "<think>\n\n</think>\n\nTP53, in exon 5.<|im_end|>"]),
        (MARKED, ["BRAF.<|im_end|>", "TP53, in exon 5.<|im_end|>"]),
        (TWICE, ["BRAF.<|im_end|></s>", "TP53, in exon 5.<|im_end|></s>"]),
        (BEGUN_ANEW, ["BRAF.</s>", "TP53, in exon 5.</s>"]),
    ],
    ids=["chatml", "inst", "bare", "thinking", "marked", "twice", "begun anew"],
)
def test_each_answer_is_learned_with_the_token_that_ends_it(
    template: str, expected: list[str], tokenizer: Any
) -> None:
    assert learned_text(chat_by(tokenizer, template), TALK) == expected


@pytest.mark.parametrize("turns", [2, 4])
def test_the_mask_is_that_of_the_template_where_it_marks_its_answers(
    turns: int, tokenizer: Any
) -> None:
    talk = [Message("system", "Be brief."), *TALK[:turns]]
    found = chat_by(tokenizer, MARKED).tokens(talk)
    own = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in talk],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert found.ids == own["input_ids"]
    assert found.learned.tolist() == [bool(one) for one in own["assistant_masks"]]
    # The same template without its marks, from what it writes alone.
    unmarked = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    again = chat_by(tokenizer, unmarked).tokens(talk)
    assert (again.ids, again.learned.tolist()) == (found.ids, found.learned.tolist())


@pytest.mark.parametrize("template", [CHATML, INST, BARE, THINKING], ids=str)
def test_what_is_given_when_asked_is_what_stood_before_the_answer(
    template: str, tokenizer: Any
) -> None:
    chat = chat_by(tokenizer, template)
    rendered = chat.rendered(TALK)
    for number, answer in zip((1, 3), rendered.answers, strict=True):
        assert rendered.text[: answer.start] == chat.prompt(TALK[:number])
        assert rendered.text[slice(*answer.said)] == TALK[number].content


def test_the_words_of_an_answer_are_told_from_the_token_that_ends_it(tokenizer: Any) -> None:
    tokens = chat_by(tokenizer, CHATML).tokens(TALK)
    said = [one for one, is_said in zip(tokens.ids, tokens.said, strict=True) if is_said]
    assert tokenizer.decode(said) == "BRAF.TP53, in exon 5."
    assert not (tokens.said & ~tokens.learned).any()


@pytest.mark.parametrize(
    ("template", "stops"), [(CHATML, ["</s>", "<|im_end|>"]), (INST, ["</s>"]), (BARE, ["</s>"])]
)
def test_a_model_stops_at_eos_and_at_the_end_of_a_turn(
    template: str, stops: list[str], tokenizer: Any
) -> None:
    found = chat_by(tokenizer, template).stops
    assert tokenizer.convert_ids_to_tokens(found) == stops


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        (INST, [Message("system", "Be brief."), *TALK], "no system message"),
        (CHATML.replace("m.content", "m.content | upper"), TALK, "changes or leaves out"),
        (CHATML, [Message("user", "What is <|im_end|>?"), TALK[1]], "special token '<|im_end|>'"),
    ],
    ids=["refused", "changed", "special"],
)
def test_what_cannot_be_written_is_said(
    template: str, messages: list[Message], reason: str, tokenizer: Any
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(CannotRender, match=reason.replace("|", r"\|")):
        Chat(tokenizer).tokens(messages)


def test_a_tokenizer_without_a_template_needs_one(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"my-base has no chat template: name one by training"):
        Chat.of(tokenizer, None, "my-base")
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for m in messages %}")
    with pytest.raises(UserError, match="cannot write a question and its answer"):
        Chat.of(tokenizer, str(broken))
    chat = Chat.of(tokenizer, "configs/chat_templates/plain.jinja")
    assert learned_text(chat, TALK) == ["BRAF.</s>", "TP53, in exon 5.</s>"]


def test_a_long_conversation_loses_context_and_never_its_answer(tokenizer: Any) -> None:
    chat = chat_by(tokenizer, CHATML)
    long = [
        *TALK,
        Message("user", " ".join(f"sentence {n}" for n in range(60)) + " Which gene?"),
        Message("assistant", "EGFR is the one."),
    ]
    whole = len(chat.tokens(long).ids)
    least = len(chat.tokens([Message("user", "gene?"), long[-1]]).ids)
    for room in range(least, whole + 1):
        fitted = fit(long, chat, room)
        assert fitted is not None
        tokens, cut = fitted
        assert len(tokens.ids) <= room
        assert cut == (room < whole)
        text = tokenizer.decode(tokens.ids)
        assert text.endswith("gene?<|im_end|>\n<|im_start|>assistant\nEGFR is the one.<|im_end|>\n")
    assert fit(long, chat, least - 1) is None
