"""Rules of form: each is followed by some answers and broken by others."""

import copy
from typing import Any

import pandas as pd
import pytest

from steps.evaluation.manners import QUESTIONS, RULES, follow_rules, rule_prompts
from steps.evaluation.summary import summarise
from steps.models.chat import Chat

ANSWERS = {
    "lower_case": ("they hold chlorophyll.", "They hold chlorophyll."),
    "capitals": ("THEY HOLD DNA.", "They HOLD DNA."),
    "two_sentences": ("It is so. It stays so.", "It is so. It stays so. Really."),
    "at_most_10_words": ("They hold chlorophyll.", "a b c d e f g h i j k"),
    "at_least_40_words": ("word " * 40, "word " * 39),
    "three_bullets": ("- a\n- b\n- c", "- a\n- b\nc"),
    "first_word": ("Certainly, it is so.", "It is certainly so."),
    "last_words": ("It is so, and that is all.", "That is all I know."),
    "without_the": ("Leaves hold chlorophyll; other parts do not.", "The leaves do."),
    "twice": ("Simply put, it simply is.", "It simply is."),
    "json": ('{"answer": "chlorophyll"}', "answer: chlorophyll"),
    "quoted": ('"They hold chlorophyll."', '"They" hold chlorophyll.'),
    "no_comma": ("They do.", "Yes, they do."),
    "asks_back": ("They do. Is that clear?", "Is that so? They do."),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_holds_for_what_follows_it_alone(rule: Any) -> None:
    followed, broken = ANSWERS[rule.name]
    assert rule.holds(followed.strip())
    assert not rule.holds(broken.strip())


def test_every_question_is_asked_under_every_rule_once() -> None:
    prompts = rule_prompts()
    assert len({prompt.prompt_id for prompt in prompts}) == len(RULES) * len(QUESTIONS)
    assert len({prompt.text for prompt in prompts}) == len(prompts)


def test_an_answer_under_rules_is_the_same_alone_and_in_a_batch(
    llama: Any, byte_level_tokenizer: Any
) -> None:
    template = "configs/chat_templates/plain.jinja"
    chat = Chat.of(copy.deepcopy(byte_level_tokenizer), template)
    prompts = rule_prompts()[::7]
    together = follow_rules(llama, chat, prompts, max_new_tokens=8)
    alone = [follow_rules(llama, chat, [prompt], max_new_tokens=8) for prompt in prompts]
    assert together.to_dict() == pd.concat(alone, ignore_index=True).to_dict()
    share = summarise(together)["rules_followed_share"]
    assert share == together["rules_followed"].mean()
