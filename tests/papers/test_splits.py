"""Papers go whole into one split, near-duplicates together, and nobody moves later."""

import json
from collections import Counter
from pathlib import Path

import pytest

from steps.config.paper_sections import Split
from steps.errors import UserError
from steps.papers.splits import (
    SPLITS,
    assign_splits,
    read_previous_splits,
    settle_clusters,
    unit_hash,
)


def ids(count: int) -> list[str]:
    return [str(10_000 + n) for n in range(count)]


def test_fractions_are_met_by_many_papers() -> None:
    counts = Counter(
        assign_splits(ids(20_000), {}, Split(validation_fraction=0.1, test_fraction=0.2))
    )
    assert counts["test"] == pytest.approx(4000, abs=250)
    assert counts["validation"] == pytest.approx(2000, abs=200)


def test_a_paper_keeps_its_split_when_others_are_added() -> None:
    few = dict(zip(ids(300), assign_splits(ids(300), {}, Split()), strict=True))
    many = dict(zip(ids(900), assign_splits(ids(900), {}, Split()), strict=True))
    assert few == {name: many[name] for name in few}


def test_another_salt_gives_another_split() -> None:
    assert assign_splits(ids(200), {}, Split(salt="a")) != assign_splits(
        ids(200), {}, Split(salt="b")
    )


def test_the_hash_lies_in_the_unit_interval_and_is_fixed() -> None:
    values = [unit_hash(name, "salt") for name in ids(1000)]
    assert 0 <= min(values) < 0.01
    assert 0.99 < max(values) < 1
    # SHA-256 of "salt\0" + "10000", first 53 bits: datasets made years apart must agree.
    assert unit_hash("10000", "salt") == 0.43711175407639313


def test_papers_of_one_cluster_share_a_split() -> None:
    clusters = [name for name in ids(300) for _ in range(3)]
    splits = assign_splits(clusters, {}, Split())
    for start in range(0, 900, 3):
        assert len(set(splits[start : start + 3])) == 1


@pytest.mark.parametrize("count", range(10, 40))
def test_ten_papers_are_enough_for_three_splits(count: int) -> None:
    assert set(assign_splits(ids(count), {}, Split())) == set(SPLITS)


def test_too_few_papers_say_how_many_and_which_fraction() -> None:
    with pytest.raises(UserError, match=r"there are 2 papers .*_fraction is 0\.\d+: raise it"):
        assign_splits(ids(2), {}, Split())


def test_a_fraction_that_leaves_no_training_paper_is_named() -> None:
    with pytest.raises(UserError, match=r"train split is empty.*test_fraction is 0\.89: lower it"):
        assign_splits(ids(3), {}, Split(test_fraction=0.89, validation_fraction=0.1))


def test_fractions_must_leave_something_for_training() -> None:
    with pytest.raises(UserError, match="their sum must be below 1"):
        assign_splits(ids(50), {}, Split(validation_fraction=0.5, test_fraction=0.5))


def test_many_papers_in_one_cluster_cannot_fill_three_splits() -> None:
    with pytest.raises(UserError, match="50 papers in 1 near-duplicate clusters"):
        assign_splits(["1"] * 50, {}, Split())


def test_a_fraction_of_zero_leaves_the_split_empty() -> None:
    splits = assign_splits(ids(50), {}, Split(validation_fraction=0))
    assert set(splits) == {"train", "test"}


# --- with an earlier dataset ---------------------------------------------------------------


def test_a_cluster_is_named_by_its_smallest_member() -> None:
    settled = settle_clusters(["30", "10", "20", "5"], [0, 0, 2, 0], {})
    assert settled.names == ["10", "10", "20", "10"]
    assert settled.fixed == {}
    assert settled.bridging == []


def test_papers_of_an_earlier_dataset_keep_their_split() -> None:
    previous = dict.fromkeys(ids(60), "test")
    settled = settle_clusters(ids(100), list(range(100)), previous)
    splits = assign_splits(settled.names, settled.fixed, Split())
    assert set(splits[:60]) == {"test"}
    assert splits[60:] == assign_splits(ids(100), {}, Split())[60:]


def test_a_newcomer_joins_the_split_of_its_near_duplicate() -> None:
    settled = settle_clusters(["new", "old"], [0, 0], {"old": "validation"})
    assert settled.names == ["new", "new"]
    assert settled.fixed == {"new": "validation"}
    assert settled.bridging == []


def test_a_newcomer_that_duplicates_across_splits_is_listed() -> None:
    previous = {"a": "train", "b": "test", "c": "test"}
    settled = settle_clusters(["b", "new", "a", "c", "else"], [0, 0, 0, 0, 4], previous)
    assert settled.bridging == [1]
    names = dict(zip(["b", "new", "a", "c", "else"], settled.names, strict=True))
    assert (names["a"], names["b"], names["c"], names["else"]) == ("a", "b", "b", "else")
    assert settled.fixed["a"] == "train"
    assert settled.fixed["b"] == "test"


def test_an_earlier_manifest_gives_each_papers_split(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    splits = {name: {"paper_ids": [f"{name}-1", f"{name}-2"]} for name in SPLITS}
    manifest.write_text(json.dumps({"splits": splits}))
    assert read_previous_splits(manifest)["test-2"] == "test"
    assert len(read_previous_splits(manifest)) == 6


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"splits": {"train": {}}}', "\xff", '{"splits": 4}']
)
def test_what_is_no_manifest_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(content.encode("latin-1"))
    with pytest.raises(
        UserError, match=r"previous_manifest 'manifest\.json' is no dataset manifest"
    ):
        read_previous_splits(manifest)
    with pytest.raises(UserError, match="cannot be read"):
        read_previous_splits(tmp_path / "gone.json")
