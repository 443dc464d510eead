"""How answers are scored: by their likelihood, and by what a model says of itself."""

import copy
import math
from typing import Any

import pandas as pd
import pytest
import torch

from steps.evaluation.answers import (
    chosen_items,
    normalised,
    per_unit,
    score_answers,
    token_f1,
    write_answers,
)
from steps.evaluation.summary import summarise
from steps.metrics import METRICS
from steps.models.chat import Chat
from steps.papers.instructions import InstructionItem, item_of

QUESTIONS = {
    "Which gene is mutated in BRAF melanoma?": "BRAF.",
    "What does TP53 do in response to damage of the DNA?": "It arrests the cell.",
    "Name a variant.": "p.Val600Glu",
}


@pytest.fixture
def chat(byte_level_tokenizer: Any) -> Chat:
    return Chat.of(copy.deepcopy(byte_level_tokenizer), "configs/chat_templates/plain.jinja")


def items() -> list[InstructionItem]:
    made = [
        item_of({"question": asked, "answer": answer, "pmid": number % 2 + 1})
        for number, (asked, answer) in enumerate(QUESTIONS.items())
    ]
    return [*made, item_of({"question": "Why?", "answer": "Because of TP53."})]


def test_bits_per_byte_of_answers_are_those_of_their_own_tokens(llama: Any, chat: Chat) -> None:
    frame = score_answers(llama, chat, items(), context=128, batch_tokens=300)
    for item, row in zip(items(), frame.to_dict("records"), strict=True):
        tokens = chat.tokens(item.messages)
        ids = torch.tensor([tokens.ids])
        with torch.no_grad():
            scores = llama(input_ids=ids).logits[0, :-1].log_softmax(-1)
        nats = -scores.gather(1, ids[0, 1:, None])[:, 0]
        expected = float(nats[torch.tensor(tokens.said[1:])].sum())
        assert row["answer_nats"] == pytest.approx(expected, rel=1e-4)
        assert row["answer_bytes"] == len(item.messages[-1].content.encode())
        assert row["paper_id"] == (item.paper_id or item.item_id)


def test_a_conversation_longer_than_the_window_has_all_its_answers_scored(
    llama: Any, chat: Chat
) -> None:
    turns = [
        {"role": role, "content": f"{text} {n}"}
        for n in range(8)
        for role, text in (("user", "What is finding"), ("assistant", "It is finding"))
    ]
    item = item_of({"messages": turns})
    frame = score_answers(llama, chat, [item], context=32, batch_tokens=300)
    assert frame["answer_bytes"][0] == sum(len(t["content"]) for t in turns[1::2])
    assert frame["answer_tokens"][0] == chat.tokens(item.messages).said.sum()


def test_what_is_said_is_the_same_alone_and_in_a_batch(llama: Any, chat: Chat) -> None:
    together = write_answers(llama, chat, items(), max_new_tokens=12)
    alone = pd.concat(
        [write_answers(llama, chat, [item], max_new_tokens=12) for item in items()]
    ).set_index("item_id")
    assert len(together) == len(items())
    assert together.set_index("item_id").to_dict() == alone.to_dict()
    assert set(together["prompt"]) == {item.messages[-2].content for item in items()}


@pytest.mark.parametrize("preface", ["", "[thinks]"])
def test_a_model_that_knows_the_answers_is_right_and_in_form(
    preface: str, llama: Any, chat: Chat
) -> None:
    """Trained on them until it does, and on what a template writes before an answer."""
    written = chat.tokenizer.chat_template.replace("{% else -%}", f"{{% else -%}}{preface}")
    chat.tokenizer.chat_template = written
    optimizer = torch.optim.AdamW(llama.parameters(), lr=1e-2)
    llama.train()
    for _ in range(60):
        optimizer.zero_grad()
        for item in items():
            tokens = chat.tokens(item.messages)
            labels = torch.where(torch.tensor(tokens.learned), torch.tensor(tokens.ids), -100)
            llama(input_ids=torch.tensor([tokens.ids]), labels=labels[None]).loss.backward()
        optimizer.step()
    llama.eval()
    said = write_answers(llama, chat, items(), max_new_tokens=24)
    assert chat.preface == preface
    assert said["exact_match"].tolist() == [1.0] * 4
    assert said["token_f1"].tolist() == [1.0] * 4
    assert said["format_failure"].tolist() == [0.0] * 4
    frame = per_unit(score_answers(llama, chat, items(), context=128, batch_tokens=300), said)
    metrics = summarise(frame)
    assert metrics["exact_match"] == metrics["token_f1"] == 1.0
    assert metrics["format_failure_share"] == 0.0
    assert metrics["answer_bits_per_byte"] < 0.2


def test_an_answer_without_an_end_is_a_failure_of_form(llama: Any, chat: Chat) -> None:
    said = write_answers(llama, chat, items(), max_new_tokens=4)
    endless = said[said["generation"].str.len() > 0]
    assert len(endless) and set(said["format_failure"]) <= {0.0, 1.0}
    assert said["format_failure"].sum() >= 1


def test_units_are_papers_and_items_of_no_paper(llama: Any, chat: Chat) -> None:
    likelihood = score_answers(llama, chat, items(), context=128, batch_tokens=300)
    said = write_answers(llama, chat, items()[:2], max_new_tokens=4)
    frame = per_unit(likelihood, said).set_index("paper_id")
    assert frame["items"].to_dict() == {"1": 2, "2": 1, items()[-1].item_id: 1}
    assert frame["answered_items"].sum() == 2
    metric = METRICS["answer_bits_per_byte"]
    expected = likelihood["answer_nats"].sum() / likelihood["answer_bytes"].sum() / math.log(2)
    assert summarise(frame.reset_index())[metric.name] == pytest.approx(expected)


def test_the_chosen_items_do_not_depend_on_their_order() -> None:
    one = chosen_items(items(), 2, seed=0)
    assert one == chosen_items(items()[::-1], 2, seed=0)
    assert len(chosen_items(items(), 99, seed=0)) == 4


@pytest.mark.parametrize(
    ("said", "reference", "f1"),
    [
        ("BRCA1", "BRCA1.", 1.0),
        ("the gene BRCA1", "BRCA1", 2 / 3),
        ("p.(Val600Glu)", "p.Val600Glu", 1.0),
        ("yes", "no", 0.0),
        ("", "BRCA1", 0.0),
        ("a a b", "a b b", 2 / 3),
        ("...", "!", 1.0),
    ],
)
def test_token_f1_counts_shared_words(said: str, reference: str, f1: float) -> None:
    # SQuAD drops the article "a", so the sixth case shares b alone: 2 * 1 / (1 + 2).
    assert token_f1(said, reference) == pytest.approx(f1)


def test_the_articles_case_and_punctuation_of_an_answer_do_not_count() -> None:
    assert normalised("The  TP53 gene, in AN exon.") == "tp53 gene in exon"
