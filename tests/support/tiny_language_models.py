"""Tiny models, tokenizers and papers, built in milliseconds."""

import os
from itertools import pairwise

# A tiny model gains nothing from threads, and other work on the machine loses.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from steps.papers.text import PaperText
from tests.support.example_papers import SENTENCES, paper_of


@pytest.fixture(scope="session")
def papers() -> list[PaperText]:
    """Six papers of different length; the last is longer than the models' windows."""
    made = [
        paper_of(f"paper{place}", ("title", title), ("abstract", body), score=float(place))
        for place, (title, body) in enumerate(pairwise(SENTENCES))
    ]
    return [*made, paper_of("long", ("title", SENTENCES[0]), ("results", " ".join(SENTENCES * 3)))]


@pytest.fixture(scope="session")
def byte_level_tokenizer():
    """A byte-level BPE tokenizer of 400 entries with BOS, EOS and padding."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    backend = ByteLevelBPETokenizer()
    special = ["<s>", "</s>", "<pad>"]
    backend.train_from_iterator(SENTENCES, vocab_size=400, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture(scope="session")
def byte_fallback_tokenizer():
    """BPE in the manner of LLaMA-2: metaspace, a space put in front, bytes for what is unknown."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", "<s>", "</s>", *in_bytes]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special)
    backend.train_from_iterator([s for s in SENTENCES if s.isascii()], trainer)
    # The bytes are ordinary entries, which special tokens are not; rebuild without that mark.
    import json

    description = json.loads(backend.to_str())
    description["added_tokens"] = description["added_tokens"][:3]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


@pytest.fixture(scope="session")
def wordpiece_tokenizer():
    """A lower-casing, accent-stripping WordPiece tokenizer, as BERT's."""
    from tokenizers import BertWordPieceTokenizer
    from tokenizers.processors import BertProcessing
    from transformers import PreTrainedTokenizerFast

    backend = BertWordPieceTokenizer(lowercase=True)
    backend.train_from_iterator(SENTENCES, vocab_size=400, min_frequency=1)
    sep, cls = (("[SEP]", backend.token_to_id("[SEP]")), ("[CLS]", backend.token_to_id("[CLS]")))
    backend._tokenizer.post_processor = BertProcessing(sep, cls)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]",
    )


@pytest.fixture
def llama(byte_level_tokenizer):
    """A random LLaMA of 3 layers with grouped heads, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(byte_level_tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    ).eval()


@pytest.fixture
def bert(wordpiece_tokenizer):
    """A random BERT of 2 layers, in float32."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(wordpiece_tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            initializer_range=0.2,
            pad_token_id=wordpiece_tokenizer.pad_token_id,
        )
    ).eval()
