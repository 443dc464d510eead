"""Rows that are mixed in have their share, evenly spread, in an order of the seed alone."""

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from torch.utils.data import BatchSampler

from steps.config.sections import Instructions, Replay, StudyTexts, Training
from steps.distributed.sampler import ShuffledRows
from steps.errors import UserError
from steps.models.layout import RowLayout
from steps.models.losses import IGNORED
from steps.papers.instructions import item_of
from steps.training.instructions import ItemWindow
from steps.training.mixing import (
    PAPERS,
    REPLAY,
    STUDY,
    MixedOrder,
    MixedRow,
    MixedRows,
    collate_mixed,
)
from steps.training.packing import Window
from tests.support.resumed_runs import (
    Notes,
    assert_resumes_as_untouched,
    settings,
)
from tests.support.tiny_runs import build_trainer, papers, small_training


class Lengths:
    """Rows that are nothing but their lengths."""

    def __init__(self, *lengths: int) -> None:
        self.row_tokens = np.array(lengths, dtype=np.int64)
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.row_tokens)

    def __getitem__(self, index: int) -> int:
        return index

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch


lengths = st.lists(st.integers(1, 100), min_size=1, max_size=60)
many_lengths = st.lists(st.integers(1, 100), min_size=30, max_size=120)
shares = st.floats(0.05, 0.6)


def read(rows: MixedRows, epoch: int) -> list[tuple[int, int]]:
    """Source and tokens of the rows of an epoch, in their order."""
    found = [rows[index] for index in rows.order(epoch)]
    sides = {PAPERS: rows.papers, **rows.others}
    return [(row.source, int(sides[row.source].row_tokens[row.windows])) for row in found]


