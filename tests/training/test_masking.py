"""Masked training: whole words and mentions, the same masks however a run is cut."""

import copy
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.config.sections import (
    Hardware,
    Hyperparameters,
    Logging,
    Masking,
    MemoryOptimization,
    Model,
    Qlora,
    Training,
)
from steps.errors import UserError
from steps.models.layout import RowLayout
from steps.models.losses import IGNORED, use_masked_loss
from steps.models.tokenizer import load_tokenizer
from steps.papers.text import PaperText, Span
from steps.training.arguments import best_metric
from steps.training.masking import MaskedPapers, MaskedWindow, WordWindow
from steps.training.packing import collate
from steps.training.rows import training_rows
from steps.training.trainer import ModelTrainer
from tests.support.example_papers import paper_of
from tests.support.project import demo_texts
from tests.support.resumed_runs import interrupted, point, resumed, untouched
from tests.support.resumed_runs import settings as settings_of_run
from tests.support.tiny_runs import assert_accumulation_changes_nothing, build_trainer
from tests.support.windows import masked_windows

TEXT = (
    "Loss of TP53 drives growth in many tumours. The variant p.Val600Glu of BRAF raises it. "
    "Homologous recombination needs BRCA1-mediated repair of chromosomes."
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer(tiny_bert_folder: Path) -> Any:
    return load_tokenizer(tiny_bert_folder)


def papers(count: int) -> list[PaperText]:
    """Papers of unequal length that mention genes, the last longer than any window."""
    texts = [f"{TEXT} {text[: 80 * i]}" for i, text in enumerate(demo_texts()[: count - 1])]
    texts.append(" ".join(demo_texts()[:2]))
    return [paper_of(f"p{i}", ("abstract", text)) for i, text in enumerate(texts)]


def rows(tokenizer: Any, **changes: Any) -> MaskedPapers:
    return rows_of(papers(6), tokenizer, Masking(**changes), seed=7)


def rows_of(
    texts: list[PaperText], tokenizer: Any, rule: Masking, *, seed: int = 0, packed: bool = True
) -> MaskedPapers:
    windows = masked_windows(texts, tokenizer, 64, 16)
    return MaskedPapers(windows, tokenizer, 64, rule, seed, packed=packed)


def plain_and_masked(one: MaskedPapers) -> Iterator[tuple[WordWindow, MaskedWindow]]:
    """Each window with nothing hidden, and as this epoch hides its words."""
    for index in range(len(one)):
        for number, masked in zip(one.rows[index], one[index], strict=True):
            yield one.windows[number], masked


def as_lists(row: list[MaskedWindow]) -> list[tuple[list[int], list[int]]]:
    return [(window.tokens.tolist(), window.labels.tolist()) for window in row]


def words_of(tokenizer: Any, text: str, piece: str) -> list[int]:
    """Token ids of a piece of a text."""
    start = text.index(piece)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [
        token
        for token, (first, last) in zip(encoded.input_ids, encoded.offset_mapping, strict=True)
        if first < start + len(piece) and last > start
    ]


def test_each_word_and_each_mention_is_one_unit(tokenizer: Any) -> None:
    paper = paper_of("one", ("abstract", TEXT))
    (window,) = masked_windows([paper], tokenizer, 512, 64)
    units = {tuple(window.tokens[u.start : u.end]): u.entity for u in window.units}
    for mention in ("TP53", "p.Val600Glu", "BRAF", "BRCA1"):
        pieces = tuple(words_of(tokenizer, TEXT, mention))
        assert len(pieces) > 1
        assert units[pieces] is True
    assert units[tuple(words_of(tokenizer, TEXT, "recombination"))] is False
    assert sum(units.values()) == 4
    # Everything but the special tokens can be hidden, once.
    covered = [place for unit in window.units for place in range(unit.start, unit.end)]
    assert covered == list(range(1, len(window.tokens) - 1))


@pytest.mark.parametrize(("max_length", "overlap"), [(16, 4), (32, 8), (64, 16), (20, 0)])
def test_every_word_of_a_long_paper_can_be_hidden_in_exactly_one_window(
    tokenizer: Any, max_length: int, overlap: int
) -> None:
    for paper in papers(4):
        windows = list(masked_windows([paper], tokenizer, max_length, overlap))
        ids = tokenizer(paper.text, add_special_tokens=False).input_ids
        ordinary = [i for i in ids if i != tokenizer.unk_token_id]
        hidden = [t for w in windows for u in w.units for t in w.tokens[u.start : u.end]]
        assert [t for t in hidden if t != tokenizer.unk_token_id] == ordinary
        assert all(len(window.tokens) <= max_length for window in windows)
        for window in windows:
            assert window.tokens[0] == tokenizer.cls_token_id
            assert window.tokens[-1] == tokenizer.sep_token_id
            assert window.tokens.tolist().count(tokenizer.cls_token_id) == 1


def test_no_word_is_cut_where_it_fits_into_a_window(tokenizer: Any) -> None:
    paper = papers(4)[-1]
    encoded = tokenizer(paper.text, add_special_tokens=False)
    words = encoded.word_ids()
    inside = {i for i, (a, b) in enumerate(pairwise(words), start=1) if a == b}
    position = 0
    for window in masked_windows([paper], tokenizer, 32, 0):
        assert position not in inside
        position += len(window.tokens) - 2


def test_all_pieces_of_a_hidden_word_share_its_fate(tokenizer: Any) -> None:
    one = rows(tokenizer)
    ordinary_seen = 0
    for plain, masked in plain_and_masked(one):
        for unit in plain.units:
            here = slice(unit.start, unit.end)
            labels = masked.labels[here]
            if (labels == IGNORED).all():
                assert masked.tokens[here].tolist() == plain.tokens[here].tolist()
                ordinary_seen += 1
                continue
            assert labels.tolist() == plain.tokens[here].tolist()
            masks = [token == tokenizer.mask_token_id for token in masked.tokens[here]]
            assert all(masks) or not any(masks)
    assert ordinary_seen > 100


def test_words_and_mentions_are_hidden_at_their_own_rates(tokenizer: Any) -> None:
    one = rows(tokenizer, probability=0.15, entity_probability=0.6)
    counts = {True: [0, 0], False: [0, 0]}
    fates = {"mask": 0, "same": 0, "random": 0}
    for epoch in range(60):
        one.begin_epoch(epoch)
        for plain, masked in plain_and_masked(one):
            for unit in plain.units:
                hidden = masked.labels[unit.start] != IGNORED
                counts[unit.entity][0] += hidden
                counts[unit.entity][1] += 1
                if hidden:
                    now, before = masked.tokens[unit.start], plain.tokens[unit.start]
                    mask = now == tokenizer.mask_token_id
                    fates["mask" if mask else "same" if now == before else "random"] += 1
    assert counts[False][0] / counts[False][1] == pytest.approx(0.15, abs=0.015)
    assert counts[True][1] > 500
    assert counts[True][0] / counts[True][1] == pytest.approx(0.6, abs=0.06)
    shares = {fate: count / sum(fates.values()) for fate, count in fates.items()}
    assert shares == pytest.approx({"mask": 0.8, "same": 0.1, "random": 0.1}, abs=0.02)


def test_no_special_token_is_a_target_and_none_stands_in_at_random(tokenizer: Any) -> None:
    one = rows(tokenizer, probability=0.9, mask_share=0.0, random_share=1.0)
    special = set(tokenizer.all_special_ids)
    for plain, masked in plain_and_masked(one):
        assert not special & {label for label in masked.labels if label != IGNORED}
        changed = [
            now for now, before in zip(masked.tokens, plain.tokens, strict=True) if now != before
        ]
        assert changed
        assert not special & set(changed)


def test_masks_follow_from_seed_epoch_and_row_alone(tokenizer: Any) -> None:
    one, other = rows(tokenizer), rows(tokenizer)
    one.begin_epoch(3)
    in_order = [as_lists(one[i]) for i in range(len(one))]
    torch.manual_seed(1)
    np.random.seed(1)
    other.begin_epoch(3)
    assert [as_lists(other[i]) for i in reversed(range(len(other)))][::-1] == in_order
    other.begin_epoch(4)
    assert all(as_lists(other[i]) != in_order[i] for i in range(len(other)))


def test_a_window_of_a_single_word_still_asks_something(tokenizer: Any) -> None:
    paper = PaperText("short", "repair", (Span(0, 6, "title"),))
    one = rows_of([paper], tokenizer, Masking())
    assert any(label != IGNORED for label in one[0][0].labels)


FAMILIES = {
    "bert": {},
    "roberta": {"pad_token_id": 1, "max_position_embeddings": 258},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "modernbert": {"local_attention": 16}
    | {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")},
    "deberta-v2": {},
    "mpnet": {"pad_token_id": 1, "max_position_embeddings": 258},
}


def model_of(family: str, vocabulary: int) -> Any:
    from transformers import AutoConfig, AutoModelForMaskedLM

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 64, "max_position_embeddings": 256, "initializer_range": 0.3}
    if family == "distilbert":
        shape = {"initializer_range": 0.3}
    shape |= {"vocab_size": vocabulary, **FAMILIES[family]}
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **shape)).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_of_a_batch_is_that_of_single_windows(family: str, tokenizer: Any) -> None:
    model = model_of(family, len(tokenizer))
    plain = model_of(family, len(tokenizer))
    # A padding id of the model's own: RoBERTa counts its positions by it.
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token_id = model.config.pad_token_id or 0
    made = training_rows(settings(Path("unused"), batch_size=3), model, tokenizer, papers(4))
    assert bool(made.notes) == (family in ("deberta-v2", "mpnet"))
    batch = [made.rows[i] for i in range(3)]
    loss = model(**made.collate(batch)).loss
    nats, count = 0.0, 0
    for window in (window for row in batch for window in row):
        logits = (
            plain(input_ids=torch.tensor(window.tokens, dtype=torch.int64)[None]).logits[0].detach()
        )
        labels = torch.tensor(window.labels, dtype=torch.int64)
        asked = labels != IGNORED
        nats += float(
            torch.nn.functional.cross_entropy(logits[asked], labels[asked], reduction="sum")
        )
        count += int(asked.sum())
    assert loss.item() == pytest.approx(nats / count, abs=1e-4)


