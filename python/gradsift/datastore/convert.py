"""From one row dtype to another: a shard at a time, a block of it at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from gradsift.datastore import format as fmt
from gradsift.datastore._place import Place, is_remote, open_place
from gradsift.datastore.reader import Datastore
from gradsift.datastore.rows import StoredRows, encode_rows, flags_of
from gradsift.datastore.shard import Shard
from gradsift.datastore.spec_file import FILE_NAME, pack_spec
from gradsift.datastore.table import FLAG_NONFINITE, FLAG_ZERO
from gradsift.datastore.writer import publish_spec
from gradsift.errors import DatastoreCorruptError, DatastoreError, SpecMismatchError
from gradsift.specs import StoreSpec


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Datastore:
    """Make the store `out` of the rows of the store `source` in another row dtype; the same call goes on after a stop.

    Shards, ids, norms, losses, flags and gaps stay as they are, and so does the spec, so that `out` is comparable with
    whatever `source` is. The same source gives the same bytes, whether the work was interrupted or not. What one
    dtype has lost another does not bring back: convert from the widest there is.

    Parameters
    ----------
    source, out : path or URL
    dtype : str
        Any row dtype but that of `source`.
    storage_options : mapping, optional
        For URLs; of both, if both are.
    progress : callable, optional
        Is given the number of rows of each shard that is done, those of an earlier call included.

    Returns
    -------
    Datastore
        `out`, opened.

    Raises
    ------
    ValueError
        `dtype` is none, or the one that `source` has.
    SpecMismatchError
        `out` holds a store of another spec or dtype, or rows that `source` does not give: each shard that is there
        is compared in its row table and its first block.
    DatastoreError
        A row that `dtype` cannot hold (what was done before it stays), damage in `source`, no room, and whatever else
        reading and writing raise.

    Notes
    -----
    Holds a block of about 1 MiB as stored and the rows of it in float32, whatever the size of shards.
    """
    if dtype not in fmt.ROW_DTYPES:
        raise ValueError(f"dtype: expected one of {tuple(fmt.ROW_DTYPES)}, got {dtype!r}")
    store = Datastore.open(source, storage_options=_options(source, storage_options))
    if dtype == store.dtype:
        raise ValueError(f"dtype: expected another than that of {store.path!r}, got {dtype!r}; copy the directory")
    target_options = _options(out, storage_options)
    with store, closing(open_place(out, target_options, make=True)) as place:
        publish_spec(place, pack_spec(store.spec, dtype), store.spec, dtype, resume=True)
        place.prove(FILE_NAME)
        done = _done_before(store, Datastore(place, "block", "raise"))
        for shard in store._shards:
            if shard.first not in done:
                _convert(shard, place, store.spec, dtype)
            if progress is not None:
                progress(shard.header.rows)
    return Datastore.open(out, storage_options=target_options)


class _Converted:
    """The rows of a shard in another dtype, made as they are asked for."""

    def __init__(self, shard: Shard, spec: StoreSpec, dtype: str) -> None:
        self._shard = shard
        self._dtype = dtype
        self._seed = fmt.rotation_seed(spec, dtype)

    def __getitem__(self, part: slice) -> StoredRows:
        ids = self._shard.table().ids(part.start, part.stop)
        given = self._shard.stored(part.start, part.stop, ahead=True)
        try:
            stored, flags = encode_rows(self._shard.decoded(given), self._dtype, ids, seed=self._seed)
        except ValueError as error:
            raise DatastoreError(f"{self._shard.file}: cannot be converted to {self._dtype}: {error}") from error
        known = self._shard.table().columns.flags[part]
        if (flags != known & (FLAG_NONFINITE | FLAG_ZERO)).any() or (flags != flags_of(stored, self._dtype)).any():
            raise DatastoreCorruptError(
                f"{self._shard.file}: rows {self._shard.first + part.start} … {self._shard.first + part.stop - 1}: "
                "expected the flags their numbers have, got others; verify the store"
            )
        if stored.norms is not None and given.norms is not None:  # of the rows as they were before any quantisation
            return StoredRows(stored.numbers, stored.scales, given.norms)
        return stored


def _convert(shard: Shard, place: Place, spec: StoreSpec, dtype: str) -> None:
    header = _header(shard, spec, dtype)
    table = bytes(shard.table_bytes())
    with closing(fmt.shard_chunks(header, _Converted(shard, spec, dtype), table)) as chunks:
        place.publish(header.file_name, chunks, fmt.shard_bytes(header, len(table)))


def _header(shard: Shard, spec: StoreSpec, dtype: str) -> fmt.ShardHeader:
    given = shard.header
    return fmt.ShardHeader.of(spec, dtype, first=given.first, rows=given.rows, id_kind=given.id_kind)


def _done_before(store: Datastore, there: Datastore) -> set[int]:
    """First rows of the shards of `there`, which are those that `store` gives."""
    sources = {shard.name: shard for shard in store._shards}
    for shard in there._shards:
        given = sources.get(shard.name)
        if given is None:
            difference: str | None = f"rows {shard.first} … {shard.stop - 1}, which are no shard of it"
        elif shard.table_bytes() != given.table_bytes():
            difference = f"the row table of rows {shard.first} … {shard.stop - 1}"
        else:
            rows = min(shard.header.rows, shard.header.block_rows)
            converted = _Converted(given, store.spec, there.dtype)[0:rows]
            ids = shard.table().ids(0, rows)
            difference = shard.difference(range(shard.first, shard.first + rows), ids, converted)
        if difference:
            raise SpecMismatchError(
                f"{shard.file}: expected what {store.path!r} gives as {there.dtype}, got another in {difference}; "
                "convert to a directory of its own"
            )
    return {shard.first for shard in there._shards}


def _options(path: str | os.PathLike[str], options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """`options` where `path` takes them, so that one of the two may be local."""
    return options if is_remote(path) else None
