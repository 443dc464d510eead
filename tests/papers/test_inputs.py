"""What a name, a folder or a pattern means, and what is said where it means nothing."""

from pathlib import Path

import pytest

from steps.errors import UserError
from steps.papers.inputs import resolve_inputs


def test_a_folder_gives_its_paper_files_in_order(tmp_path: Path) -> None:
    for name in ("b.json", "a.jsonl.zst", "c.ndjson.gz", "notes.txt"):
        (tmp_path / name).write_text("[]")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.json").write_text("[]")
    assert [p.name for p in resolve_inputs(str(tmp_path))] == [
        "a.jsonl.zst",
        "b.json",
        "c.ndjson.gz",
    ]
    assert [p.name for p in resolve_inputs(f"{tmp_path}/**/*.json")] == ["b.json", "d.json"]
    assert resolve_inputs(str(tmp_path / "b.json")) == [tmp_path / "b.json"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "papers[1].json"
    path.write_text("[]")
    assert resolve_inputs(str(path)) == [path]


def test_a_missing_file_is_answered_with_near_names(tmp_path: Path) -> None:
    (tmp_path / "high_quality_papers.json").write_text("[]")
    with pytest.raises(UserError, match=r"did you mean '.*high_quality_papers\.json'"):
        resolve_inputs(str(tmp_path / "high_qualty_papers.json"))
    with pytest.raises(UserError, match="does not exist"):
        resolve_inputs(str(tmp_path / "no" / "such" / "folder" / "x.json"))


def test_a_folder_without_papers_says_what_it_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"holds no papers: expected files of JSON"):
        resolve_inputs(str(tmp_path))


def test_a_broken_link_is_called_one(tmp_path: Path) -> None:
    link = tmp_path / "papers.json"
    link.symlink_to(tmp_path / "gone.json")
    for location in (link, tmp_path):
        with pytest.raises(UserError, match=r"broken link to '.*gone\.json'"):
            resolve_inputs(str(location))


def test_a_pattern_that_matches_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="matches no file"):
        resolve_inputs(f"{tmp_path}/*.json")
