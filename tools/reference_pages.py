"""Write docs/configuration.md and docs/metrics.md from the types, the comments and the table.

python -m tools.reference_pages
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from steps.config.file import json_schema
from steps.config.paths import PROJECT_ROOT
from steps.metrics import METRIC_VERSION, METRICS, Metric

CONFIGURATION = PROJECT_ROOT / "docs" / "configuration.md"
METRICS_PAGE = PROJECT_ROOT / "docs" / "metrics.md"
COMMENTED = PROJECT_ROOT / "configs" / "training.yaml"
_KEY = re.compile(r"(?P<blanks> *)(?P<key>\w+):(?P<rest>.*)")

CONFIGURATION_HEAD = """# Configuration reference

Written by `tools/reference_pages.py` from the types and from the comments of
`configs/training.yaml`, which is the one file to edit. Every key may be
left out. Any of them can be given on the command line:
`-P overrides="qlora.r=32 hyperparameters.learning_rate=1e-4"`. What is given there goes before the
file, the file before what it `extends`, and that before the defaults below.

A key that nobody knows is refused with its path, the file, and the nearest known key.
"""

METRICS_HEAD = """# Metrics

Written by `tools/reference_pages.py` from `steps/metrics.py`, version {version} of the definitions.
Results of another version are never compared with these.

Every metric is a ratio of sums over papers (Σ): counted once a paper, divided once at the end. Its
interval (`NAME_ci_low`, `NAME_ci_high`) resamples papers and computes the ratio again. In the store
the split stands in front: `test/bits_per_byte`.

