"""The page of an evaluation."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from steps.evaluation.likelihood import TokenScore
from steps.evaluation.measure import Results, TokenExample
from steps.evaluation.summary import summarise
from steps.reports.evaluation_report import (
    draw_surprise,
    headline,
    metric_rows,
    task_rows,
    write_evaluation_report,
)

CHOICES = {"cloze": None, "facts": None}
NO_GENERATIONS = pd.DataFrame(columns=["paper_id", "prompt", "generation", "reference"])


def frame_of(papers, factor=1.0):
    generator = np.random.default_rng(0)
    size = generator.integers(500, 900, papers)
    nats = size * generator.normal(0.7, 0.05, papers) * factor
    return pd.DataFrame(
        {
            "paper_id": [f"paper{n}" for n in range(papers)],
            "nats": nats,
            "bytes": size,
            "tokens": size // 4,
            "words": size // 6,
            "nats_gene": nats * 0.2,
            "bytes_gene": size // 10,
            "nats_section_title": nats * 0.1,
            "bytes_section_title": size // 8,
        }
    )


def page_of(tmp_path, **changes):
    frame = frame_of(70, 0.9)
    measured = {
        "metrics": summarise(frame),
        "per_paper": frame,
        "general": None,
        "generations": NO_GENERATIONS,
    }
    results = Results(**{n: changes.pop(n, v) for n, v in (measured | CHOICES).items()})
    arguments = {
        "model_name": "genomics 3",
        "base_metrics": summarise(frame_of(70)),
        "base_per_paper": frame_of(70),
        "token_examples": None,
    }
    path = tmp_path / "report.html"
    write_evaluation_report(path, results=results, **(arguments | changes))
    return path.read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Elements left open, text, and what a page would load."""

    VOID = ("meta", "link", "img", "br", "hr")

    def __init__(self, page):
        super().__init__()
        self.open, self.loads, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attributes):
        self.loads += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_loads_nothing(tmp_path):
    page = page_of(tmp_path)
    outline = Outline(page)
    assert outline.open == []
    assert [target for target in outline.loads if not target.startswith("#")] == []
    assert "<script" not in page
    assert page.count("<svg") == 1


def test_the_lead_says_what_was_gained(tmp_path):
    page = page_of(tmp_path)
    assert "so this one needs 10.0% less" in page
    assert "are too narrow" not in page


def test_few_papers_come_with_a_warning(tmp_path):
    few = frame_of(10)
    page = page_of(tmp_path, per_paper=few, metrics=summarise(few), base_metrics=None)
    assert "10 papers: below 60 the intervals are too narrow" in page


def test_every_metric_stands_in_the_table_with_its_interval():
    metrics = summarise(frame_of(70))
    rows = {row.name: row for row in metric_rows(metrics, {})}
    assert rows["gene bits per byte"].value == metrics["gene_bits_per_byte"]
    assert rows["gene bits per byte"].low == metrics["gene_bits_per_byte_ci_low"]
    assert rows["papers"].low is None
    assert not [name for name in rows if "ci" in name.split()]


def test_the_figure_names_each_part_of_the_text_once(tmp_path, monkeypatch):
    import steps.reports.evaluation_report as report

    drawn = []
    draw = report._draw
    monkeypatch.setattr(
        report, "_draw", lambda parts, *rest: drawn.append(parts) or draw(parts, *rest)
    )
    metrics = summarise(frame_of(70)) | {"general_bits_per_byte": 1.0}
    page_of(tmp_path, metrics=metrics)
    assert drawn == [["bits_per_byte", "gene_bits_per_byte", "title_bits_per_byte"]]


def test_papers_that_gained_most_come_first(tmp_path):
    frame = frame_of(70)
    frame.loc[7, "nats"] *= 0.5
    frame.loc[9, "nats"] *= 2
    page = page_of(tmp_path, per_paper=frame)
    most, least = page.split("<caption>Papers that gained")[1:3]
    assert re.findall(r"<td>(paper\d+)</td>", most)[0] == "paper7"
    assert re.findall(r"<td>(paper\d+)</td>", least)[0] == "paper9"


