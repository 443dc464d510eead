"""The page of many runs, whatever the store holds of them."""

import re
from html.parser import HTMLParser

import pytest

from steps.comparison.many_runs import ComparedRun, RunComparison, compare_many
from steps.config.dotted import short_names
from steps.config.measurement_sections import Comparison
from steps.reports.runs_report import runs_page
from steps.reports.runs_table import show_ranking
from tests.support.compared_runs import better, compared, masked
from tests.support.synthetic_results import make_sides

RULE = Comparison(bootstrap_samples=100, permutations=100)
PLAIN = make_sides()[0]


class Cells(HTMLParser):
    """Counts what a page is made of, and whether each element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "th":
            self.headings.append(dict(attrs).get("scope"))
        if tag in ("table", "section", "figure", "details", "tr", "td", "th"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "section", "figure", "details", "tr", "td", "th"):
            assert self.open.pop() == tag


def shown(*runs: ComparedRun) -> tuple[str, RunComparison]:
    comparison = compare_many(runs, [], RULE)
    page = runs_page("Comparison of runs", comparison, RULE)
    cells = Cells(page)
    assert cells.open == []
    assert cells.headings and set(cells.headings) <= {"row", "col"}
    return page, comparison


def several(count: int) -> list[ComparedRun]:
    settings = [
        {"qlora.r": str(2 ** (n % 4)), "scheduler.type": "abc"[n % 3]} for n in range(count)
    ]
    return [
        compared(f"run {n}", better(PLAIN, n / 100), settings=settings[n]) for n in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_any_number_of_runs_has_a_page(count: int) -> None:
    page, comparison = shown(*several(count))
    assert f"{count} finetune run" in page
    assert ("Parallel coordinates" in page) == (count > 2)
    assert len(comparison.groups[0].models) == count
    # All pairs are there, and where they are many those of the first stand in front.
    assert ("which is first, against each of the others" in page) == (count == 12)


def test_a_masked_model_beside_causal_ones_has_its_own_pairs_and_curves() -> None:
    loss = {"validation/mlm_loss": [(1, 2.0), (2, 1.0)]}
    pair = [
        compared(name, masked(model), objective="masked", curves=loss)
        for name, model in (("m1", PLAIN), ("m2", better(PLAIN, 0.1)))
    ]
    page, _ = shown(*several(3), *pair)
    assert "All pairs: bits per byte" in page and "All pairs: mlm loss" in page
    assert "Validation mlm loss of each run" in page
    assert "their metrics do not mean the same" in page


def test_runs_without_evaluations_are_shown_by_their_validation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [compared(name, None, settings={"qlora.r": name}) for name in "123"]
    page, comparison = shown(*runs)
    assert "None of them was evaluated on a test split" in page
    assert "All pairs" not in page
    show_ranking(comparison)
    said = capsys.readouterr().out
    assert said.count("not evaluated") == 3 and "0.9000" in said


def test_a_name_from_the_store_is_text_and_no_markup() -> None:
    page, _ = shown(compared("<b>bold</b>", PLAIN), compared(r"$\frac$", better(PLAIN, 0.1)))
    assert "<b>" not in page
    assert len(re.findall("<figure>", page)) == 1


def test_keys_are_shortened_as_far_as_they_stay_apart() -> None:
    assert short_names(["qlora.r", "a.type", "b.type"]) == {
        "qlora.r": "r",
        "a.type": "a.type",
        "b.type": "b.type",
    }
