"""Texts outside the domain, by which forgetting is measured."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from steps.config.paths import find_file
from steps.errors import UserError

if TYPE_CHECKING:
    from steps.papers.text import PaperText


def read_general_texts(name: str | None) -> "list[PaperText]":
    """Read texts outside the domain: a JSON list of records, alone or under texts or papers.

    Args:
        name: What `evaluation.general_texts` says; None: there are none.

    Raises:
        UserError: The file is missing, not of either form, or holds no text.
    """
    from steps.papers.text import PaperText, Span

    if name is None:
        return []
    file = general_file(name)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"general texts {file.name}: not JSON ({error})") from None
    if not isinstance(content, dict):
        content = {"texts": content}
    records = content.get("texts") or content.get("papers") or []
    texts = []
    for number, record in enumerate(records):
        text = None
        if isinstance(record, dict):
            text = record.get("text") or record.get("abstract")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"general texts {file.name}, record {number}: no text or abstract")
        text_id = str(record.get("id") or record.get("pmid") or number)
        texts.append(PaperText(text_id, text.strip(), (Span(0, len(text.strip()), "abstract"),)))
    if not texts:
        raise UserError(f"general texts {file.name}: expected a list under texts or papers")
    return texts


def general_file(texts: str) -> Path:
    """The file that `evaluation.general_texts` names.

    Raises:
        UserError: There is no such file.
    """
    return find_file(texts, "evaluation.general_texts", "training.evaluation.general_texts")