Metrics marked *in parts* are also given for the bytes of genes, variants, numbers and the rest
(`gene_bits_per_byte`), for sections (`methods_bits_per_byte`) and for bands of the quality score
(`score_80_bits_per_byte`).
"""
MODELS = {"causal": "causal", "masked": "masked", "instruction": "instruction", "any": "all"}
MEANINGS = {
    "bits_per_byte": "How unlikely the papers are to the model; compares across tokenizers.",
    "mlm_loss": "Nats for each word that a fixed, seeded mask hides.",
    "mlm_accuracy": "Share of hidden tokens that the model's first guess restores.",
    "pseudo_bits_per_byte": "As bits per byte, each sampled token hidden in turn.",
    "perplexity": "For each token; compares no two tokenizers.",
    "word_perplexity": "For each word divided by white space.",
    "loss": "Nats a token, as training and validation show it.",
    "answer_bits_per_byte": "How unlikely the right answers are, given all that was said before.",
    "answer_loss": "Nats for each token of an answer.",
    "exact_match": "Answers that equal the right one after SQuAD's normalisation.",
    "token_f1": "Words in common with the right answer, as SQuAD counts them.",
    "format_failure_share": "Answers that are empty, or do not end where a turn ends.",
    "rules_followed_share": "Rules of form that an answer keeps, such as a number of words.",
    "gene_precision": "Genes written that the paper names.",
    "gene_recall": "Genes of the paper that are written.",
    "gene_f1": "Harmonic mean of the two above.",
    "unknown_gene_share": "Symbols written that no gene has.",
    "reference_unknown_gene_share": "The same of the papers' own text, to compare with.",
    "distinct_1": "Different words among the words written.",
    "distinct_2": "Different pairs of words among those written.",
    "memorised_share": "Tokens written that stand in a run of 50 copied from a training paper.",
    "gene_cloze_accuracy": "Gaps in which the paper's gene is the likeliest of ten.",
    "fact_cloze_accuracy": "Facts that another paper states too, right among ten choices.",
    "fact_cloze_seen_accuracy": "The same of facts that a training paper states.",
    "fact_cloze_unseen_accuracy": "The same of facts that no training paper states.",
    "fact_cloze_after_accuracy": "The same of papers after `evaluation.facts.after`.",
    "variant_cloze_accuracy": "Gaps in which the paper's variant is the likeliest of ten.",
}
# Of every cloze task, the longer ending first.
CLOZE_MEANINGS = {
    "_mrr_chance": "The mean of 1 / rank of guessing.",
    "_chance": "What guessing would get right.",
    "_mrr": "Mean of 1 / rank of the right answer.",
}


class Comment(NamedTuple):
    """What stands above a key of the commented file.

    Attributes:
        text: The comment, or that of the key above it in the same block.
        default: What stands behind the key.
    """

    text: str
    default: str


def comments() -> dict[str, Comment]:
    """The comment and the value of each key of `configs/training.yaml`, by its dotted path."""
    found: dict[str, Comment] = {}
    path: list[tuple[int, str]] = []
    block: list[str] = []
    above = ""
    for line in COMMENTED.read_text(encoding="utf-8").splitlines():
        bare = line.strip()
        if bare.startswith("#"):
            block.append(bare.lstrip("#").strip())
            continue
        match = _KEY.fullmatch(line)
        if not match:
            # A blank line ends what a comment is about.
            block, above = [], ""
            continue
        depth = len(match["blanks"])
        path = [(indent, key) for indent, key in path if indent < depth]
        path.append((depth, match["key"]))
        above = " ".join(block) or above
        dotted = ".".join(key for _, key in path)
        found[dotted] = Comment(above, match["rest"].strip())
        block = []
    return found


def configuration_page() -> str:
    """All keys, section by section, with types, defaults and reasons."""
    schema = json_schema()
    said = comments()
    lines = [CONFIGURATION_HEAD]
    training = _resolved(schema, schema["properties"]["training"])
    for name, section in training["properties"].items():
        resolved = _resolved(schema, section)
        lines.append(f"## {name}\n")
        if resolved.get("description"):
            lines.append(f"{resolved['description']}\n")
        lines += ["| key | type | default | |", "|---|---|---|---|"]
        lines += _rows(schema, name, section, said)
        lines.append("")
    return "\n".join(lines)


def _rows(
    schema: Mapping[str, Any], path: str, node: Mapping[str, Any], said: Mapping[str, Comment]
) -> Iterator[str]:
    """A row for each key below a section; sections within it are walked into."""
    resolved = _resolved(schema, node)
    properties = resolved.get("properties")
    if not properties:
        comment = said.get(f"training.{path}", Comment("", ""))
        default = json.dumps(node["default"], ensure_ascii=False) if "default" in node else ""
        shown = default if len(default) <= 60 else "see the file"
        cells = (f"`{path}`", _type(schema, node), f"`{shown}`" if shown else "", comment.text)
        yield f"| {' | '.join(_escaped(cell) for cell in cells)} |"
        return
    for key, child in properties.items():
        yield from _rows(schema, f"{path}.{key}", child, said)


def _resolved(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = node.get("$ref", "").rpartition("/")[2]
    return {**schema["$defs"][reference], **node} if reference else node


_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}


def _type(schema: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """A type as people say it."""
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(_type(schema, one) for one in node["anyOf"]))
    if "enum" in node:
        return ", ".join(map(str, node["enum"]))
    if "const" in node:
        return str(node["const"])
    if "$ref" in node:
        return _type(schema, schema["$defs"][node["$ref"].rpartition("/")[2]])
    kind = str(node.get("type", "any"))
    if kind == "array":
        inner = node.get("items", {})
        return f"list of {_type(schema, inner)}" if inner else "list"
    bounds = [text.format(node[key]) for key, text in _BOUNDS.items() if key in node]
    named = {"string": "text", "object": "mapping", "boolean": "true or false"}.get(kind, kind)
    return f"{named} {' and '.join(bounds)}".strip()


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


def metrics_page() -> str:
    """All metrics with their formulas."""
    lines = [METRICS_HEAD.format(version=METRIC_VERSION)]
    lines += ["| metric | formula | better | models | |", "|---|---|---|---|---|"]
    for metric in METRICS.values():
        parts = " (in parts)" if metric.in_parts else ""
        better = "" if metric.is_known else ("higher" if metric.higher_is_better else "lower")
        cells = (
            f"`{metric.name}`{parts}",
            f"`{formula(metric)}`",
            better,
            "causal" if metric.needs == "generation" else MODELS[metric.objective],
            meaning(metric.name),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def meaning(name: str) -> str:
    """What a metric says; those that all cloze tasks have are explained once."""
    for ending, words in CLOZE_MEANINGS.items():
        if name.endswith(ending):
            return words
    return MEANINGS[name]


def formula(metric: Metric) -> str:
    """The formula of a metric, by the names of its columns."""
    below = " + ".join(f"Σ {column}" for column in metric.denominators)
    if metric.unit == 1:
        ratio = f"Σ {metric.numerator} / ({below})"
    elif metric.unit == 0.5:
        ratio = f"2 · Σ {metric.numerator} / ({below})"
    else:
        ratio = f"Σ {metric.numerator} / (ln 2 · {below})"
    if len(metric.denominators) == 1 and metric.unit == 1:
        ratio = f"Σ {metric.numerator} / {below}"
    return f"exp({ratio})" if metric.exponential else ratio


def main() -> None:
    """Write both pages."""
    CONFIGURATION.write_text(configuration_page(), encoding="utf-8")
    METRICS_PAGE.write_text(metrics_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
