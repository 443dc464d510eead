"""Model folders with the tokenizers of families that people use.

Each is written as its family's folders are: `tokenizer.json`, vocabulary and merges, or a bare
SentencePiece model, with a `config.json` beside it and no weights.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.tiny_tokenizers import (
    GENOMICS,
    biogpt,
    byte_fallback,
    ctrl,
    described_bytes,
    esm,
    merged_bytes,
    sentencepiece,
    wordpiece,
)


@dataclass(frozen=True)
class Family:
    """Tokenizers of one kind.

    Attributes:
        model_type: Transformers' name of a model that comes with it.
        write: Writes the tokenizer's files into a folder.
        opening: The token that opens a paper, of a causal model's.
        around: What stands before and after a text, of a masked model's.
        same: What of a text survives a round trip: all of it, or all but capitals, spaces …
        config: What config.json states.
        texts: What its models read.
    """

    model_type: str
    write: Callable[[Path], None]
    opening: str | None = None
    around: tuple[list[str], list[str]] | None = None
    same: Callable[[str], str] = str
    config: Mapping[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = GENOMICS

    def folder(self, parent: Path, **config: Any) -> Path:
        """A model's folder, without weights."""
        from transformers import AutoConfig

        parent.mkdir(parents=True, exist_ok=True)
        AutoConfig.for_model(self.model_type, **{**self.config, **config}).save_pretrained(parent)
        self.write(parent)
        return parent


def _single_spaced(text: str) -> str:
    return " ".join(text.split())


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def _normal(text: str) -> str:
    """Characters that look alike are one, spaces single (most SentencePiece models)."""
    return _single_spaced(unicodedata.normalize("NFKC", text))


def _folded(text: str) -> str:
    """Lower case without accents (BERT uncased, ALBERT)."""
    plain = unicodedata.normalize("NFKD", text.lower())
    return "".join(c for c in plain if unicodedata.category(c) != "Mn")


_GPT2 = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
_NEOX = {**_GPT2, "tokenizer_class": "GPTNeoXTokenizer"}
_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_MODERNBERT = {
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
    "unk_token": "[UNK]",
}

CAUSAL_FAMILIES = {
    "gpt2": Family("gpt2", merged_bytes("<|endoftext|>", **_GPT2), "<|endoftext|>"),
    "qwen2": Family(
        "qwen2",
        described_bytes(
            "<|endoftext|>",
            "<|im_start|>",
            eos_token="<|endoftext|>",
            tokenizer_class="Qwen2Tokenizer",
        ),
        "<|endoftext|>",
    ),
    "gpt_neox": Family("gpt_neox", described_bytes("<|endoftext|>", **_NEOX), "<|endoftext|>"),
    "olmo": Family(
        "olmo",
        described_bytes(
            "<|endoftext|>", eos_token="<|endoftext|>", tokenizer_class="GPTNeoXTokenizer"
        ),
        "<|endoftext|>",
    ),
    "starcoder2": Family(
        "starcoder2",
        described_bytes("<|endoftext|>", digits=True, tokenizer_class="GPT2Tokenizer", **_GPT2),
        "<|endoftext|>",
    ),
    "opt": Family(
        "opt",
        merged_bytes(
            *("<s>", "<pad>", "</s>", "<unk>"),
            bos_token="</s>",
            eos_token="</s>",
            unk_token="</s>",
            pad_token="<pad>",
            add_bos_token=True,
            tokenizer_class="GPT2Tokenizer",
        ),
        "</s>",
    ),
    "falcon": Family(
        "falcon",
        described_bytes(">>TITLE<<", "<|endoftext|>", eos_token="<|endoftext|>"),
        "<|endoftext|>",
    ),
    "bloom": Family(
        "bloom",
        described_bytes(
            *("<unk>", "<s>", "</s>", "<pad>"),
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            unk_token="<unk>",
            tokenizer_class="BloomTokenizerFast",
        ),
        "<s>",
    ),
    "cohere": Family(
        "cohere",
        described_bytes(
            *("<PAD>", "<UNK>", "<BOS_TOKEN>", "<EOS_TOKEN>"),
            bos_token="<BOS_TOKEN>",
            eos_token="<EOS_TOKEN>",
            pad_token="<PAD>",
            before="<BOS_TOKEN>",
            digits=True,
            tokenizer_class="CohereTokenizerFast",
        ),
        "<BOS_TOKEN>",
    ),
    "llama": Family("llama", byte_fallback, "<s>"),
    "llama-bare": Family(
        "llama",
        sentencepiece(
            "tokenizer.model",
            "bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
        ),
        "<s>",
    ),
    "gemma-bare": Family(
        "gemma",
        sentencepiece(
            "tokenizer.model",
            "bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            pad_piece="<pad>",
            eos_piece="<eos>",
            bos_piece="<bos>",
        ),
        "<bos>",
    ),
    "modernbert-decoder": Family(
        "modernbert-decoder",
        described_bytes(*_BERT, before="[CLS]", after="[SEP]", **_MODERNBERT),
        "[CLS]",
        config={"eos_token_id": 3, "bos_token_id": 2},
    ),
    "biogpt": Family("biogpt", biogpt, "</s>", same=_without_spaces),
    "ctrl": Family(
        "ctrl",
        ctrl,
        "<s>",
        same=_single_spaced,
        config={"bos_token_id": 0, "eos_token_id": 1},
    ),
}


