"""From files of papers to a clean, split dataset: read, check, clean, deduplicate, split.

    preparation = prepare_dataset([Path("papers.json")], config.scientific_data, Path("out"))

leaves `out/dataset/` with its `manifest.json`, and `out/rejected.jsonl` with every record
that was left out and the reason. Each record is checked, cleaned and annotated on its own,
in as many processes as there are; what needs all papers at once (duplicates, splits,
leakage) runs here on hashes. The texts wait in a scratch file, so that memory grows with
the number of papers by about a kilobyte each and not with their length.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from steps.config.paper_sections import ScientificData
from steps.digests import file_sha256
from steps.errors import UserError, writing_to
from steps.papers import leakage
from steps.papers.dataset import (
    SCHEMA_VERSION,
    Contents,
    SplitSummary,
    combine_digests,
)
from steps.papers.deduplication import (
    Hashes,
    hash_words,
)
from steps.papers.engines.engine import Engine, LocalEngine
from steps.papers.filters import check_language_name
from steps.papers.item_stage import prepare_items
from steps.papers.leakage import read_benchmark_texts
from steps.papers.ledger import LEDGER_FILE, NOT_SAID, entries_of, write_ledger
from steps.papers.licences import license_name
from steps.papers.paper_table import PaperTable, RejectedPaper
from steps.papers.preparation import CleaningExample
from steps.papers.retractions import Retractions, read_retractions
from steps.papers.splits import (
    SPLITS,
    read_previous_splits,
)
from steps.papers.stages import (
    Progress,
    decontaminate,
    find_duplicates_and_split,
    measure_leakage,
    read_into,
    reject_duplicate_identifiers,
    reject_retracted,
    write_dataset,
)
from steps.papers.versions import library_versions


@dataclass(frozen=True)
class Preparation:
    """What a preprocessing run made.

    Attributes:
        output: The folder that holds `dataset/` and `rejected.jsonl`.
        digest: Digest of the dataset, "sha256:...".
        manifest: The content of `dataset/manifest.json`.
        num_read: Records read.
        num_accepted: Papers in the dataset.
        rejected: Number of rejected records by reason.
        contents: Sections, genes and variants counted over the dataset.
        paper_words: Words of each paper of the dataset.
        paper_scores: Scores of those that have one.
        examples: Places where cleaning changed a text.
        notes: How files and records were read in another way than they stand, with counts.
        heavily_cut: Papers that lost more than a third of their words to cleaning, and the share.
        rejected_papers: The first rejected records.
    """

    output: Path
    digest: str
    manifest: dict[str, Any]
    num_read: int
    num_accepted: int
    rejected: dict[str, int]
    contents: Contents
    paper_words: npt.NDArray[np.int64]
    paper_scores: npt.NDArray[np.float64]
    examples: list[CleaningExample]
    notes: dict[str, int]
    heavily_cut: list[tuple[str, float]]
    rejected_papers: list[RejectedPaper]


class _Further(NamedTuple):
    """What is read besides the papers."""

    previous: Mapping[str, str]
    benchmark: Hashes
    retractions: Retractions | None


def prepare_dataset(
    inputs: Sequence[Path],
    settings: ScientificData,
    output: Path,
    progress: Progress | None = None,
    *,
    instructions: Sequence[Path] = (),
    engine: Engine | None = None,
) -> Preparation:
    """Turn files of papers into a clean dataset, split by paper.

    Args:
        inputs: Local files, see `steps.papers.inputs.resolve_inputs`. The rows stand in their
            order, and the digest with them; the splits do not depend on it. None, for a dataset
            of instruction items alone.
        settings: The section `scientific_data` of the configuration.
        output: Folder to write `dataset/` and `rejected.jsonl` to; made where missing, and
            an earlier dataset in it is replaced.
        progress: Called with the name of a stage and a count of papers.
        instructions: Files of instruction items, whose splits follow the papers'.
        engine: Who does the work, see `steps.papers.engines.choice`; None: this machine.

    Returns:
        What was made, with counts, digest and manifest.

    Raises:
        UserError: A file cannot be read, a setting does not fit the papers, no paper is
            usable, or the output cannot be written.
    """
    report = progress or (lambda stage, done: None)
    with _writing(output):  # its model goes through a temporary file
        check_language_name(settings.filters.language)
    _check_files(inputs, instructions)
    further = _Further(
        _previous_splits(settings), _benchmark_ngrams(settings), _retractions(settings)
    )
    scratch = _make_scratch(output)
    try:
        with _writing(output), PaperTable(inputs, settings, scratch) as table:
            try:
                return _run_stages(
                    table, output, further, report, instructions, engine or LocalEngine()
                )
            except UserError:
                # What was rejected explains most failures: it stays.
                if table.rejected or instructions:
                    table.rejected_file.flush()
                    _replace(scratch / "rejected.jsonl", output / "rejected.jsonl")
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_stages(
    table: PaperTable,
    output: Path,
    further: _Further,
    report: Progress,
    instructions: Sequence[Path],
    engine: Engine,
) -> Preparation:
    read_into(table, engine, report)
    retractions = reject_retracted(table, further.retractions)
    reject_duplicate_identifiers(table, engine)
    report("deduplicate", len(table.kept))
    find_duplicates_and_split(table, engine, further.previous)
    report("split", len(table.kept))
    decontaminate(table, further.benchmark)
    leakage_report = measure_leakage(table)
    report("write", len(table.kept))
    summaries, contents = write_dataset(table, table.scratch / "dataset")
    write_ledger(list(entries_of(table)), table.scratch / "dataset" / LEDGER_FILE)
    items = prepare_items(table, instructions, report, retractions) if instructions else None
    return _finish(table, output, summaries, contents, leakage_report, items)


def _writing(output: Path) -> AbstractContextManager[None]:
    return writing_to(
        f"output folder {str(output)!r} or the folder of temporary files",
        "free some space, or set TMPDIR to a folder on another disk",
    )


def _finish(
    table: PaperTable,
    output: Path,
    summaries: Mapping[str, SplitSummary],
    contents: Contents,
    leakage_report: dict[str, Any],
    items: dict[str, Any] | None,
) -> Preparation:
    """Write the manifest, move everything into place, and say what was made."""
    digest = combine_digests(
        {name: summaries[name].digest for name in SPLITS}, items["digest"] if items else ""
    )
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "dataset_digest": digest,
        "inputs": [
            {"name": name, "sha256": file_sha256(path), "bytes": path.stat().st_size}
            for name, path in zip(table.input_names, table.inputs, strict=True)
        ],
        "funnel": {
            "read": table.num_read,
            "accepted": len(table.kept),
            "rejected": dict(sorted(table.rejected.items())),
        },
        "sources": {
            "formats": _counts(table, table.formats),
            "licenses": _counts(table, [license_name(name) or NOT_SAID for name in table.licenses]),
            "years": _counts(table, [year or NOT_SAID for year in table.years]),
            "open_access": table.open_access,
            "tables_left_out": table.tables_left_out,
        },
        "notes": dict(sorted(table.notes.items())),
        "splits": {name: vars(summaries[name]) for name in SPLITS},
        "leakage": leakage_report,
        **({"instructions": items} if items else {}),
        "configuration": _configuration(table.settings),
        "versions": library_versions(),
    }
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (table.scratch / "dataset" / "manifest.json").write_bytes(encoded + b"\n")
    table.rejected_file.flush()
    _replace(table.scratch / "rejected.jsonl", output / "rejected.jsonl")
    _replace(table.scratch / "dataset", output / "dataset")
    scores = table.rows["score"][table.kept]
    return Preparation(
        output=output,
        digest=digest,
        manifest=manifest,
        num_read=table.num_read,
        num_accepted=len(table.kept),
        rejected=dict(table.rejected),
        contents=contents,
        paper_words=table.rows["num_words"][table.kept],
        paper_scores=scores[~np.isnan(scores)],
        examples=table.examples,
        notes=dict(table.notes.most_common()),
        heavily_cut=table.heavily_cut,
        rejected_papers=table.rejected_papers,
    )


def _counts(table: PaperTable, values: Sequence[str]) -> dict[str, int]:
    return dict(Counter(values[n] for n in table.kept).most_common())


def _previous_splits(settings: ScientificData) -> dict[str, str]:
    location = settings.split.previous_manifest
    return {} if location is None else read_previous_splits(Path(location))


def _retractions(settings: ScientificData) -> Retractions | None:
    file = settings.retraction_list
    return None if file is None else read_retractions(Path(file), settings.limits)


def _benchmark_ngrams(settings: ScientificData) -> Hashes:
    location = settings.split.decontaminate_against
    texts = [] if location is None else read_benchmark_texts(Path(location), settings.limits)
    return leakage.benchmark_ngrams(hash_words(texts))


def _check_files(inputs: Sequence[Path], instructions: Sequence[Path]) -> None:
    if not inputs and not instructions:
        raise UserError("no file of papers is named: name a file, a folder or a pattern")
    for path in inputs:
        if not path.is_file():
            what = "is no regular file" if path.exists() else "does not exist"
            raise UserError(f"papers {str(path)!r} {what}: name a file of papers")


def _make_scratch(output: Path) -> Path:
    """A scratch folder beside the results, on the disk that has to hold them anyway."""
    dataset = output / "dataset"
    if dataset.exists() and not (dataset / "manifest.json").is_file():
        raise UserError(
            f"{str(dataset)!r} exists and holds no manifest.json, so it is no dataset of an "
            "earlier run that may be replaced: name another output folder, or remove it"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".preparing-", dir=output))
    except OSError as error:
        raise UserError(
            f"output folder {str(output)!r} cannot be written ({error.strerror}): "
            "name a folder that you may write to"
        ) from error


def _replace(made: Path, target: Path) -> None:
    """Move a file or folder into place, over what an earlier run left there."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    made.replace(target)


def _configuration(settings: ScientificData) -> dict[str, Any]:
    """The settings that can change the dataset, without paths of this machine."""
    dump = settings.model_dump(mode="json", exclude={"num_workers", "engine"})
    if settings.data_file is not None:
        dump["data_file"] = Path(settings.data_file).name
    if settings.retraction_list is not None:
        dump["retracted"] = Path(settings.retraction_list).name
    for key in ("previous_manifest", "decontaminate_against"):
        if dump["split"][key] is not None:
            dump["split"][key] = Path(dump["split"][key]).name
    return dump
