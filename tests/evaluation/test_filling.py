"""Words for masks."""

import torch

from steps.evaluation.filling import fill, masked_ids


def test_the_words_of_a_mask_are_those_that_the_model_finds_likeliest(bert, wordpiece_tokenizer):
    ids = masked_ids(wordpiece_tokenizer, "the [MASK] gene is [MASK].")
    first, second = fill(bert, wordpiece_tokenizer, ids, 5, "cpu")
    places = [place for place, one in enumerate(ids) if one == wordpiece_tokenizer.mask_token_id]
    probabilities = bert(input_ids=torch.tensor([ids])).logits[0, places].detach().softmax(dim=-1)
    for words, row in zip((first, second), probabilities, strict=True):
        best = row.topk(5)
        assert [word.word for word in words] == [
            wordpiece_tokenizer.decode([one]) for one in best.indices.tolist()
        ]
        torch.testing.assert_close(torch.tensor([w.probability for w in words]), best.values)


def test_the_text_stands_between_the_special_tokens_of_its_model(wordpiece_tokenizer):
    ids = masked_ids(wordpiece_tokenizer, "the [MASK] gene")
    assert ids[0] == wordpiece_tokenizer.cls_token_id
    assert ids[-1] == wordpiece_tokenizer.sep_token_id
    assert wordpiece_tokenizer.mask_token_id in ids
