"""Texts outside the domain, by which forgetting is measured."""

from pathlib import Path
from typing import TYPE_CHECKING

from steps.config.paper_sections import Limits, ScientificData
from steps.config.paths import PROJECT_ROOT, find_file
from steps.errors import UserError
from steps.terminal import say

if TYPE_CHECKING:
    from steps.papers.records import RawRecord
    from steps.papers.text import PaperText


def read_general_texts(name: str | None) -> "list[PaperText]":
    """Read texts outside the domain, in any form that `preprocess` reads papers in.

    A JSON record gives its text, else its abstract, as it stands; a paper of another format
    gives its cleaned text. A JSON file may hold its records under texts, too.

    Args:
        name: What `evaluation.general_texts` says; None: there are none.

    Raises:
        UserError: The file is missing, cannot be read, or holds no text.
    """
    from steps.papers.formats.reading import read_papers
    from steps.papers.records import RecordProblem
    from steps.papers.text import PaperText, Span

    if name is None:
        return []
    texts = []
    left_out = 0
    for file in general_files(name):
        for record in read_papers(file, Limits(), None, say):
            try:
                text_id, text = _text_of(record)
            except RecordProblem as problem:
                if record.source_format == "json":
                    raise UserError(
                        f"general texts {file.name}, record {record.number}: {problem.detail}"
                    ) from None
                left_out += 1
                continue
            span = Span(0, len(text), "abstract")
            texts.append(PaperText(text_id or str(record.number), text, (span,)))
    if not texts:
        raise UserError(f"general texts {name}: no record holds a text")
    if left_out:
        say(f"general texts: {left_out} records hold no text and are left out")
    return texts


def _text_of(record: "RawRecord") -> tuple[str, str]:
    """Identifier and text of a record.

    Raises:
        RecordProblem: It cannot be read, or has no text.
    """
    from steps.papers.formats.convert import paper_fields
    from steps.papers.paper import identify, paper_of
    from steps.papers.preparation import clean_sections
    from steps.papers.records import RecordProblem

    source_format, fields = paper_fields(record)
    if source_format == "json":
        text = fields.get("text") or fields.get("abstract")
        if not isinstance(text, str) or not text.strip():
            raise RecordProblem("no_text", "no text or abstract")
        return str(fields.get("id") or fields.get("pmid") or ""), text.strip()
    paper = paper_of(fields, source_format)
    text = "\n\n".join(text for _, text in clean_sections(paper, ScientificData()))
    if not text:
        raise RecordProblem("no_text", "no text")
    return identify(paper).paper_id, text


def general_files(texts: str) -> list[Path]:
    """The files that `evaluation.general_texts` names: a file, a folder of them, or a pattern.

    Raises:
        UserError: There is none.
    """
    from steps.papers.inputs import resolve_inputs

    for location in (Path(texts).expanduser(), PROJECT_ROOT / texts):
        if location.is_dir() or (not location.exists() and "*" in texts):
            return resolve_inputs(str(location), "evaluation.general_texts")
    return [find_file(texts, "evaluation.general_texts", "training.evaluation.general_texts")]
