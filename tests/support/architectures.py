"""The classes of language models that the matrix of tests builds, each as one tiny member.

The list was written down before the code that makes them train; whoever adds a class adds a line.
`docs/models.md` is made from what the tests find of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steps.models.sources import Objective

# Words in the vocabulary of every tiny model; its tokenizer has fewer.
VOCABULARY = 400


@dataclass(frozen=True)
class Architecture:
    """A class of models, as one tiny member.

    Attributes:
        model_type: Transformers' name of the architecture, as in `config.json`.
        objective: "causal" or "masked".
        known_as: Models that people know by it.
        settings: What its configuration states besides the usual sizes.
        plain: Whether the usual sizes go by the usual names (`hidden_size` …).
        variant: What tells it from another of the same architecture, or "".
    """

    model_type: str
    objective: Objective
    known_as: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    plain: bool = True
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.model_type}-{self.variant}" if self.variant else self.model_type

    def config(self, **changes: Any) -> Any:
        """The configuration of the tiny member."""
        from transformers import AutoConfig

        sizes: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
            "initializer_range": 0.2,
            "tie_word_embeddings": False,
        }
        if self.plain:
            sizes |= {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 512,
            }
        return AutoConfig.for_model(self.model_type, **{**sizes, **self.settings, **changes})

    def build(self, seed: int = 0, **changes: Any) -> Any:
        """The tiny member with random weights, in float32 and evaluation mode."""
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

        auto = AutoModelForCausalLM if self.objective == "causal" else AutoModelForMaskedLM
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return auto.from_config(self.config(**changes), dtype=torch.float32).eval()


_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_STATE_SPACE = {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 8}
_MAMBA_HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}

CAUSAL = (
    Architecture("llama", "causal", "LLaMA 2 and 3, SmolLM2, TinyLlama, MEDITRON"),
    Architecture("mistral", "causal", "Mistral 7B, BioMistral", {"sliding_window": 16}),
    Architecture("qwen2", "causal", "Qwen2, Qwen2.5"),
    Architecture("qwen3", "causal", "Qwen3", {"head_dim": 8}),
    Architecture("gemma", "causal", "Gemma, CodeGemma, MedGemma's kin", {"head_dim": 8}),
    Architecture(
        "gemma2",
        "causal",
        "Gemma 2, TxGemma",
        {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    ),
    Architecture(
        "gemma3_text",
        "causal",
        "Gemma 3 1B",
        {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    ),
    Architecture(
        "gemma3",
        "causal",
        "Gemma 3 4B and larger, MedGemma (with a vision tower)",
        {
            "text_config": {
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "sliding_window": 16,
                "query_pre_attn_scalar": 8,
                "max_position_embeddings": 512,
                "initializer_range": 0.2,
            },
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
            "image_token_index": 399,
        },
        plain=False,
    ),
    Architecture("phi", "causal", "Phi-1, Phi-1.5, Phi-2"),
    Architecture("phi3", "causal", "Phi-3, Phi-4", {"sliding_window": None}),
    Architecture(
        "phi3",
        "causal",
        "Phi-3 128k (long RoPE)",
        {
            "max_position_embeddings": 512,
            "original_max_position_embeddings": 64,
            "sliding_window": None,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 64,
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
                "partial_rotary_factor": 1.0,
            },
        },
        variant="longrope",
    ),
    Architecture("biogpt", "causal", "BioGPT"),
    Architecture("stablelm", "causal", "StableLM"),
    Architecture(
        "falcon", "causal", "Falcon", {"new_decoder_architecture": False, "multi_query": True}
    ),
    Architecture(
        "bloom", "causal", "BLOOM", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, plain=False
    ),
    Architecture(
        "gptj",
        "causal",
        "GPT-J",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 512},
        plain=False,
    ),
    Architecture(
        "granite",
        "causal",
        "Granite 3",
        {
            "logits_scaling": 4.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.25,
        },
    ),
    Architecture("cohere", "causal", "Command R, Aya", {"logit_scale": 0.25}),
    Architecture("cohere2", "causal", "Command R7B", {"logit_scale": 0.25, "sliding_window": 16}),
    Architecture("opt", "causal", "OPT, Galactica", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    Architecture("nemotron", "causal", "Nemotron 3, Minitron"),
    Architecture(
        "mamba",
        "causal",
        "Mamba",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        plain=False,
    ),
    Architecture(
        "mamba2",
        "causal",
        "Mamba-2",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 8,
        },
        plain=False,
    ),
    Architecture(
        "falcon_h1",
        "causal",
        "Falcon-H1",
        {**_STATE_SPACE, **_MAMBA_HEADS, "mamba_d_ssm": 64, "head_dim": 8},
    ),
    Architecture(
        "jamba",
        "causal",
        "Jamba",
        {
            "mamba_d_state": 8,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        },
    ),
    Architecture(
        "bamba",
        "causal",
        "Bamba",
        {**_STATE_SPACE, **_MAMBA_HEADS, "attn_layer_indices": [1], "attn_rotary_emb": 4},
    ),
    Architecture(
        "lfm2",
        "causal",
        "LFM2",
        {
            "layer_types": ["conv", "full_attention"],
            "conv_L_cache": 3,
            "block_auto_adjust_ff_dim": False,
        },
    ),
    Architecture(
        "qwen3_next",
        "causal",
        "Qwen3-Next",
        {
            **_EXPERTS,
            "num_experts": 4,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "head_dim": 8,
        },
    ),
    Architecture(
        "ctrl",
        "causal",
        "CTRL",
        {"n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
        plain=False,
    ),
    Architecture(
        "modernbert-decoder",
        "causal",
        "ModernBERT decoder, Ettin",
        {"local_attention": 32, "cls_token_id": 0, "sep_token_id": 1},
    ),
    Architecture("mixtral", "causal", "Mixtral", {"num_local_experts": 4}),
    Architecture("qwen3_moe", "causal", "Qwen3-MoE", {**_EXPERTS, "num_experts": 4, "head_dim": 8}),
    Architecture(
        "deepseek_v3",
        "causal",
        "DeepSeek-V3, Kimi-K2",
        {
            **_EXPERTS,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "n_group": 2,
            "topk_group": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
        },
    ),
    Architecture(
        "gpt_oss",
        "causal",
        "GPT-OSS",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 16},
    ),
    Architecture(
        "gpt2",
        "causal",
        "GPT-2, BioMedLM, DNA-GPT",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
        plain=False,
    ),
    Architecture(
        "gpt_neo",
        "causal",
        "GPT-Neo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "max_position_embeddings": 512,
        },
        plain=False,
    ),
    Architecture("gpt_neox", "causal", "Pythia, GPT-NeoX"),
    Architecture("starcoder2", "causal", "StarCoder2", {"sliding_window": 16}),
    Architecture("olmo", "causal", "OLMo"),
    Architecture("olmo2", "causal", "OLMo 2"),
    Architecture("smollm3", "causal", "SmolLM3"),
    Architecture(
        "mpt",
        "causal",
        "MPT",
        {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
        plain=False,
    ),
)

_ENCODER = {"num_key_value_heads": 4, "hidden_dropout_prob": 0.1, "type_vocab_size": 2}

MASKED = (
    Architecture("bert", "masked", "BERT, BiomedBERT, SciBERT, BioBERT", _ENCODER),
    Architecture("roberta", "masked", "RoBERTa, BioMed-RoBERTa", _ENCODER),
    Architecture("xlm-roberta", "masked", "XLM-R", _ENCODER),
    Architecture("camembert", "masked", "CamemBERT", _ENCODER),
    Architecture(
        "distilbert",
        "masked",
        "DistilBERT",
        {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 512},
        plain=False,
    ),
    Architecture("electra", "masked", "ELECTRA, BioELECTRA", {**_ENCODER, "embedding_size": 16}),
    Architecture("albert", "masked", "ALBERT", {**_ENCODER, "embedding_size": 16}),
    Architecture("deberta", "masked", "DeBERTa", {**_ENCODER, "relative_attention": True}),
    Architecture(
        "deberta-v2",
        "masked",
        "DeBERTa v2 and v3",
        {
            **_ENCODER,
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
    ),
    Architecture("mpnet", "masked", "MPNet", _ENCODER),
    Architecture(
        "esm",
        "masked",
        "ESM-2, Nucleotide Transformer",
        {"mask_token_id": 4, "token_dropout": True, "position_embedding_type": "rotary"},
    ),
    Architecture("eurobert", "masked", "EuroBERT"),
    Architecture(
        "modernbert", "masked", "ModernBERT, BioClinical ModernBERT", {"local_attention": 32}
    ),
    Architecture("convbert", "masked", "ConvBERT", {**_ENCODER, "embedding_size": 16}),
    Architecture(
        "funnel",
        "masked",
        "Funnel",
        {"block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
        plain=False,
    ),
    Architecture("fnet", "masked", "FNet", {"type_vocab_size": 2}),
    Architecture(
        "big_bird",
        "masked",
        "BigBird",
        {**_ENCODER, "block_size": 16, "num_random_blocks": 1},
    ),
    Architecture("nystromformer", "masked", "Nyströmformer", {**_ENCODER, "num_landmarks": 8}),
    Architecture(
        "longformer",
        "masked",
        "Longformer, Clinical-Longformer",
        {**_ENCODER, "attention_window": 16},
    ),
    Architecture(
        "luke", "masked", "LUKE", {**_ENCODER, "entity_vocab_size": 20, "entity_emb_size": 16}
    ),
    Architecture("roberta-prelayernorm", "masked", "RoBERTa-PreLayerNorm", _ENCODER),
    Architecture("megatron-bert", "masked", "Megatron-BERT, BioMegatron", _ENCODER),
    Architecture(
        "mobilebert",
        "masked",
        "MobileBERT",
        {**_ENCODER, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
    Architecture("squeezebert", "masked", "SqueezeBERT", {**_ENCODER, "embedding_size": 32}),
)

ARCHITECTURES = (*CAUSAL, *MASKED)
