"""Rows in mapped files: those of memory to the last token, made once, and never half made."""

import copy
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.tiny_models import save_tiny_llama
from steps.config.sections import Masking, Training
from steps.errors import UserError
from steps.models.chat import Chat
from steps.models.tokenizer import load_tokenizer
from steps.papers.dataset import SectionRow, rows_to_batch, write_splits
from steps.papers.genes import GeneMention
from steps.papers.instructions import InstructionItem, item_of
from steps.papers.item_splits import SplitItems, open_split, write_items
from steps.papers.splits import SPLITS
from steps.papers.stored_papers import StoredPapers, open_papers, read_papers
from steps.papers.study_texts import STUDY_KINDS
from steps.training import row_files, tokenising
from steps.training.instructions import ItemWindows
from steps.training.masking import MaskedPapers, WordWindows
from steps.training.packing import PaperRows, Windows
from steps.training.row_files import MappedColumn, open_rows, remove_old_entries
from steps.training.token_store import Columns
from steps.training.tokenising import Kind, Recipe, Source, columns_of
from steps.training.trainer import ModelTrainer
from tests.support import resumed_runs
from tests.support.project import ROOT, demo_texts
from tests.support.tiny_runs import build_trainer, papers

PAPERS = 200
DIGEST = "sha256:of the rows"


