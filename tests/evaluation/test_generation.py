"""Generation, and what is counted in it."""

import pandas as pd
import pytest

from steps.evaluation.generation import (
    GENE_LIKE,
    Prompt,
    generate,
    generation_prompts,
    generation_scores,
)
from steps.evaluation.sampling import Sampling
from steps.evaluation.summary import summarise
from steps.models.tokenizer import load_tokenizer
from tests.support.architectures import CAUSAL
from tests.support.example_papers import GENES, SENTENCES, paper_of
from tests.support.tiny_architectures import tokenizer_for
from tests.support.tokenizer_families import CAUSAL_FAMILIES


def symbols_in(text):
    return [gene for gene in GENES if gene in text]


def scores_of(tokenizer, generation, reference="", paper=None, training=()):
    paper = paper or paper_of("p", ("title", SENTENCES[0]), ("abstract", SENTENCES[1]))
    rows = pd.DataFrame(
        {
            "paper_id": [paper.paper_id],
            "prompt": [""],
            "generation": [generation],
            "reference": [reference],
        }
    )
    frame = generation_scores(rows, [paper], training, tokenizer, symbols_in, set(GENES))
    return frame.iloc[0]


def test_prompt_and_continuation_are_the_paper(papers):
    by_id = {paper.paper_id: paper for paper in papers}
    for kind in ("title", "first_sentence"):
        prompts = generation_prompts(papers, count=100, kind=kind)
        assert prompts
        for prompt in prompts:
            assert prompt.prompt + prompt.continuation == by_id[prompt.paper_id].text
            assert prompt.prompt.startswith(by_id[prompt.paper_id].text.split("\n\n")[0])


def test_a_paper_with_nothing_to_go_on_with_is_passed_over(papers):
    title_only = paper_of("bare", ("title", SENTENCES[0]))
    one_sentence = paper_of("short", ("title", SENTENCES[0]), ("abstract", SENTENCES[1]))
    everything = [*papers, title_only, one_sentence]
    by_title = {prompt.paper_id for prompt in generation_prompts(everything, count=100)}
    assert "bare" not in by_title
    assert "short" in by_title
    by_sentence = generation_prompts(everything, count=100, kind="first_sentence")
    assert "short" not in {prompt.paper_id for prompt in by_sentence}


def test_the_same_prompts_are_chosen_whatever_the_order(papers):
    first = generation_prompts(papers, count=3)
    assert len(first) == 3
    assert first == generation_prompts(papers[::-1], count=3)


def test_a_batch_writes_what_single_prompts_write(llama, byte_level_tokenizer, papers):
    prompts = generation_prompts(papers, count=4)
    settings = {"max_new_tokens": 12}
    together = generate(llama, byte_level_tokenizer, prompts, batch_size=4, **settings)
    alone = generate(llama, byte_level_tokenizer, prompts, batch_size=1, **settings)
    assert together.equals(alone)
    assert len({len(prompt.prompt) for prompt in prompts}) > 1, "nothing was padded"
    assert together["generation"].str.len().min() > 0


@pytest.mark.parametrize("architecture", CAUSAL, ids=str)
def test_a_batch_of_any_class_writes_what_single_prompts_write(architecture):
    model, tokenizer = architecture.build(), tokenizer_for("causal")
    prompts = [Prompt(f"p{i}", text, "") for i, text in enumerate((SENTENCES[2], "The"))]
    together = generate(model, tokenizer, prompts, max_new_tokens=6)
    alone = [generate(model, tokenizer, [one], max_new_tokens=6) for one in prompts]
    assert list(together["generation"]) == [frame["generation"][0] for frame in alone]


def test_a_prompt_beyond_the_switch_of_positions_does_not_change_its_neighbour():
    (architecture,) = (one for one in CAUSAL if str(one) == "phi3-longrope")
    model, tokenizer = architecture.build(), tokenizer_for("causal")
    texts = ("The gene", " ".join(SENTENCES[:3]))
    prompts = [Prompt(f"p{i}", text, "") for i, text in enumerate(texts)]
    assert len(tokenizer(texts[0]).input_ids) < 64 < len(tokenizer(texts[1]).input_ids)
    together = generate(model, tokenizer, prompts, max_new_tokens=6)
    alone = [generate(model, tokenizer, [one], max_new_tokens=6) for one in prompts]
    assert list(together["generation"]) == [frame["generation"][0] for frame in alone]


