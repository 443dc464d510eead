"""Texts of another domain, to be mixed into a training.

    replay = read_replay(files, training.scientific_data, held_out)
    replay.texts, replay.digest, replay.left_out

They come in any form that papers come in, or as plain .txt files of one text each, and are cleaned
by the rules for papers. What stands in a held-out text as well is left out: a model that has
read it would be measured on what it knows.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steps.config.paper_sections import Deduplication, ScientificData
from steps.errors import UserError
from steps.papers.text import PART_SEPARATOR, PaperText, Span
from steps.terminal import say

if TYPE_CHECKING:
    from steps.papers.records import RawRecord

WHAT = "replay.source"
PLAIN_TEXT_SUFFIXES = (".txt", ".txt.gz", ".txt.zst")
FILES_NAMED = 3
# What the section scientific_data says of papers, and not of other texts.
WHOLE_TEXTS = {"sections": None, "text_fields": ("title", "abstract", "full_text")}


@dataclass(frozen=True)
class ReplayTexts:
    """Cleaned texts of another domain.

    Attributes:
        texts: Each as one section.
        digest: Digest of their identifiers and texts, "sha256:...".
        left_out: How many were left out, by reason.
    """

    texts: list[PaperText]
    digest: str
    left_out: dict[str, int]


def is_plain_text(path: Path) -> bool:
    """Whether a file is one text as it stands, by its name."""
    return path.name.lower().endswith(PLAIN_TEXT_SUFFIXES) and not path.name.startswith(".")


def read_replay(
    files: Sequence[Path], settings: ScientificData, held_out: Sequence[str]
) -> ReplayTexts:
    """Read, clean and check texts of another domain.

    Args:
        files: Files of papers, of records with a text, or plain .txt files.
        settings: The section `scientific_data`, for its columns, cleaning, limits and
            deduplication.
        held_out: What a model is going to be measured on.

    Raises:
        UserError: A file cannot be read, or no text is left.
    """
    left_out: Counter[str] = Counter()
    rules = settings.model_copy(update=WHOLE_TEXTS)
    try:
        texts = [text for file in files for text in _texts_of(file, rules, left_out)]
    except UserError as error:
        raise UserError(f"{WHAT}: {error}") from error
    if texts:
        texts = _without_held_out(texts, held_out, settings.deduplication, left_out)
    if not texts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        names = ", ".join(file.name for file in files[:FILES_NAMED])
        raise UserError(
            f"{WHAT}: no text is left of those in {names} ({reasons or 'no record'}): name a file, "
            "folder or pattern of texts that are not those of the evaluation"
        )
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text.paper_id)} {text.paper_id} {len(text.text)} {text.text}".encode())
    return ReplayTexts(texts, f"sha256:{digest.hexdigest()}", dict(left_out))


def _texts_of(file: Path, rules: ScientificData, left_out: Counter[str]) -> Iterator[PaperText]:
    from steps.papers.formats.reading import read_papers

    found: Iterable[tuple[str, str]]
    if is_plain_text(file):
        found = [(file.name, _plain_text(file, rules))]
    else:
        columns = rules.columns.model_dump(exclude_none=True) or None
        found = (
            _text_of(record, rules, file.name)
            for record in read_papers(file, rules.limits, columns, say)
        )
    for text_id, text in found:
        if text:
            yield PaperText(text_id, text, (Span(0, len(text), "other"),))
        else:
            left_out["without a text"] += 1


def _plain_text(file: Path, rules: ScientificData) -> str:
    """The cleaned text of a .txt file.

    Raises:
        UserError: It is no UTF-8, too long, or cannot be read.
    """
    from steps.papers.cleaning.recipe import clean_text
    from steps.papers.file_bytes import Bytes
    from steps.papers.preparation import cleaning_rules

    limits = rules.limits
    with closing(Bytes.open(file, limits.max_decompressed_bytes)) as source:
        data = source.read()
    if len(data) > limits.max_record_bytes:
        raise UserError(
            f"{file.name} holds {len(data)} bytes, more than "
            f"scientific_data.limits.max_record_bytes ({limits.max_record_bytes}): cut it into "
            "files of one text each, or raise the limit"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file.name} is no UTF-8 text ({error}): convert it") from None
    return clean_text(text, cleaning_rules(rules.preprocessing))


def _text_of(record: "RawRecord", rules: ScientificData, file: str) -> tuple[str, str]:
    """Identifier and cleaned text of a record; "" where it cannot be read or holds none."""
    from steps.papers.formats.convert import paper_fields
    from steps.papers.paper import identify, paper_of
    from steps.papers.preparation import clean_sections
    from steps.papers.records import RecordProblem

    name = f"{file}:{record.number}"
    try:
        source_format, fields = paper_fields(record)
        paper = paper_of(fields, source_format)
        text = PART_SEPARATOR.join(text for _, text in clean_sections(paper, rules))
    except RecordProblem:
        return name, ""
    try:
        return identify(paper).paper_id, text
    except RecordProblem:
        # Texts of another domain have names of other kinds, or none.
        return str(fields.get("id") or name), text


def _without_held_out(
    texts: list[PaperText],
    held_out: Sequence[str],
    rule: Deduplication,
    left_out: Counter[str],
) -> list[PaperText]:
    """The texts that are not, and do not hold, a held-out one, each once."""
    from steps.papers.deduplication import hash_words, text_clusters
    from steps.papers.leakage import benchmark_ngrams, contaminated

    held_words = hash_words(held_out)
    ngrams = benchmark_ngrams(held_words)
    words = hash_words([text.text for text in texts])
    clusters = text_clusters([*held_words, *words], rule)
    first = len(held_words)
    kept: dict[int, PaperText] = {}
    for text, own, cluster in zip(texts, words, clusters[first:], strict=True):
        # A cluster is named by its first text, and the held-out ones stand first.
        if cluster < first or contaminated(own, ngrams) is not None:
            left_out["held out"] += 1
        elif cluster in kept:
            left_out["repeated"] += 1
        else:
            kept[cluster] = text
    return list(kept.values())