def sections_of(number: int, texts: Sequence[str]) -> list[SectionRow]:
    """A paper of a title and up to two more sections, with a gene in the title."""
    title = f"BRCA1 in study {number}"
    gene = GeneMention(start=0, end=5, symbol="BRCA1", species="human", surface="BRCA1")
    parts = [("title", title, [gene]), ("abstract", texts[number % len(texts)][: 40 * number], [])]
    parts += [("results", "Nothing was found in 12 mg of it.", [])] if number % 3 == 0 else []
    return [
        SectionRow(f"p{number}", name, place, text, genes, [], None, None, None, "2020")
        for place, (name, text, genes) in enumerate(parts)
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Papers in pieces that also cut a paper in two, and items."""
    folder = tmp_path_factory.mktemp("stored") / "dataset"
    rows = [row for number in range(PAPERS) for row in sections_of(number, demo_texts())]
    pieces = [("train", rows_to_batch(rows[i : i + 50]), ["c"] * 50) for i in range(0, 450, 50)]
    left = rows[450:]
    pieces.append(("train", rows_to_batch(left), ["c"] * len(left)))
    write_splits(folder, dict.fromkeys(SPLITS, "sha256:0"), pieces)
    items = [
        item_of({"question": f"Which gene is {n}?", "answer": f"Gene {n}, BRCA{n % 9}."})
        for n in range(60)
    ]
    write_items(folder, SplitItems(items, ["train"] * 60, []))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", demo_texts())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def tokenizer_of(model: Path, kind: Kind) -> Any:
    tokenizer = load_tokenizer(model)
    if kind == "words":
        tokenizer.mask_token = "<unk>"
    if kind == "items":
        Chat.of(tokenizer, "configs/chat_templates/plain.jinja")
    return tokenizer


def stored(dataset: Path, model: Path, kind: Kind, **recipe: Any) -> Source:
    texts = (
        open_split(dataset, "train", DIGEST)
        if kind == "items" and "study" not in recipe
        else open_papers(dataset, "train", None, DIGEST)
    )
    return Source(texts, Recipe(kind, tokenizer_of(model, kind), 96, 16, **recipe))


def batches(kind: Kind, columns: Columns, tokenizer: Any) -> list[list[list[int]]]:
    """Tokens and labels of all windows, row by row."""
    rows: Any
    if kind == "words":
        windows = WordWindows.of(columns, tokenizer)
        rows = MaskedPapers(windows, tokenizer, 96, Masking(), 7, packed=True)
    else:
        of = ItemWindows.of if kind == "items" else Windows.of
        rows = PaperRows(of(columns), 96, packed=True)  # type: ignore[operator]
    return [[[*w.tokens.tolist(), *w.labels.tolist()] for w in row] for row in rows]


# --- papers on the disk -------------------------------------------------------------------------


@pytest.mark.parametrize("sections", [None, ("title",), ("results",), ("abstract", "results")])
def test_papers_on_the_disk_are_those_in_memory(
    dataset: Path, sections: tuple[str, ...] | None
) -> None:
    papers, known = (
        StoredPapers(dataset, "train", sections),
        read_papers(dataset, "train", sections),
    )
    assert list(papers) == known
    assert len(papers) == len(known)
    assert papers.characters == sum(len(paper.text) for paper in known)
    assert [papers[0], papers[-1]] == [known[0], known[-1]]
    for some in (slice(3, 40), slice(1, None, 3), slice(None, None, -1), slice(5, 5)):
        assert list(papers[some]) == known[some]
        assert papers[some].characters == sum(len(paper.text) for paper in known[some])
    assert list(papers[2:90][1::2][3:7]) == known[2:90][1::2][3:7]


def test_sections_that_no_paper_has_are_refused(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"no paper with any of the sections methods"):
        open_papers(dataset, "train", ("methods",))
    with pytest.raises(UserError, match=r"split 'other' is not in the dataset"):
        open_papers(dataset, "other")


def test_items_on_the_disk_are_those_in_memory(dataset: Path) -> None:
    items = open_split(dataset, "train")
    known = list(items)
    assert len(items) == len(known) == 60
    assert all(isinstance(one, InstructionItem) for one in known)
    assert list(items[7:30:4]) == known[7:30:4]
    assert items[-1] == known[-1]


def test_a_pass_over_papers_holds_some_of_them_at_a_time(tmp_path: Path) -> None:
    folder, text = tmp_path / "dataset", "word " * 2_000
    pieces = []
    for start in range(0, 3_000, 100):
        rows = [
            SectionRow(f"p{n}", "abstract", 0, text, [], [], None, None, None, None)
            for n in range(start, start + 100)
        ]
        pieces.append(("train", rows_to_batch(rows), ["c"] * 100))
    write_splits(folder, dict.fromkeys(SPLITS, "sha256:0"), pieces)
    papers = open_papers(folder, "train")
    tracemalloc.start()
    try:
        assert sum(len(paper.text) for paper in papers) == 3_000 * len(text)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000 * len(text) / 4
    assert held < 3_000 * 200


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        ("papers", {}),
        ("words", {}),
        ("items", {}),
        ("papers", {"study": STUDY_KINDS}),
        ("items", {"study": ("title",)}),
    ],
)
def test_mapped_rows_are_those_of_memory(
    dataset: Path, model: Path, kind: Kind, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several batches, so that windows stand in different ones.
    monkeypatch.setattr(row_files, "BATCH_TOKENS", 700)
    source = stored(dataset, model, kind, **recipe)
    in_memory = columns_of(Source(list(source.texts), source.recipe))
    mapped = columns_of(source)
    assert isinstance(mapped.tokens["ids"], MappedColumn)
    assert isinstance(in_memory.tokens["ids"], np.ndarray)
    assert (mapped.texts, mapped.shortened) == (in_memory.texts, in_memory.shortened)
    assert mapped.left_out == in_memory.left_out
    tokenizer = source.recipe.tokenizer
    rows = batches(kind, mapped, tokenizer)
    assert len(rows) > 10
    assert rows == batches(kind, in_memory, tokenizer)


def test_several_processes_make_the_rows_of_one(
    dataset: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stored(dataset, model, "papers")
    alone = batches("papers", columns_of(Source(list(source.texts), source.recipe)), None)
    monkeypatch.setattr(tokenising, "MIN_TEXTS_FOR_PROCESSES", 10)
    monkeypatch.setattr(tokenising, "TASK_TEXTS", 7)
    monkeypatch.setattr(tokenising, "cores_granted", lambda: 2)
    assert batches("papers", columns_of(source), None) == alone


def test_windows_of_a_column_that_lies_in_several_batches() -> None:
    column = MappedColumn([np.arange(3), np.arange(3, 4), np.arange(4, 9)])
    for start in range(10):
        for end in range(start, 10):
            assert column[start:end].tolist() == list(range(start, min(end, 9)))


def test_each_thing_that_decides_about_tokens_makes_an_entry_of_its_own(
    dataset: Path, model: Path, tmp_path: Path
) -> None:
    source = stored(dataset, model, "papers")
    other_model = save_tiny_llama(tmp_path / "other", demo_texts(), vocabulary=500)
    recipe, papers = source.recipe, source.texts
    lists = open_papers(dataset, "train", ("title",), DIGEST)
    items = stored(dataset, model, "items")
    other_template = copy.deepcopy(items.recipe.tokenizer)
    other_template.chat_template = other_template.chat_template.replace("\n", "\n\n", 1)
    assert other_template.chat_template != items.recipe.tokenizer.chat_template
    different = [
        source,
        Source(open_papers(dataset, "train", None, "sha256:others"), recipe),
        Source(open_papers(dataset, "test", None, DIGEST), recipe),
        Source(lists, recipe),
        Source(papers[:100], recipe),
        Source(papers, replace(recipe, length=80)),
        Source(papers, replace(recipe, overlap=8)),
        Source(papers, replace(recipe, study=("title",))),
        Source(papers, replace(recipe, tokenizer=load_tokenizer(other_model))),
        stored(dataset, model, "words"),
        items,
        Source(items.texts[:10], items.recipe),
        Source(items.texts, replace(items.recipe, tokenizer=other_template)),
    ]
    folders = [one.folder for one in different]
    assert None not in folders
    assert len(set(folders)) == len(different)
    assert Source(list(papers), recipe).folder is None
    # A call leaves its padding and truncation in a tokenizer.
    recipe.tokenizer(["a", "b c"], padding=True, truncation=True, max_length=4)
    assert stored(dataset, model, "papers").folder == source.folder == folders[0]


def test_an_entry_is_made_once(dataset: Path, model: Path) -> None:
    source = stored(dataset, model, "papers")
    columns_of(source)
    assert source.folder is not None
    file = source.folder / "tokens.arrow"
    before = file.stat()
    columns_of(stored(dataset, model, "papers"))
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 9)


def change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, change_a_byte, Path.unlink])
@pytest.mark.parametrize(
    "name", ["tokens.arrow", "windows.arrow", "borders.arrow", "rows.arrow", "entry.json"]
)
def test_a_damaged_entry_is_made_anew(dataset: Path, model: Path, damage: Any, name: str) -> None:
    source = stored(dataset, model, "papers")
    whole = batches("papers", columns_of(source), None)
    assert source.folder is not None
    damage(source.folder / name)
    # Of the JSON's facts a changed byte may be no damage.
    assert name == "entry.json" or open_rows(source.folder) is None
    assert batches("papers", columns_of(source), None) == whole
    assert open_rows(source.folder) is not None


def test_entries_that_nobody_uses_go_and_a_training_keeps_what_it_has_mapped(
    dataset: Path, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [stored(dataset, model, "papers")]
    sources += [Source(sources[0].texts[:n], sources[0].recipe) for n in (10, 20, 30)]
    mapped = columns_of(sources[0])
    before = batches("papers", mapped, None)
    for source in sources[1:]:
        columns_of(source)
    (cache / "leftover.part").mkdir()
    folders = [source.folder for source in sources]
    month = time.time() - row_files.KEPT_SECONDS - 60
    for folder in folders[:2]:
        assert folder is not None
        os.utime(folder / "entry.json", (month, month))
    assert folders[3] is not None
    remove_old_entries(folders[3])
    assert [folder is not None and folder.is_dir() for folder in folders] == [0, 0, 1, 1]
    assert not (cache / "leftover.part").exists()
    assert batches("papers", mapped, None) == before
    monkeypatch.setattr(row_files, "KEPT_ENTRIES", 1)
    assert folders[2] is not None
    os.utime(folders[2] / "entry.json", (time.time() - 90_000,) * 2)
    remove_old_entries(folders[3])
    assert not folders[2].is_dir()


@pytest.mark.parametrize("sections", [{}, {"study_texts": {"share": 0.2}}], ids=["alone", "mixed"])
def test_a_checkpoint_of_rows_in_memory_goes_on_with_mapped_ones_bit_for_bit(
    dataset: Path,
    tiny_llama_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, Any],
) -> None:
    training = resumed_runs.settings(tiny_llama_folder, **sections)
    on_disk = open_papers(dataset, "train", None, DIGEST)[5:29]
    learned: list[Any] = [list(on_disk)]

    def build(training: Training, folder: Path, recorder: Any) -> ModelTrainer:
        return build_trainer(training, folder, learned[-1], papers(3), recorder=recorder)

    monkeypatch.setattr(resumed_runs, "build", build)
    expected, curve = resumed_runs.untouched(training, tmp_path / "untouched")
    resumed_runs.interrupted(training, tmp_path / "first", 7, signal.SIGTERM)
    learned.append(on_disk)
    at = resumed_runs.point(tmp_path / "first", 7)
    found, whole = resumed_runs.resumed(training, tmp_path / "second", at)
    assert list((tmp_path / "cache" / "tokens").glob("*/tokens.arrow"))
    assert found == expected
    assert whole.curve == curve.curve


# --- several processes --------------------------------------------------------------------------


def start(dataset: Path, model: Path, *more: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.row_program", str(dataset), str(model), *more],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_two_at_once_one_writes_and_both_read_the_same_file(dataset: Path, model: Path) -> None:
    both = [start(dataset, model, "96", DIGEST) for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    # The name, the number of the file on the disk, and what it holds.
    assert said[0] == said[1]
    assert len(said[0]) == 3


def test_a_kill_in_the_midst_of_writing_leaves_nothing_that_is_taken_for_whole(
    dataset: Path, model: Path, cache: Path
) -> None:
    process = start(dataset, model, "96", DIGEST)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    while not list(cache.glob("*.part/tokens.arrow")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path for path in cache.iterdir() if path.is_dir() and path.suffix != ".part"] == []
    source = Source(
        open_papers(dataset, "train", None, DIGEST), Recipe("papers", load_tokenizer(model), 96, 16)
    )
    in_memory = columns_of(Source(list(source.texts), source.recipe))
    mapped = columns_of(source)
    assert batches("papers", mapped, None) == batches("papers", in_memory, None)
    assert list(cache.glob("*.part")) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(
    dataset: Path, model: Path, cache: Path
) -> None:
    process = start(dataset, model, "96", DIGEST, "5000")
    said, noise = process.communicate("\n")
    assert process.returncode == 2, noise
    (line,) = said.splitlines()
    assert line.startswith(f"the cache of tokens, {cache}, cannot be written (File too large)")
    assert "FORGE_CACHE" in line
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_a_cache_that_cannot_be_made_is_refused_with_the_way_out(
    dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"the cache folder .* cannot be written .*: set FORGE"):
        columns_of(stored(dataset, model, "papers"))