def test_the_head_computes_masked_positions_only(tokenizer: Any) -> None:
    model = model_of("bert", len(tokenizer))
    use_masked_loss(model)
    batch = collate([rows(tokenizer)[0]], RowLayout("padded"), 0)
    seen: list[int] = []
    model.cls.register_forward_hook(lambda m, inputs, output: seen.append(output.shape[1]))
    model(**batch)
    targets = int((batch["labels"] != IGNORED).sum())
    assert seen == [targets]
    assert targets < batch["labels"].numel() / 2


def settings(folder: Path, **hyperparameters: Any) -> Training:
    values = {"batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 4, **hyperparameters}
    return Training(
        model=Model(name=str(folder), max_length=64),
        qlora=Qlora(method="lora", r=4, lora_dropout=0.0),
        hyperparameters=Hyperparameters(**{"learning_rate": 1e-2, **values}),
        logging=Logging(log_steps=1, eval_steps=2, save_steps=2),
        memory_optimization=MemoryOptimization(gradient_checkpointing=False),
        hardware=Hardware(bf16=False),
    )


def trainer(training: Training, folder: Path, count: int = 12) -> ModelTrainer:
    return build_trainer(training, folder, papers(count), papers(3))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_accumulation_changes_neither_the_losses_nor_the_adapter(
    tiny_bert_folder: Path, tmp_path: Path, seed: int
) -> None:
    def build(rows: int, accumulation: int) -> ModelTrainer:
        training = settings(
            tiny_bert_folder,
            batch_size=rows,
            gradient_accumulation_steps=accumulation,
            # Larger steps enlarge what Adam makes of rounding: it divides gradients of 1e-9 by
            # their own size.
            learning_rate=1e-3,
            seed=seed,
        )
        return trainer(training, tmp_path / f"{rows}")

    assert_accumulation_changes_nothing(build)


def test_training_lowers_the_fixed_mask_loss_and_ends_on_the_best_weights(
    tiny_bert_folder: Path, tmp_path: Path
) -> None:
    one = trainer(settings(tiny_bert_folder, max_steps=24, learning_rate=3e-2), tmp_path)
    before = one.evaluate()
    one.train()
    after = one.evaluate()
    seen = [e["eval_mlm_loss"] for e in one.state.log_history if "eval_mlm_loss" in e]
    assert after["eval_mlm_loss"] < before["eval_mlm_loss"] - 0.3
    assert after["eval_mlm_loss"] == pytest.approx(min(seen), abs=1e-6)
    assert 0 <= after["eval_mlm_accuracy"] <= 1


def test_training_stops_early_when_validation_no_longer_gains(
    tiny_bert_folder: Path, tmp_path: Path
) -> None:
    # A rate below what float32 can show: the loss stands still, so the first validation stays
    # the best one.
    training = settings(tiny_bert_folder, max_steps=50, learning_rate=1e-30)
    logging = training.logging.model_copy(update={"early_stopping_patience": 2})
    one = trainer(training.model_copy(update={"logging": logging}), tmp_path)
    one.train()
    assert one.state.global_step == 2 * (1 + 2)


def test_early_stopping_without_validation_is_refused(
    tiny_bert_folder: Path, tmp_path: Path
) -> None:
    training = settings(tiny_bert_folder)
    update = {"early_stopping_patience": 2, "eval_strategy": "no"}
    logging = training.logging.model_copy(update=update)
    with pytest.raises(UserError, match="early_stopping_patience is 2, but nothing is validated"):
        trainer(training.model_copy(update={"logging": logging}), tmp_path)


def test_each_epoch_of_training_hides_other_words(tiny_bert_folder: Path, tmp_path: Path) -> None:
    one = trainer(settings(tiny_bert_folder, batch_size=100, max_steps=3), tmp_path, count=4)
    drawn: list[tuple[int, ...]] = []
    inner = one.model.get_base_model()
    plain = inner.forward

    def watched(*arguments: Any, **inputs: Any) -> Any:
        if inputs.get("labels") is not None:
            drawn.append(tuple(sorted(inputs["labels"].flatten().tolist())))
        return plain(*arguments, **inputs)

    inner.forward = watched
    one.train()
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("step", [5, 7])
def test_stopped_and_resumed_a_masked_run_ends_bit_for_bit_as_untouched(
    tiny_bert_folder: Path, tmp_path: Path, step: int
) -> None:
    training = settings_of_run(tiny_bert_folder)
    expected, curve = untouched(training, tmp_path / "untouched")
    # The last regular save before a kill, and a stop between two of them, within an epoch whose
    # masks are not those of the first.
    interrupted(training, tmp_path / "first", step, signal.SIGTERM)
    at = point(tmp_path / "first", step)
    found, whole = resumed(training, tmp_path / "second", at)
    assert found == expected
    assert whole.curve == curve.curve
    assert ("validation/mlm_loss", 12) in whole.curve


def test_the_metric_of_the_best_checkpoint_suits_the_objective() -> None:
    assert best_metric("auto", "causal") == "eval_bits_per_byte"
    assert best_metric("auto", "masked") == "eval_mlm_loss"
    assert best_metric("validation/mlm_accuracy", "masked") == "eval_mlm_accuracy"
    # What files of the older layout say.
    assert best_metric("eval_loss", "masked") == "eval_mlm_loss"
    with pytest.raises(UserError, match="is not measured for a masked model: use auto"):
        best_metric("eval_bits_per_byte", "masked")
    with pytest.raises(UserError, match="is not measured for a causal model"):
        best_metric("eval_mlm_loss", "causal")
