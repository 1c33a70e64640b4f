"""Stores as safetensors and Parquet files, read back by the libraries of those formats."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from gradsift import Datastore
from gradsift.cli import main
from gradsift.datastore import export, export_store
from gradsift.errors import DatastoreCorruptError, DatastoreError, DependencyMissingError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int4": torch.float32}
COLUMNS = ("grad_norm", "gamma_norm", "tokens", "loss", "flags")


def make(stores, dtype="bfloat16", ids="text", n=11):
    """Rows 2 … n + 1 of a store with a gap at its start."""
    with Datastore.create(stores.path, spec=stores.spec(), dtype=dtype, shard_rows=4) as writer:
        names = [f"naïve {i}" * (i % 3) + str(i) for i in range(n)] if ids == "text" else [2**62 + i for i in range(n)]
        writer.append(names, stores.sketches(n), first=2)
    return Datastore.open(stores.path)


@pytest.mark.parametrize("ids", ["text", "int"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_hold_every_row_and_all_that_is_known(stores, tmp_path, monkeypatch, dtype, ids):
    monkeypatch.setattr(export, "_PART_BYTES", 3 * 4 * 256)  # three rows a part
    store = make(stores, dtype, ids)
    assert export_store(stores.path, tmp_path / "x.safetensors") == 11
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        got = {name: file.get_tensor(name) for name in file.offset_keys()}
        metadata = file.metadata()
    assert got["rows"].dtype == DTYPES[dtype]
    want = np.concatenate([block.rows for block in store.blocks()])
    np.testing.assert_array_equal(got["rows"].float().numpy(), want)
    np.testing.assert_array_equal(got["position"].numpy(), np.arange(2, 13))
    for name in COLUMNS:
        np.testing.assert_array_equal(got[name].numpy(), store.metadata()[name])
    if ids == "int":
        assert got["id"].tolist() == store.ids()
    else:
        text, at = bytes(got["id_text"].tolist()), got["id_offset"].tolist()
        assert [text[a:b].decode() for a, b in pairwise(at)] == store.ids()
    assert json.loads(metadata["gradsift.spec"]) == store.spec.to_dict()
    assert (metadata["gradsift.row_dtype"], metadata["gradsift.store"]) == (dtype, store.id)


@pytest.mark.parametrize("ids", ["text", "int"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_parquet_holds_every_row_and_all_that_is_known(stores, tmp_path, monkeypatch, dtype, ids):
    monkeypatch.setattr(export, "_PART_BYTES", 3 * 4 * 256)
    store = make(stores, dtype, ids)
    assert export_store(stores.path, tmp_path / "x.parquet") == 11
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["id"].to_pylist() == store.ids()
    assert table["position"].to_pylist() == list(range(2, 13))
    rows = np.stack([np.asarray(row, np.float32) for row in table["row"].to_pylist()])
    np.testing.assert_array_equal(rows, np.concatenate([block.rows for block in store.blocks()]))
    assert str(table.schema.field("row").type.value_type) == ("halffloat" if dtype == "float16" else "float")
    for name in COLUMNS:
        np.testing.assert_array_equal(table[name].to_numpy(), store.metadata()[name])
    assert json.loads(table.schema.metadata[b"gradsift.spec"]) == store.spec.to_dict()
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups > 3


@pytest.mark.parametrize("name", ["x.safetensors", "x.parquet"])
def test_a_damaged_store_leaves_what_was_there(stores, tmp_path, name):
    make(stores)
    raw = bytearray(stores.shards()[1].read_bytes())
    raw[5000] ^= 1
    stores.shards()[1].write_bytes(raw)
    (tmp_path / name).write_text("before")
    with pytest.raises(DatastoreCorruptError, match="block 0"):
        export_store(stores.path, tmp_path / name)
    assert (tmp_path / name).read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", name]


def test_other_names_and_empty_stores_are_refused(stores, tmp_path):
    Datastore.create(stores.path, spec=stores.spec()).finish()
    with pytest.raises(ValueError, match=r"out: expected a name ending in \.safetensors or \.parquet, got 'x\.npy'"):
        export_store(stores.path, tmp_path / "x.npy")
    with pytest.raises(DatastoreError, match="got an empty store"):
        export_store(stores.path, tmp_path / "x.parquet")


def test_without_pyarrow_the_error_says_so_and_safetensors_need_no_library(stores, tmp_path, monkeypatch):
    make(stores)
    for name in ("pyarrow", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyMissingError, match="pip install pyarrow"):
        export_store(stores.path, tmp_path / "x.parquet")
    assert export_store(stores.path, tmp_path / "x.safetensors") == 11


def test_the_commands_import_export_and_show_urls(stores, tmp_path, capsys):
    torch.save(torch.randn(3, 256), tmp_path / "all_orig.pt")
    (tmp_path / "ids.txt").write_text("a\nb\nc\n")
    assert (
        main(["store", "import-less", str(tmp_path), "memory://b/cli", "--matrix", "m", "--ids", f"{tmp_path}/ids.txt"])
        == 0
    )
    assert "3 rows of 256 float32 numbers" in capsys.readouterr().out
    assert main(["store", "info", "--json", "memory://b/cli"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["projection"]["matrix"] == "m"
    assert main(["store", "verify", "memory://b/cli"]) == 0
    assert main(["store", "export", "memory://b/cli", f"{tmp_path}/x.safetensors"]) == 0
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert bytes(file.get_tensor("id_text")) == b"abc"
    assert main(["store", "export", "memory://b/cli", f"{tmp_path}/x.npy"]) == 2
    assert main(["store", "info", str(tmp_path)]) == 1
