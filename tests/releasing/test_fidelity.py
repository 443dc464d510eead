"""The gate refuses forms that are not the version, whatever was lost, and lets good ones pass.

The faults below were chosen before the gate was written: the first nine are those of public
trackers, the ten after them were made up without a look at what is measured.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.project import demo_texts
from tests.support.released_models import (
    Gate,
    copy_of,
    save_sentencepiece_llama,
    save_version,
)

Weights = dict[str, torch.Tensor]
LIMIT = 0.002


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sentencepiece_llama(tmp_path_factory.mktemp("base") / "tiny", demo_texts())


@pytest.fixture(scope="module")
def gate(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    folder = tmp_path_factory.mktemp("version")
    trained_whole = ["lm_head", "embed_tokens"]
    training, source = save_version(folder / "adapter", base, modules_to_save=trained_whole)
    return Gate.of(training, source, folder / "made")


@pytest.fixture(scope="module")
def merged(gate: Gate) -> Path:
    """A good merged form, of which the faulty ones are copies."""
    return gate.make("merged")["merged"]


def of_base(base: Path) -> Weights:
    weights = load_file(base / "model.safetensors")
    return {name: weight.bfloat16() for name, weight in weights.items()}


def change_weights(change: Callable[[Weights, Weights], None]) -> Callable[[Path, Path], None]:
    """A fault of the weights, given those of the form and those of the base."""

    def damage(form: Path, base: Path) -> None:
        file = form / "model.safetensors"
        weights = load_file(file)
        change(weights, of_base(base))
        save_file(weights, file, metadata={"format": "pt"})

    return damage


def change_json(name: str, **values: Any) -> Callable[[Path, Path], None]:
    """A fault of a settings file."""

    def damage(form: Path, _base: Path) -> None:
        file = form / name
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | values))

    return damage


Q = "model.layers.{}.self_attn.q_proj.weight"


def another_layer(form: Weights, _base: Weights) -> None:
    form[Q.format(0)], form[Q.format(1)] = form[Q.format(1)], form[Q.format(0)]


def lost_head(form: Weights, base: Weights) -> None:
    form["lm_head.weight"] = base["lm_head.weight"]


def lost_embedding(form: Weights, base: Weights) -> None:
    form["model.embed_tokens.weight"] = base["model.embed_tokens.weight"]


def no_opening_token(form: Path, _base: Path) -> None:
    file = form / "tokenizer.json"
    content = json.loads(file.read_text())
    content["post_processor"] = None
    file.write_text(json.dumps(content))
    change_json("tokenizer_config.json", bos_token=None, add_bos_token=False)(form, form)


def another_tokenizer(form: Path, _base: Path) -> None:
    other = save_sentencepiece_llama(form / "other", demo_texts()[20:40])
    from steps.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(other)
    tokenizer.save_pretrained(form)


def wrong_rope_base(form: Path, _base: Path) -> None:
    rope = {"rope_parameters": {"rope_theta": 500_000.0, "rope_type": "default"}}
    change_json("config.json", **rope)(form, form)


def not_merged(form: Weights, base: Weights) -> None:
    form |= {name: weight for name, weight in base.items() if ".layers." in name}


def merged_twice(form: Weights, base: Weights) -> None:
    scaled(2.0)(form, base)


def scaled(factor: float) -> Callable[[Weights, Weights], None]:
    def change(form: Weights, base: Weights) -> None:
        for name, weight in form.items():
            if ".layers." in name:
                before = base[name].float()
                form[name] = (before + factor * (weight.float() - before)).bfloat16()

    return change


def truncated(form: Path, _base: Path) -> None:
    file = form / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def a_layer_less(form: Path, _base: Path) -> None:
    change_json("config.json", num_hidden_layers=1)(form, form)


def final_norm_of_ones(form: Weights, _base: Weights) -> None:
    form["model.norm.weight"] = torch.ones_like(form["model.norm.weight"])


def through_four_bits(form: Weights, _base: Weights) -> None:
    for name, weight in form.items():
        if name.endswith("_proj.weight"):
            step = weight.float().abs().amax(dim=1, keepdim=True) / 7
            form[name] = ((weight.float() / step).round() * step).bfloat16()


def two_tokens_swapped(form: Path, _base: Path) -> None:
    file = form / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    one, other = "▁the", "▁of"
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    file.write_text(json.dumps(content))


FAULTS: dict[str, Callable[[Path, Path], None]] = {
    "weights of another layer": change_weights(another_layer),
    "the trained head is lost": change_weights(lost_head),
    "the trained embeddings are lost": change_weights(lost_embedding),
    "no token opens a text": no_opening_token,
    "another tokenizer": another_tokenizer,
    "a wrong rope base": wrong_rope_base,
    "the adapter is not merged": change_weights(not_merged),
    "merged with twice the scale": change_weights(merged_twice),
    "a file cut short": truncated,
    # The ten.
    "merged with the scale of rsLoRA": change_weights(scaled(8**0.5)),
    "the last layer is left out": a_layer_less,
    "another chat template": lambda form, _: (form / "chat_template.jinja").write_text("{{ 1 }}"),
    "another token ends a text": change_json("generation_config.json", eos_token_id=5),
    "the final norm begins anew": change_weights(final_norm_of_ones),
    "another epsilon in the norms": change_json("config.json", rms_norm_eps=0.05),
    "weights went through 4 bits": change_weights(through_four_bits),
    "two tokens changed places": two_tokens_swapped,
    "half the context": change_json("config.json", max_position_embeddings=256),
}


def test_the_form_that_the_faults_are_put_into_is_good(gate: Gate, merged: Path) -> None:
    result = gate.judge("merged", merged)
    assert result.refusal == ""
    assert result.difference is not None
    assert abs(result.difference) < LIMIT / 2


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused(
    fault: str, gate: Gate, merged: Path, base: Path, tmp_path: Path
) -> None:
    form = copy_of(merged, tmp_path / "form")
    FAULTS[fault](form, base)
    result = gate.judge("merged", form)
    assert result.refusal
    assert "\n" not in result.refusal


@pytest.mark.parametrize("times", [2.0, -2.0])
def test_a_score_that_is_off_by_twice_the_limit_is_refused_and_by_half_of_it_passes(
    times: float, gate: Gate, merged: Path, base: Path, tmp_path: Path
) -> None:
    """The tenth: noise on the head, found by bisection, that does nothing else."""

    def with_noise(size: float, folder: Path) -> Any:
        form = copy_of(merged, folder)

        def add(weights: Weights, _base: Weights) -> None:
            head = weights["lm_head.weight"].float()
            towards = head if times < 0 else -head
            weights["lm_head.weight"] = (head + size * towards).float()

        change_weights(add)(form, base)
        return gate.judge("merged", form)

    for aim, refused in ((abs(times) * LIMIT, True), (0.5 * LIMIT, False)):
        low, high = 0.0, 0.2
        for trial in range(14):
            middle = (low + high) / 2
            result = with_noise(middle, tmp_path / f"{aim}-{trial}")
            assert result.difference is not None
            if abs(abs(result.difference) - aim) < 0.1 * LIMIT:
                break
            low, high = (low, middle) if abs(result.difference) > aim else (middle, high)
        assert abs(abs(result.difference) - aim) < 0.15 * LIMIT, "the search has ended elsewhere"
        assert bool(result.refusal) == refused
