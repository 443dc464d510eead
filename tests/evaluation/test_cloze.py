"""Cloze tests for genes and variants."""

import re

import pytest

from steps.evaluation.cloze import (
    ClozeItem,
    GeneName,
    cloze_frame,
    count_genes,
    gene_cloze_items,
    ranks_of,
    score_candidates_causal,
    score_candidates_masked,
    variant_cloze_items,
)
from steps.evaluation.summary import summarise
from steps.papers.text import PaperText, Span
from tests.support.example_papers import SENTENCES, paper_of


def counts_of(**species):
    """Counts in which every symbol is the official one."""
    return {
        name: {GeneName(symbol, symbol): count for symbol, count in symbols.items()}
        for name, symbols in species.items()
    }


# Symbols of different length and frequency.
HUMAN = {
    "TP53": 50, "MYC": 40, "KRAS": 30, "EGFR": 28, "PTEN": 26, "BRAF": 24, "CDK4": 22,
    "RB1": 20, "NRAS": 18, "BRCA1": 5, "BRCA2": 4, "SMAD4": 3, "NOTCH1": 2, "CTNNB1": 1,
}  # fmt: skip
COUNTS = counts_of(human=HUMAN, mouse={f"Abc{n}": n for n in range(10, 25)})


def test_items_hold_the_sentence_and_its_gene(papers):
    items = gene_cloze_items(papers, COUNTS, max_items=100)
    texts = {paper.paper_id: paper.text for paper in papers}
    assert items
    for item in items:
        assert item.before + item.answer + item.after in texts[item.paper_id]
        assert len(set(item.candidates)) == 10
        assert item.answer not in item.before + item.after


def test_distractors_are_of_the_species_like_the_answer_and_not_in_the_paper(papers):
    for item in gene_cloze_items(papers, COUNTS, max_items=100):
        paper = next(paper for paper in papers if paper.paper_id == item.paper_id)
        named = {paper.text[gene.start : gene.end] for gene in paper.genes}
        assert not named.intersection(item.distractors)
        assert set(item.distractors) <= set(HUMAN)


def test_the_nearest_in_length_and_then_in_frequency_are_taken():
    text = "We found that loss of CDK4 was lethal in these cells."
    paper = PaperText(
        "p", text, (Span(0, len(text), "abstract"),), (Span(22, 26, "CDK4", "human"),)
    )
    near = {f"AAA{n}": 20 + n for n in range(9)}
    far = {f"BBB{n}": 500 for n in range(9)} | {"AAAAA": 20, "AAA": 20}
    # One of its 21 mentions is the one that is asked for.
    counts = counts_of(human=near | far | {"CDK4": 21})
    (item,) = gene_cloze_items([paper], counts, max_items=5)
    assert set(item.distractors) == {f"AAA{n}" for n in range(9)}


def test_mentions_in_the_papers_own_text_do_not_make_its_answer_frequent():
    text = "We found that loss of CDK4 was lethal in these cells. CDK4 too. CDK4 again."
    mentions = tuple(Span(m.start(), m.end(), "CDK4", "human") for m in re.finditer("CDK4", text))
    paper = PaperText("p", text, (Span(0, len(text), "abstract"),), mentions)
    rare, frequent = {f"AAA{n}": 1 for n in range(9)}, {f"BBB{n}": 3 for n in range(9)}
    counts = counts_of(human=rare | frequent | {"CDK4": 3})
    (item,) = gene_cloze_items([paper], counts, max_items=5)
    assert set(item.distractors) == set(rare)


def test_another_name_of_a_gene_that_the_paper_names_is_no_distractor():
    text = "We found that loss of HER2 was lethal in these cells."
    mention = Span(22, 26, "ERBB2", "human")
    paper = PaperText("p", text, (Span(0, len(text), "abstract"),), (mention,))
    counts = counts_of(human={f"AAA{n}": 5 for n in range(8)} | {"NGL1": 5, "NEU1": 5})
    counts["human"] |= {GeneName("NGL1", "ERBB2"): 1, GeneName("ERBB2", "ERBB2"): 1}
    # Eight and NEU1 are left; NGL1 is a gene of its own and an alias of ERBB2.
    (item,) = gene_cloze_items([paper], counts, max_items=5)
    assert set(item.distractors) == {f"AAA{n}" for n in range(8)} | {"NEU1"}


