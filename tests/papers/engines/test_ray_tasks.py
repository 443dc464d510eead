"""Shuffled by hash, the same papers meet as in one process's memory; chunks keep their records."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from steps.config.paper_sections import ScientificData
from steps.errors import UserError
from steps.papers.chunks import chunks_of
from steps.papers.deduplication import bands_of, hash_rows, neighbours, rows_per_band
from steps.papers.engines import ray_tasks
from steps.papers.versions import library_versions
from tests.support.made_up_papers import made_up_papers

PAPERS = 700


def shuffled(papers: pa.Table, rows: int, parts: int, blocks: int) -> pa.Table:
    """What Ray does with the keys of some blocks, in an order that it may bring them in."""
    edges = np.linspace(0, len(papers), blocks + 1).astype(int)
    keys = [
        ray_tasks.keys_of(papers.slice(start, end - start), rows, parts)
        for start, end in pairwise(edges)
    ]
    whole = pa.concat_tables(reversed(keys))
    part_of = whole["part"].to_numpy()
    return pa.concat_tables(
        [ray_tasks.pairs_of(whole.filter(pa.array(part_of == part))) for part in range(parts)]
    )


@pytest.mark.parametrize(("parts", "blocks"), [(1, 1), (2, 3), (7, 5)])
def test_the_shuffle_finds_the_pairs_that_one_process_finds(parts: int, blocks: int) -> None:
    rng = np.random.default_rng(0)
    # Few values, so that buckets of all sizes are there, and 0, which means something to some.
    signatures = rng.integers(0, 3, (PAPERS, 16), dtype=np.uint32)
    keys = {kind: rng.integers(0, 200, PAPERS).astype(np.uint64) for kind in range(5)}
    numbers = np.sort(rng.choice(10 * PAPERS, PAPERS, replace=False))
    rows = rows_per_band(0.7, 16)
    papers = pa.table(
        {"paper": numbers}
        | {str(kind): values for kind, values in keys.items()}
        | {"signature": pa.array([row.tobytes() for row in signatures], pa.binary(64))}
    )
    expected = {
        kind: neighbours(values, None if kind == ray_tasks.SAME_WORDS else 0)
        for kind, values in keys.items()
    }
    bands = bands_of(signatures, rows)
    expected |= {n: neighbours(hash_rows(band)) for n, band in enumerate(bands, 5)}
    assert len(expected) > 6

    found = shuffled(papers, rows, parts, blocks)
    kinds = found["kind"].to_numpy()
    pairs = np.stack([found["first"].to_numpy(), found["second"].to_numpy()], axis=1)
    assert set(kinds.tolist()) == expected.keys()
    for kind, wanted in expected.items():
        assert sorted(pairs[kinds == kind].tolist()) == sorted(numbers[wanted].tolist())


def test_parts_without_a_key_have_no_pairs() -> None:
    empty = pa.table({"paper": pa.array([], pa.int64()), "0": pa.array([], pa.uint64())})
    assert ray_tasks.pairs_of(ray_tasks.keys_of(empty, 1, 2)).num_rows == 0


def test_files_read_in_groups_are_the_records_read_in_one_go(tmp_path: Path) -> None:
    files = []
    for number in range(4):
        files.append(tmp_path / f"{number}.json")
        text = json.dumps(made_up_papers(300, number))
        files[-1].write_text(text[:-9] if number == 2 else text)
    settings = ScientificData()
    rows = [
        row
        for first, group in ((0, files[:1]), (1, files[1:3]), (3, files[3:]))
        for row in ray_tasks.read_files(group, first, settings, alone=False)
    ]
    prepared = [
        part
        for row in rows
        for part in ray_tasks.unpack(ray_tasks.prepare_rows(row, settings, library_versions()))
    ]
    expected = [pair for chunk in chunks_of(files, settings, print) for pair in chunk]
    assert [pair for read, _ in prepared for pair in read.chunk] == expected
    assert any(record.problem for _, record in expected), "the third file breaks off"


def test_a_worker_with_another_library_is_refused() -> None:
    row = pa.table({"read": pa.array([], pa.large_binary())})
    other = library_versions() | {"ftfy": "5.0"}
    with pytest.raises(UserError, match=r"has ftfy \d.*and this machine 5\.0: install the same"):
        ray_tasks.prepare_rows(row, ScientificData(), other)
