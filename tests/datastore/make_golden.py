"""Writes the golden stores: ``python tests/datastore/make_golden.py FOLDER``. Those in ``data/`` stay as they are."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from gradsift import Datastore, Gamma, ProjectionSpec, Sketches, StoreSpec

IDS = {
    "text": ["alpha", "", "naïve ✓", "a/../b\n", "x" * 300, "0", "zero row"],
    "int": [0, 1, -1, 2**32 + 5, 2**63 - 1, -(2**63), 7],
}


def sketches() -> Sketches:
    """Seven rows of exact eighths, with a NaN, an Inf, a row of zeros and a row without label tokens."""
    i = np.arange(7 * 256, dtype=np.int64)
    rows = (((i * 37) % 201 - 100) / 8.0).astype(np.float32).reshape(7, 256)
    rows[2, 5], rows[3, 0], rows[6] = np.nan, -np.inf, 0.0
    n = np.arange(7)
    return Sketches(rows, n + 0.5, n * 2.0, (n / 4).astype(np.float32), np.where(n == 4, 0, n + 1))


def write(folder: Path) -> None:
    spec = StoreSpec(
        ProjectionSpec(proj_dim=256, seed=2**64 - 1),
        Gamma.adam(step=17),
        (("model.layers.0.self_attn.q_proj.lora_A.weight", (16, 576)), ("lm_head.bias", (49152,))),
        {"name": "checkpoint-17", "step": 17, "learning_rate": 2e-05, "weights_digest": "00ff", "moments_digest": None},
        {"rows": 7, "digest": "abcd", "tokenizer": "tökenizer", "template": "chatml", "max_length": 256},
    )
    for dtype, ids in (
        ("bfloat16", "text"),
        ("float16", "int"),
        ("float32", "text"),
        ("int8", "text"),
        ("int4", "int"),
        ("int1", "text"),
    ):
        with Datastore.create(folder / f"v1-{dtype}-{ids}", spec=spec, dtype=dtype, shard_rows=4) as store:
            store.append(IDS[ids], sketches())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
