"""The files of tokenizers, trained in milliseconds: how each kind comes in a model's folder."""

import io
import json
from collections.abc import Callable, Sequence
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


def sentencepiece(
    file: str, kind: str, texts: Sequence[str] = _CORPUS, **settings: Any
) -> Callable[[Path], None]:
    """A bare SentencePiece model of some texts."""

    def write(folder: Path) -> None:
        from sentencepiece import SentencePieceTrainer

        content = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
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
