"""Papers in any format in, the papers layout out: to score, tier or edit them by hand first.

    mlflow run . -e import_papers -P papers=FOLDER
    python -m steps.import_papers --papers pubmed24n0001.xml.gz

Reads what `preprocess` reads and leaves `papers/papers.jsonl.zst` and `rejected.jsonl` in its
run; `preprocess -P papers=runs:/ID/papers` goes on from there.
"""

import click

from steps.cli import papers_option, step_command
from steps.config.file import load_config
from steps.errors import UserError
from steps.progress import ProgressLine
from steps.terminal import say, show_notices
from steps.tracking.inputs import find_papers, with_local_files


@click.command()
@papers_option
@step_command()
def main(papers: str, config_path: str, overrides: str, verbose: bool) -> None:
    """Write papers of any format out in the papers layout."""
    loaded = load_config(config_path, overrides)
    training = loaded.training
    show_notices(loaded.notices)
    settings = training.scientific_data

    from steps.tracking.runs import step_run

    with step_run("import_papers", training, verbose=verbose) as run:
        from steps.papers.formats import FORMATS
        from steps.papers.importing import import_papers

        location = papers or settings.data_file
        if location is None:
            raise UserError("scientific_data.data_file is null: name the papers to import")
        files = find_papers(location, run.scratch / "input")
        local = with_local_files(settings, run.scratch / "input")
        run.params({"scientific_data.data_file": location})
        with ProgressLine("papers", "papers") as shown:
            made = import_papers(files, local, run.scratch, shown.stage)

        run.artifact(run.scratch / "papers")
        run.artifact(run.scratch / "rejected.jsonl")
        imported = sum(made.formats.values())
        run.metrics({"papers/read": made.num_read, "papers/imported": imported})
        run.metrics({f"papers/rejected/{reason}": n for reason, n in made.rejected.items()})

        formats = ", ".join(f"{n} {FORMATS.get(f, f)}" for f, n in made.formats.items())
        say(f"papers: {made.num_read} read, {imported} imported ({formats})")
        for line in made.notes:
            say(f"note: {line}")
        if made.first_rejected is not None:
            first = made.first_rejected
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(made.rejected.items()))
            say(
                f"rejected: {reasons} (see rejected.jsonl; the first is record {first.record} "
                f"of {first.file}: {first.detail})"
            )
        if made.unnamed:
            say(f"note: {made.unnamed} have no pmid, doi or pmcid; preprocess rejects those")
        say(f"papers.jsonl.zst is in run {run.id}; -P papers=runs:/{run.id}/papers reads it")


if __name__ == "__main__":
    main()
