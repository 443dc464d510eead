"""Step 1: papers in, clean dataset out.

    mlflow run . -e preprocess -P papers=high_quality_papers.json
    python -m steps.preprocess --papers high_quality_papers.json --config configs/training.yaml

Leaves `dataset/` with `manifest.json`, `rejected.jsonl` and `report.html` in its run.
"""

import glob
import os
from contextlib import closing
from pathlib import Path

import click

from steps.cli import say, show_notices, step_command
from steps.config import PROJECT_ROOT, ScientificData, load_config
from steps.errors import UserError, writing_to


@click.command()
@click.option(
    "--papers", default="", help="File, folder, glob or artifact URI; empty: the config's."
)
@step_command()
def main(papers: str, config_path: str, overrides: str, verbose: bool) -> None:
    """Turn papers into a clean, leak-free, documented dataset."""
    loaded = load_config(config_path, overrides)
    training = loaded.training
    show_notices(loaded.notices)
    settings = training.scientific_data

    from steps.tracking.datasets import log_dataset_input
    from steps.tracking.reuse import cache_tags, key_parts
    from steps.tracking.runs import step_run

    with step_run("preprocess", training, verbose=verbose) as run:
        from steps.papers.pipeline import prepare_dataset
        from steps.reports.preprocess_report import write_report

        location = papers or settings.data_file
        files = find_papers(location, run.scratch / "input")
        local = with_local_files(settings, run.scratch / "input")
        parts = key_parts("preprocess", training, input_digests(files, local))
        run.params(_params(settings, location))

        # Closed before anything else is said, an error included: the bar's line stays open.
        with closing(_Progress()) as progress:
            preparation = prepare_dataset(files, local, run.scratch, progress)
        with writing_to("the report", "free space there, or set TMPDIR to another disk"):
            write_report(preparation, run.scratch / "report.html")

        manifest = preparation.manifest
        run.artifact(run.scratch / "dataset")
        run.artifact(run.scratch / "rejected.jsonl")
        run.artifact(run.scratch / "report.html")
        run.metrics(
            {"papers/read": preparation.num_read, "papers/accepted": preparation.num_accepted}
        )
        run.metrics({f"papers/rejected/{r}": n for r, n in preparation.rejected.items()})
        run.metrics({f"papers/{s}": facts["papers"] for s, facts in manifest["splits"].items()})
        log_dataset_input(run.id, "papers", preparation.digest, context="output")
        run.tag(dataset_digest=preparation.digest, **cache_tags(parts))

        splits = ", ".join(f"{s} {f['papers']}" for s, f in manifest["splits"].items())
        rejected = ", ".join(f"{n} {r}" for r, n in sorted(preparation.rejected.items())) or "none"
        say(f"papers: {preparation.num_read} read, {preparation.num_accepted} accepted ({splits})")
        say(f"rejected: {rejected} (see rejected.jsonl)")
        say(f"dataset {preparation.digest[:19]}… in run {run.id}")


def find_papers(location: str, scratch: Path, what: str = "papers") -> list[Path]:
    """Find local paper files, or download those of an artifact URI.

    Args:
        location: A path, folder or glob (from the working folder, then the project), or a
            URI that MLflow can read (`runs:/ID/path`, `mlflow-artifacts:/…`, `s3://…`).
        scratch: Where a download goes.
        what: What an error calls them.

    Raises:
        UserError: Nothing is there, or it may not be read.
    """
    from steps.papers.records import resolve_inputs

    if "://" in location or location.startswith(("runs:/", "mlflow-artifacts:/", "models:/")):
        from steps.tracking.datasets import download

        return resolve_inputs(str(download(location, scratch, what)), what)
    in_project = str(PROJECT_ROOT / location)
    if not _is_something(location) and _is_something(in_project):
        return resolve_inputs(in_project, what)
    return resolve_inputs(location, what)


def _is_something(location: str) -> bool:
    path = os.path.expanduser(location)
    return os.path.lexists(path) or bool(glob.glob(path, recursive=True))


# Files besides the papers, all of the section `split`.
FURTHER_FILES = ("previous_manifest", "decontaminate_against")


def with_local_files(settings: ScientificData, scratch: Path) -> ScientificData:
    """The settings with local paths for their further files, found as the papers are.

    Raises:
        UserError: One is not there, may not be read, or is more than one file.
    """
    found = {}
    for key in FURTHER_FILES:
        location = getattr(settings.split, key)
        what = f"scientific_data.split.{key}"
        if location is None:
            continue
        if os.path.isdir(location):
            raise UserError(f"{what} {location!r} is a folder: name a file")
        files = find_papers(location, scratch / key, what)
        if len(files) > 1:
            raise UserError(f"{what} {location!r} is {len(files)} files: name one")
        found[key] = str(files[0])
    return settings.model_copy(update={"split": settings.split.model_copy(update=found)})


def input_digests(papers: list[Path], local: ScientificData) -> dict[str, str]:
    """Digests of all files that the dataset is made from, by name."""
    from steps.tracking.reuse import digest_of_files

    further = {key: getattr(local.split, key) for key in FURTHER_FILES}
    return {"papers": digest_of_files(papers)} | {
        key: digest_of_files([Path(file)]) for key, file in further.items() if file is not None
    }


def _params(settings: ScientificData, location: str) -> dict[str, object]:
    from steps.config import flatten

    values = settings.model_dump(mode="json") | {"data_file": location}
    return dict(flatten("scientific_data", values))


class _Progress:
    """A bar a stage."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self.bar = tqdm(desc="papers", unit=" papers")

    def __call__(self, stage: str, done: int) -> None:
        self.bar.set_description(stage)
        self.bar.n = done
        self.bar.refresh()

    def close(self) -> None:
        """End the bar's line."""
        self.bar.close()


if __name__ == "__main__":
    main()
