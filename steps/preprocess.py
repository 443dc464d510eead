"""Step 1: papers in, clean dataset out.

    mlflow run . -e preprocess -P papers=high_quality_papers.json
    python -m steps.preprocess --papers high_quality_papers.json --config configs/training.yaml

Leaves `dataset/` with `manifest.json`, `rejected.jsonl` and `report.html` in its run.
"""

from typing import TYPE_CHECKING, Any

import click

from steps.cli import papers_option, step_command
from steps.config.file import load_config
from steps.config.paper_sections import ScientificData
from steps.errors import UserError, writing_to
from steps.metrics import PAPERS_FOR_RELIABLE_INTERVALS
from steps.progress import ProgressLine
from steps.terminal import say, show_notices
from steps.tracking.inputs import find_items, find_paper_files, input_digests, with_local_files

if TYPE_CHECKING:
    from steps.papers.pipeline import Preparation
    from steps.tracking.runs import StepRun

NOTES_SHOWN = 8


@click.command()
@papers_option
@step_command()
def main(papers: str, config_path: str, overrides: str, verbose: bool) -> None:
    """Turn papers into a clean, leak-free, documented dataset."""
    loaded = load_config(config_path, overrides)
    training = loaded.training
    show_notices(loaded.notices)
    settings = training.scientific_data

    from steps.tracking.cache import cache_tags, key_parts
    from steps.tracking.datasets import log_dataset_input
    from steps.tracking.kept_datasets import keep_dataset
    from steps.tracking.runs import step_run

    with step_run("preprocess", training, verbose=verbose) as run:
        from steps.papers.engines.choice import choose_engine
        from steps.papers.ledger import read_ledger
        from steps.papers.pipeline import prepare_dataset
        from steps.reports.dataset_card import write_dataset_card
        from steps.reports.preprocess_report import write_report

        location = papers or settings.data_file
        files = find_paper_files(training, location, run.scratch / "input")
        local = with_local_files(settings, run.scratch / "input")
        items = find_items(training, run.scratch / "input")
        parts = key_parts("preprocess", training, input_digests(files, local, items))
        run.params(_params(settings, location))

        # Closed before anything else is said, an error included: the bar's line stays open.
        try:
            with (
                choose_engine(local, files).opened(local) as engine,
                ProgressLine("papers", "papers") as line,
            ):
                preparation = prepare_dataset(
                    files, local, run.scratch, line.stage, instructions=items, engine=engine
                )
        except UserError:
            if (run.scratch / "rejected.jsonl").is_file():
                run.artifact(run.scratch / "rejected.jsonl")
            raise
        with writing_to("the report", "free space there, or set TMPDIR to another disk"):
            write_report(preparation, run.scratch / "report.html")
            dataset = run.scratch / "dataset"
            write_dataset_card(dataset / "README.md", preparation.manifest, read_ledger(dataset))

        manifest = preparation.manifest
        splits = ", ".join(f"{s} {f['papers']}" for s, f in manifest["splits"].items())
        with run.together():
            run.artifact(run.scratch / "dataset")
            run.artifact(run.scratch / "rejected.jsonl")
            run.artifact(run.scratch / "report.html")
            run.metrics(
                {"papers/read": preparation.num_read, "papers/accepted": preparation.num_accepted}
            )
            run.metrics({f"papers/rejected/{r}": n for r, n in preparation.rejected.items()})
            run.metrics({f"papers/{s}": facts["papers"] for s, facts in manifest["splits"].items()})
            run.tag(dataset_digest=preparation.digest, **cache_tags(parts))
            _present(run, preparation, splits)
        log_dataset_input(run.id, "papers", preparation.digest, context="output")
        keep_dataset(run.client, run.id, dataset, preparation.digest)
        reasons = ", ".join(f"{n} {r}" for r, n in sorted(preparation.rejected.items()))
        say(f"papers: {preparation.num_read} read, {preparation.num_accepted} accepted ({splits})")
        say(f"rejected: {reasons} (see rejected.jsonl)" if reasons else "rejected: none")
        _say_what_can_be_decided(manifest["splits"], training.comparison.min_papers)
        if "instructions" in manifest:
            _say_items(run, manifest["instructions"])
        _say_how_read(preparation)
        say(f"dataset {preparation.digest[:19]}… in run {run.id}")


