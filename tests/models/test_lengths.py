"""How long a text a model can read."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from steps.models.lengths import longest_text
from tests.support.architectures import ARCHITECTURES, Architecture

# State spaces, ALiBi, relative positions: of the listed classes.
ENDLESS = {"bloom", "mamba", "mamba2", "jamba", "funnel"}


def reads(model: Any, length: int) -> bool:
    """Whether a model reads a text of so many tokens."""
    ids = torch.full((1, length), 5)
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_every_class_reads_its_longest_text_and_a_class_with_a_table_no_longer_one(
    architecture: Architecture,
) -> None:
    longest = longest_text(architecture.config())
    model = architecture.build()
    if architecture.model_type in ENDLESS:
        assert longest is None and reads(model, 600)
        return
    assert longest is not None
    assert reads(model, longest)
    if not any("rotary" in name for name, _ in model.named_modules()):
        assert not reads(model, longest + 1)


@pytest.mark.parametrize(
    ("model_type", "settings", "longest"),
    [
        ("roberta", {"max_position_embeddings": 514}, 512),
        ("xlm-roberta", {"max_position_embeddings": 514}, 512),
        ("data2vec-text", {"max_position_embeddings": 514}, 512),
        ("ibert", {"max_position_embeddings": 514}, 512),
        ("longformer", {"max_position_embeddings": 4098}, 4096),
        ("mpnet", {"max_position_embeddings": 514}, 512),
        ("esm", {"position_embedding_type": "rotary", "max_position_embeddings": 1026}, 1024),
        ("bert", {}, 512),
        ("llama", {"max_position_embeddings": 4096}, 4096),
        ("gpt2", {"n_positions": 1024}, 1024),
        ("opt", {}, 2048),
        ("mpt", {"max_seq_len": 2048}, 2048),
        ("falcon", {"alibi": True}, None),
        ("falcon", {"alibi": False, "max_position_embeddings": 2048}, 2048),
        ("deberta-v2", {"relative_attention": True, "position_biased_input": False}, None),
        ("deberta-v2", {"position_biased_input": True}, 512),
    ],
)
def test_the_length_of_known_configurations(
    model_type: str, settings: dict[str, Any], longest: int | None
) -> None:
    small = {"num_hidden_layers": 1, "vocab_size": 100, "pad_token_id": 1, "mask_token_id": 4}
    assert longest_text(AutoConfig.for_model(model_type, **{**small, **settings})) == longest
