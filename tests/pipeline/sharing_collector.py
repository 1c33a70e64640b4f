"""Run by test_sharing.py: fills a store as `gradsift collect` does, with sketches made of the tokens alone.

``PATH LOG [DIE_AT]``: appends a line for every unit to LOG; with DIE_AT waits for ever in the unit that begins there.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gradsift import ProjectionSpec, Sketches, StoreSpec
from gradsift.collector import Clock
from gradsift.data import EncodedSample, EncodedSet
from gradsift.datastore import Datastore
from gradsift.pipeline.filling import BatchPlan, fill_store
from gradsift.pipeline.progress import LineReporter

ROWS, SHARD_ROWS = 30, 4


class TokenCollector:
    """Like a GradientCollector; the first token of a sample is its number."""

    def __init__(self, log: str, die_at: int | None) -> None:
        self._log, self._die_at = log, die_at

    def start(self, batch: dict[str, Any]) -> TokenCollector:
        self._sketches = self._collect(batch)
        return self

    def result(self) -> Sketches:
        return self._sketches

    def _collect(self, batch: dict[str, Any]) -> Sketches:
        numbers = batch["input_ids"][:, 0].tolist()
        with open(self._log, "a", encoding="utf-8") as file:
            file.writelines(f"{os.getpid()} {number}\n" for number in numbers)
        while self._die_at in numbers:
            time.sleep(1)
        time.sleep(0.02)
        rows = np.stack([np.random.default_rng(n).standard_normal(256).astype(np.float32) for n in numbers])
        known = np.asarray(numbers, np.float64)
        return Sketches(rows, known, known, known.astype(np.float32), known.astype(np.int64))


if __name__ == "__main__":
    samples = []
    for n in range(ROWS):
        tokens = np.full(2 + n % 3, n, np.int32)
        labels = np.where(np.arange(len(tokens)) > 0, tokens, -100).astype(np.int32)
        samples.append(EncodedSample(f"id {n}", tokens, labels, False, len(tokens) - 1))
    fill_store(
        lambda: Datastore.create(
            sys.argv[1],
            spec=StoreSpec(ProjectionSpec(256), data={"rows": ROWS}),
            dtype="bfloat16",
            resume=True,
            shard_rows=SHARD_ROWS,
        ),
        TokenCollector(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None),
        [f"id {n}" for n in range(ROWS)],
        EncodedSet(samples, template="t", template_digest="0", max_length=8),
        BatchPlan(Path(f"{sys.argv[1]}.batches.json"), 16, "padded", [[0, 16]]),
        pad_id=0,
        shard_rows=SHARD_ROWS,
        title="pool",
        reporter=LineReporter(lambda line: print(line, flush=True)),
        clock=Clock(enabled=False),
    )
