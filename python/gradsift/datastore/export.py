"""A store as one file that other programs read: safetensors, or Parquet. Rows pass through in parts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradsift.datastore.block import Block
from gradsift.datastore.reader import Datastore
from gradsift.datastore.table import COLUMNS
from gradsift.errors import DatastoreError, DependencyMissingError
from gradsift.files import atomic_bytes
from gradsift.specs import canonical_json

_PART_BYTES = 32 << 20
_SAFE_NAMES = {"<f8": "F64", "<i8": "I64", "<f4": "F32", "<u4": "U32", "<f2": "F16", "<u2": "BF16", "|u1": "U8"}


def export_store(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> int:
    """Writes the rows of `store` that are there, with all that is known of them, to the file `out`; how many.

    ``.safetensors`` holds the tensors ``rows`` (N, P), ``position`` (N,) (row numbers), ``grad_norm``,
    ``gamma_norm``, ``tokens``, ``loss``, ``flags`` (N,), and ``id`` (N,) int64 or, for ids of text, ``id_text`` (UTF-8
    bytes of all of them) and ``id_offset`` (N + 1,). ``.parquet`` holds the columns ``id``, ``position``, ``row``
    (a list of P numbers) and the others by the same names. Either carries the store's spec under the metadata key
    ``gradsift.spec``, its row dtype under ``gradsift.row_dtype``, its id under ``gradsift.store``.

    Rows keep their dtype if it is a float one (bfloat16 in Parquet, which has none, becomes float32); quantised ones
    are written as float32. What is written was read under its checksums.

    Parameters
    ----------
    store : path or URL
    out : path ending in .safetensors or .parquet
        Replaced, if it is there, once everything was written. Parquet needs pyarrow.
    storage_options : mapping, optional
        As in `Datastore.open`.

    Raises
    ------
    DatastoreError
        No store, a damaged one, or an empty one; or `out` cannot be written. DiskFullError: nothing was written.
    """
    path = Path(out)
    writers = {".safetensors": _write_safetensors, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise ValueError(f"out: expected a name ending in {' or '.join(writers)}, got {path.name!r}")
    with Datastore.open(store, storage_options=storage_options) as opened:
        if not len(opened):
            raise DatastoreError(f"{opened.path!r}: expected rows to export, got an empty store")
        try:
            writers[path.suffix](opened, path)
        except OSError as error:
            raise DatastoreError(f"{str(path)!r}: cannot be written: {error.strerror or error}") from error
        return len(opened)


def _metadata(store: Datastore) -> dict[str, str]:
    spec = canonical_json(store.spec.to_dict())
    return {"gradsift.spec": spec, "gradsift.row_dtype": store.dtype, "gradsift.store": store.id}


def _blocks(store: Datastore, row_bytes: int) -> Iterator[Block]:
    return store.blocks(max(1, _PART_BYTES // row_bytes))


def _write_safetensors(store: Datastore, path: Path) -> None:
    """The format's library takes whole tensors only; its layout is a length, a JSON header and the bytes."""
    ids = store.ids()
    small: dict[str, np.ndarray] = {"position": store.positions(), **store.metadata()}
    if isinstance(ids[0], int):
        small["id"] = np.asarray(ids, "<i8")
    else:
        texts = [str(i).encode() for i in ids]
        small["id_text"] = np.frombuffer(b"".join(texts), np.uint8)
        small["id_offset"] = np.cumsum([0, *map(len, texts)], dtype="<i8")
    kind = np.dtype({"float16": "<f2", "bfloat16": "<u2"}.get(store.dtype, "<f4"))
    shapes = {"rows": (kind, (len(store), store.proj_dim)), **{k: (v.dtype, v.shape) for k, v in small.items()}}
    header: dict[str, Any] = {"__metadata__": _metadata(store)}
    end = 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + dtype.itemsize * int(np.prod(shape))
        header[name] = {"dtype": _SAFE_NAMES[dtype.str], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_bytes(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in _blocks(store, 4 * store.proj_dim):
            file.write(_as_stored(block.rows, kind).data)
        for array in small.values():
            file.write(np.ascontiguousarray(array).data)


def _as_stored(rows: np.ndarray, kind: np.dtype[Any]) -> np.ndarray:
    """float32 `rows` that came from numbers of `kind` as those numbers; bfloat16 as uint16."""
    if kind == "<u2":
        return (np.ascontiguousarray(rows).view(np.uint32) >> 16).astype("<u2")
    return np.ascontiguousarray(rows, dtype=kind)


def _write_parquet(store: Datastore, path: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DependencyMissingError(
            f"{str(path)!r}: expected pyarrow, which writes Parquet, got none; pip install pyarrow"
        ) from error
    ids = store.ids()
    half = store.dtype == "float16"
    schema = pa.schema(
        [
            ("id", pa.int64() if isinstance(ids[0], int) else pa.string()),
            ("position", pa.int64()),
            ("row", pa.list_(pa.float16() if half else pa.float32(), store.proj_dim)),
            *((name, pa.from_numpy_dtype(np.dtype(dtype))) for name, dtype in COLUMNS),
        ],
        metadata=_metadata(store),
    )
    # Sketches hardly repeat a number: a dictionary of them would be longer than they are.
    with atomic_bytes(path) as file, pq.ParquetWriter(file, schema, use_dictionary=["id"]) as writer:
        for block in _blocks(store, 4 * store.proj_dim):
            numbers = pa.array(np.ascontiguousarray(block.rows, np.float16 if half else np.float32).reshape(-1))
            columns = [
                pa.array(block.ids, schema.field("id").type),
                pa.array(np.arange(block.first, block.first + len(block))),
                pa.FixedSizeListArray.from_arrays(numbers, store.proj_dim),
                *(pa.array(getattr(block, name)) for name, _ in COLUMNS),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