def test_tokens_are_coloured_by_surprise_and_genes_outlined(tmp_path):
    tokens = [
        TokenScore("Loss of", 0.0, False),
        TokenScore(" TP53", 5 * math.log(2), True),
        TokenScore("\n<b>", 99.0, False),
    ]
    base = [TokenScore(t.text, t.nats + n * math.log(2), t.in_gene) for n, t in enumerate(tokens)]
    page = page_of(tmp_path, token_examples=[TokenExample("paper1", tokens, base)])
    # In the difference, and of each model alone.
    assert page.count('class="gene"') == 3
    assert 'rgba(0,158,115,0.25)" title="+1.0 bits"> TP53</span>' in page
    assert 'rgba(213,94,0,0.00)" title="+0.0 bits">Loss of</span>' in page
    assert 'rgba(220,50,47,0.50)" title="5.0 bits"> TP53</span>' in page
    assert 'rgba(220,50,47,1.00)" title="142.8 bits">\n&lt;b&gt;</span>' in page
    assert "Loss of</span><span" in page, "white space between tokens would be shown"


def test_text_of_papers_and_models_is_escaped(tmp_path):
    bad = "<script>alert(1)</script>"
    rows = pd.DataFrame(
        {"paper_id": [bad], "prompt": [bad], "generation": [bad], "reference": [bad]}
    )
    example = TokenExample(bad, [TokenScore(bad, 1.0, False)])
    page = page_of(tmp_path, model_name=bad, generations=rows, token_examples=[example])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 7


def test_what_the_base_writes_stands_beside_what_the_model_writes(tmp_path):
    rows = pd.DataFrame(
        {
            "paper_id": ["a", "b"],
            "prompt": ["Loss of", "Gain of"],
            "generation": ["TP53 in tumours", "MYC"],
            "reference": ["", ""],
        }
    )
    of_base = rows.head(1).assign(generation="weight in mice")
    page = page_of(tmp_path, generations=rows, base_generations=of_base)
    assert page.count("The base writes") == 1
    assert "weight in mice" in page
    assert page.count("This model writes") == 2


def test_a_page_says_what_it_is_about_and_how_it_was_measured(tmp_path):
    page = page_of(tmp_path, header=[("run", "0123abc")])
    assert '<th scope="row">run</th><td>0123abc</td>' in page
    assert "scored on 70 papers that were held out whole" in page
    assert "which compares across tokenizers: 0." in page
    assert "The figure as a table" in page


def test_the_same_evaluation_gives_the_same_page(tmp_path):
    assert page_of(tmp_path) == page_of(tmp_path)


def test_a_masked_model_has_its_own_headline_and_figures(tmp_path):
    frame = pd.DataFrame(
        {
            "paper_id": ["a", "b", "c"],
            "mlm_nats": [10.0, 12.0, 9.0],
            "mlm_targets": [5.0, 5.0, 5.0],
            "mlm_hits": [3.0, 2.0, 4.0],
            "mlm_nats_gene": [4.0, 2.0, 3.0],
            "mlm_targets_gene": [1.0, 1.0, 1.0],
            "mlm_hits_gene": [0.0, 1.0, 1.0],
        }
    )
    metrics = summarise(frame)
    assert headline(metrics, {}).startswith("2.0667 mlm loss (95 % interval")
    page = page_of(
        tmp_path, per_paper=frame, base_per_paper=frame, metrics=metrics, base_metrics=metrics
    )
    assert page.count("<svg") == 2
    assert "Papers that moved" not in page


def test_figures_are_pictures_beside_the_page_too(tmp_path):
    tokens = [TokenScore("Loss of", 0.2, False), TokenScore(" TP53", 5.0, True)] * 40
    page_of(tmp_path, token_examples=[TokenExample("paper1", tokens, tokens)])
    pictures = {file.name: file.read_bytes() for file in tmp_path.glob("*.png")}
    assert set(pictures) == {"bits_per_byte_by_part.png", "surprise_1.png"}
    assert all(len(content) > 5_000 for content in pictures.values())


def test_each_character_of_a_text_has_a_place_of_its_own_in_its_picture():
    tokens = [TokenScore(text, 1.0, text == " TP53") for text in ["Loss", " of", " TP53"] * 40]
    figure = draw_surprise(TokenExample("p", [*tokens, TokenScore("\n\nNew", 1.0, False)], None))
    (axes,) = figure.axes
    cells = [
        (round(text.get_position()[1], 1), column)
        for text in axes.texts
        for column in range(
            int(text.get_position()[0]), int(text.get_position()[0]) + len(text.get_text())
        )
    ]
    assert len(cells) == len(set(cells)), "two tokens overlap"
    assert max(column for _, column in cells) < 96
    assert len(axes.patches) == 40, "gene tokens alone are coloured"
    assert axes.texts[-1].get_position()[0] == 0


