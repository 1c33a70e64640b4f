"""The bytes are those of docs/datastore-format.md, now and in old stores."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from gradsift import Datastore
from gradsift.datastore import FLAG_NO_LABELS, FLAG_NONFINITE, FLAG_ZERO

HERE = Path(__file__).parent
FLOATS = ("v1-bfloat16-text", "v1-float16-int", "v1-float32-text")
QUANTISED = ("v1-int8-text", "v1-int4-int", "v1-int1-text")
GOLDEN = FLOATS + QUANTISED
LARGEST_ERRORS = {"int8": 0.011, "int4": 0.13, "int1": 0.66}  # ‖stored − given‖ / ‖given‖


@pytest.fixture(scope="module")
def golden():
    return runpy.run_path(str(HERE / "make_golden.py"))


def test_written_bytes_are_the_golden_bytes(tmp_path, golden):
    golden["write"](tmp_path)
    for name in GOLDEN:
        for written in (tmp_path / name).iterdir():
            kept = HERE / "data" / name / written.name
            assert written.read_bytes() == kept.read_bytes(), kept
        assert len(list((tmp_path / name).iterdir())) == 3


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_store_reads_as_what_was_written(name, golden):
    store = Datastore.open(HERE / "data" / name, verify="full")
    want = golden["sketches"]()
    rows = store.rows()
    if name in FLOATS:
        np.testing.assert_array_equal(rows, want.rows)
    else:
        errors = np.linalg.norm(rows - want.rows, axis=1) / np.linalg.norm(want.rows, axis=1).clip(1)
        assert (errors[[0, 1, 4, 5, 6]] < LARGEST_ERRORS[store.dtype]).all()
        assert np.isnan(rows[[2, 3]]).all()
        assert not rows[6].any()
    assert store.ids() == golden["IDS"][name.split("-")[2]]
    known = store.metadata()
    np.testing.assert_array_equal(known["grad_norm"], want.grad_norm)
    np.testing.assert_array_equal(known["gamma_norm"], want.gamma_norm)
    np.testing.assert_array_equal(known["tokens"], want.tokens)
    np.testing.assert_array_equal(known["loss"], want.loss)
    flags = [0, 0, FLAG_NONFINITE, FLAG_NONFINITE, FLAG_NO_LABELS, 0, FLAG_ZERO]
    np.testing.assert_array_equal(known["flags"], flags)
    assert store.complete
    assert store.spec.projection.seed == 2**64 - 1


@pytest.mark.parametrize("name", FLOATS)
def test_a_reader_written_from_the_document_reads_the_golden_stores(name, independent, golden):
    found = independent.read_store(str(HERE / "data" / name))
    want = golden["sketches"]()
    assert [shard["first"] for shard in found["shards"]] == [0, 4]
    assert [i for shard in found["shards"] for i in shard["ids"]] == golden["IDS"][name.split("-")[2]]
    np.testing.assert_array_equal([row for shard in found["shards"] for row in shard["rows"]], want.rows)
    assert [t for shard in found["shards"] for t in shard["tokens"]] == want.tokens.tolist()
    assert found["spec"]["gamma"] == {"kind": "adam", "beta1": 0.9, "beta2": 0.999, "eps": 1e-08, "step": 17}


def test_checksum_is_castagnoli(independent):
    from gradsift.datastore._checksum import crc32c

    assert crc32c(b"123456789") == 0xE3069283
    data = bytes(range(256)) * 5 + b"odd"
    assert crc32c(data) == independent.crc32c(data)
