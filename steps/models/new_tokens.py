"""Tokens that a configuration adds to a base's vocabulary (`tokenizer.new_tokens`).

    added = add_new_tokens(tokenizer, ["BRCA1", "TP53 = tumour suppressor p53"], "the model")
    give_embeddings(model, added)
    adapted = add_adapter(model, qlora, objective, new_tokens=added.ids)

A gene that the vocabulary cuts into four pieces becomes one token, whose row of the embeddings (and
of the head) begins as the mean of the rows of its pieces, or of its description's, and is trained
alone: peft's `trainable_token_indices`. Rows of the base stay as they are.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steps.config.paths import find_file
from steps.config.tokenizer_section import DESCRIBES, NewGenes, Tokenizer, check_entry
from steps.errors import UserError
from steps.models.token_spans import encode

# Around a token, to see whether the tokenizer finds it as a word and leaves the rest as it is.
_CONTEXTS = ("in {} is", "({})", "{}-like, {}.", "x{}y")


@dataclass(frozen=True)
class NewTokens:
    """Tokens that were added.

    Attributes:
        texts: The tokens.
        ids: Their ids.
        pieces: Of each, the tokens whose mean its embedding begins as.
    """

    texts: tuple[str, ...]
    ids: tuple[int, ...]
    pieces: tuple[tuple[int, ...], ...]


def wanted_tokens(settings: Tokenizer, genes: Mapping[str, int]) -> tuple[str, ...]:
    """The entries of `tokenizer.new_tokens`, read from a file or counted where it says so.

    Args:
        settings: The section `tokenizer`.
        genes: How often the training papers write each gene.

    Returns:
        Tokens, or tokens with their descriptions; in the order of the list, the file, or of
        falling frequency.

    Raises:
        UserError: The file is missing or holds what is no token, or there are no genes.
    """
    wanted = settings.new_tokens
    if wanted is None:
        return ()
    if isinstance(wanted, tuple):
        return wanted
    if isinstance(wanted, NewGenes):
        if not genes:
            raise UserError(
                "tokenizer.new_tokens asks for genes, and none is marked in the training papers: "
                "name the tokens, or set it to null"
            )
        ordered = sorted(genes, key=lambda gene: (-genes[gene], gene))
        return tuple(gene for gene in ordered if len(gene.split()) == 1)[: wanted.genes]
    file = find_file(wanted, "tokenizer.new_tokens", "training.tokenizer.new_tokens")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tokenizer.new_tokens: {file.name} cannot be read: {error}") from None
    entries = [line.strip() for line in lines if line.strip()]
    for entry in entries:
        try:
            check_entry(entry, file.name)
        except ValueError as error:
            raise UserError(str(error)) from None
    return tuple(entries)


def add_new_tokens(tokenizer: Any, entries: Sequence[str], name: str) -> NewTokens:
    """Add tokens to a tokenizer, without those that it has.

    Args:
        tokenizer: From `load_tokenizer`; it is changed.
        entries: From `wanted_tokens`.
        name: What to call the model.

    Raises:
        UserError: The tokenizer cannot take tokens, or none of them is new.
    """
    from tokenizers import AddedToken

    cannot = f"the tokenizer of model {name} cannot take tokens (tokenizer.new_tokens)"
    if not tokenizer.is_fast:
        raise UserError(f"{cannot}, as it is written in Python: set tokenizer.new_tokens to null")
    pieces: dict[str, tuple[int, ...]] = {}
    before: dict[str, list[str]] = {}
    for entry in dict.fromkeys(entries):
        token, _, description = entry.partition(DESCRIBES)
        own = encode(tokenizer, token).ids
        if token in pieces or (len(own) == 1 and own[0] != tokenizer.unk_token_id):
            continue
        pieces[token] = tuple(encode(tokenizer, description or token).ids)
        before[token] = [_written(tokenizer, text) for text in _around(token)]
    if not pieces:
        raise UserError(
            f"the tokenizer of model {name} has each of tokenizer.new_tokens "
            f"({', '.join(list(entries)[:3])}, …) already: set it to null"
        )
    # Whole words as they are written; what stands around them is tokenised as ever.
    settings = {"single_word": True, "normalized": False, "special": False}
    tokenizer.add_tokens([AddedToken(token, **settings) for token in pieces])
    ids = [tokenizer.convert_tokens_to_ids(token) for token in pieces]
    for token, number in zip(pieces, ids, strict=True):
        found = [encode(tokenizer, text).ids.count(number) for text in _around(token)]
        same = [_written(tokenizer, text) for text in _around(token)] == before[token]
        if found != [1, 1, 2, 0] or not same:
            raise UserError(
                f"{cannot}: {token!r} is not found in a text, or changes what stands beside it; "
                "leave it out, or set tokenizer.new_tokens to null"
            )
    return NewTokens(tuple(pieces), tuple(ids), tuple(pieces.values()))


def _around(token: str) -> list[str]:
    return [context.format(token, token) for context in _CONTEXTS]


def _written(tokenizer: Any, text: str) -> str:
    """What a tokenizer makes of a text and back, but for case and spaces, which WordPiece drops."""
    settings = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return "".join(tokenizer.decode(encode(tokenizer, text).ids, **settings).lower().split())


def make_room(model: Any, size: int) -> None:
    """Give a model embeddings, and a head, of at least so many tokens; new ones are 0."""
    import torch

    before = model.get_input_embeddings().weight.shape[0]
    if size <= before:
        return
    embeddings, *head = _vocabulary_modules(model)
    if any(one.weight is not embeddings.weight for one in head):
        # Files may hold a head of its own beside a configuration that ties it; resizing, and peft,
        # would go by the configuration.
        model.config.get_text_config().tie_word_embeddings = False
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for module in _vocabulary_modules(model):
            for weight in module.parameters(recurse=False):
                weight[before:] = 0


def give_embeddings(model: Any, added: NewTokens) -> None:
    """Let each new token begin as the mean of its pieces, in the embeddings and in the head.

    Args:
        model: From `load_model`, not adapted yet.
        added: From `add_new_tokens`.
    """
    import torch

    make_room(model, max(added.ids) + 1)
    with torch.no_grad():
        for module in _vocabulary_modules(model):
            for number, pieces in zip(added.ids, added.pieces, strict=True):
                module.weight[number] = module.weight[list(pieces)].float().mean(0)


def _vocabulary_modules(model: Any) -> list[Any]:
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [module for module in modules if module is not None]


def trained_rows(model: Any, ids: Sequence[int]) -> dict[str, list[int]] | None:
    """What `trainable_token_indices` has to say: the embeddings, and a head of its own weights.

    Args:
        model: A `PreTrainedModel`, not wrapped by peft.
        ids: Of the new tokens.
    """
    if not ids:
        return None
    embeddings, *head = _vocabulary_modules(model)
    names = {id(module): name for name, module in model.named_modules()}
    wanted = [embeddings, *(one for one in head if one.weight is not embeddings.weight)]
    return {names[id(module)]: list(ids) for module in wanted}


def keep_bias_of_head(model: Any) -> None:
    """Let a head whose rows are trained add its bias: BERT's has one, and peft's layer adds none.

    Args:
        model: A `PeftModel`.
    """
    import peft

    head = model.get_base_model().get_output_embeddings()
    if not isinstance(head, peft.utils.other.TrainableTokensWrapper):
        return
    if getattr(head.original_module, "bias", None) is None:
        return

    def forward(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        output = type(self).forward(self, x, *args, **kwargs)
        plain = self.disable_adapters or self.merged or not self.active_adapters
        return output if plain else output + self.base_layer.bias

    head.token_adapter.forward = types.MethodType(forward, head.token_adapter)
