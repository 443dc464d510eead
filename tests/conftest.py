"""What all tests share: a clean environment, tiny models, a store of their own."""
# ruff: noqa: E402

import os

# `-e test` runs inside an MLflow run: its variables would send our runs into that one.
for _name in [name for name in os.environ if name.startswith(("MLFLOW_", "FORGE_"))]:
    del os.environ[_name]
# Tiny models gain nothing from threads.
# Many short processes: let them keep what they compile.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    import mlflow

from benchmarks.tiny_models import save_tiny_llama
from tests.support.project import demo_texts, write_tiny_config

# Fixtures that several rooms use.
pytest_plugins = ["tests.support.tiny_language_models", "tests.support.whole_stores"]

# How long an example takes says more about the machine than about the code: on a busy one, a
# deadline fails what is right.
hypothesis.settings.register_profile("without a clock", deadline=None)
hypothesis.settings.load_profile("without a clock")

# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start
# would inherit that: tests that send it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

STOPPING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random LLaMA of 2 layers and a byte-level tokenizer."""
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama", demo_texts())


@pytest.fixture(scope="session")
def tiny_bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 2 layers and a lower-casing WordPiece tokenizer."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from tokenizers.processors import BertProcessing
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    backend = BertWordPieceTokenizer(lowercase=True)
    backend.train_from_iterator(demo_texts(), vocab_size=600)
    sep, cls = (("[SEP]", backend.token_to_id("[SEP]")), ("[CLS]", backend.token_to_id("[CLS]")))
    backend._tokenizer.post_processor = BertProcessing(sep, cls)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]",
        model_max_length=512,
    )
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            # As for the tiny LLaMA.
            initializer_range=0.3,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _nothing_left_for_the_next_test() -> Iterator[None]:
    """Take back what a step that ran inside this process left in it."""
    handlers = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    # `mlflow.set_experiment` names its experiment to all that follow, and to their processes.
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    if "mlflow.tracking.fluent" in sys.modules:
        sys.modules["mlflow.tracking.fluent"]._active_experiment_id = None


@pytest.fixture(scope="session")
def _migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty tracking database; its migrations take seconds, so they run once."""
    import mlflow

    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store(
    tmp_path: Path, _migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A tracking store of this test's own, in an otherwise empty working folder."""
    import mlflow

    shutil.copy(_migrated_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(uri)
    yield uri
    while mlflow.active_run() is not None:
        mlflow.end_run()


@pytest.fixture
def client(store: str) -> "mlflow.MlflowClient":
    """A client of this test's store."""
    import mlflow

    return mlflow.MlflowClient()


@pytest.fixture
def experiment(client: "mlflow.MlflowClient") -> str:
    """Id of the experiment that `tests.support.pruning_runs` works in."""
    return str(client.create_experiment("pruned"))


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_llama_folder: Path) -> Path:
    """A configuration that trains the tiny model on the demo papers in seconds."""
    return write_tiny_config(tmp_path, tiny_llama_folder)