def test_greedy_text_is_the_most_probable_token_each_time(llama, byte_level_tokenizer, papers):
    import torch

    (prompt,) = generation_prompts(papers, count=1)
    rows = generate(llama, byte_level_tokenizer, [prompt], max_new_tokens=8)
    ids = [0, *byte_level_tokenizer(prompt.prompt)["input_ids"]]
    written = []
    for _ in range(8):
        logits = llama(input_ids=torch.tensor([ids + written]), use_cache=False).logits
        written.append(int(logits[0, -1].argmax()))
    assert 1 not in written, "the text ended, so this is no test of eight tokens"
    assert rows["generation"][0] == byte_level_tokenizer.decode(written, skip_special_tokens=True)


def test_draws_follow_their_seed_and_leave_other_draws_alone(llama, byte_level_tokenizer, papers):
    import torch

    prompts = generation_prompts(papers, count=2)

    def drawn(seed):
        sampling = Sampling(temperature=1.0, seed=seed)
        return generate(llama, byte_level_tokenizer, prompts, max_new_tokens=12, sampling=sampling)

    torch.manual_seed(5)
    first = drawn(1)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after), "the outer generator has moved"
    assert first.equals(drawn(1))
    assert not first.equals(drawn(2))


def test_sampling_that_the_model_folder_asks_for_is_not_done(llama, byte_level_tokenizer, papers):
    prompts = generation_prompts(papers, count=2)
    expected = generate(llama, byte_level_tokenizer, prompts, max_new_tokens=12)
    llama.generation_config.do_sample = True
    llama.generation_config.temperature = 5.0
    llama.generation_config.repetition_penalty = 3.0
    assert generate(llama, byte_level_tokenizer, prompts, max_new_tokens=12).equals(expected)
    assert llama.generation_config.repetition_penalty == 3.0


def test_the_reference_is_as_long_as_what_may_be_written(llama, byte_level_tokenizer, papers):
    prompts = generation_prompts(papers, count=6)
    rows = generate(llama, byte_level_tokenizer, prompts, max_new_tokens=5)
    for prompt, reference in zip(prompts, rows["reference"], strict=True):
        assert prompt.continuation.startswith(reference)
        assert len(byte_level_tokenizer(reference)["input_ids"]) <= 5


def test_an_adapter_writes_too(llama, byte_level_tokenizer, papers):
    from peft import LoraConfig, get_peft_model

    prompts = generation_prompts(papers, count=2)
    base = generate(llama, byte_level_tokenizer, prompts, max_new_tokens=6)
    adapted = get_peft_model(llama, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert generate(adapted, byte_level_tokenizer, prompts, max_new_tokens=6).equals(base)


def test_genes_are_compared_with_the_whole_paper(byte_level_tokenizer):
    row = scores_of(byte_level_tokenizer, "TP53 and TP53 with KRAS but BRCA1")
    assert (row.gene_hits, row.genes_generated, row.genes_expected) == (2, 3, 2)


def test_symbols_that_no_lexicon_knows_are_counted_beside_the_reference(byte_level_tokenizer):
    row = scores_of(byte_level_tokenizer, "TP53 binds ZQX99 and ABC7", "CDK4 in HEK293 cells")
    assert (row.generated_symbols, row.generated_symbols_unknown) == (3, 2)
    assert (row.reference_symbols, row.reference_symbols_unknown) == (2, 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("TP53 and BRCA1.", ["TP53", "BRCA1"]),
        ("V600E in 12 of 30 WITH DNA", []),
        ("anti-CD20", []),
        ("(KLF4)", ["KLF4"]),
    ],
)
def test_what_is_written_like_a_gene(text, found):
    assert GENE_LIKE.findall(text) == found


