"""Masked models: loss, accuracy and pseudo-likelihood."""

import numpy as np
import pytest

from steps.errors import UserError
from steps.evaluation.masked import MaskedRow, restore, score_papers_masked
from steps.evaluation.summary import summarise
from steps.metrics import STRATA
from steps.models.tokenizer import with_special_tokens
from tests.support.example_papers import SENTENCES, paper_of

SETTINGS = {"context": 64, "batch_tokens": 256, "pseudo_tokens": 5}


def test_restored_tokens_cost_what_the_model_says(bert, wordpiece_tokenizer):
    import torch

    mask = wordpiece_tokenizer.mask_token_id
    rows = []
    for sentence, positions in zip(SENTENCES[:3], [(1, 4), (2,), (3, 5, 6)], strict=True):
        tokens = wordpiece_tokenizer(sentence)["input_ids"]
        hidden = [mask if place in positions else token for place, token in enumerate(tokens)]
        rows.append(MaskedRow(tuple(hidden), positions, tuple(tokens[p] for p in positions)))
    answers = restore(bert, wordpiece_tokenizer, rows, batch_tokens=1000)
    for row, (nats, hits) in zip(rows, answers, strict=True):
        logits = bert(input_ids=torch.tensor([row.tokens])).logits[0].detach()
        log_p = logits.log_softmax(-1)[list(row.positions)]
        expected = -log_p[range(len(row.targets)), list(row.targets)]
        np.testing.assert_allclose(nats, expected, rtol=1e-5)
        assert list(hits) == [p == t for p, t in zip(log_p.argmax(-1), row.targets, strict=True)]


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra", "modernbert"])
def test_heads_of_other_families_see_only_the_positions_asked_for(family, wordpiece_tokenizer):
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(0)
    shape = {"vocab_size": len(wordpiece_tokenizer), "hidden_size": 32, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 128}
    if family == "distilbert":
        shape = {"vocab_size": len(wordpiece_tokenizer), "dim": 32, "n_layers": 2, "n_heads": 4}
    if family == "modernbert":
        special = ("pad", "bos", "eos", "cls", "sep")
        shape |= {f"{name}_token_id": 0 for name in special}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **shape)).eval()
    tokens = tuple(wordpiece_tokenizer(SENTENCES[0])["input_ids"])
    rows = [MaskedRow(tokens, (2, 7), (tokens[2], tokens[7])), MaskedRow(tokens[:5], (1,), (9,))]
    answers = restore(model, wordpiece_tokenizer, rows, batch_tokens=1000)
    for row, (nats, _) in zip(rows, answers, strict=True):
        logits = model(input_ids=torch.tensor([row.tokens])).logits[0].detach()
        log_p = logits.log_softmax(-1)[list(row.positions)]
        expected = -log_p[range(len(row.targets)), list(row.targets)]
        np.testing.assert_allclose(nats, expected, rtol=1e-4)


