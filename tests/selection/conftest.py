"""Data of the selection tests."""

from __future__ import annotations

import numpy as np
import pytest

from gradsift import ProjectionSpec, Sketches, StoreSpec
from gradsift.datastore import Datastore

P = 256


@pytest.fixture
def rng():
    return np.random.default_rng(20240204)


@pytest.fixture
def gaussian(rng):
    def make(rows, proj_dim=P):
        return rng.standard_normal((rows, proj_dim)).astype(np.float32)

    return make


@pytest.fixture
def as_sketches():
    def make(rows, tokens=None):
        n = len(rows)
        tokens = np.full(n, 5, np.int64) if tokens is None else np.asarray(tokens, np.int64)
        return Sketches(np.asarray(rows, np.float32), np.ones(n), np.ones(n), np.ones(n, np.float32), tokens)

    return make


@pytest.fixture
def make_store(tmp_path, as_sketches):
    """Writes rows into a real store, in pieces that start at `firsts`, and opens it."""

    def make(
        name,
        rows,
        *,
        ids=None,
        tokens=None,
        checkpoint=None,
        seed=0,
        data=None,
        pieces=None,
        shard_rows=4096,
        **options,
    ):
        spec = StoreSpec(ProjectionSpec(rows.shape[1], seed=seed), checkpoint=checkpoint or {}, data=data or {})
        ids = [f"s{i}" for i in range(len(rows))] if ids is None else ids
        tokens = np.full(len(rows), 5) if tokens is None else np.asarray(tokens)
        options = {"dtype": "float32", **options}
        with Datastore.create(tmp_path / name, spec=spec, shard_rows=shard_rows, **options) as writer:
            for part in pieces or [range(len(rows))]:
                at = slice(part.start, part.stop)
                writer.append(ids[at], as_sketches(rows[at], tokens[at]), first=part.start)
        return Datastore.open(tmp_path / name)

    return make
