"""Small tasks of lm-evaluation-harness: YAML files with their data beside them."""

import json
from collections.abc import Sequence
from pathlib import Path

CHOICE_TASK = """\
task: choice_task
dataset_path: json
dataset_kwargs: {{data_files: {{test: choice.jsonl, train: choice.jsonl}}}}
test_split: test
fewshot_split: train
num_fewshot: {shots}
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""

OPEN_TASK = """\
task: open_task
dataset_path: json
dataset_kwargs: {data_files: {test: open.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["."], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def write_choice_task(folder: Path, texts: Sequence[str], *, shots: int = 0) -> Path:
    """Which of four words goes on after the beginning of a text; the YAML's path."""
    words = [text.split() for text in texts]
    items = [
        {
            "question": " ".join(one[:20]),
            "choices": [words[(place + offset) % len(words)][20] for offset in range(4)],
            "gold": 0,
        }
        for place, one in enumerate(words)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "choice.jsonl", items)
    file = folder / "choice.yaml"
    file.write_text(CHOICE_TASK.format(shots=shots), encoding="utf-8")
    return file


def write_open_task(folder: Path, texts: Sequence[str]) -> Path:
    """What a model writes after the beginning of a text; the YAML's path."""
    items = [{"question": text[:60], "answer": text[60:80]} for text in texts]
    _write_lines(folder / "open.jsonl", items)
    file = folder / "open.yaml"
    file.write_text(OPEN_TASK, encoding="utf-8")
    return file


def _write_lines(file: Path, items: Sequence[dict[str, object]]) -> None:
    lines = [json.dumps(item) + "\n" for item in items]
    file.write_text("".join(lines), encoding="utf-8")


def write_mmlu(folder: Path, count: int, name: str = "mmlu.csv") -> Path:
    """Questions with four choices as Hendrycks writes them, without a header."""
    rows = [
        f"Which gene is meant by {n}?,A{n},B{n},C{n},D{n},{'ABCD'[n % 4]}\n" for n in range(count)
    ]
    file = folder / name
    file.write_text("".join(rows), encoding="utf-8")
    return file


def write_pubmedqa(folder: Path, count: int) -> tuple[Path, Path]:
    """Questions as PubMedQA writes them, and the answers of the first half."""
    decisions = ("yes", "no", "maybe")
    records = {
        str(100 + n): {
            "QUESTION": f"Does {n}?",
            "CONTEXTS": [f"First {n}.", f"Second {n}."],
            "final_decision": decisions[n % 3],
        }
        for n in range(count)
    }
    file, truth = folder / "pqal.json", folder / "truth.json"
    file.write_text(json.dumps(records), encoding="utf-8")
    answers = {pmid: one["final_decision"] for pmid, one in list(records.items())[: count // 2]}
    truth.write_text(json.dumps(answers), encoding="utf-8")
    return file, truth
