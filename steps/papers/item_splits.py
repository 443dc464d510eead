"""The splits of instruction items, what is written of them, and how they are read again.

An item that names a paper stands in that paper's split, so that no question about a test paper
is trained on. The others are split by a salted hash, near-duplicates together; one that is a
near-duplicate of an item of a held-out paper is held out with it.
"""

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np
import numpy.typing as npt

from steps.config.paper_sections import ScientificData
from steps.errors import UserError
from steps.messages import Message
from steps.papers import leakage
from steps.papers.deduplication import Words, hash_words, text_clusters
from steps.papers.instructions import InstructionItem
from steps.papers.splits import SPLITS, split_alone

FOLDER = "instructions"
# Where a cluster has papers of several splits: an item that is like a test item is no training.
_MOST_HELD_OUT = ("test", "validation", "train")


@dataclass(frozen=True)
class SplitItems:
    """Items with their splits.

    Attributes:
        items: In the order read.
        splits: Of each.
        duplicates: Items that were said before, which are left out: what was said, and how often.
    """

    items: list[InstructionItem]
    splits: list[str]
    duplicates: list[InstructionItem]


def split_items(
    items: Iterable[InstructionItem], split_of_paper: Mapping[str, str], settings: ScientificData
) -> SplitItems:
    """Give each item the split of its paper, or one by its own words.

    Args:
        items: From `read_items`.
        split_of_paper: The split of each paper of the dataset.
        settings: Salt and fractions, and how near-duplicates are found.
    """
    different: dict[str, InstructionItem] = {}
    duplicates = []
    for item in items:
        if item.item_id in different:
            duplicates.append(item)
        else:
            different[item.item_id] = item
    kept = list(different.values())
    if not kept:
        return SplitItems([], [], duplicates)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for number, label in enumerate(
        text_clusters(hash_words([item.text for item in kept]), settings.deduplication)
    ):
        members[label].append(number)
    splits = [""] * len(kept)
    for cluster in members.values():
        of_papers = {}
        for number in cluster:
            paper = kept[number].paper_id
            if paper:
                known = split_of_paper.get(paper)
                of_papers[number] = known or split_alone(paper, settings.split)
        bound = set(of_papers.values())
        name = min(kept[number].item_id for number in cluster)
        own = next((s for s in _MOST_HELD_OUT if s in bound), split_alone(name, settings.split))
        for number in cluster:
            splits[number] = of_papers.get(number, own)
    return SplitItems(kept, splits, duplicates)


def overlap_with_test_papers(made: SplitItems, test_papers: Callable[[], Iterable[Words]]) -> int:
    """How many training items share many word 13-grams with test papers.

    Args:
        made: The items.
        test_papers: Gives the word hashes of the test papers.
    """
    texts = [i.text for i, s in zip(made.items, made.splits, strict=True) if s == "train"]
    if not texts:
        return 0
    ngrams = leakage.benchmark_ngrams(test_papers())
    return sum(leakage.contaminated(words, ngrams) is not None for words in hash_words(texts))


def write_items(folder: Path, made: SplitItems) -> dict[str, Any]:
    """Write `instructions/SPLIT.jsonl` into a dataset.

    Args:
        folder: The `dataset/` folder.
        made: The items.

    Returns:
        What the manifest states: the digest, and for each split its items and their papers.
    """
    target = folder / FOLDER
    target.mkdir()
    counts = {}
    for split in SPLITS:
        chosen = [i for i, s in zip(made.items, made.splits, strict=True) if s == split]
        lines = b"".join(msgspec.json.encode(_as_record(item)) + b"\n" for item in chosen)
        (target / f"{split}.jsonl").write_bytes(lines)
        papers = Counter(item.paper_id for item in chosen if item.paper_id)
        counts[split] = {
            "items": len(chosen),
            "papers": len(papers),
            "without_paper": sum(not item.paper_id for item in chosen),
        }
    return {"digest": digest_of_items(folder), "splits": counts}


