"""Filling a store: batches as large as memory allows, a shard at a time, the same batches when resumed."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from gradsift.collector import Clock, GradientCollector, PendingSketches, available_bytes, is_out_of_memory
from gradsift.data import EncodedSample, EncodedSet, batches_by_length, collate
from gradsift.datastore.claims import Claim
from gradsift.errors import CollectError
from gradsift.pipeline.models import device
from gradsift.pipeline.progress import Advance, Reporter
from gradsift.pipeline.rundir import read_json, write_json
from gradsift.pipeline.sharing import claimed_units
from gradsift.sketches import Sketches

MaxTokens = int | Literal["auto"]
# Beyond these a batch gains nothing: a CPU's cores are busy with far fewer, and what it computes leaves the caches.
MOST_TOKENS = {"cpu": 1024, "cuda": 32768}
_SHARE_OF_FREE = 0.5


class BatchSizer:
    """How many tokens a batch may hold, estimated from one collected sample, the longest there is.

    Parameters
    ----------
    limit_bytes : int, optional
        What a batch may take beyond the model; half of the free memory if not given.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self._longest = self._bytes = 0

    def tokens(self, collector: GradientCollector, encoded: EncodedSet, layout: str, pad_id: int) -> tuple[int, str]:
        """(tokens a batch, the reckoning in words)."""
        lengths = encoded.lengths
        longest = int(np.argmax(lengths))
        if int(lengths[longest]) > self._longest:
            batch = collate([encoded[longest]], pad_id=pad_id, layout=layout)
            if not encoded[longest].label_tokens:  # cut off before its answer; in a batch it costs as others do
                batch["labels"][..., -1] = batch["input_ids"][..., -1]
            try:
                self._bytes = collector.bytes_per_token(batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise _too_large(encoded[longest], str(error)) from error
            self._longest = int(lengths[longest])
        limit = int(available_bytes(device()) * _SHARE_OF_FREE) if self.limit_bytes is None else self.limit_bytes
        fits = limit // self._bytes
        tokens = max(1, min(fits, MOST_TOKENS[device().type]))
        text = f"{tokens} tokens a batch ({self._bytes / 2**20:.2f} MiB a token, {limit / 2**30:.1f} GiB to use)"
        if fits < self._longest:
            text += f"; the longest sample has {self._longest} and is tried alone"
        return tokens, text


@dataclass
class BatchPlan:
    """Tokens a batch holds from a row on, kept beside the store: a resumed run makes the batches of the first.

    `asked` is ``max_tokens``, with the limit of memory where one is set. `steps` is [[first row, tokens a batch], …],
    rising; the last at or before a shard's first row holds for the shard.
    """

    path: Path
    asked: int | str
    layout: str
    steps: list[list[int]]

    @classmethod
    def read(cls, path: Path) -> BatchPlan | None:
        if not path.is_file():
            return None
        record = read_json(path)
        return cls(path, record["asked"], record["layout"], record["steps"])

    def write(self) -> None:
        self._write_to(self.path)

    def publish(self) -> BatchPlan:
        """This plan, or the one that another process has written meanwhile."""
        own = self.path.with_name(f".tmp-{uuid.uuid4().hex}")  # removed by the next run if this process is killed
        self._write_to(own)
        try:
            os.link(own, self.path)
        except FileExistsError:
            return self.read(self.path) or self
        finally:
            own.unlink()
        return self

    def _write_to(self, path: Path) -> None:
        write_json(path, {"asked": self.asked, "layout": self.layout, "steps": self.steps})

    def tokens_at(self, row: int) -> int:
        return [tokens for first, tokens in self.steps if first <= row][-1]

    def lower(self, row: int, tokens: int) -> None:
        """From `row` on, only so many."""
        written = self.read(self.path)
        others = [] if written is None else written.steps
        self.steps = sorted({step[0]: step for step in [*self.steps, *others, [row, tokens]]}.values())
        self.write()


class _BatchTooLargeError(Exception):
    """Memory did not suffice for the samples at `rows`, `tokens` in all."""

    def __init__(self, rows: Sequence[int], tokens: int, reason: str) -> None:
        super().__init__(reason)
        self.rows, self.tokens = rows, tokens


def plan_batches(
    path: Path,
    collector: GradientCollector,
    encoded: EncodedSet,
    asked: MaxTokens,
    sizer: BatchSizer,
    *,
    pad_id: int,
    title: str,
    reporter: Reporter,
) -> BatchPlan:
    """The plan at `path` if it was made for what is `asked`, else a new one, written there."""
    limit = sizer.limit_bytes
    wish = asked if asked != "auto" or limit is None else f"auto, {limit} bytes"
    plan = BatchPlan.read(path)
    if plan is not None and plan.asked == wish:
        return plan
    layout = _layout(collector, encoded, pad_id, title, reporter)
    if asked == "auto":
        tokens, text = sizer.tokens(collector, encoded, layout, pad_id)
        reporter.say(f"{title}: {text}, {layout}")
    else:
        tokens = asked
    if plan is not None:
        path.unlink(missing_ok=True)
    return BatchPlan(path, wish, layout, [[0, tokens]]).publish()


def _layout(collector: GradientCollector, encoded: EncodedSet, pad_id: int, title: str, reporter: Reporter) -> str:
    """Packed, where the model prefers that and two short samples show that it can."""
    if not collector.prefers_packed:
        return "padded"
    order = np.argsort(encoded.lengths, kind="stable").tolist()
    short = [encoded[i] for i in order if encoded[i].label_tokens][:2]
    if len(short) < 2:
        return "packed"
    batch = collate(short, pad_id=pad_id, layout="packed")
    try:
        collector.try_packed(batch)
    except (CollectError, ValueError) as error:
        reporter.say(f"{title}: padded batches, since this model takes no packed ones: {error}")
        return "padded"
    return "packed" if collector.prefers_packed else "padded"


class RowKeeper(Protocol):
    """Where units of rows go: a datastore's writer, or what keeps their scores alone."""

    def missing(self, n_rows: int | None = ...) -> list[range]: ...
    def claim(self, rows: range) -> Claim | None: ...
    def refresh(self) -> None: ...
    def append(self, ids: Sequence[str], sketches: Sketches, first: int) -> None: ...
    def commit(self) -> None: ...


def fill_store(
    open_keeper: Callable[[], AbstractContextManager[RowKeeper]],
    collector: GradientCollector,
    ids: list[str],
    encoded: EncodedSet,
    plan: BatchPlan,
    *,
    pad_id: int,
    shard_rows: int,
    title: str,
    reporter: Reporter,
    clock: Clock,
) -> None:
    """Collects the rows that the keeper lacks, a shard at a time, together with other processes that do so.

    Shards begin at multiples of `shard_rows`, so that a resumed run makes the shards that an uninterrupted one makes;
    samples are sorted by length inside a shard only. Where memory does not suffice for a batch, its shard is begun
    again with half the tokens, down to one sample. Returns when no row is missing.

    Raises
    ------
    CollectError
        Memory does not suffice for one sample.
    """
    with clock.part("store"):
        keeper = open_keeper()
    with keeper as store:
        missing = store.missing(len(encoded))
        there = len(encoded) - sum(len(gap) for gap in missing)
        with (
            reporter.task(title, len(encoded), "samples", done=there) as advance,
            closing(claimed_units(store, len(encoded), shard_rows, advance, reporter)) as units,
        ):
            for unit in units:
                sketches = _collect_unit(collector, encoded, unit, plan, pad_id, advance, clock, reporter)
                with clock.part("store"):
                    store.append(ids[unit.start : unit.stop], sketches, first=unit.start)
                    store.commit()
                give_back()


def _collect_unit(
    collector: GradientCollector,
    encoded: EncodedSet,
    unit: range,
    plan: BatchPlan,
    pad_id: int,
    advance: Advance,
    clock: Clock,
    reporter: Reporter,
) -> Sketches:
    while True:
        try:
            return _try_unit(collector, encoded, unit, plan, pad_id, advance, clock)
        except _BatchTooLargeError as error:
            rows, tokens, reason = error.rows, error.tokens, str(error)
        if len(rows) == 1:
            raise _too_large(encoded[rows[0]], reason)
        # Here, not in the except clause, whose traceback keeps the failed batch alive.
        gc.collect()
        give_back()
        plan.lower(unit.start, max(1, tokens // 2))
        reporter.say(f"memory did not suffice for {len(rows)} samples, {tokens} tokens: going on with {tokens // 2}")


def _try_unit(
    collector: GradientCollector,
    encoded: EncodedSet,
    unit: range,
    plan: BatchPlan,
    pad_id: int,
    advance: Advance,
    clock: Clock,
) -> Sketches:
    parts: list[Sketches] = []
    order: list[np.ndarray] = []
    pending: PendingSketches | None = None  # a GPU works on one batch while the next is made
    done = 0
    for batch in batches_by_length(encoded.lengths[unit.start : unit.stop], plan.tokens_at(unit.start), plan.layout):
        failed = ""
        try:
            started = collector.start(_tensors(encoded, unit, batch, plan.layout, pad_id, clock))
            if pending is not None:
                parts.append(pending.result())
            pending = started
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failed = str(error).strip() or type(error).__name__
        if failed:
            advance(-done)
            lengths = encoded.lengths[unit.start : unit.stop][batch]
            tokens = int(lengths.sum() if plan.layout == "packed" else len(batch) * lengths.max())
            raise _BatchTooLargeError([unit[i] for i in batch], tokens, failed)
        order.append(np.asarray(batch, dtype=np.int64))
        advance(len(batch))
        done += len(batch)
    if pending is not None:
        parts.append(pending.result())
    back = np.argsort(np.concatenate(order), kind="stable")
    return Sketches.concatenate(parts)[back]


def _too_large(sample: EncodedSample, reason: str) -> CollectError:
    return CollectError(
        f"sample {sample.id!r}: expected memory for its {len(sample)} tokens alone, got: {reason or 'out of memory'}; "
        "lower model.max_length, take a smaller model or dtype, or leave the sample out"
    )


def _tensors(
    encoded: EncodedSet, unit: range, batch: np.ndarray, layout: str, pad_id: int, clock: Clock
) -> dict[str, Any]:
    with clock.part("waiting"):
        return collate([encoded[unit[i]] for i in batch], pad_id=pad_id, layout=layout)


def give_back() -> None:
    """Returns to the system what allocators keep: the C library's on Linux, and torch's of a GPU's memory.

    Batches of ever other lengths leave holes in the heap (docs/collector.md has how fast it grows).
    """
    import ctypes

    import torch

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