@given(lengths, many_lengths, shares, st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_an_epoch_holds_the_papers_once_and_the_share_to_a_row(
    own: list[int], other: list[int], share: float, epoch: int, seed: int
) -> None:
    wanted = share / (1 - share) * sum(own)
    if wanted > 4 * sum(other):
        return
    rows = MixedRows(Lengths(*own), {REPLAY: Lengths(*other)}, {REPLAY: share}, seed)
    order = rows.order(epoch)
    assert sorted(index for index in order if index < len(own)) == list(range(len(own)))
    assert len(order) == rows.rows_an_epoch
    tokens = sum(tokens for source, tokens in read(rows, epoch) if source == REPLAY)
    # By half a row for their number, and by at most a row for their lengths.
    assert abs(tokens - wanted) <= 1.5 * max(other)


@given(lengths, many_lengths, shares, st.integers(0, 5))
def test_of_rows_of_one_length_the_share_is_met_to_half_a_row(
    own: list[int], other: list[int], share: float, epoch: int
) -> None:
    wanted = share / (1 - share) * 100 * len(own)
    if wanted > 400 * len(other):
        return
    full = Lengths(*[100] * len(own)), Lengths(*[100] * len(other))
    rows = MixedRows(full[0], {REPLAY: full[1]}, {REPLAY: share}, 7)
    tokens = sum(tokens for source, tokens in read(rows, epoch) if source == REPLAY)
    assert abs(tokens - wanted) <= 50 + 1e-6 or tokens == 100


@given(st.integers(1, 80), st.integers(1, 80), shares, st.integers(0, 3))
def test_no_window_of_the_order_deviates_by_more_than_one_row(
    own: int, other: int, share: float, epoch: int
) -> None:
    if share / (1 - share) * own > 4 * other:
        return
    sides = Lengths(*[100] * own), Lengths(*[100] * other)
    rows = MixedRows(sides[0], {REPLAY: sides[1]}, {REPLAY: share}, 3)
    sources = [source for source, _ in read(rows, epoch)]
    mean = sources.count(REPLAY) / len(sources)
    ahead = np.cumsum([0.0, *((source == REPLAY) - mean for source in sources)])
    assert ahead.max() - ahead.min() <= 1 + 1e-9


@given(st.integers(1, 80), st.integers(20, 80), st.integers(20, 80))
def test_with_two_sources_no_window_deviates_by_more_than_two_rows(
    own: int, other: int, third: int
) -> None:
    sides = {REPLAY: Lengths(*[100] * other), STUDY: Lengths(*[100] * third)}
    rows = MixedRows(Lengths(*[100] * own), sides, {REPLAY: 0.25, STUDY: 0.15}, 3)
    sources = [source for source, _ in read(rows, 0)]
    for side in (PAPERS, REPLAY, STUDY):
        mean = sources.count(side) / len(sources)
        ahead = np.cumsum([0.0, *((source == side) - mean for source in sources)])
        assert ahead.max() - ahead.min() <= 2


@given(many_lengths, many_lengths)
def test_tokens_are_spread_evenly_where_rows_differ_in_length(
    own: list[int], other: list[int]
) -> None:
    rows = MixedRows(Lengths(*own), {REPLAY: Lengths(*other)}, {REPLAY: 0.3}, 3)
    seen = read(rows, 0)
    mean = sum(tokens for source, tokens in seen if source == REPLAY) / sum(t for _, t in seen)
    ahead = np.cumsum([0.0, *(t * ((source == REPLAY) - mean) for source, t in seen)])
    assert ahead.max() - ahead.min() <= max(tokens for _, tokens in seen)


def test_the_papers_keep_the_order_that_they_have_alone() -> None:
    rows = MixedRows(Lengths(*[9] * 20), {REPLAY: Lengths(*[9] * 30)}, {REPLAY: 0.4}, 11)
    alone = ShuffledRows(20, 1, seed=11)
    for epoch in range(3):
        alone.set_epoch(epoch)
        assert [index for index in rows.order(epoch) if index < 20] == list(alone)


def test_the_order_is_the_seeds_and_the_epochs_own() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sides = {REPLAY: Lengths(*range(1, 31)), STUDY: Lengths(*range(1, 41))}
        rows = MixedRows(Lengths(*range(1, 21)), sides, {REPLAY: 0.2, STUDY: 0.3}, seed)
        return rows.order(epoch).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_every_row_of_the_others_has_its_turn() -> None:
    rows = MixedRows(Lengths(*[9] * 20), {REPLAY: Lengths(*[9] * 30)}, {REPLAY: 0.2}, 11)
    assert rows.rows_an_epoch == 25
    seen = [index for epoch in range(6) for index in rows.order(epoch) if index >= 20]
    assert sorted(seen) == list(range(20, 50))


def test_too_few_texts_are_refused_with_how_often_they_would_be_read() -> None:
    with pytest.raises(UserError, match=r"replay\.share needs 90 tokens.* hold 20: .* 4\.5 times"):
        MixedRows(Lengths(*[9] * 10), {REPLAY: Lengths(20)}, {REPLAY: 0.5}, 0)
    again = MixedRows(Lengths(*[9] * 10), {REPLAY: Lengths(30)}, {REPLAY: 0.5}, 0)
    assert "each read 3.0 times" in str(again.sources[0])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_read_disjoint_rows_that_do_not_depend_on_their_number(ranks: int) -> None:
    rows = MixedRows(Lengths(*[9] * 21), {REPLAY: Lengths(*[9] * 40)}, {REPLAY: 0.3}, 5)
    shared = []
    for rank in range(ranks):
        sampler = MixedOrder(rows, 2 * ranks)
        sampler.set_epoch(1)
        batches = BatchSampler(sampler, 2, drop_last=False)
        shared.append(list(BatchSamplerShard(batches, ranks, rank, even_batches=True)))
    together = [index for step in zip(*shared, strict=True) for batch in step for index in batch]
    assert [index for index in together if index < len(rows)] == rows.order(1).tolist()


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_each_token_of_a_batch_carries_the_source_of_its_row(kind: Any) -> None:
    def window(*tokens: int) -> Window:
        return Window(np.array(tokens, dtype=np.int32), 1)

    batch = [MixedRow([window(5, 6, 7), window(8, 9)], PAPERS), MixedRow([window(5, 5)], STUDY)]
    made = collate_mixed(batch, RowLayout(kind), 0)
    assert made["sources"].shape == made["labels"].shape
    assert made["sources"].dtype == torch.int64
    predicted = made["labels"] != IGNORED
    assert made["sources"][predicted].tolist() == [PAPERS, PAPERS, PAPERS, STUDY]


def with_mixture(training: Training) -> Training:
    mixture = {
        "replay": Replay(source="others", share=0.3),
        "study_texts": StudyTexts(share=0.2, kinds=("section_order", "number")),
    }
    return training.model_copy(update=mixture)


@pytest.fixture(params=["causal", "masked"])
def folder(request: Any, tiny_llama_folder: Path, tiny_bert_folder: Path) -> Path:
    return tiny_llama_folder if request.param == "causal" else tiny_bert_folder


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))