def test_a_gene_named_twice_in_its_sentence_makes_no_item():
    paper = paper_of("p", ("title", "Loss of TP53 was seen, and so TP53 drives these tumours."))
    assert gene_cloze_items([paper], COUNTS, max_items=5) == []


def test_too_few_symbols_make_no_item(papers):
    assert gene_cloze_items(papers, counts_of(human={"TP53": 1, "MYC": 2}), max_items=5) == []


def test_items_are_the_same_whatever_the_order_of_the_papers(papers):
    first = gene_cloze_items(papers, COUNTS, max_items=6)
    assert first == gene_cloze_items(papers[::-1], COUNTS, max_items=6)
    assert first != gene_cloze_items(papers, COUNTS, max_items=6, seed=1)


def test_papers_take_turns(papers):
    with_items = {item.paper_id for item in gene_cloze_items(papers, COUNTS, max_items=1000)}
    few = gene_cloze_items(papers, COUNTS, max_items=len(with_items))
    assert len({item.paper_id for item in few}) == len(few) == len(with_items) > 3


@pytest.mark.parametrize(
    ("answer", "shape"),
    [
        ("p.Val600Glu", r"p\.[A-Z][a-z]{2}\d{3}[A-Z][a-z]{2}"),
        ("p.(Val600Glu)", r"p\.\([A-Z][a-z]{2}\d{3}[A-Z][a-z]{2}\)"),
        ("V600E", r"[A-Z]\d{3}[A-Z]"),
        ("c.76A>T", r"c\.\d\d[ACGT]>[ACGT]"),
        ("c.5+1G>A", r"c\.\d\+1[ACGT]>[ACGT]"),
    ],
)
def test_changed_variants_are_written_like_the_answer(answer, shape):
    text = f"In this family the change {answer} was found in all."
    start = text.index(answer)
    mention = Span(start, start + len(answer), "substitution")
    paper = PaperText("p", text, (Span(0, len(text), "abstract"),), (), (mention,))
    (item,) = variant_cloze_items([paper], max_items=5)
    assert len(set(item.candidates)) == 10
    for candidate in item.candidates:
        assert re.fullmatch(shape, candidate), candidate
        first, second = re.findall(r"[A-Z][a-z]{2}|(?<!p)(?<!c)[A-Z]", candidate)
        assert first != second


def test_variants_that_are_no_substitution_make_no_item():
    text = "In this family the deletion c.76delA was found in all."
    paper = PaperText("p", text, (Span(0, len(text), "abstract"),), (), (Span(28, 36, "deletion"),))
    assert variant_cloze_items([paper], max_items=5) == []


def test_genes_are_counted_by_species_as_they_are_written():
    paper = paper_of("p", ("title", SENTENCES[0]), ("abstract", SENTENCES[0] + " TP53"))
    assert count_genes([paper]) == counts_of(human={"TP53": 3})


def item_of(sentence, answer, distractors):
    before, after = sentence.split(answer)
    return ClozeItem("p", before, after, answer, tuple(distractors))


