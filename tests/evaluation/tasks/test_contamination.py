"""Items whose words stand in the training papers."""

from hypothesis import given
from hypothesis import strategies as st

from steps.evaluation.tasks.contamination import Contamination, find_contaminated, text_of

WORDS = [f"word{n}" for n in range(40)]


@given(st.integers(0, 40), st.integers(0, 27))
def test_an_item_is_contaminated_from_thirteen_words_in_a_row_on(shared: int, start: int) -> None:
    item = " ".join(WORDS)
    taken = WORDS[start : start + shared]
    paper = " ".join(["before", *taken, "behind", *reversed(WORDS)])
    (known,) = find_contaminated([item], ["another text", paper])
    assert known == Contamination(contaminated=len(taken) >= 13, too_short=False)


def test_case_and_punctuation_hide_nothing_and_items_are_told_apart() -> None:
    items = [" ".join(WORDS[:15]), " ".join(WORDS[20:35]), "twelve words are too few"]
    paper = "In short: " + ", ".join(word.upper() for word in WORDS[19:36]) + "."
    first, second, third = find_contaminated(items, [paper])
    assert (first.contaminated, second.contaminated, third.contaminated) == (False, True, False)
    assert (first.too_short, second.too_short, third.too_short) == (False, False, True)
    assert not any(one.contaminated for one in find_contaminated(items, []))


def test_words_of_two_papers_make_no_run() -> None:
    halves = [" ".join(WORDS[:10]), " ".join(WORDS[10:20])]
    (known,) = find_contaminated([" ".join(WORDS[:20])], halves)
    assert not known.contaminated


def test_identifiers_are_no_text_of_an_item() -> None:
    item = {"item_id": "7", "pmid": "123", "QUESTION": "Why?", "CONTEXTS": ["a", ["b"]], "gold": 1}
    assert text_of(item) == "Why?\na\nb"