def test_models_of_different_tokenizers_compare_as_the_refusal_advises(
    bert, wordpiece_tokenizer, papers
):
    import re
    from dataclasses import replace

    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import PreTrainedTokenizerFast

    from steps.comparison.decision import decide
    from steps.config.measurement_sections import Comparison
    from tests.support.synthetic_results import make_sides

    # One token a letter: as far from word pieces as a tokenizer can be.
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted({letter for paper in papers for letter in paper.text.lower()} - {" "})
    pieces = [*names, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    assert len(vocabulary) <= bert.config.vocab_size
    model = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    model.normalizer, model.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    special = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    by_letter = PreTrainedTokenizerFast(
        tokenizer_object=model, **dict(zip(special, names, strict=True))
    )

    def compared(metric: str, tokens: int):
        settings = {**SETTINGS, "pseudo_tokens": tokens}
        sides = [
            replace(side, objective="masked", per_paper=frame, general=None)
            for side, frame in zip(
                make_sides(),
                [
                    score_papers_masked(bert, one, papers, **settings)
                    for one in (wordpiece_tokenizer, by_letter)
                ],
                strict=True,
            )
        ]
        return decide(*sides, Comparison(metric=metric, guards=(), bootstrap_samples=200))

    with pytest.raises(UserError, match="tokenizers or masks differ") as refused:
        compared("mlm_loss", 5)
    needed = int(re.search(r"pseudo_likelihood_tokens to (\d+)", str(refused.value))[1])
    with pytest.raises(UserError, match="tokenizers or masks differ"):
        compared("pseudo_bits_per_byte", 5)
    decision = compared("pseudo_bits_per_byte", needed)
    assert decision.primary.champion > 0 and decision.primary.challenger > 0


def test_fifteen_per_cent_are_masked_and_the_cap_is_kept(bert, wordpiece_tokenizer, papers):
    frame = score_papers_masked(bert, wordpiece_tokenizer, papers, **SETTINGS)
    np.testing.assert_allclose(frame["mlm_targets"] / frame["tokens"], 0.15, atol=0.02)
    assert (frame["pseudo_bytes"] >= 5).all()
    assert (frame["mlm_hits"] <= frame["mlm_targets"]).all()


def test_the_mask_does_not_depend_on_other_papers_nor_on_the_batch(
    bert, wordpiece_tokenizer, papers
):
    frame = score_papers_masked(bert, wordpiece_tokenizer, papers, **SETTINGS)
    turned = score_papers_masked(
        bert, wordpiece_tokenizer, papers[::-1], context=64, batch_tokens=70, pseudo_tokens=5
    )
    turned = turned[::-1].reset_index(drop=True)
    assert list(frame["paper_id"]) == list(turned["paper_id"])
    numbers = [c for c in frame.columns if c.startswith(("mlm", "pseudo"))]
    np.testing.assert_allclose(frame[numbers], turned[numbers], rtol=1e-6, atol=1e-6)


def test_the_size_of_a_batch_changes_little_in_bfloat16(bert, wordpiece_tokenizer, papers):
    import torch

    bert = bert.to(torch.bfloat16)
    one, many = (
        score_papers_masked(
            bert, wordpiece_tokenizer, papers, context=64, batch_tokens=size, pseudo_tokens=5
        )
        for size in (1, 2048)
    )
    for column in ("mlm_nats", "pseudo_nats"):
        assert one[column].sum() == pytest.approx(many[column].sum(), rel=1e-3)


def test_another_seed_asks_for_other_tokens(bert, wordpiece_tokenizer, papers):
    first = score_papers_masked(bert, wordpiece_tokenizer, papers, **SETTINGS)
    other = score_papers_masked(bert, wordpiece_tokenizer, papers, **SETTINGS, seed=1)
    assert (first["mlm_nats"] != other["mlm_nats"]).all()


def test_a_second_run_gives_the_same_bits(bert, wordpiece_tokenizer, papers):
    first = score_papers_masked(bert, wordpiece_tokenizer, papers, **SETTINGS)
    assert first.equals(score_papers_masked(bert, wordpiece_tokenizer, papers, **SETTINGS))


def test_strata_and_sections_add_up_to_the_whole(bert, wordpiece_tokenizer, papers):
    frame = score_papers_masked(
        bert, wordpiece_tokenizer, papers, context=64, batch_tokens=512, pseudo_tokens=1000
    )
    for column in ("mlm_nats", "mlm_targets", "mlm_hits", "pseudo_nats", "pseudo_bytes"):
        strata = frame[[f"{column}_{name}" for name in STRATA]].sum(axis=1)
        np.testing.assert_allclose(strata, frame[column], rtol=1e-9)
        sections = [c for c in frame.columns if c.startswith(f"{column}_section_")]
        assert {c.rpartition("_")[2] for c in sections} == {"title", "abstract", "results"}
        # Blank lines between sections, two bytes at most, belong to none.
        assert (frame[sections].sum(axis=1) <= frame[column] + 1e-9).all()
    # Every token was asked for, so each byte of a gene was, and of the text.
    assert list(frame["pseudo_bytes"]) == [len(paper.text.encode()) for paper in papers]
    genes = [sum(span.end - span.start for span in paper.genes) for paper in papers]
    np.testing.assert_allclose(frame["pseudo_bytes_gene"], genes)


def test_metrics_of_masked_models_have_their_own_names(bert, wordpiece_tokenizer, papers):
    metrics = summarise(score_papers_masked(bert, wordpiece_tokenizer, papers, **SETTINGS))
    assert {"mlm_loss", "mlm_accuracy", "pseudo_bits_per_byte", "gene_mlm_loss"} <= set(metrics)
    assert "bits_per_byte" not in metrics
    assert 0 <= metrics["mlm_accuracy"] <= 1


def test_without_pseudo_tokens_there_is_no_pseudo_likelihood(bert, wordpiece_tokenizer, papers):
    frame = score_papers_masked(
        bert, wordpiece_tokenizer, papers, context=64, batch_tokens=256, pseudo_tokens=0
    )
    assert not [column for column in frame.columns if column.startswith("pseudo")]


def test_an_overfitted_model_restores_its_text(bert, wordpiece_tokenizer):
    import torch

    paper = paper_of("known", ("title", SENTENCES[0]))
    before = summarise(score_papers_masked(bert, wordpiece_tokenizer, [paper], **SETTINGS))
    words = wordpiece_tokenizer(paper.text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([with_special_tokens(wordpiece_tokenizer, words)[0]])
    optimizer = torch.optim.AdamW(bert.parameters(), lr=3e-3)
    torch.manual_seed(0)
    bert.train()
    for _ in range(80):
        hidden = torch.rand(ids.shape) < 0.15
        inputs = ids.masked_fill(hidden, wordpiece_tokenizer.mask_token_id)
        bert(input_ids=inputs, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = summarise(score_papers_masked(bert, wordpiece_tokenizer, [paper], **SETTINGS))
    assert after["mlm_loss"] < 0.5 * before["mlm_loss"]
    assert after["mlm_accuracy"] > before["mlm_accuracy"]
    assert bert.training, "the model was left in another mode"


def test_a_causal_tokenizer_is_refused(bert, byte_level_tokenizer, papers):
    with pytest.raises(UserError, match="has no mask token"):
        score_papers_masked(bert, byte_level_tokenizer, papers, **SETTINGS)


@pytest.mark.parametrize("context", [2, 513])
def test_a_context_that_cannot_be_is_refused(bert, wordpiece_tokenizer, papers, context):
    with pytest.raises(UserError, match=f"context of {context} tokens: expected 3 to 512"):
        score_papers_masked(
            bert, wordpiece_tokenizer, papers, context=context, batch_tokens=64, pseudo_tokens=0
        )
