"""The page that a preprocessing run leaves behind: what came in, what stayed, and why."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from steps.config.sections import STUDY_KINDS
from steps.papers.formats import FORMATS
from steps.papers.pipeline import Preparation
from steps.papers.study_texts import Exercise, study_texts
from steps.papers.text import assemble_papers
from steps.reports.page import PageFigure, PageSection, Table, inline_svg, render_page

TOP = 20
INPUTS_SHOWN = 10
# A preview needs no more, and all papers of a large dataset would take minutes.
STUDY_PAPERS = 500
STUDY_SHOWN = 2


def write_report(preparation: Preparation, path: Path) -> None:
    """Write the report of a preprocessing run as one HTML file.

    Args:
        preparation: What `steps.papers.pipeline.prepare_dataset` returned.
        path: The file to write.
    """
    path.write_text(render_report(preparation), encoding="utf-8")


def render_report(preparation: Preparation) -> str:
    """The report as HTML."""
    inputs = preparation.manifest["inputs"]
    more = len(inputs) - INPUTS_SHOWN
    return render_page(
        title="Preprocessing report",
        lead=(
            f"{preparation.num_accepted:,} of {preparation.num_read:,} records became papers of "
            f"the dataset; {preparation.num_read - preparation.num_accepted:,} were rejected."
        ),
        facts=[
            ("Dataset digest", preparation.digest),
            *((f"Input {entry['name']}", entry["sha256"]) for entry in inputs[:INPUTS_SHOWN]),
            *([("Further inputs", f"{more:,}; manifest.json has them")] if more > 0 else []),
        ],
        sections=[*_of_papers(preparation), *_of_items(preparation), _rejected(preparation)],
    )


def _of_papers(preparation: Preparation) -> list[PageSection]:
    """What there is to see of papers; nothing of a dataset that holds items alone."""
    if not preparation.num_accepted:
        return []
    return [
        _funnel(preparation),
        _sources(preparation),
        _splits(preparation),
        _texts(preparation),
        _leakage(preparation),
        _mentions(preparation),
        _cleaning(preparation),
        _study_texts(preparation),
    ]


def _of_items(preparation: Preparation) -> list[PageSection]:
    """The instruction items of each split, and why others were left out."""
    items = preparation.manifest.get("instructions")
    if items is None:
        return []
    left = items["read"]
    funnel = [("read", left, left)]
    for reason, count in [*items["rejected"].items(), ("said twice", items["duplicates"])]:
        left -= count
        funnel.append((f"rejected: {reason}", -count, left))
    rows = [
        (split, found["items"], found["papers"], found["without_paper"])
        for split, found in items["splits"].items()
    ]
    return [
        PageSection(
            "Instruction items",
            [
                "Items follow the split of their paper; those of no paper are split by their "
                "words, and near-duplicates share a split."
            ],
            tables=[
                Table(("split", "items", "papers that they name", "items of no paper"), rows),
                Table(("step", "items", "left"), funnel),
            ],
        )
    ]


def _funnel(preparation: Preparation) -> PageSection:
    left = preparation.num_read
    rows: list[tuple[str, int, int]] = [("read", left, left)]
    for reason, count in Counter(preparation.rejected).most_common():
        left -= count
        rows.append((f"rejected: {reason}", -count, left))
    rows.append(("accepted", preparation.num_accepted, preparation.num_accepted))
    return PageSection("Funnel", tables=[Table(("step", "records", "left"), rows)])


def _sources(preparation: Preparation) -> PageSection:
    """Formats and licences of the accepted papers, and how files and records were read."""
    sources = preparation.manifest["sources"]
    formats = [(FORMATS.get(name, name), count) for name, count in sources["formats"].items()]
    tables = [
        Table(("format", "papers"), formats, "Papers by the format that they came in"),
        Table(("licence", "papers"), list(sources["licenses"].items()), "Papers by licence"),
    ]
    if preparation.notes:
        rows = list(preparation.notes.items())
        tables.append(
            Table(("what was read in another way than it stands", "times"), rows, "Notes")
        )
    text = (
        f"{sources['open_access']:,} say that they may be read freely; "
        f"{sources['tables_left_out']:,} tables were left out."
    )
    return PageSection("Sources", [text], tables=tables)


def _splits(preparation: Preparation) -> PageSection:
    splits = preparation.manifest["splits"]
    total = max(1, preparation.num_accepted)
    rows = [
        (
            name,
            split["papers"],
            f"{split['papers'] / total:.1%}",
            split["sections"],
            split["words"],
            f"{split['digest'][:19]}…",
        )
        for name, split in splits.items()
    ]
    return PageSection(
        "Splits",
        ["Papers are split whole, and near-duplicates share a split."],
        tables=[Table(("split", "papers", "share", "sections", "words", "digest"), rows)],
    )


def _texts(preparation: Preparation) -> PageSection:
    words = preparation.paper_words
    scores = preparation.paper_scores
    figures = [_histogram(words, "words", "Words a paper", logarithmic=True)]
    if len(scores):
        figures.append(_histogram(scores, "score", "Quality scores", logarithmic=False))
    quantiles = [("words a paper", *_five_numbers(words))]
    if len(scores):
        quantiles.append(("score", *_five_numbers(scores)))
    sections = preparation.contents.sections.most_common()
    return PageSection(
        "Lengths, scores and sections",
        figures=figures,
        tables=[
            Table(("of a paper", "minimum", "5%", "median", "95%", "maximum"), quantiles),
            Table(("section", "rows"), sections, "Sections"),
        ],
    )


def _leakage(preparation: Preparation) -> PageSection:
    report = preparation.manifest["leakage"]
    rows = [
        (
            label,
            report[key]["test_ngrams"],
            report[key]["shared_ngrams"],
            f"{report[key]['share']:.3%}",
        )
        for label, key in (
            ("all papers, each split on its own", "before"),
            ("this dataset", "after"),
        )
    ]
    notes = [
        f"Share of the different word {report['ngram_words']}-grams of the test papers that also "
        "stand in a training paper, before and after duplicates were removed and near-duplicates "
        "kept together."
    ]
    one_in = max(report["before"]["one_in"], report["after"]["one_in"])
    if one_in > 1:
        notes.append(f"Estimated on one in {one_in} of them, chosen by hash.")
    columns = ("", "test 13-grams", "also in train", "share")
    return PageSection("Leakage", notes, tables=[Table(columns, rows)])


def _mentions(preparation: Preparation) -> PageSection:
    genes = preparation.contents.genes
    variants = preparation.contents.variants
    figures = [_bars(genes, "mentions", "Genes named most often")] if genes else []
    return PageSection(
        "Genes and variants",
        [
            f"{genes.total():,} mentions of {len(genes):,} genes and "
            f"{variants.total():,} mentions of variants."
        ],
        figures=figures,
        tables=[
            Table(("gene", "mentions"), genes.most_common(TOP), "Genes"),
            Table(("kind of variant", "mentions"), variants.most_common(TOP), "Variants by kind"),
        ],
    )


def _cleaning(preparation: Preparation) -> PageSection:
    passages = [
        passage
        for example in preparation.examples
        for passage in ((f"{example.paper_id}, before", example.before), ("after", example.after))
    ]
    text = "Places that cleaning changed." if passages else "Cleaning changed none of the texts."
    cut = sorted(preparation.heavily_cut, key=lambda paper: -paper[1])
    rows = [(paper, f"{share:.0%}") for paper, share in cut]
    tables = [
        Table(("paper", "words cut"), rows, "Papers that lost more than a third of their words")
    ]
    return PageSection("Cleaning", [text], passages=passages, tables=tables if rows else [])


def _study_texts(preparation: Preparation) -> PageSection:
    """What training.study_texts would make of the first training papers."""
    from datasets import Dataset

    train = Dataset.load_from_disk(str(preparation.output / "dataset" / "train"))
    papers = list(islice(assemble_papers(train), STUDY_PAPERS))
    exercises = study_texts(papers)
    counts = Counter(exercise.kind for exercise in exercises)
    words = dict.fromkeys(STUDY_KINDS, 0)
    shown: dict[str, list[Exercise]] = {kind: [] for kind in STUDY_KINDS}
    for exercise in exercises:
        words[exercise.kind] += len(exercise.text.split())
        if len(shown[exercise.kind]) < STUDY_SHOWN:
            shown[exercise.kind].append(exercise)
    rows = [(kind, counts[kind], words[kind]) for kind in STUDY_KINDS]
    return PageSection(
        "Study texts",
        [
            f"Exercises that training.study_texts can mix into a training, made of the first "
            f"{len(papers):,} training papers; each answer stands word for word in its paper."
        ],
        tables=[Table(("kind", "exercises", "words"), rows)],
        passages=[
            (f"{kind}, {exercise.paper_id}", exercise.text)
            for kind, some in shown.items()
            for exercise in some
        ],
    )


def _rejected(preparation: Preparation) -> PageSection:
    shown = preparation.rejected_papers
    total = preparation.num_read - preparation.num_accepted
    text = "No record was rejected."
    if total:
        text = f"{len(shown):,} of {total:,} rejected records; rejected.jsonl holds all, whole."
    rows = [(r.identifier, r.reason, r.detail, r.file, r.record) for r in shown]
    columns = ("identifier", "reason", "detail", "file", "record")
    return PageSection("Rejected records", [text], tables=[Table(columns, rows)] if rows else [])


def _five_numbers(values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> list[float]:
    return [float(q) for q in np.quantile(values, [0, 0.05, 0.5, 0.95, 1])]


def _histogram(
    values: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    label: str,
    caption: str,
    logarithmic: bool,
) -> PageFigure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.8), layout="constrained")
    axes = figure.add_subplot()
    low, high = float(values.min()), float(values.max())
    # Ticks of a log scale run into each other where the values span less than a decade.
    if logarithmic and high > 10 * max(1.0, low):
        bins = np.geomspace(max(1.0, low), max(high, low + 1) + 1, 31)
        axes.set_xscale("log")
    else:
        bins = np.linspace(low, high if high > low else low + 1, 31)
    axes.hist(values, bins=bins.tolist(), color="#2a78b8")
    axes.set_xlabel(label)
    axes.set_ylabel("papers")
    axes.spines[["top", "right"]].set_visible(False)
    return inline_svg(figure, caption)


def _bars(counts: Counter[str], label: str, caption: str) -> PageFigure:
    from matplotlib.figure import Figure

    names: Sequence[str]
    names, values = zip(*reversed(counts.most_common(TOP)), strict=True)
    figure = Figure(figsize=(4.6, 0.5 + 0.22 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    # Gene symbols are text, never mathematics: a dollar sign must not start a formula.
    axes.barh(range(len(names)), values, color="#2a78b8")
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return inline_svg(figure, caption)
