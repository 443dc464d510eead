"""Model folders with the tokenizers of families that people use, trained in milliseconds.

Each is written as its family's folders are: `tokenizer.json`, vocabulary and merges, or a bare
SentencePiece model, with a `config.json` beside it and no weights.
"""

import io
import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.example_papers import SENTENCES

GENOMICS = (
    "Variants in BRCA1 (p.Val600Glu; c.76_78delACT) raise β-catenin by 3.5-fold: CAT!",
    "naïve cells at 10–20 µM of ABT-263\n\nrs121913529 in 1,204 of αβγ 日本 patients",
    "“cell's”  two spaces, a tab\tand 🧬 <b>tags</b> & 100%",
)
# Every character of the texts stands in the vocabularies that know no bytes.
_CORPUS = [*SENTENCES, *GENOMICS] * 3


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

    @property
    def objective(self) -> str:
        """What its models learn."""
        return "causal" if self.around is None else "masked"

    def folder(self, parent: Path, **config: Any) -> Path:
        """A model's folder, without weights."""
        from transformers import AutoConfig

        parent.mkdir(parents=True, exist_ok=True)
        AutoConfig.for_model(self.model_type, **{**self.config, **config}).save_pretrained(parent)
        self.write(parent)
        return parent


def _byte_level(special: list[str], **settings: Any) -> Any:
    from tokenizers import ByteLevelBPETokenizer

    backend = ByteLevelBPETokenizer(add_prefix_space=False, **settings)
    backend.train_from_iterator(_CORPUS, vocab_size=450, special_tokens=special)
    return backend


def merged_bytes(*special: str, **names: Any) -> Callable[[Path], None]:
    """GPT-2's way: vocab.json and merges.txt; the names go into tokenizer_config.json."""

    def write(folder: Path) -> None:
        _byte_level(list(special)).save_model(str(folder))
        (folder / "tokenizer_config.json").write_text(json.dumps(names))

    return write


def described_bytes(
    *special: str, before: str = "", after: str = "", digits: bool = False, **names: Any
) -> Callable[[Path], None]:
    """Byte-level BPE as a tokenizer.json."""

    def write(folder: Path) -> None:
        from tokenizers import pre_tokenizers, processors

        backend = _byte_level(list(special))._tokenizer
        if digits:
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
            )
        around = [token for token in (before, after) if token]
        backend.post_processor = processors.TemplateProcessing(
            single=[*([before] if before else []), "$A", *([after] if after else [])],
            special_tokens=[(token, backend.token_to_id(token)) for token in around],
        )
        backend.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(names))

    return write


def sentencepiece(file: str, kind: str, **settings: Any) -> Callable[[Path], None]:
    """A bare SentencePiece model."""

    def write(folder: Path) -> None:
        from sentencepiece import SentencePieceTrainer

        content = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter(_CORPUS),
            model_writer=content,
            model_type=kind,
            vocab_size=600,
            hard_vocab_limit=False,
            character_coverage=1.0,
            minloglevel=2,
            **settings,
        )
        (folder / file).write_bytes(content.getvalue())

    return write


def wordpiece(special: list[str], *, lowercase: bool, **names: Any) -> Callable[[Path], None]:
    """BERT's way: vocab.txt."""

    def write(folder: Path) -> None:
        from tokenizers import BertWordPieceTokenizer

        backend = BertWordPieceTokenizer(lowercase=lowercase)
        backend.train_from_iterator(
            _CORPUS, vocab_size=500, min_frequency=1, special_tokens=special
        )
        backend.save_model(str(folder))
        settings = {"do_lower_case": lowercase, **names}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    return write


def byte_fallback(folder: Path) -> None:
    """LLaMA-2's way, as a tokenizer.json with its BOS in the template."""
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [
            *(decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()),
            decoders.Strip(content=" ", left=1),
        ]
    )
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[*special, *in_bytes])
    # SentencePiece joins no words, and splits none before it joins.
    backend.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    backend.train_from_iterator([s for s in SENTENCES if s.isascii()], trainer)
    backend.pre_tokenizer = None
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    description = json.loads(backend.to_str())
    # The bytes are ordinary entries, which special tokens are not.
    description["added_tokens"] = description["added_tokens"][:3]
    (folder / "tokenizer.json").write_text(json.dumps(description))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {**names, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _ended_words(folder: Path, words: list[str], special: list[str]) -> None:
    """BioGPT's way: merges of the letters of a word, of which the last is marked by `</w>`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(words, trainer)
    backend.model.save(str(folder))


def biogpt(folder: Path) -> None:
    """BioGPT: words by Moses."""
    from sacremoses import MosesTokenizer

    moses = MosesTokenizer(lang="en")
    words = [moses.tokenize(t, aggressive_dash_splits=True, return_str=True) for t in _CORPUS]
    _ended_words(folder, words, ["<s>", "<pad>", "</s>", "<unk>"])
    merges = (folder / "merges.txt").read_text().splitlines()[1:]
    (folder / "merges.txt").write_text("".join(f"{merge} 1\n" for merge in merges))


def ctrl(folder: Path) -> None:
    """CTRL: pieces that a word goes on after end in `@@`."""
    _ended_words(folder, _CORPUS, ["<s>", "</s>", "<pad>", "<unk>"])
    pieces = json.loads((folder / "vocab.json").read_text())
    # The end of a line is the end of its last word.
    spelled = {"\n": len(pieces)}
    for piece, i in pieces.items():
        ends = piece.endswith("</w>") or i < 4
        spelled[piece.removesuffix("</w>") if ends else f"{piece}@@"] = i
    (folder / "vocab.json").write_text(json.dumps(spelled))


def esm(folder: Path) -> None:
    """ESM: one token for each amino acid."""
    tokens = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "EsmTokenizer"}))


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
MASKED_FAMILIES = {
    "bert": Family(
        "bert",
        wordpiece(_BERT, lowercase=True),
        around=(["[CLS]"], ["[SEP]"]),
        same=lambda text: _without_spaces(_folded(text)),
    ),
    "bert-cased": Family(
        "bert",
        wordpiece(_BERT, lowercase=False),
        around=(["[CLS]"], ["[SEP]"]),
        same=_without_spaces,
    ),
    "electra": Family(
        "electra",
        wordpiece(_BERT, lowercase=True),
        around=(["[CLS]"], ["[SEP]"]),
        same=lambda text: _without_spaces(_folded(text)),
    ),
    "mobilebert": Family(
        "mobilebert",
        wordpiece(_BERT, lowercase=True),
        around=(["[CLS]"], ["[SEP]"]),
        same=lambda text: _without_spaces(_folded(text)),
    ),
    "funnel": Family(
        "funnel",
        wordpiece(["<pad>", "<unk>", "<cls>", "<sep>", "<mask>"], lowercase=True),
        around=(["<cls>"], ["<sep>"]),
        same=lambda text: _without_spaces(_folded(text)),
    ),
    "mpnet": Family(
        "mpnet",
        wordpiece(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"], lowercase=True),
        around=(["<s>"], ["</s>"]),
        same=lambda text: _without_spaces(_folded(text)),
    ),
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
