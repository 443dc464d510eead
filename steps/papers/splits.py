"""Split papers into train, validation and test, whole clusters at a time.

The split of a cluster follows from a salted hash of its name, so that it depends neither
on the order nor on the number of the other papers: a paper that is added later moves
nobody. With the manifest of an earlier dataset, its papers stay where they were.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from steps.config.paper_sections import Split
from steps.errors import UserError

SPLITS = ("train", "validation", "test")
# From this many papers on, chance is not allowed to leave a split empty.
MIN_PAPERS_TO_FILL = 10


@dataclass(frozen=True)
class SettledClusters:
    """Clusters once the papers of an earlier dataset have been taken into account.

    Attributes:
        names: Cluster of each paper: the smallest paper_id in it.
        fixed: Cluster name to the split in which an earlier dataset has it.
        bridging: Papers that are new and duplicate papers of two or more splits.
    """

    names: list[str]
    fixed: dict[str, str]
    bridging: list[int]


def settle_clusters(
    paper_ids: Sequence[str], labels: Sequence[int], previous: Mapping[str, str]
) -> SettledClusters:
    """Name the clusters, and take apart those that an earlier dataset has in two splits.

    Args:
        paper_ids: Identifier of each paper.
        labels: Cluster label of each paper, any integers.
        previous: Split of each paper of an earlier dataset, by paper_id.
    """
    members: defaultdict[int, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        members[int(label)].append(number)
    names = [""] * len(paper_ids)
    fixed: dict[str, str] = {}
    bridging: list[int] = []
    for cluster in members.values():
        old_splits = {previous[paper_ids[n]] for n in cluster if paper_ids[n] in previous}
        if len(old_splits) > 1:
            bridging.extend(n for n in cluster if paper_ids[n] not in previous)
        parts: defaultdict[str, list[int]] = defaultdict(list)
        for number in cluster:
            home = previous.get(paper_ids[number], "")
            parts[home if len(old_splits) > 1 else ""].append(number)
        for split, part in parts.items():
            name = min(paper_ids[n] for n in part)
            for number in part:
                names[number] = name
            if old_splits:
                fixed[name] = split or next(iter(old_splits))
    return SettledClusters(names, fixed, sorted(bridging))


class EmptySplit(UserError):
    """There are too few papers for a split that was asked for."""


def assign_splits(clusters: Sequence[str], fixed: Mapping[str, str], split: Split) -> list[str]:
    """Give each paper the split of its cluster.

    Args:
        clusters: Cluster name of each paper.
        fixed: Clusters whose split is settled already.
        split: Fractions and salt.

    Returns:
        The split of each paper.

    Raises:
        UserError: The fractions leave nothing for training.
        EmptySplit: A split stays empty.
    """
    if split.validation_fraction + split.test_fraction >= 1:
        raise UserError(
            f"scientific_data.split: validation_fraction {split.validation_fraction} and "
            f"test_fraction {split.test_fraction} leave nothing for training: "
            "their sum must be below 1"
        )
    place = {name: unit_hash(name, split.salt) for name in set(clusters)}
    chosen = {name: fixed.get(name) or _split_at(place[name], split) for name in place}
    if len(clusters) >= MIN_PAPERS_TO_FILL:
        _fill_empty_splits(chosen, place, fixed, split)
    for name in SPLITS:
        if fraction_of(name, split) > 0 and name not in chosen.values():
            raise EmptySplit(_empty_split(name, len(clusters), len(place), split))
    return [chosen[name] for name in clusters]


def unit_hash(name: str, salt: str) -> float:
    """A number in [0, 1) from SHA-256 of the salt and the name."""
    digest = hashlib.sha256(f"{salt}\0{name}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def fraction_of(name: str, split: Split) -> float:
    """The fraction of papers that a split is to receive."""
    if name == "train":
        return 1 - split.validation_fraction - split.test_fraction
    return split.validation_fraction if name == "validation" else split.test_fraction


def split_alone(name: str, split: Split) -> str:
    """The split of a paper or cluster by its name alone, whatever others there are."""
    return _split_at(unit_hash(name, split.salt), split)


def _split_at(place: float, split: Split) -> str:
    if place < split.test_fraction:
        return "test"
    if place < split.test_fraction + split.validation_fraction:
        return "validation"
    return "train"


def _fill_empty_splits(
    chosen: dict[str, str], place: Mapping[str, float], fixed: Mapping[str, str], split: Split
) -> None:
    """Move into each empty split the cluster whose hash lies nearest to its range."""
    ranges = {
        "test": (0.0, split.test_fraction),
        "validation": (split.test_fraction, split.test_fraction + split.validation_fraction),
        "train": (split.test_fraction + split.validation_fraction, 1.0),
    }
    for name, (low, high) in ranges.items():
        if high <= low or name in chosen.values():
            continue
        sizes = {s: sum(value == s for value in chosen.values()) for s in SPLITS}
        movable = [c for c in chosen if c not in fixed and sizes[chosen[c]] > 1]
        if movable:
            nearest = min(movable, key=lambda c: (max(low - place[c], place[c] - high), c))
            chosen[nearest] = name


def _empty_split(name: str, papers: int, clusters: int, split: Split) -> str:
    if name == "train":
        key, value = "test_fraction", split.test_fraction
        advice = "lower it"
    else:
        key, value = f"{name}_fraction", fraction_of(name, split)
        advice = "raise it"
    return (
        f"the {name} split is empty: there are {papers} papers in {clusters} near-duplicate "
        f"clusters; scientific_data.split.{key} is {value}: {advice}, or give at least "
        f"{MIN_PAPERS_TO_FILL} different papers"
    )


class _OldSplit(msgspec.Struct):
    paper_ids: list[str]


class _OldSplits(msgspec.Struct):
    train: _OldSplit
    validation: _OldSplit
    test: _OldSplit


class _Manifest(msgspec.Struct):
    splits: _OldSplits


def read_previous_splits(manifest: Path) -> dict[str, str]:
    """The split of each paper of an earlier dataset.

    Raises:
        UserError: The file is missing or is no manifest of a dataset.
    """
    try:
        content = msgspec.json.decode(manifest.read_bytes(), type=_Manifest)
    except OSError as error:
        raise UserError(
            f"scientific_data.split.previous_manifest {str(manifest)!r} cannot be read: "
            f"{error.strerror}: name the dataset/manifest.json of an earlier preprocess run"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"scientific_data.split.previous_manifest {manifest.name!r} is no dataset manifest: "
            "name the dataset/manifest.json of an earlier preprocess run"
        ) from error
    return {
        paper_id: name for name in SPLITS for paper_id in getattr(content.splits, name).paper_ids
    }
