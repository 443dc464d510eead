"""GeneTuring as tasks of the harness: one a module, by open answers or by four choices.

The harness has no task of its own for it. Open answers are scored as GeneGPT's authors score them
(Jin et al. 2024, doi:10.1093/bioinformatics/btae075): equality, but for genes of a disease (the
share of the right ones that are named) and places in the genome (half for the chromosome). A
small model that was never asked anything rarely answers in that form; the choices show what it
prefers, and their figures are to be compared with one another alone.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

PROMPT = "Question: {{question}}\nAnswer:"
TOKENS_OF_AN_ANSWER = 32
ACCURACY = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}

DISEASE, ALIGNMENT = "Gene disease association", "Human genome DNA aligment"
CHROMOSOME = ("Gene location", "SNP location")
# What the file's answers are called in words.
IN_WORDS = {"TRUE": "yes", "NA": "no"}
ORGANISMS = {
    "caenorhabditis elegans": "worm",
    "homo sapiens": "human",
    "danio rerio": "zebrafish",
    "mus musculus": "mouse",
    "saccharomyces cerevisiae": "yeast",
    "rattus norvegicus": "rat",
    "gallus gallus": "chicken",
}


def task_name(name: str, module: str) -> str:
    """The name of a module's task: `geneturing_gene_alias`."""
    return f"{name}_{re.sub(r'[^a-z0-9]+', '_', module.lower()).strip('_')}"


def open_answers(task: str) -> dict[str, Any]:
    """The harness' definition of a task by open answers, without its data."""
    return {
        "task": task,
        "output_type": "generate_until",
        "doc_to_text": PROMPT,
        "doc_to_target": "{{answer}}",
        "process_results": score_answer,
        "metric_list": [dict(ACCURACY)],
        "generation_kwargs": {
            "until": ["\n"],
            "do_sample": False,
            "max_gen_toks": TOKENS_OF_AN_ANSWER,
        },
    }


def choices(task: str) -> dict[str, Any]:
    """The harness' definition of a task by choices, without its data."""
    return {
        "task": task,
        "output_type": "multiple_choice",
        "doc_to_text": PROMPT,
        "doc_to_choice": in_words,
        "doc_to_target": "gold",
        "metric_list": [dict(ACCURACY), {**ACCURACY, "metric": "acc_norm"}],
    }


def in_words(item: Mapping[str, Any]) -> list[str]:
    """The choices of an item as a model would write them: TRUE is yes."""
    return [IN_WORDS.get(choice, choice) for choice in item["choices"]]


def score_answer(item: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """How right what a model wrote is, from 0 to 1, as `acc`.

    Args:
        item: From `read_geneturing`.
        results: What it wrote, up to the end of the line.
    """
    said = results[0].strip().removeprefix("Answer:").strip().rstrip(".")
    expected = str(item["answer"])
    if item["module"] == DISEASE:
        named = {one.strip() for one in said.split(",")}
        genes = [one.strip() for one in expected.split(",")]
        return {"acc": sum(gene in named for gene in genes) / len(genes)}
    if item["module"] == ALIGNMENT:
        if said == expected:
            return {"acc": 1.0}
        return {"acc": 0.5 * (said.partition(":")[0] == expected.partition(":")[0])}
    if item["module"] in CHROMOSOME:
        last = said.split()[-1] if said else ""
        return {"acc": float(f"chr{last.removeprefix('chr')}" == expected)}
    answer = ORGANISMS.get(said.lower(), said)
    written = IN_WORDS.get(expected, expected)
    return {"acc": float(answer == expected or answer.lower() == written)}
