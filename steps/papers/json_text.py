"""The JSON text of one record, read as people write it."""

import json
import math
from typing import Any

import msgspec

from steps.papers.records import RecordProblem


def decode_json(data: bytes) -> Any:
    """Decode the JSON text of a record.

    Lone surrogates become U+FFFD. NaN and Infinity, which Python writes for missing numbers,
    stay the floats that they are: whoever reads a field takes them for missing.

    Raises:
        RecordProblem: With reason malformed_json or invalid_utf8.
    """
    try:
        text = data.decode()
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            # msgspec is strict; json also reads NaN and lone surrogates, which other writers emit.
            return _without_surrogates(json.loads(text))
    except UnicodeDecodeError as error:
        raise RecordProblem("invalid_utf8", _encoding_of(data, error)) from error
    except RecursionError as error:
        raise RecordProblem("malformed_json", "nested too deeply") from error
    except ValueError as error:  # of json, which names line, column and byte
        raise RecordProblem("malformed_json", str(error)) from error


def is_missing(value: Any) -> bool:
    """Whether a value says that there is none: null, NaN and Infinity."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _encoding_of(data: bytes, error: UnicodeDecodeError) -> str:
    """What is wrong with the bytes; those of Windows are named, for they are the usual case."""
    place = f"byte {error.start}: {error.reason}"
    try:
        around = data[max(0, error.start - 20) : error.start + 20].decode("cp1252")
    except UnicodeDecodeError:
        return place
    return (
        f"{place}; read as Windows-1252 (cp1252) it says {around!r}: "
        "convert the file with iconv -f CP1252 -t UTF-8"
    )


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value
