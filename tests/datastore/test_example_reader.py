"""examples/read_datastore.py, written from docs/datastore-format.md alone, reads what the package writes."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradsift import Datastore
from gradsift.datastore.format import ROW_DTYPES

EXAMPLE = Path(__file__).parents[2] / "examples" / "read_datastore.py"
GOLDEN = sorted((Path(__file__).parent / "data").glob("v1-*"))


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("read_datastore", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_agree(example, path):
    store = Datastore.open(path, verify="full")
    spec, numbers, ids, rows, columns = example.read_store(path)
    assert spec == store.spec.to_dict()
    assert ids == store.ids()
    np.testing.assert_array_equal(numbers, store.positions())
    want = store.metadata()
    assert list(columns) == list(want)
    for name, column in columns.items():
        np.testing.assert_array_equal(column, want[name])
        assert column.dtype == want[name].dtype
    return rows, np.concatenate([np.empty((0, store.proj_dim), np.float32), *(b.rows for b in store.blocks())])


def test_it_is_at_most_150_lines_and_imports_only_numpy_and_the_standard_library():
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    names = {
        n for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for a in node.names for n in [a.name]
    }
    names |= {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy"}


@pytest.mark.parametrize("ids", ["int", "str"])
@pytest.mark.parametrize("dtype", ROW_DTYPES)
def test_it_reads_every_row_dtype_as_the_package_does(stores, example, dtype, ids):
    rows = 1500  # of 1 KiB in float32: two blocks a shard
    with Datastore.create(
        stores.path, spec=stores.spec(rows=3 * rows, proj_dim=256), dtype=dtype, shard_rows=rows
    ) as writer:
        writer.append([i if ids == "int" else f"é{i}" for i in range(rows + 7)], stores.sketches(rows + 7), first=rows)
    got, want = check_agree(example, stores.path)
    assert got.shape == (rows + 7, 256)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.name)
def test_it_reads_the_golden_stores(example, path):
    got, want = check_agree(example, path)
    np.testing.assert_array_equal(got, want)


def test_it_reads_an_empty_store(stores, example):
    Datastore.create(stores.path, spec=stores.spec()).finish()
    got, _ = check_agree(example, stores.path)
    assert got.shape == (0, 256)


@pytest.mark.parametrize("name", ["spec.json", "shard"])
def test_it_finds_any_flipped_bit(stores, example, name):
    stores.make(20)
    path = stores.path / name if name == "spec.json" else stores.shards()[0]
    raw = path.read_bytes()
    rng = np.random.default_rng(1)
    for at in [0, len(raw) - 1, *rng.integers(0, len(raw), 20)]:
        bad = bytearray(raw)
        bad[at] ^= 1
        path.write_bytes(bad)
        with pytest.raises((ValueError, KeyError)):
            example.read_store(stores.path)


def test_it_runs_as_a_command(stores):
    stores.make(3)
    found = subprocess.run([sys.executable, EXAMPLE, stores.path], capture_output=True, text=True, check=True)
    assert "3 rows, every checksum good" in found.stdout
    assert "'id 2'" in found.stdout
