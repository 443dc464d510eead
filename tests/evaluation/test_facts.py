"""Facts that two papers state, and what is asked about them."""

import re

import numpy as np
import pytest

from steps.config.facts_section import FACT_KINDS, Facts
from steps.evaluation.fact_mining import Fact, facts_of_two, same_variant, statements
from steps.evaluation.facts import (
    MOST_ITEMS_OF_A_FACT,
    fact_items,
    facts_frame,
    facts_per_paper,
    is_after,
    random_truths,
    with_truths,
)
from steps.papers.text import PaperText, Span

GENES = re.compile(
    r"\b(?:BRAF|TP53|RB1|MYC|KRAS|EGFR|PTEN|CDK4|NRAS|SMAD4|NOTCH1|CTNNB1|ATM|VHL)\b"
)
VARIANTS = re.compile(r"\b[A-Z]\d+[A-Z]\b|p\.[A-Z][a-z]{2}\d+[A-Z][a-z]{2}")


def paper(paper_id, text, published=None):
    genes = tuple(Span(m.start(), m.end(), m[0], "human") for m in GENES.finditer(text))
    variants = tuple(Span(m.start(), m.end(), "substitution") for m in VARIANTS.finditer(text))
    section = (Span(0, len(text), "abstract"),)
    return PaperText(paper_id, text, section, genes, variants, published=published)


def facts_in(text):
    return [(s.kind, s.subject, s.object) for s in statements(paper("p", text))]


def test_a_sentence_states_what_it_names_together():
    assert facts_in("In melanoma the BRAF mutation p.Val600Glu was found only twice.") == [
        ("gene_variant", "BRAF", "V600E"),
        ("gene_disease", "BRAF", "melanoma"),
    ]
    assert facts_in("In these cells MYC directly activates the gene CDK4 at once.") == [
        ("gene_gene", "MYC", "CDK4"),
        ("gene_gene", "CDK4", "MYC"),
    ]
    assert facts_in("The antibody bound to a 47-kDa protein of the nuclear extract.") == [
        ("number", "protein", "47 kDa")
    ]
    assert facts_in("The gene TP53 encodes a 53 kDa nuclear protein in all cells.") == [
        ("number", "TP53", "53 kDa")
    ]


@pytest.mark.parametrize(
    "text",
    [
        # Listed, not linked.
        "We sequenced TP53, MYC, KRAS, EGFR and PTEN in 12 patients with melanoma.",
        # Could be copied from beside the gap.
        "Hereditary retinoblastoma (RB) is caused by loss of the gene RB1 alone.",
        "In melanoma with BRAF mutations, melanoma cells grow more slowly than others.",
        # A number of nothing in particular.
        "After 24 h the cells of all five groups were counted again.",
    ],
)
def test_a_list_an_explanation_and_a_bare_number_state_nothing(text):
    assert facts_in(text) == []


def test_writings_of_a_variant_are_one_fact():
    assert same_variant("p.(Val600Glu)") == same_variant("V600E") == same_variant("p.V600E")


def test_two_papers_make_a_fact_and_two_sentences_do_not():
    told = "In these cells MYC directly activates the gene CDK4 at once."
    turned = "As others found, CDK4 is among the targets that MYC activates there."
    other = "We show that MYC directly represses the gene KRAS in all cells. "
    papers = [paper("a", told), paper("b", turned), paper("c", other * 2)]
    facts = facts_of_two(s for each in papers for s in statements(each))
    assert facts == {Fact("gene_gene", "CDK4", "MYC"): {"a", "b"}}


OF_GENES = {
    "TP53": "melanoma",
    "KRAS": "sarcoma",
    "EGFR": "lymphoma",
    "PTEN": "carcinoma",
    "CDK4": "glioma",
    "NRAS": "seminoma",
    "SMAD4": "adenoma",
    "NOTCH1": "hepatoma",
    "CTNNB1": "thymoma",
    "ATM": "myeloma",
    "VHL": "lipoma",
}


def background():
    """Training papers that fill the pool of diseases, each with a gene of its own."""
    return [
        paper(f"t{n}-{twice}", f"Loss of the gene {gene} was often seen in {disease} by others.")
        for n, (gene, disease) in enumerate(OF_GENES.items())
        for twice in range(2)
    ]


def held_out():
    return [
        paper("h1", "We found that BRAF drives the growth of melanoma in mice.", "2024-03-01"),
        paper("h2", "Many a case of melanoma began with a change of BRAF alone.", "2019"),
        paper("h3", "The loss of RB1 is enough for the growth of sarcoma here.", None),
        paper("h4", "Almost every sarcoma of this kind had lost RB1 in part.", "2024"),
    ]


def asked(train=(), **settings):
    papers = [*background(), *train]
    return fact_items(held_out(), papers, Facts(**settings), seed=0)


def test_facts_are_told_apart_by_what_the_training_papers_state():
    learned = paper("t", "It is known that BRAF is changed in melanoma of most patients.")
    stratum = {each.stated.paper_id: each.stratum for each in asked([learned])}
    assert stratum == {"h1": "seen", "h2": "seen", "h3": "unseen", "h4": "unseen"}
    assert {each.stratum for each in asked()} == {"unseen"}


