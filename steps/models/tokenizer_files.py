"""A tokenizer that gives the tokens of its own files, found by trying.

transformers builds many tokenizers anew from the vocabulary alone, with the normaliser and the
pre-tokeniser that it has for the class. Where a model's own differ, its tokens are others than
those that the model was trained on: StarCoder2's digits are no longer told apart, LLaMA's bare
tokenizer.model loses the space in front of a text, DeBERTa's spm.model the normal form of a µ.
So what was loaded is tried against what its file says: tokenizer.json, by the tokenizers library,
or else a SentencePiece model, by the library that made it. Where they disagree, the file is right.
"""

import json
from pathlib import Path
from typing import Any

from steps.errors import UserError, first_line

# What a tokenizer can be made from.
_FILES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
# Written so that any normaliser leaves them alone: here every tokenizer has to agree.
_PLAIN_TEXTS = ("the gene is lost in cells of mice.", "growth, repair and death")
# Here a class may do more than its SentencePiece model (ALBERT takes accents away).
_TEXTS = (
    *_PLAIN_TEXTS,
    "Variants in BRCA1 (p.Val600Glu; c.76_78delACT) raise β-catenin by 3.5-fold, 1,204 in all.",
    "naïve ﬁbroblasts\n\nat  10–20 µM of ABT-263: “cell's” rs121913529 日本 🧬",
)
_SPACE = "\u2581"
# A word with all spaces in front of it: some models have pieces of several spaces.
_WORD = f"{_SPACE}+[^{_SPACE}]*|[^{_SPACE}]+"


def fault_of_files(folder: Path) -> str:
    """Why no tokenizer can be made from a folder: none is there, or half of one; or "".

    transformers makes a tokenizer of no word at all for many classes whose files are missing.
    """
    if not any(any(folder.glob(pattern)) for pattern in _FILES):
        return f"none of {', '.join(_FILES)} is there"
    described = folder / "tokenizer.json"
    if described.is_file():
        try:
            json.loads(described.read_text(encoding="utf-8"))
        except ValueError as error:
            return f"tokenizer.json: {first_line(error)}"
    return ""


def as_its_files_say(tokenizer: Any, folder: Path) -> Any:
    """The tokenizer itself, or one made from its files if it does not give their tokens.

    Args:
        tokenizer: What transformers loaded from the folder.
        folder: Where its files are.

    Raises:
        UserError: Its SentencePiece model cannot be had as a fast tokenizer.
    """
    if not tokenizer.is_fast:
        return tokenizer
    described = folder / "tokenizer.json"
    if described.is_file():
        return _as_described(tokenizer, described)
    models = [file for file in sorted(folder.glob("*.model")) if _is_sentencepiece(file)]
    return _between_cls_and_sep(_as_sentencepiece(tokenizer, models[0])) if models else tokenizer


def _as_described(tokenizer: Any, file: Path) -> Any:
    from tokenizers import Tokenizer

    described = Tokenizer.from_file(str(file))
    described.no_truncation()
    described.no_padding()
    for text in _TEXTS:
        given = tokenizer(text, add_special_tokens=False).input_ids
        if given != described.encode(text, add_special_tokens=False).ids:
            described.add_tokens(_added_to(tokenizer, described))
            return _with_backend(tokenizer, described)
    return tokenizer


def _added_to(tokenizer: Any, backend: Any) -> list[Any]:
    """Tokens that stand in no file of the vocabulary, but in tokenizer_config.json."""
    added = sorted(tokenizer.added_tokens_decoder.items())
    return [token for _, token in added if backend.token_to_id(token.content) is None]


