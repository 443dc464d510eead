"""Random models of a few kilobytes, with their tokenizers: for tests, and for benchmarks."""

from collections.abc import Iterable
from pathlib import Path


def save_tiny_llama(
    folder: Path, texts: Iterable[str], *, vocabulary: int = 600, positions: int = 512
) -> Path:
    """Write a random LLaMA of 2 layers and a byte-level tokenizer.

    Args:
        folder: Where to; made where missing.
        texts: What the tokenizer learns from.
        vocabulary: Most tokens that it may have.
        positions: Longest input, in tokens.

    Returns:
        The folder.
    """
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(
        texts, vocab_size=vocabulary, special_tokens=["<s>", "</s>", "<unk>"]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=positions,
            # Larger than usual, so that adapters under a frozen random head can move the logits.
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