def test_repetition_lowers_the_share_of_different_words(byte_level_tokenizer):
    row = scores_of(byte_level_tokenizer, "a b a b a b")
    assert row.distinct_words / row.generated_words == pytest.approx(2 / 6)
    assert row.distinct_word_pairs / row.generated_word_pairs == pytest.approx(2 / 5)


def test_the_longest_run_of_words_is_found_and_ends_with_its_text(byte_level_tokenizer):
    training = ["We saw one two three four here.", "five six seven"]
    row = scores_of(byte_level_tokenizer, "x One, two three FOUR five six y", training=training)
    assert row.longest_verbatim_words == 4
    row = scores_of(byte_level_tokenizer, "nothing alike", training=training)
    assert row.longest_verbatim_words == 0


def test_runs_of_fifty_tokens_count_as_memorised(byte_level_tokenizer):
    training = [" ".join(SENTENCES), " ".join(SENTENCES[::-1])]
    tokens = byte_level_tokenizer(training[0])["input_ids"]
    assert len(tokens) > 60
    copied = byte_level_tokenizer.decode(tokens[:60])
    row = scores_of(byte_level_tokenizer, copied, training=training)
    assert (row.memorised_tokens, row.generated_tokens) == (60, 60)
    row = scores_of(
        byte_level_tokenizer, byte_level_tokenizer.decode(tokens[:49]), training=training
    )
    assert (row.memorised_tokens, row.generated_tokens) == (0, 49)
    mixed = byte_level_tokenizer.decode(tokens[:55]) + " zzz"
    row = scores_of(byte_level_tokenizer, mixed, training=training)
    assert row.memorised_tokens == 55 < row.generated_tokens


def test_counts_become_metrics(llama, byte_level_tokenizer, papers):
    prompts = generation_prompts(papers, count=5)
    rows = generate(llama, byte_level_tokenizer, prompts, max_new_tokens=60)
    texts = [paper.text for paper in papers]
    frame = generation_scores(rows, papers, texts, byte_level_tokenizer, symbols_in, set(GENES))
    metrics = summarise(frame)
    assert metrics["memorised_share"] == 0
    assert 0 < metrics["distinct_1"] <= 1
    assert metrics["gene_recall"] <= 1
    assert metrics["reference_unknown_gene_share"] == 0
    assert metrics["longest_verbatim_words"] == frame["longest_verbatim_words"].max()


def test_a_text_ends_with_eos_though_eos_pads_too(llama, papers, tmp_path):
    import torch

    tokenizer = load_tokenizer(CAUSAL_FAMILIES["llama"].folder(tmp_path))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    llama.resize_token_embeddings(len(tokenizer))
    # A head that likes no token as much as EOS, after whatever text.
    llama.lm_head = torch.nn.Linear(32, len(tokenizer))
    with torch.no_grad():
        llama.lm_head.bias[tokenizer.eos_token_id] = 1000.0
    rows = generate(llama, tokenizer, generation_prompts(papers, count=3), max_new_tokens=8)
    assert rows["generation"].tolist() == [""] * 3


def test_as_many_prompts_as_fit_are_gone_on_from_together(llama, byte_level_tokenizer, monkeypatch):
    from steps.evaluation import generation

    sizes = []
    write = generation._write

    def noted(model, prompts, padding, device, count, **settings):
        sizes.append(len(prompts))
        return write(model, prompts, padding, device, count, **settings)

    monkeypatch.setattr(generation, "_write", noted)
    monkeypatch.setattr(generation, "_bears_padding_in_front", lambda *_: True)
    prompts = [Prompt(f"p{n}", SENTENCES[n % 3], "") for n in range(20)]
    together = generate(llama, byte_level_tokenizer, prompts, max_new_tokens=4)
    assert sizes == [20]
    # No memory for all of them: the fewest are still written on together.
    monkeypatch.setattr(generation, "TOKENS_TOGETHER", 100)
    in_parts = generate(llama, byte_level_tokenizer, prompts, max_new_tokens=4)
    assert sizes[1:] == [8, 8, 4]
    assert in_parts.equals(together)
