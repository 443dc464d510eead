"""Ask a GGUF file as a user of llama.cpp would: its own tokenizer, its own settings, on the CPU.

    python -m steps.releasing.llama_cpp MODEL.gguf QUESTIONS.json ANSWERS.json

A program of its own, as llama.cpp ends its process where it finds a file unsound, and computes
with threads of another library than torch's.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from steps.config.paths import PROJECT_ROOT
from steps.errors import UserError
from steps.releasing.scores import FormScores, Questions, paper_bytes, until_stop


class FormBroken(Exception):
    """A form cannot be loaded by the library that its users have."""


def score_gguf(file: Path, questions: Questions) -> FormScores:
    """Ask a GGUF file, in a process of its own.

    Args:
        file: The GGUF file.
        questions: What to ask.

    Raises:
        FormBroken: llama.cpp cannot load it, or fails on it.
    """
    content = asdict(questions) | {"papers": [paper.text for paper in questions.papers]}
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "questions.json", Path(scratch) / "answers.json"
        asked.write_text(json.dumps(content), encoding="utf-8")
        finished = subprocess.run(
            [sys.executable, "-m", __name__, str(file), str(asked), str(answered)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if finished.returncode != 0 or not answered.is_file():
            lines = finished.stderr.strip().splitlines() or ["no word"]
            raise FormBroken(f"llama.cpp ended with {finished.returncode}: {lines[-1][:300]}")
        answers = json.loads(answered.read_text(encoding="utf-8"))
    return FormScores(units=paper_bytes(questions), **answers)


class GgufModel:
    """A GGUF file in llama.cpp's hands.

    Attributes:
        vocabulary: Its tokenizer.
        stops: The ids, of those asked for, at which it ends a text.
    """

    def __init__(self, file: Path, window: int, stops: tuple[int, ...]) -> None:
        """Load a file.

        Args:
            file: The GGUF file.
            window: Most tokens of one text.
            stops: Ids that may end a text.
        """
        from cyllama.llama import llama_cpp  # type: ignore[import-untyped]

        class Model(llama_cpp.LlamaModel):  # type: ignore[misc]
            """What cyllama 0.2.18 asks its own model for when logits are read, and forgot."""

            @property
            def n_vocab(self) -> int:
                size: int = self.get_vocab().n_vocab
                return size

        llama_cpp.disable_logging()
        settings = llama_cpp.LlamaModelParams()
        settings.n_gpu_layers = 0
        settings.check_tensors = True
        self._model = Model(str(file), settings)
        self.vocabulary = self._model.get_vocab()
        sizes = llama_cpp.LlamaContextParams()
        sizes.n_ctx = sizes.n_batch = window
        sizes.n_threads = sizes.n_threads_batch = _threads()
        self._context = llama_cpp.LlamaContext(self._model, sizes)
        self._batch = llama_cpp.LlamaBatch(n_tokens=window, embd=0, n_seq_max=1)
        self.stops = [i for i in stops if self.vocabulary.is_eog(i)]

    @property
    def facts(self) -> dict[str, Any]:
        """What the file states."""
        vocabulary = self.vocabulary
        before = [vocabulary.token_bos()] if vocabulary.get_add_bos() else []
        after = [vocabulary.token_eos()] if vocabulary.get_add_eos() else []
        return {
            "context": self._model.n_ctx_train,
            "chat_template": self._model.get_default_chat_template() or None,
            "special_tokens": [before, after],
            "start_token": self.start,
            "stops": self.stops,
        }

    @property
    def start(self) -> int:
        """The token that opens a text: BOS, or EOS of a vocabulary without one."""
        bos: int = self.vocabulary.token_bos()
        return bos if bos >= 0 else int(self.vocabulary.token_eos())

    def tokens(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        if not text:
            return []
        return list(self.vocabulary.tokenize(text, False, False))

    def restores(self, ids: list[int], text: str) -> bool:
        """Whether tokens are the text again; some vocabularies put one space in front."""
        restored = self.vocabulary.detokenize(ids, text_len_max=4 * len(text.encode()) + 64)
        return restored in (text, f" {text}")

    def nats(self, sequence: list[int], context: int, stride: int) -> float:
        """Negative log-likelihood of a sequence after its first token, as `score_papers` has it."""
        from steps.evaluation.likelihood import scoring_windows

        total = 0.0
        for window in scoring_windows(0, len(sequence), context, stride):
            self._read(sequence[window.begin : window.end], window.first_target - 1 - window.begin)
            for target in range(window.first_target, window.end + 1):
                logits = self._logits(target - 1 - window.begin)
                largest = logits.max()
                sum_of_all = largest + np.log(np.exp(logits - largest).sum())
                total += float(sum_of_all - logits[sequence[target]])
        return total

    def write_on(self, prompt: list[int], count: int) -> list[int]:
        """The likeliest tokens after a prompt, one after the other."""
        self._read(prompt, len(prompt) - 1)
        last, written = len(prompt) - 1, []
        for place in range(count):
            token = int(self._logits(last).argmax())
            if token in self.stops:
                break
            written.append(token)
            self._batch.clear()
            self._batch.add(token, len(prompt) + place, [0], True)
            self._decode()
            last = 0
        return written

    def _read(self, ids: list[int], first_output: int) -> None:
        self._context.kv_cache_clear()
        self._batch.clear()
        for place, token in enumerate(ids):
            self._batch.add(token, place, [0], place >= first_output)
        self._decode()

    def _decode(self) -> None:
        if code := self._context.decode(self._batch):
            raise RuntimeError(f"llama_decode returned {code}")

    def _logits(self, place: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
        return np.asarray(self._context.get_logits_ith(place), dtype=np.float64)


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def quantise(source: Path, target: Path, file_type: int) -> None:
    """Write a 16-bit GGUF file in fewer bits.

    Args:
        source: A GGUF file of 16 or 32 bits.
        target: The file to write.
        file_type: llama.cpp's number of the type (`llama_ftype`).

    Raises:
        UserError: llama.cpp does not do it.
    """
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    settings = llama_cpp.LlamaModelQuantizeParams()
    settings.ftype = file_type
    settings.nthread = _threads()
    try:
        llama_cpp.model_quantize(str(source), str(target), settings)
    except RuntimeError as error:
        target.unlink(missing_ok=True)
        raise UserError(
            f"llama.cpp does not quantise this model to {target.name} ({error}): leave that form "
            "out of formats"
        ) from None


def main(file: str, asked: str, answered: str) -> None:
    """Answer the questions of one JSON file in another."""
    questions = json.loads(Path(asked).read_text(encoding="utf-8"))
    window = questions["context"] + questions["new_tokens"]
    model = GgufModel(Path(file), window, tuple(questions["stops"]))
    texts = questions["papers"]
    tokens = [model.tokens(text) for text in texts]
    started = time.perf_counter()
    nats = [
        model.nats([model.start, *ids], questions["context"], questions["stride"]) for ids in tokens
    ]
    seconds = time.perf_counter() - started
    prompts = [[model.start, *model.tokens(text)] for text in questions["prompts"]]
    room = questions["context"]
    written = [model.write_on(ids[-room:], questions["new_tokens"]) for ids in prompts]
    answers = {
        "tokens": tokens,
        "restored": [model.restores(ids, text) for ids, text in zip(tokens, texts, strict=True)],
        "nats": nats,
        "written": [until_stop(ids, model.stops) for ids in written],
        "facts": model.facts,
        "seconds": seconds,
    }
    Path(answered).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