def _uncased(model_type: str, special: list[str], before: str, after: str) -> Family:
    """A WordPiece that lower-cases, between two special tokens."""
    return Family(
        model_type,
        wordpiece(special, lowercase=True),
        around=([before], [after]),
        same=lambda text: _without_spaces(_folded(text)),
    )


MASKED_FAMILIES = {
    "bert": _uncased("bert", _BERT, "[CLS]", "[SEP]"),
    "bert-cased": Family(
        "bert",
        wordpiece(_BERT, lowercase=False),
        around=(["[CLS]"], ["[SEP]"]),
        same=_without_spaces,
    ),
    "electra": _uncased("electra", _BERT, "[CLS]", "[SEP]"),
    "mobilebert": _uncased("mobilebert", _BERT, "[CLS]", "[SEP]"),
    "funnel": _uncased("funnel", ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>"], "<cls>", "<sep>"),
    "mpnet": _uncased("mpnet", ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"], "<s>", "</s>"),
    "roberta": Family("roberta", merged_bytes(*_ROBERTA), around=(["<s>"], ["</s>"])),
    "longformer": Family("longformer", merged_bytes(*_ROBERTA), around=(["<s>"], ["</s>"])),
    "deberta": Family("deberta", merged_bytes(*_BERT), around=(["[CLS]"], ["[SEP]"])),
    "modernbert": Family(
        "modernbert",
        described_bytes(*_BERT, before="[CLS]", after="[SEP]", **_MODERNBERT),
        around=(["[CLS]"], ["[SEP]"]),
    ),
    "eurobert": Family(
        "eurobert",
        described_bytes(
            *("<|begin_of_text|>", "<|end_of_text|>", "<|mask|>", "<|pad|>"),
            before="<|begin_of_text|>",
            after="<|end_of_text|>",
            bos_token="<|begin_of_text|>",
            eos_token="<|end_of_text|>",
            mask_token="<|mask|>",
            pad_token="<|pad|>",
        ),
        around=(["<|begin_of_text|>"], ["<|end_of_text|>"]),
    ),
    "unadorned": Family(
        "eurobert",
        described_bytes(
            "<|endoftext|>", "<|mask|>", eos_token="<|endoftext|>", mask_token="<|mask|>"
        ),
        around=([], []),
    ),
    "xlm-roberta": Family(
        "xlm-roberta",
        sentencepiece("sentencepiece.bpe.model", "unigram"),
        around=(["<s>"], ["</s>"]),
        same=_normal,
    ),
    "camembert": Family(
        "camembert",
        sentencepiece("sentencepiece.bpe.model", "unigram"),
        around=(["<s>"], ["</s>"]),
        same=_normal,
    ),
    "albert": Family(
        "albert",
        sentencepiece(
            "spiece.model",
            "unigram",
            normalization_rule_name="nmt_nfkc_cf",
            control_symbols=["[CLS]", "[SEP]"],
            user_defined_symbols=["[MASK]"],
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
        ),
        around=(["[CLS]"], ["[SEP]"]),
        same=lambda text: _single_spaced(_folded(text)),
    ),
    "fnet": Family(
        "fnet",
        sentencepiece(
            "spiece.model",
            "unigram",
            control_symbols=["[CLS]", "[SEP]"],
            user_defined_symbols=["[MASK]"],
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
        ),
        around=(["[CLS]"], ["[SEP]"]),
        same=_normal,
    ),
    "deberta-v3": Family(
        "deberta-v2",
        sentencepiece(
            "spm.model",
            "unigram",
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece="[PAD]",
            bos_piece="[CLS]",
            eos_piece="[SEP]",
            unk_piece="[UNK]",
        ),
        around=(["[CLS]"], ["[SEP]"]),
        same=_normal,
    ),
    "big-bird": Family(
        "big_bird",
        sentencepiece(
            "spiece.model",
            "bpe",
            user_defined_symbols=["[CLS]", "[SEP]", "[MASK]"],
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
        ),
        around=(["[CLS]"], ["[SEP]"]),
        same=_normal,
    ),
    "t5-like": Family(
        "t5",
        sentencepiece("spiece.model", "unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
        around=([], ["</s>"]),
        same=_normal,
    ),
    "esm": Family(
        "esm",
        esm,
        around=(["<cls>"], ["<eos>"]),
        same=_without_spaces,
        texts=("MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ", "MEEPQSDPSVEPPLSQETFSDLWKLLPENN"),
    ),
}
FAMILIES = {**CAUSAL_FAMILIES, **MASKED_FAMILIES}