def _as_record(item: InstructionItem) -> dict[str, Any]:
    return {"item_id": item.item_id, "paper_id": item.paper_id, "messages": item.messages}


def digest_of_items(folder: Path) -> str:
    """The digest of the items of a dataset on disk, "sha256:…"; "" for one without items."""
    if not (folder / FOLDER).is_dir():
        return ""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update((folder / FOLDER / f"{split}.jsonl").read_bytes() + b"\n")
    return f"sha256:{digest.hexdigest()}"


class _Record(msgspec.Struct):
    item_id: str
    paper_id: str
    messages: tuple[Message, ...]


class StoredItems(Sequence[InstructionItem]):
    """The items of a split, which stay on the disk: 8 bytes are held of each.

    Attributes:
        file: Where they lie.
        digest: Of the dataset, found to be that of its content; "" where nobody has looked.
    """

    def __init__(self, file: Path, digest: str = "", lines: range | None = None) -> None:
        """Name the items.

        Args:
            file: As `write_items` writes it.
            digest: Of the dataset, where it is known to be that of its content.
            lines: Those of these lines; None: all.
        """
        self.file, self.digest, self._lines = file, digest, lines

    @property
    def identity(self) -> list[Any]:
        """What these items are, wherever they lie, as JSON values."""
        lines = self._lines
        which = None if lines is None else [lines.start, lines.stop, lines.step]
        return [self.digest, FOLDER, self.file.name, which]

    @cached_property
    def _offsets(self) -> npt.NDArray[np.int64]:
        """Where each line begins in the file, and where the last ends."""
        offsets = array("q", [0])
        with self.file.open("rb") as lines:
            for line in lines:
                offsets.append(offsets[-1] + len(line))
        return np.frombuffer(offsets, dtype=np.int64)

    @property
    def _places(self) -> range:
        return range(len(self._offsets) - 1) if self._lines is None else self._lines

    def __len__(self) -> int:
        """Number of items."""
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> InstructionItem: ...

    @overload
    def __getitem__(self, place: slice) -> "StoredItems": ...

    def __getitem__(self, place: int | slice) -> "InstructionItem | StoredItems":
        """One item, read now; or some of them, which are not read yet."""
        if isinstance(place, slice):
            some = StoredItems(self.file, self.digest, self._places[place])
            some.__dict__["_offsets"] = self._offsets
            return some
        return next(self._read([self._places[place]]))

    def __iter__(self) -> Iterator[InstructionItem]:
        """The items in order, one read at a time."""
        return self._read(self._places)

    def _read(self, places: Iterable[int]) -> Iterator[InstructionItem]:
        with self.file.open("rb") as lines:
            for place in places:
                start, end = self._offsets[place : place + 2].tolist()
                if lines.tell() != start:
                    lines.seek(start)
                one = msgspec.json.decode(lines.read(end - start), type=_Record)
                yield InstructionItem(one.item_id, one.paper_id, one.messages)


def open_split(dataset: Path, split: str, digest: str = "") -> StoredItems:
    """The items of a split, which stay on the disk.

    Args:
        dataset: A folder written by `steps.papers.pipeline.prepare_dataset`.
        split: "train", "validation" or "test".
        digest: Of the dataset, where it is known to be that of its content.

    Raises:
        UserError: The dataset holds no items at all.
    """
    file = dataset / FOLDER / f"{split}.jsonl"
    if not file.is_file():
        raise UserError(
            "training.model.objective is instruction, but the dataset holds no instruction items: "
            "name a file of them as training.instructions.data_file, and run preprocess again"
        )
    return StoredItems(file, digest)


def read_split(dataset: Path, split: str) -> list[InstructionItem]:
    """The items of a split, all of them in memory; see `open_split`.

    Raises:
        UserError: The dataset holds no items at all.
    """
    return list(open_split(dataset, split))