def test_a_metric_that_few_papers_carry_says_so(tmp_path):
    frame = frame_of(70, 0.9)
    frame["nats_variant"] = [20.0] * 5 + [0.0] * 65
    frame["bytes_variant"] = [10] * 5 + [0] * 65
    metrics = summarise(frame)
    assert metrics["intervals_reliable"] == 1
    assert metrics["variant_bits_per_byte_papers"] == 5
    assert "5 papers, unreliable" in page_of(tmp_path, metrics=metrics)
    assert "variant bits per byte papers" not in page_of(tmp_path, metrics=metrics)
    frame.loc[1:4, ["nats_variant", "bytes_variant"]] = [0.0, 0]
    assert "1 paper, unreliable" in page_of(tmp_path, metrics=summarise(frame))


def test_papers_that_the_model_was_trained_on_are_flagged(tmp_path):
    metrics = summarise(frame_of(70)) | {"trained_papers": 3.0}
    assert "trained on 3 of these papers" in page_of(tmp_path, metrics=metrics)
    assert "trained on" not in page_of(tmp_path)


@pytest.mark.parametrize(("change", "words"), [(0.9, "10.0% less"), (1.2, "20.0% more")])
def test_a_loss_is_called_more_and_a_gain_less(change, words):
    base = {"bits_per_byte": 1.0}
    assert words in headline({"bits_per_byte": change}, base)


def test_tasks_have_a_table_of_their_own_with_what_is_in_training(tmp_path):
    frame = frame_of(70)
    tasks = {
        "task/quiz/acc": 0.5,
        "task/quiz/acc_ci_low": 0.4,
        "task/quiz/acc_ci_high": 0.6,
        "task/quiz/acc_clean": 0.45,
        "task/quiz/acc_clean_ci_low": 0.3,
        "task/quiz/acc_clean_ci_high": 0.55,
        "task/quiz/items": 40.0,
        "task/quiz/contaminated": 7.0,
        "task/quiz/too_short": 3.0,
        "task/quiz/cut": 2.0,
        "task/all/acc": 0.25,
    }
    metrics = summarise(frame) | tasks
    (quiz, group) = task_rows(metrics, {"task/quiz/acc": 0.3})
    assert (quiz.name, quiz.metric.name, quiz.metric.value) == ("quiz", "acc", 0.5)
    assert (quiz.metric.low, quiz.metric.high, quiz.metric.base) == (0.4, 0.6, 0.3)
    assert (quiz.clean, quiz.items, quiz.contaminated, quiz.cut) == (0.45, 40, 7, 2)
    # Of a group of tasks the harness' own figure alone is known.
    assert (group.name, group.metric.low, group.clean, group.items) == ("all", None, None, 0)
    assert not any(row.name.startswith("task") for row in metric_rows(metrics, {}))
    page = page_of(
        tmp_path, metrics=metrics, per_paper=frame, base_metrics=None, base_per_paper=None
    )
    assert "<h2>Tasks</h2>" in page
    assert "few items, unreliable interval; 3 too short to tell" in page
    assert "2 prompts longer than the model reads lost their beginning" in page


def choices_of(count, **columns):
    """Items of three candidates; every other choice is right."""
    ranks = [1 + number % 2 for number in range(count)]
    return pd.DataFrame(
        {
            "paper_id": [f"paper{n}" for n in range(count)],
            "candidates": [["a", "b", "c"]] * count,
            "nats": [[rank, 1.5, 3.0] for rank in ranks],
            "truth": 0,
            "rank": ranks,
            **columns,
        }
    )


def test_the_reliability_of_gene_choices_is_drawn_and_told(tmp_path):
    page = page_of(tmp_path, cloze=choices_of(20))
    label = re.search(r'aria-label="(Reliability of 20 gene choices[^"]*)"', page)[1]
    assert re.findall(r"(\d+)% right at (\d+)%", label)
    assert (tmp_path / "reliability.png").stat().st_size > 0
    assert "Reliability" not in page_of(tmp_path)


def test_facts_are_shown_by_kind_and_stratum(tmp_path):
    facts = choices_of(
        4,
        kind=["gene_gene", "gene_gene", "gene_gene", "number"],
        stratum=["seen", "seen", "unseen", "unseen"],
        after=False,
    )
    text = " ".join(Outline(page_of(tmp_path, facts=facts)).text)
    rows = re.findall(r"(gene gene|number)\s+(seen|unseen)\s+(\d+)\s+(\d+)", text)
    assert rows == [
        ("gene gene", "seen", "2", "1"),
        ("gene gene", "unseen", "1", "1"),
        ("number", "unseen", "1", "0"),
    ]
