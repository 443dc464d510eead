"""Rows of other texts mixed into those of the papers: replay, and study texts.

    rows = MixedRows(paper_rows, {REPLAY: replay_rows}, {REPLAY: 0.2}, seed)
    rows.order(0)                             # row numbers of the first epoch
    batch = collate_mixed([rows[0], rows[1]], layout, pad_id)

A row holds texts of one source alone. An epoch reads each row of the papers once, in the order that
it would have without the others, and so many rows of the others, spread evenly between, as make
up their share of the tokens; the next epoch goes on with other rows of theirs. All follows from
the seed and the number of the epoch, so that it is the same on every rank and after a resume.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from steps.distributed.collectives import all_gather, all_reduce_sum
from steps.distributed.sampler import filled_up_to, numbers_of, shuffled
from steps.errors import UserError
from steps.models.layout import RowLayout, end_to_end, filled_up
from steps.models.losses import IGNORED, SOURCES
from steps.papers.text import PaperText
from steps.training.packing import HasLabels, collate

# Where a row comes from, and what Trainer calls its loss.
PAPERS, REPLAY, STUDY = range(SOURCES)
LOSS_NAMES = ("loss", "replay_loss", "study_loss")
SECTIONS = {REPLAY: "replay", STUDY: "study_texts"}
# Texts read up to four times teach almost as much as new ones (Muennighoff et al. 2023,
# arXiv:2305.16264); what more epochs add is for whoever sets them.
MOST_READS_A_PASS = 4

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mixture:
    """What can be given a share of the tokens.

    Attributes:
        replay: From `steps.papers.replay.read_replay`.
        studied: Papers that study texts are made of, where items are learned from; else they are
            made of the training papers.
    """

    replay: Sequence[PaperText] = ()
    studied: Sequence[PaperText] = ()


class Rows(Protocol):
    """Rows of one source: `PaperRows` or `MaskedPapers`."""

    def __len__(self) -> int:
        """Number of rows."""

    def __getitem__(self, index: int) -> Any:
        """The windows of one row."""

    def begin_epoch(self, epoch: int) -> None:
        """Hide the words of this epoch, where the model is a masked one."""

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""

    @property
    def row_tokens(self) -> Indices:
        """Tokens that each row counts for, int64 `[rows]`."""


@dataclass(frozen=True)
class MixedRow:
    """The windows of one row.

    Attributes:
        windows: What a row of a single source is.
        source: `PAPERS`, `REPLAY` or `STUDY`.
    """

    windows: Sequence[HasLabels]
    source: int


@dataclass(frozen=True)
class MixedSource:
    """What of a source is mixed into each epoch.

    Attributes:
        section: Its section of the configuration.
        rows: Rows that there are.
        tokens: Tokens of them.
        rows_an_epoch: Rows that an epoch reads.
        tokens_an_epoch: Tokens of those; where rows differ in length, on average.
        share: Share of the tokens of an epoch.
    """

    section: str
    rows: int
    tokens: int
    rows_an_epoch: int
    tokens_an_epoch: int
    share: float

    def __str__(self) -> str:
        """One line for the reader of a run."""
        reads = self.rows_an_epoch / self.rows
        often = f", each read {reads:.1f} times" if reads > 1 else ""
        return (
            f"{self.section}: {self.share:.1%} of the tokens, {self.rows_an_epoch:,} of "
            f"{self.rows:,} rows in each epoch{often}"
        )


class MixedRows(Dataset[MixedRow]):
    """Rows of papers, and of what is mixed in, numbered one source behind the other.

    Attributes:
        papers: The rows of the papers, which stand first.
        others: The rows of the other sources.
        rows_an_epoch: Rows that an epoch reads; the length is that of all there are.
        tokens: Tokens of the rows of an epoch; where rows differ in length, on average.
        sources: What is mixed in.
    """

    def __init__(
        self, papers: Rows, others: Mapping[int, Rows], shares: Mapping[int, float], seed: int
    ) -> None:
        """Mix rows.

        Args:
            papers: Rows of the papers.
            others: Rows by source, none of them empty.
            shares: Share of the tokens of an epoch, by source; together below 1.
            seed: Of the orders.

        Raises:
            UserError: A source holds too few tokens for its share.
        """
        self.papers = papers
        self.others = dict(others)
        self._seed = seed
        self._tokens = {PAPERS: papers.row_tokens} | {s: r.row_tokens for s, r in others.items()}
        self._firsts = {PAPERS: 0}
        place = len(papers)
        for source, rows in self.others.items():
            self._firsts[source] = place
            place += len(rows)
        self._length = place
        own = int(self._tokens[PAPERS].sum())
        self._picked = {
            source: self._rows_of_share(source, own * share / (1 - sum(shares.values())))
            for source, share in shares.items()
        }
        self.rows_an_epoch = len(papers) + sum(self._picked.values())
        read = {s: round(self._tokens[s].mean() * count) for s, count in self._picked.items()}
        self.tokens = own + sum(read.values())
        self.sources = tuple(
            MixedSource(
                SECTIONS[source],
                len(others[source]),
                int(self._tokens[source].sum()),
                count,
                read[source],
                read[source] / self.tokens,
            )
            for source, count in self._picked.items()
        )

    def _rows_of_share(self, source: int, wanted: float) -> int:
        held = int(self._tokens[source].sum())
        if wanted > MOST_READS_A_PASS * held:
            section = SECTIONS[source]
            raise UserError(
                f"{section}.share needs {wanted:,.0f} tokens in each pass over the papers, and the "
                f"texts of {section} hold {held:,}: they would be read {wanted / held:.1f} times, "
                f"at most {MOST_READS_A_PASS} are of use: lower the share or give more texts"
            )
        return max(1, round(wanted / float(self._tokens[source].mean())))

    def __len__(self) -> int:
        """Number of all rows, whether an epoch reads them or not."""
        return self._length

    def __getitem__(self, index: int) -> MixedRow:
        """One row, with its source."""
        source = max(s for s, first in self._firsts.items() if first <= index)
        return MixedRow(self._rows(source)[index - self._firsts[source]], source)

    def _rows(self, source: int) -> Rows:
        return self.papers if source == PAPERS else self.others[source]

    def begin_epoch(self, epoch: int) -> None:
        """Hide the words of this epoch (counted from 0), where the model is a masked one."""
        for rows in (self.papers, *self.others.values()):
            rows.begin_epoch(epoch)

    def order(self, epoch: int) -> Indices:
        """The numbers of the rows that an epoch (counted from 0) reads, in their order."""
        read = {PAPERS: shuffled(len(self.papers), self._seed, epoch)}
        for source, count in self._picked.items():
            read[source] = self._pick(source, count, epoch)
        places = np.concatenate([_middles(self._tokens[s][rows]) for s, rows in read.items()])
        numbers = np.concatenate([self._firsts[s] + rows for s, rows in read.items()])
        return numbers[np.argsort(places, kind="stable")]

    def _pick(self, source: int, count: int, epoch: int) -> Indices:
        """The rows of another source that an epoch reads, in a random order.

        One row out of each of `count` groups of rows of about one length, the next one of the
        group in each epoch: so any epoch's rows hold about the same number of tokens, and all rows
        have their turn.
        """
        tokens = self._tokens[source]
        passes, rest = divmod(count, len(tokens))
        picked = [*range(len(tokens))] * passes
        if rest:
            turns = np.random.default_rng([self._seed, source]).permutation(len(tokens))
            by_length = np.argsort(tokens, kind="stable")
            borders = np.arange(rest + 1) * len(tokens) // rest
            for group in np.split(by_length, borders[1:-1]):
                in_turn = group[np.argsort(turns[group])]
                picked.append(int(in_turn[epoch % len(group)]))
        return np.random.default_rng([self._seed, source, epoch]).permutation(
            np.array(picked, dtype=np.int64)
        )


def _middles(tokens: Indices) -> npt.NDArray[np.float64]:
    """Where the middle of each row stands in its source, from 0 to 1."""
    ends = np.cumsum(tokens)
    middles: npt.NDArray[np.float64] = (ends - tokens / 2) / ends[-1]
    return middles


class MixedOrder(Sampler[int]):
    """The order of mixed rows, filled up with blank ones for a number of ranks."""

    def __init__(self, rows: MixedRows, multiple: int) -> None:
        """Order rows; the filled-up number of those of an epoch is divisible by `multiple`."""
        self.rows = rows
        self.filled = filled_up_to(rows.rows_an_epoch, multiple)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch (counted from 0) from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Rows of an epoch, the blank ones included."""
        return self.filled

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of the epoch, then the blank ones."""
        yield from numbers_of(self.rows.order(self.epoch))
        blank = len(self.rows)
        yield from range(blank, blank + self.filled - self.rows.rows_an_epoch)


def collate_mixed(batch: Sequence[MixedRow], layout: RowLayout, pad_id: int) -> dict[str, Tensor]:
    """Lay mixed rows out for the model.

    Returns:
        As `collate`, and `sources`: of each token the source of its row, int64, laid out as
        `labels`.
    """
    made = collate([row.windows for row in batch], layout, pad_id)
    sources = [np.full_like(window.tokens, row.source) for row in batch for window in row.windows]
    of_tokens = end_to_end(sources) if layout.kind == "packed" else filled_up(sources, PAPERS)
    return {**made, "sources": of_tokens}


class SourceLosses:
    """The losses of mixed rows by their source, from one report to the next.

    What is added up stays on the device, so that no step waits for it.
    """

    def __init__(self, *, mixed: bool) -> None:
        """Begin at nothing; where rows are not mixed, nothing is ever added up."""
        self._mixed = mixed
        # Nats and targets of each source, float64 [2, sources].
        self._sums = torch.zeros(2, SOURCES, dtype=torch.float64)

    def add(self, outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> None:
        """Take in a forward pass.

        Args:
            outputs: Its `nats`, summed losses by source, float32 `[SOURCES]`.
            inputs: Its `labels`, and the `sources` that `collate_mixed` gives.
        """
        if not self._mixed:
            return
        predicted, sources = inputs["labels"] != IGNORED, inputs["sources"]
        targets = [(predicted & (sources == source)).sum() for source in range(SOURCES)]
        added = torch.stack([outputs["nats"].double(), torch.stack(targets).double()])
        self._sums = self._sums.to(added.device) + added

    def tell_apart(self, logs: Mapping[str, float]) -> dict[str, float]:
        """What Trainer reports, with losses in nats a target by source since the last call.

        `loss` is that of the papers, so that it compares with that of a run without others. A
        source that no row came from has none. Sums go over all ranks; all of them call it.
        """
        if not self._mixed:
            return dict(logs)
        sums = all_reduce_sum(self._sums.flatten().tolist())
        self._sums = torch.zeros_like(self._sums)
        losses = {
            name: sums[source] / sums[SOURCES + source]
            for source, name in enumerate(LOSS_NAMES)
            if sums[SOURCES + source]
        }
        return {name: value for name, value in logs.items() if name not in LOSS_NAMES} | losses

    def state(self) -> list[list[float]]:
        """What has been added up since the last report, of each rank; all of them call it."""
        return all_gather(self._sums.flatten().tolist()) if self._mixed else []

    def restore(self, state: Sequence[Sequence[float]], rank: int) -> None:
        """Take up what `state` gave for this rank."""
        if self._mixed:
            self._sums = torch.tensor(state[rank], dtype=torch.float64).reshape(2, SOURCES)