def test_a_causal_model_that_knows_the_sentence_ranks_its_gene_first(llama, byte_level_tokenizer):
    import torch

    ids = torch.tensor([[0, *byte_level_tokenizer(SENTENCES[0])["input_ids"]]])
    optimizer = torch.optim.AdamW(llama.parameters(), lr=3e-3)
    llama.train()
    for _ in range(30):
        llama(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    known = item_of(SENTENCES[0], "TP53", list(HUMAN)[1:10])
    turned = ClozeItem("p", known.before, known.after, "PTEN", ("TP53", *known.distractors[5:]))
    ranks = ranks_of(
        score_candidates_causal(llama, byte_level_tokenizer, [known, turned], batch_tokens=256)
    )
    assert ranks[0] == 1
    assert ranks[1] > 1


def test_a_masked_model_ranks_by_the_tokens_of_the_gene_left_to_right(bert, wordpiece_tokenizer):
    import torch

    from steps.models.tokenizer import with_special_tokens

    item = item_of(SENTENCES[0], "TP53", list(HUMAN)[1:10])
    (rank,) = ranks_of(score_candidates_masked(bert, wordpiece_tokenizer, [item], batch_tokens=256))
    mask, nats = wordpiece_tokenizer.mask_token_id, []
    for candidate in item.candidates:

        def encode(text):
            return wordpiece_tokenizer(text, add_special_tokens=False)["input_ids"]

        before, own = encode(item.before), encode(candidate)
        total = 0.0
        for place in range(len(own)):
            seen = own[:place] + [mask] * (len(own) - place)
            row, offset = with_special_tokens(
                wordpiece_tokenizer, before + seen + encode(item.after)
            )
            logits = bert(input_ids=torch.tensor([row])).logits[0].detach()
            log_p = logits[len(before) + place + offset].log_softmax(-1)
            total -= float(log_p[own[place]])
        nats.append(total)
    assert rank == 1 + sum(other <= nats[0] for other in nats[1:])


def test_ranks_are_the_same_whatever_the_size_of_a_batch_and_a_second_time(
    llama, bert, byte_level_tokenizer, wordpiece_tokenizer, papers
):
    items = gene_cloze_items(papers, COUNTS, max_items=6)
    for score, model, tokenizer in (
        (score_candidates_causal, llama, byte_level_tokenizer),
        (score_candidates_masked, bert, wordpiece_tokenizer),
    ):
        ranks = [
            ranks_of(score(model, tokenizer, items, batch_tokens=size))
            for size in (1, 100, 8192, 8192)
        ]
        assert ranks == [ranks[0]] * 4


def test_a_model_without_opinion_gets_none_right(llama, byte_level_tokenizer):
    import torch

    with torch.no_grad():
        llama.lm_head.weight.zero_()
    length = len(byte_level_tokenizer("AAA0")["input_ids"])
    same_length = [
        f"AAA{n}" for n in range(1, 10) if len(byte_level_tokenizer(f"AAA{n}").input_ids) == length
    ]
    item = item_of("The loss of AAA0 was seen here.", "AAA0", same_length)
    assert len(item.candidates) > 3
    (rank,) = ranks_of(
        score_candidates_causal(llama, byte_level_tokenizer, [item], batch_tokens=64)
    )
    assert rank == len(item.candidates)


def test_ranks_become_sums_of_papers():
    items = [ClozeItem(p, "a ", " b", "X", tuple("ABCDEFGHI")) for p in ("p1", "p2", "p1")]
    frame = cloze_frame(items, [1, 2, 4], "gene_cloze")
    assert frame.to_dict("list") == {
        "paper_id": ["p1", "p2"],
        "gene_cloze_items": [2, 1],
        "gene_cloze_hits": [1, 0],
        "gene_cloze_reciprocal_rank": [1.25, 0.5],
        "gene_cloze_chance_sum": [0.2, 0.1],
        "gene_cloze_chance_reciprocal_rank": pytest.approx([2 * 0.29290, 0.29290], abs=1e-4),
    }
    metrics = summarise(frame)
    assert metrics["gene_cloze_accuracy"] == pytest.approx(1 / 3)
    assert metrics["gene_cloze_mrr"] == pytest.approx(1.75 / 3)
    assert metrics["gene_cloze_chance"] == pytest.approx(0.1)
    assert metrics["gene_cloze_mrr_chance"] == pytest.approx(0.2929, abs=1e-4)


def test_no_items_make_an_empty_frame(llama, byte_level_tokenizer):
    ranks = ranks_of(score_candidates_causal(llama, byte_level_tokenizer, [], batch_tokens=64))
    assert len(cloze_frame([], ranks, "gene_cloze")) == 0