def test_an_item_is_the_sentence_and_its_distractors_are_wrong():
    texts = {each.paper_id: each.text for each in held_out()}
    items = asked()
    assert len(items) == 4
    for each in items:
        item = each.item
        assert item.before + item.answer + item.after == texts[item.paper_id]
        assert len(set(item.candidates)) == 10
        assert all(other not in texts[item.paper_id] for other in item.distractors)
        # TP53 has melanoma in two papers, but that is another gene.
        assert set(item.distractors) <= set(OF_GENES.values())


def test_what_another_paper_says_of_the_subject_is_no_distractor():
    also = [paper(n, "The gene BRAF is changed in glioma of the young, too.") for n in ("x", "y")]
    for each in asked(also):
        assert ("glioma" in each.item.distractors) == (each.stated.subject == "RB1")


def test_no_distractor_is_another_writing_of_a_variant_of_the_gene():
    told = "The change p.Val12Glu of BRAF is the most frequent one in such patients."
    others = " ".join(
        f"The change V{position}E of BRAF is another one that such patients have."
        for position in range(10, 99)
        if position != 12
    )
    (item, *_) = fact_items([paper("h", told)], [paper("t", f"{told} {others}")], Facts(), seed=0)
    assert item.item.distractors
    made = [same_variant(other) for other in item.item.distractors]
    assert not [name for name in made if re.fullmatch(r"V\d\dE", name)]


def test_choices_do_not_depend_on_the_order_of_papers():
    papers = background()
    one = fact_items(held_out(), papers, Facts(), seed=0)
    assert one == fact_items(held_out()[::-1], papers[::-1], Facts(), seed=0)


def test_no_fact_has_more_than_a_few_items_and_both_strata_get_their_share():
    many = [paper(f"m{n}", "Here BRAF drives the growth of melanoma in mice.") for n in range(9)]
    learned = [paper("t", "It is known that BRAF is changed in melanoma of most patients.")]
    items = fact_items([*held_out(), *many], [*background(), *learned], Facts(), seed=0)
    seen = [each for each in items if each.stratum == "seen"]
    assert len(seen) == MOST_ITEMS_OF_A_FACT
    few = fact_items([*held_out(), *many], [*background(), *learned], Facts(items=4), seed=0)
    assert [each.stratum for each in few] == ["seen", "seen", "unseen", "unseen"]
    most = fact_items([*held_out(), *many], [*background(), *learned], Facts(items=5), seed=0)
    assert len(most) == 5


def test_kinds_that_are_not_wanted_are_not_asked():
    kinds = tuple(kind for kind in FACT_KINDS if kind != "gene_disease")
    assert asked(kinds=kinds) == []


@pytest.mark.parametrize(
    ("published", "date", "later"),
    [
        ("2024-03-01", "2023", True),
        ("2023-12-31", "2023", False),
        ("2024", "2023-06", True),
        # Somewhere in that year.
        ("2023", "2023-06", False),
        ("2023-06-15", "2023-06", False),
        ("2023-07", "2023-06", True),
        ("2023-06-15", "2023-06-14", True),
        (None, "2023", False),
        ("2024", None, False),
    ],
)
def test_a_paper_is_later_only_where_that_is_known(published, date, later):
    assert is_after(published, date) is later


def test_facts_of_later_papers_are_counted_apart():
    after = {each.stated.paper_id for each in asked(after="2023") if each.after}
    assert after == {"h1", "h4"}


def frame_of(items, right):
    """Scores of a model that prefers the answer of some items."""
    generator = np.random.default_rng(0)
    scores = generator.normal(50, 1, (len(items), 10))
    scores[:, 0] = np.where(right, 0, 99)
    return facts_frame(items, scores.tolist())


def test_sums_of_papers_are_those_of_the_items():
    items = asked(after="2023")
    per_paper = facts_per_paper(frame_of(items, [True, False, True, True]))
    assert per_paper["fact_cloze_items"].sum() == 4
    assert per_paper["fact_cloze_hits"].sum() == per_paper["fact_cloze_unseen_hits"].sum() == 3
    assert per_paper["fact_cloze_after_items"].sum() == 2
    assert "fact_cloze_seen_items" not in per_paper
    assert per_paper["fact_cloze_chance_sum"].sum() == pytest.approx(0.4)


def test_another_truth_gives_the_rank_of_that_candidate():
    frame = frame_of(asked(), [True, True, False, False])
    assert with_truths(frame, frame["truth"])["rank"].tolist() == frame["rank"].tolist()
    for place in range(10):
        ranks = with_truths(frame, [place] * 4)["rank"]
        for rank, nats in zip(ranks, frame["nats"], strict=True):
            assert rank == 1 + sum(other < nats[place] for other in nats)


def test_random_truths_are_right_as_often_as_chance():
    one = frame_of(asked(), [True] * 4)
    many = one.loc[one.index.repeat(500)].reset_index(drop=True)
    truths = random_truths(many, seed=1)
    hits = (with_truths(many, truths)["rank"] == 1).mean()
    assert hits == pytest.approx(0.1, abs=0.03)
