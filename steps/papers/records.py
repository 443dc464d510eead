"""What a reader of papers yields: the bytes of a record, or why one cannot be used."""

from typing import NamedTuple


class RecordProblem(Exception):
    """One record cannot be used; it is rejected and the run goes on.

    Attributes:
        reason: Short code, such as no_text, by which the report counts rejections.
        detail: One readable line.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason and the detail."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RawRecord(NamedTuple):
    """The bytes of one record and where they stood.

    Attributes:
        number: Number of the record in its file, counted from 0.
        offset: First byte of the record in the decompressed file.
        data: The record's JSON text, not yet checked.
    """

    number: int
    offset: int
    data: bytes
