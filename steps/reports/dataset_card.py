"""The card of a dataset: `README.md` as the Hugging Face hub reads it.

It says what the dataset holds, where from, under which licences, and what was left out and why; all
of it from the manifest and the licence ledger. A licence is not made up.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steps.papers.ledger import LEDGER_FILE, NOT_SAID, LedgerEntry

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

Genomics papers, cleaned and split by paper by ScientificLLM-Forge. Digest `{{ digest }}`. \
{% if deduplicated %}Of near-duplicates one paper is kept.{% else %}Near-duplicates are in the \
same split.{% endif %}

| split | papers | sections | words |
|---|--:|--:|--:|
{% for name, split in splits.items() %}| {{ name }} | {{ split.papers }} | {{ split.sections }} \
| {{ split.words }} |
{% endfor %}{% if items %}
Instruction items, which follow the split of their paper: {{ items }}.
{% endif %}
## Where the papers come from

| file | SHA-256 |
|---|---|
{% for input in inputs %}| {{ input.name }} | `{{ input.sha256 }}` |
{% endfor %}
{% for heading, rows in tables.items() %}| {{ heading }} | train | validation | test |
|---|--:|--:|--:|
{% for name, counts in rows.items() %}| {{ name }} | {{ counts.train }} | {{ counts.validation }} \
| {{ counts.test }} |
{% endfor %}
{% endfor %}`{{ ledger }}` names each paper with its identifiers, its licence, as its source \
states it, and the file that it came in.{% if not_said %} The sources of {{ not_said }} papers \
state no licence: whether these may be given on is for you to find out.{% endif %}

## What was left out

{{ read }} records were read, {{ accepted }} papers are in.
{% if rejected %}
| reason | records |
|---|--:|
{% for reason, count in rejected.items() %}| {{ reason }} | {{ count }} |
{% endfor %}{% endif %}
Of the word {{ leakage.ngram_words }}-grams of the test papers, {{ after }} stand in a training \
paper; had papers been split one by one, {{ before }} would.
"""
# Counts of more different values than these are summed up.
MOST_ROWS = 30


def write_dataset_card(
    file: Path, manifest: Mapping[str, Any], ledger: Sequence[LedgerEntry]
) -> None:
    """Write the card.

    Args:
        file: `README.md` in the dataset's folder.
        manifest: The content of its `manifest.json`.
        ledger: Its papers.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    licences = {entry.licence for entry in ledger}
    card_data = DatasetCardData(
        # The hub knows one licence a dataset; several, or unknown ones, are no licence of it.
        license=_hub_licence(licences),
        language=manifest["configuration"]["filters"]["language"],
        task_categories=["text-generation", "fill-mask"],
        tags=["genomics", "biology"],
    )
    leakage = manifest["leakage"]
    items = manifest.get("instructions", {}).get("splits", {})
    card = DatasetCard.from_template(
        card_data,
        template_str=TEMPLATE,
        title=f"Genomics papers {manifest['dataset_digest'][7:19]}",
        digest=manifest["dataset_digest"],
        deduplicated=manifest["configuration"]["deduplication"]["enabled"],
        splits=manifest["splits"],
        items=", ".join(f"{name} {found['items']}" for name, found in items.items()),
        inputs=manifest["inputs"],
        tables={
            "licence": _by_split(ledger, [entry.licence for entry in ledger]),
            "format": _by_split(ledger, [entry.source_format for entry in ledger]),
            "year": _by_split(ledger, [entry.year or NOT_SAID for entry in ledger], by_name=True),
        },
        ledger=LEDGER_FILE,
        not_said=sum(entry.licence == NOT_SAID for entry in ledger),
        read=manifest["funnel"]["read"],
        accepted=manifest["funnel"]["accepted"],
        rejected=manifest["funnel"]["rejected"],
        leakage=leakage,
        before=f"{leakage['before']['share']:.2%}",
        after=f"{leakage['after']['share']:.2%}",
    )
    card.save(file)


def _hub_licence(licences: set[str]) -> str | None:
    """The name that the hub has for the one licence of all papers; None where it has none."""
    if len(licences) != 1:
        return None
    name = next(iter(licences))
    return f"{name}-4.0" if name.startswith("cc-by") else name if name == "cc0-1.0" else None


def _by_split(
    ledger: Sequence[LedgerEntry], values: Sequence[str], *, by_name: bool = False
) -> dict[str, dict[str, int]]:
    """How many papers of each split have each value: the frequent ones first, or by name."""
    counts = Counter(zip(values, (entry.split for entry in ledger), strict=True))
    totals = Counter(values)
    names = sorted(totals) if by_name else [name for name, _ in totals.most_common()]
    splits = ("train", "validation", "test")
    rows = {name: {split: counts[name, split] for split in splits} for name in names[:MOST_ROWS]}
    rest = names[MOST_ROWS:]
    if rest:
        rows[f"{len(rest)} others"] = {
            split: sum(counts[name, split] for name in rest) for split in splits
        }
    return rows
