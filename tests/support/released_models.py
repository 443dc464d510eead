"""A tiny version to be released, with a SentencePiece vocabulary that llama.cpp reads too.

Base and version were trained on the papers that forms are asked about, so that whatever is lost
of either makes the score worse, as it does for a real model; the norms are no ones, and there is
a chat template.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steps.config.release_section import Release
from steps.config.sections import Evaluation, Hardware, Model, Qlora, Training
from steps.models.adapted import AdaptedModel, describe, save_adapted
from steps.models.adapters import add_adapter
from steps.models.loading import load_model
from steps.models.new_tokens import add_new_tokens, give_embeddings
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from steps.papers.text import PaperText, Span
from steps.releasing.fidelity import Fidelity
from steps.releasing.forms import FORMS, Form, Source, read_source
from steps.releasing.make import Maker
from steps.releasing.measure import Reference, ask_version, measure
from tests.support.project import demo_texts
from tests.support.tiny_tokenizers import sentencepiece

CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def save_sentencepiece_llama(folder: Path, texts: list[str], seed: int = 0) -> Path:
    """Write a random LLaMA of 2 layers with the vocabulary of texts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    write = sentencepiece(
        "tokenizer.model",
        "bpe",
        texts,
        normalization_rule_name="identity",
        byte_fallback=True,
        remove_extra_whitespaces=False,
    )
    write(folder)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": CHAT}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(load_tokenizer(folder)),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.15,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    learn(model, load_tokenizer(folder), texts[-20:], steps=60)
    model.save_pretrained(folder)
    return folder


def learn(model: Any, tokenizer: Any, texts: list[str], steps: int) -> None:
    """Train what of a causal model can be trained on texts, 128 tokens of one a step."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    rows = [tokenizer(text, return_tensors="pt").input_ids[:, :128] for text in texts]
    for step in range(steps):
        ids = rows[step % len(rows)]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def held_out_papers(count: int = 8) -> list[PaperText]:
    """Demo papers of unequal lengths, some longer than a window."""
    texts = [text[: 200 + 150 * place] for place, text in enumerate(demo_texts()[:count])]
    sections = [
        (Span(0, text.index("\n"), "title"), Span(text.index("\n") + 2, len(text), "abstract"))
        for text in texts
    ]
    return [
        PaperText(f"p{place}", text, spans)
        for place, (text, spans) in enumerate(zip(texts, sections, strict=True))
    ]


def save_version(
    folder: Path, base: Path, new_tokens: tuple[str, ...] = (), **qlora: Any
) -> tuple[Training, Source]:
    """Write a version as finetune would.

    Args:
        folder: Where to.
        base: The folder of its base.
        new_tokens: Tokens that its vocabulary gets.
        **qlora: Of the section `qlora`.
    """
    settings = {"method": "lora", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, **qlora}
    training = Training(
        model=Model(name=str(base), max_length=128),
        qlora=Qlora(**settings),
        hardware=Hardware(bf16=False),
        evaluation=Evaluation(batch_tokens=512),
        release=Release(prompts=2, new_tokens=8),
    )
    found = resolve_base(training.model)
    quantization = training.qlora.quantization
    model = load_model(found, quantization, training.qlora.bits, torch.float32, "cpu")
    tokenizer = load_tokenizer(base)
    added = None
    if new_tokens:
        added = add_new_tokens(tokenizer, new_tokens, found.name)
        give_embeddings(model, added)
    model = add_adapter(
        model, training.qlora, found.objective, new_tokens=added.ids if added else ()
    )
    torch.manual_seed(3)
    if found.objective == "causal":
        learn(model, tokenizer, [paper.text for paper in held_out_papers()], steps=60)
    else:
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(0.05 * torch.randn_like(weight))
    description = describe(training, found, torch.float32)
    adapted = AdaptedModel(
        model.eval(), tokenizer, found.objective, torch.float32, "cpu", description
    )
    save_adapted(folder, model, tokenizer, description, adapted)
    return training, read_source(folder)


@dataclass(frozen=True)
class Gate:
    """A version with its answers, before which forms are brought.

    Attributes:
        training: The configuration.
        source: The version.
        reference: What it answered.
        scratch: A folder to work in.
    """

    training: Training
    source: Source
    reference: Reference
    scratch: Path

    @classmethod
    def of(cls, training: Training, source: Source, scratch: Path) -> "Gate":
        """Ask the version."""
        return cls(training, source, ask_version(training, source, held_out_papers()), scratch)

    def make(self, *names: str, **release: Any) -> dict[str, Path]:
        """Make forms."""
        forms: list[Form] = [FORMS[name] for name in names]
        self.scratch.mkdir(parents=True, exist_ok=True)
        settings = self.training.release.model_copy(update=release)
        maker = Maker(self.source, forms, settings, self.scratch)
        folders = {form.name: self.scratch / form.folder for form in forms}
        for form in forms:
            maker.make(form, folders[form.name], self.reference.stops)
        maker.clear()
        return folders

    def judge(self, name: str, folder: Path) -> Fidelity:
        """Bring a form before the gate."""
        return measure(self.training, self.source, FORMS[name], folder, self.reference)


def copy_of(folder: Path, target: Path) -> Path:
    """A copy of a form, to be damaged."""
    shutil.copytree(folder, target)
    return target
