"""The page of a release, and the README that travels with each form."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.reports.page import PageSection, Table, render_page

if TYPE_CHECKING:
    from steps.releasing.fidelity import Fidelity

UNITS = {"bits_per_byte": "bits per byte", "mlm_loss": "nats per masked token"}

# How each form is served; FOLDER is where its files lie. What of it was run, docs/release.md says.
COMMANDS = {
    "adapter": (
        "vllm serve BASE --enable-lora --lora-modules papers=FOLDER --max-lora-rank RANK",
        'base = AutoModelForCausalLM.from_pretrained("BASE", dtype="DTYPE")',
        'model = PeftModel.from_pretrained(base, "FOLDER")',
    ),
    "merged": (
        "vllm serve FOLDER",
        'transformers.pipeline("text-generation", "FOLDER")',
    ),
    "gguf": (
        "ollama create papers -f FOLDER/Modelfile",
        "llama-server -m FOLDER/model.gguf",
    ),
}


def write_release_report(
    path: Path, model: str, facts: Sequence[tuple[str, Any]], results: "Sequence[Fidelity]"
) -> None:
    """Write the page.

    Args:
        path: The HTML file to write.
        model: What people call the version.
        facts: What it was made of, as pairs of name and value.
        results: One a form, refused ones included.
    """
    refused = [result for result in results if result.refusal]
    left = len(results) - len(refused)
    lead = f"{left} of {len(results)} forms score, read and stop as the version did."
    sections = [
        PageSection(
            "Fidelity",
            paragraphs=[
                "The same held-out papers, by the same definition: each form is loaded from its "
                "own files by the library that its users have. The difference is form less "
                "version, above 0 is worse; its 95 % interval resamples papers. The limit holds "
                "for the difference on these papers."
            ],
            tables=[_scores(results), _texts(results)],
        )
    ]
    if refused:
        sections.append(PageSection("Refused", passages=[(r.form, r.refusal) for r in refused]))
    page = render_page(f"Release of {model}", lead=lead, facts=facts, sections=sections)
    path.write_text(page, encoding="utf-8")


def _scores(results: "Sequence[Fidelity]") -> Table:
    unit = UNITS[results[0].metric]
    return Table(
        ("form", unit, "difference", "95 % interval", "limit", "size in MB", "tokens/s", "leaves"),
        [
            (
                result.form,
                None if result.score is None else f"{result.score:.5f}",
                None if result.difference is None else f"{result.difference:+.5f}",
                _bounds(result),
                result.limit,
                round(result.bytes / 1e6, 1),
                None if result.tokens_per_second is None else round(result.tokens_per_second),
                not result.refusal,
            )
            for result in results
        ],
        caption=f"The version itself: {results[0].promoted:.5f} {unit}, {results[0].papers} papers",
    )


def _texts(results: "Sequence[Fidelity]") -> Table:
    return Table(
        ("form", "same tokens", "restored", "greedy texts the same", "tokens before they part"),
        [
            (
                result.form,
                f"{result.same_tokens} of {result.papers} papers",
                f"{result.restored} of {result.papers} papers",
                f"{result.identical} of {result.prompts}",
                None if result.agreement is None else f"{result.agreement:.0%}",
            )
            for result in results
        ],
    )


def _bounds(result: "Fidelity") -> str | None:
    if result.interval is None:
        return None
    low, high = result.interval
    return f"{low:+.5f} to {high:+.5f}"


def write_form_readme(
    folder: Path, model: str, description: Mapping[str, Any], made: str, result: "Fidelity"
) -> None:
    """Write the README of a form: what it is, how it is served, how it scored.

    Args:
        folder: Of the form.
        model: What people call the version.
        description: The content of its `base.json`.
        made: How the form was made, in a sentence.
        result: How it scored.
    """
    unit, base = UNITS[result.metric], description["base"]
    kind = result.form.partition(":")[0]
    revision = f" at {base['revision']}" if base["revision"] else ""
    lines = [
        f"# {model}: {result.form}",
        "",
        f"Made of {base['name']}{revision} (from {base['source']}). {made}",
        *([f"Of the base: {base['note']}.", ""] if base["note"] else [""]),
        "## How close it is",
        "",
        f"| | {unit} |",
        "|---|---|",
        f"| the version that was promoted | {result.promoted:.5f} |",
        f"| this form | {result.score:.5f} |",
        f"| difference ({result.papers} held-out papers) | {result.difference:+.5f}"
        f" ({_bounds(result) or 'too few papers for an interval'}; limit {result.limit:g}) |",
        "",
        f"Tokens as the version reads them: {result.same_tokens} of {result.papers} papers. "
        f"Greedy texts the same: {result.identical} of {result.prompts}.",
        "",
        "## How it is served",
        "",
        *[
            f"    {command.replace('DTYPE', description['dtype']).replace('BASE', base['name'])}"
            for command in COMMANDS[kind]
        ],
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