def test_the_losses_of_the_sources_are_those_of_their_own_rows(
    folder: Path, tmp_path: Path
) -> None:
    trainer = build_trainer(with_mixture(small_training(folder)), tmp_path, papers(8), [])
    rows, collate, model = trainer.train_rows, trainer.made_rows.collate, trainer.model.eval()
    batch = collate([rows[index] for index in rows.order(0)[:9]])
    with torch.no_grad():
        whole = model(**batch)
        apart = [
            model(
                **collate(
                    [row for row in map(rows.__getitem__, rows.order(0)[:9]) if row.source == s]
                )
            )
            for s in (PAPERS, REPLAY, STUDY)
        ]
    expected = [float(one["nats"][source]) for source, one in enumerate(apart)]
    assert all(value > 0 for value in expected)
    assert whole["nats"].tolist() == pytest.approx(expected, rel=1e-5)
    del batch["sources"]
    with torch.no_grad():
        assert float(model(**batch).loss) == pytest.approx(float(whole.loss), rel=1e-6)


def test_each_source_has_a_curve_of_its_own(folder: Path, tmp_path: Path) -> None:
    notes = Notes()
    trainer = build_trainer(
        with_mixture(small_training(folder, max_steps=6)), tmp_path, papers(8), [], recorder=notes
    )
    totals: list[list[float]] = []
    add = trainer.source_losses.add

    def noting(outputs: Any, inputs: Any) -> None:
        sources, predicted = inputs["sources"], inputs["labels"] != IGNORED
        counts = [int((predicted & (sources == s)).sum()) for s in range(3)]
        totals.append([*outputs["nats"].tolist(), *counts])
        add(outputs, inputs)

    trainer.source_losses.add = noting
    trainer.train()
    for step, sums in enumerate(totals, start=1):
        for source, name in enumerate(("loss", "replay_loss", "study_loss")):
            found = notes.values.get((f"train/{name}", step))
            count = sums[3 + source]
            assert found == (pytest.approx(sums[source] / count) if count else None)
    assert {("train/replay_loss"), ("train/study_loss")} <= {name for name, _ in notes.values}


def test_stopped_and_resumed_a_mixed_run_ends_bit_for_bit_as_untouched(
    folder: Path, tmp_path: Path
) -> None:
    training = with_mixture(settings(folder))
    # Between two reports, and after the first epoch.
    curve = assert_resumes_as_untouched(training, tmp_path, 11)
    assert any(name == "train/replay_loss" for name, _ in curve.values)


def test_beside_items_exercises_are_conversations_and_replayed_texts_are_texts(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    turns = [
        {"role": "user", "content": "Which gene is lost here?"},
        {"role": "assistant", "content": "It is TP53, and so it is in all the cells of mice."},
    ]
    items = [
        item_of({"messages": [{"role": "system", "content": f"Case {number}."}, *turns]})
        for number in range(12)
    ]
    training = with_mixture(small_training(tiny_llama_folder))
    asking = {
        "model": training.model.model_copy(update={"objective": "instruction"}),
        "instructions": Instructions(chat_template="configs/chat_templates/plain.jinja"),
    }
    trainer = build_trainer(training.model_copy(update=asking), tmp_path, items, [])  # type: ignore[arg-type]
    rows = trainer.train_rows
    assert isinstance(rows, MixedRows)
    kinds: dict[int, set[type]] = {}
    for row in map(rows.__getitem__, range(len(rows))):
        kinds.setdefault(row.source, set()).update(map(type, row.windows))
    # Of a conversation the answers alone are learned.
    assert kinds == {PAPERS: {ItemWindow}, REPLAY: {Window}, STUDY: {ItemWindow}}
    trainer.train()


def test_without_texts_for_a_share_the_training_is_refused(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    wanted = {"study_texts": StudyTexts(share=0.2, kinds=("variant_cloze",))}
    training = small_training(tiny_llama_folder).model_copy(update=wanted)
    with pytest.raises(UserError, match="there is no text of study_texts"):
        build_trainer(training, tmp_path, papers(8), [])