def _say_what_can_be_decided(splits: dict[str, Any], least: int) -> None:
    """Say it where there are too few held-out papers to choose or to decide by."""
    test, validation = (splits[name]["papers"] for name in ("test", "validation"))
    if 0 < test < least:
        say(
            f"note: {test} test paper{'s' * (test > 1)}: evaluate will score them, and ab_compare "
            f"promotes on no fewer than {least} (comparison.min_papers): more papers, or a larger "
            "scientific_data.split.test_fraction"
        )
    elif 0 < test < PAPERS_FOR_RELIABLE_INTERVALS:
        say(
            f"note: intervals over {test} test papers are rough; "
            f"{PAPERS_FOR_RELIABLE_INTERVALS} make them reliable"
        )
    if 0 < validation < 3:
        say(
            f"note: {validation} validation paper{'s' * (validation > 1)}: the best checkpoint is "
            "chosen by chance as much as by quality"
        )


def _present(run: "StepRun", preparation: "Preparation", splits: str) -> None:
    """Name the run by its papers or items, and say what they are."""
    items = preparation.manifest.get("instructions")
    number = sum(found["items"] for found in items["splits"].values()) if items else 0
    counted = [f"{preparation.num_accepted:,} papers"] if preparation.num_accepted else []
    counted += [f"{number:,} items"] if number else []
    rejected = sum(preparation.rejected.values())
    run.present(
        ", ".join(counted) or "nothing",
        [
            f"**{', '.join(counted) or 'nothing'}** ({splits}); {preparation.num_read:,} papers "
            f"read, {rejected:,} rejected (`rejected.jsonl`)",
            f"dataset `{preparation.digest}`; `report.html` shows what became of the papers",
        ],
    )


def _say_items(run: "StepRun", items: dict[str, Any]) -> None:
    """How many items there are, and what is to be known of them."""
    counts = {split: found["items"] for split, found in items["splits"].items()}
    rejected = sum(items["rejected"].values())
    run.metrics({f"items/{split}": number for split, number in counts.items()})
    run.metrics(
        {
            "items/read": items["read"],
            "items/rejected": rejected,
            "items/duplicates": items["duplicates"],
            "items/overlapping_test_papers": items["training_items_overlapping_test_papers"],
        }
    )
    shown = ", ".join(f"{split} {number}" for split, number in counts.items())
    say(f"instruction items: {items['read']} read, {sum(counts.values())} accepted ({shown})")
    reasons = ", ".join(f"{n} {reason}" for reason, n in items["rejected"].items())
    if rejected:
        say(f"rejected items: {reasons} (see rejected.jsonl)")
    if items["duplicates"]:
        say(f"items said twice: {items['duplicates']}, each kept once")
    elsewhere = items["papers_not_in_dataset"]
    if elsewhere:
        say(
            f"note: {elsewhere} of the {items['papers_named']} papers that items name are not in "
            "this dataset; their items are split by the paper's identifier"
        )
    overlapping = items["training_items_overlapping_test_papers"]
    if overlapping:
        say(
            f"note: {overlapping} training items share many words in a row with test papers; "
            "name their papers (pmid or paper_id) so that they follow them"
        )


def _say_how_read(preparation: "Preparation") -> None:
    """What was read in another way than it stands, and what cleaning cut off, in a few lines."""
    for line, count in list(preparation.notes.items())[:NOTES_SHOWN]:
        say(f"note: {line}" if count == 1 else f"note: {line} ({count} times)")
    if len(preparation.notes) > NOTES_SHOWN:
        say(f"note: {len(preparation.notes) - NOTES_SHOWN} further ones in report.html")
    if preparation.heavily_cut:
        paper, share = max(preparation.heavily_cut, key=lambda cut: cut[1])
        say(
            f"note: {len(preparation.heavily_cut)} papers lost more than a third of their words "
            f"to cleaning, most of all {paper} ({share:.0%}); report.html names them"
        )


def _params(settings: ScientificData, location: str | None) -> dict[str, object]:
    from steps.config.dotted import flatten

    values = settings.model_dump(mode="json") | {"data_file": location}
    return dict(flatten("scientific_data", values))


if __name__ == "__main__":
    main()