def _with_backend(tokenizer: Any, backend: Any) -> Any:
    """A tokenizer of no class in particular, so that it is loaded again as it was saved."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        name_or_path=tokenizer.name_or_path,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        chat_template=tokenizer.chat_template,
        **tokenizer.special_tokens_map,
    )


def _is_sentencepiece(file: Path) -> bool:
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError):
        return False
    return True


def _as_sentencepiece(tokenizer: Any, file: Path) -> Any:
    """The tokenizer with the pieces of its SentencePiece model.

    Raises:
        UserError: No way to build it gives them.
    """
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(file))
    if _is_like(tokenizer, model):
        return tokenizer
    for split in (True, False):
        candidate = _with_backend(tokenizer, _backend_of(tokenizer, file, split=split))
        if all(_pieces(candidate, text) == _own_pieces(candidate, model, text) for text in _TEXTS):
            return candidate
    raise UserError(
        f"tokenizer {tokenizer.name_or_path!r}: its {file.name} gives other tokens in the fast "
        "tokenizer that transformers makes of it than in sentencepiece, which made it; add a "
        "tokenizer.json to the model's folder"
    )


def _between_cls_and_sep(tokenizer: Any) -> Any:
    """The tokenizer with CLS and SEP around a text where its class forgets them (FNet, RemBERT).

    A bare SentencePiece model does not say what stands around a text.
    """
    from tokenizers.processors import TemplateProcessing

    first, last = tokenizer.cls_token, tokenizer.sep_token
    plain = tokenizer(_PLAIN_TEXTS[0], add_special_tokens=False).input_ids
    if first is None or last is None or tokenizer(_PLAIN_TEXTS[0]).input_ids != plain:
        return tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(first, tokenizer.cls_token_id), (last, tokenizer.sep_token_id)],
    )
    return tokenizer


def _is_like(tokenizer: Any, model: Any) -> bool:
    """Whether plain texts get the model's pieces, and no text more unknown ones."""

    def unknown(pieces: list[str]) -> int:
        return pieces.count(tokenizer.unk_token)

    return all(
        _pieces(tokenizer, text) == _own_pieces(tokenizer, model, text) for text in _PLAIN_TEXTS
    ) and all(
        unknown(_pieces(tokenizer, text)) <= unknown(_own_pieces(tokenizer, model, text))
        for text in _TEXTS
    )


def _pieces(tokenizer: Any, text: str) -> list[str]:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pieces: list[str] = tokenizer.convert_ids_to_tokens(ids)
    return pieces


def _own_pieces(tokenizer: Any, model: Any, text: str) -> list[str]:
    unknown = model.unk_id()
    return [
        tokenizer.unk_token if i == unknown else model.id_to_piece(i) for i in model.encode(text)
    ]


def _backend_of(tokenizer: Any, file: Path, *, split: bool) -> Any:
    """A `tokenizers.Tokenizer` that does what a SentencePiece model says.

    Ids, special tokens and what stands around a text are the tokenizer's own: XLM-R, for one,
    counts its ids differently.

    Args:
        tokenizer: What transformers made of the model.
        file: The SentencePiece model.
        split: Whether no piece goes on past a word; masked models need the words this gives.
    """
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(file.read_bytes())
    rules, trained = proto.normalizer_spec, proto.trainer_spec
    ids = tokenizer.get_vocab()
    scores = {piece.piece: piece.score for piece in proto.pieces}
    # Ids without a piece of the model's are those of tokens that were added behind it.
    size = 1 + max(ids[piece] for piece in scores if piece in ids)
    names = {i: piece for piece, i in ids.items() if i < size}
    if trained.model_type == trained.UNIGRAM:
        backend = Tokenizer(
            models.Unigram(
                [
                    (names.get(i, f"<unused{i}>"), scores.get(names.get(i, ""), 0.0))
                    for i in range(size)
                ],
                unk_id=tokenizer.unk_token_id,
                byte_fallback=trained.byte_fallback,
            )
        )
    else:
        vocabulary = {piece: i for i, piece in names.items()}
        backend = Tokenizer(
            models.BPE(
                vocabulary,
                _merges({piece: scores.get(piece, 0.0) for piece in vocabulary}),
                unk_token=tokenizer.unk_token,
                fuse_unk=True,
                byte_fallback=trained.byte_fallback,
            )
        )
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if rules.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    if split:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "isolated")
    spelling: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if rules.add_dummy_prefix:
        spelling.append(decoders.Strip(" ", left=1))
    backend.decoder = decoders.Sequence(spelling)
    backend.post_processor = tokenizer.backend_tokenizer.post_processor
    backend.add_tokens([token for _, token in sorted(tokenizer.added_tokens_decoder.items())])
    return backend


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Pairs of pieces that make another, the likeliest piece first, as SentencePiece joins them."""
    merges = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                merges.append((left, right))
    return merges
