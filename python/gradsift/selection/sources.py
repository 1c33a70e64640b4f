"""What rows are read from: gradient datastores, arrays, sketches, one interface for all."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from gradsift.datastore import FLAG_NO_LABELS, check_comparable
from gradsift.errors import DatastoreIncompleteError, SpecMismatchError
from gradsift.sketches import Sketches
from gradsift.specs import StoreSpec

SampleId: TypeAlias = str | int


class BlockLike(Protocol):
    """Consecutive rows: positions ``first`` … ``first + len(rows) − 1``."""

    @property
    def first(self) -> int: ...
    @property
    def rows(self) -> np.ndarray: ...  # (n, P) float32
    @property
    def tokens(self) -> np.ndarray: ...  # (n,) label tokens, -1 where not known
    @property
    def flags(self) -> np.ndarray: ...  # (n,) FLAG_* bits


class RowSource(Protocol):
    """What selection reads of one checkpoint; `gradsift.datastore.Datastore` is one."""

    @property
    def proj_dim(self) -> int: ...
    @property
    def spec(self) -> StoreSpec | None: ...
    def __len__(self) -> int: ...  # rows that are there
    def ids(self) -> Sequence[SampleId]: ...
    def gaps(self) -> Sequence[range]: ...
    def blocks(self, rows: int = ...) -> Iterator[BlockLike]: ...


@dataclass(frozen=True)
class ArrayBlock:
    first: int
    rows: np.ndarray
    tokens: np.ndarray
    flags: np.ndarray


class ArraySource:
    """An array (N, P) of any float dtype, or `Sketches`, as a `RowSource`."""

    spec: StoreSpec | None = None

    def __init__(self, name: str, value: Any, ids: Sequence[SampleId] | None) -> None:
        self.tokens: np.ndarray | None = None
        if isinstance(value, Sketches):
            self.tokens = np.asarray(value.tokens)
            value = value.rows
        try:
            self._rows = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a device or of a dtype NumPy lacks
            raise TypeError(
                f"{name}: expected an array that NumPy can read, got {type(value).__name__}: {error}"
            ) from error
        if self._rows.ndim != 2:
            raise ValueError(f"{name}: expected a datastore or an array of shape (N, P), got shape {self._rows.shape}")
        # bfloat16 comes as an extension dtype of kind "V"
        if self._rows.dtype.kind != "f" and self._rows.dtype.name != "bfloat16":
            raise TypeError(f"{name}: expected a float dtype, got {self._rows.dtype.name}")
        self._ids = ids

    @property
    def proj_dim(self) -> int:
        return int(self._rows.shape[1])

    @property
    def dtype(self) -> str:
        return self._rows.dtype.name

    def __len__(self) -> int:
        return int(self._rows.shape[0])

    def ids(self) -> Sequence[SampleId]:
        return range(len(self)) if self._ids is None else self._ids

    def gaps(self) -> Sequence[range]:
        return ()

    def blocks(self, rows: int = 4096) -> Iterator[ArrayBlock]:
        for first in range(0, len(self), rows):
            part = _as_float32(self._rows[first : first + rows])
            flags = np.zeros(len(part), np.uint8)
            tokens = np.full(len(part), -1, np.int64)
            if self.tokens is not None:
                tokens = self.tokens[first : first + rows]
                flags[tokens == 0] |= FLAG_NO_LABELS
            yield ArrayBlock(first, part, tokens, flags)

    def take(self, positions: np.ndarray) -> np.ndarray:
        return _as_float32(self._rows[positions])


def _as_float32(rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinity and is excluded as such
        return rows.astype(np.float32, copy=False)


class JoinedSource:
    """The rows of several sources, one after the other."""

    def __init__(self, parts: Sequence[RowSource]) -> None:
        self.parts = parts
        self._first = np.cumsum([0, *(len(part) for part in parts)]).tolist()

    @property
    def proj_dim(self) -> int:
        return self.parts[0].proj_dim

    @property
    def spec(self) -> StoreSpec | None:
        """Of the first, which those of the others were compared with."""
        return self.parts[0].spec

    def __len__(self) -> int:
        return int(self._first[-1])

    def ids(self) -> Sequence[SampleId]:
        return [i for part in self.parts for i in part.ids()]

    def gaps(self) -> Sequence[range]:
        return [
            range(gap.start + first, gap.stop + first)
            for first, part in zip(self._first, self.parts, strict=False)
            for gap in part.gaps()
        ]

    def blocks(self, rows: int = 4096) -> Iterator[BlockLike]:
        for first, part in zip(self._first, self.parts, strict=False):
            for block in part.blocks(rows):
                yield ArrayBlock(first + block.first, block.rows, block.tokens, block.flags)


def take_rows(source: RowSource, positions: np.ndarray) -> np.ndarray:
    """Rows at `positions` (n,) int64, all of which are there, as (n, P) float32 in that order.

    A source without a `take` of its own is read from its beginning.
    """
    take = getattr(source, "take", None)
    if take is not None:
        rows: np.ndarray = take(positions)
        return rows
    out = np.empty((len(positions), source.proj_dim), np.float32)
    order = np.argsort(positions, kind="stable")
    ascending = positions[order]
    for block in source.blocks():
        lo, hi = np.searchsorted(ascending, [block.first, block.first + len(block.rows)])
        out[order[lo:hi]] = block.rows[ascending[lo:hi] - block.first]
    return out


def open_sources(
    name: str, value: object, ids: Sequence[SampleId] | None = None, *, join: bool = False
) -> list[RowSource]:
    """`value`, one store, array or `Sketches` a checkpoint, as row sources.

    With `join` an item may be a list of them.
    """
    items = _items(name, value)
    sources: list[RowSource] = []
    for c, item in enumerate(items):
        if join and isinstance(item, (list, tuple)):
            parts = [
                _open_source(f"{name}[{c}][{i}]", part, None) for i, part in enumerate(_items(f"{name}[{c}]", item))
            ]
            for i, part in enumerate(parts[1:], start=1):
                check_pair(f"{name}[{c}][0]", parts[0], f"{name}[{c}][{i}]", part)
            sources.append(JoinedSource(parts))
        else:
            sources.append(_open_source(f"{name}[{c}]", item, ids))
    if ids is not None and len(ids) != len(sources[0]):
        raise ValueError(f"ids: expected {len(sources[0])}, one a row of {name}, got {len(ids)}")
    return sources


def _items(name: str, value: object) -> Sequence[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or hasattr(value, "blocks"):
        raise TypeError(
            f"{name}: expected a list with one datastore or array per checkpoint, got {type(value).__name__}; "
            "put a single one into a list"
        )
    if not value:
        raise ValueError(f"{name}: expected at least one datastore or array, got an empty list")
    return value


def _open_source(name: str, item: Any, ids: Sequence[SampleId] | None) -> RowSource:
    if isinstance(item, (str, bytes, os.PathLike)):
        raise TypeError(f"{name}: expected a datastore or an array, got {item!r}; open it with Datastore.open")
    if not (hasattr(item, "blocks") and hasattr(item, "proj_dim")):
        return ArraySource(name, item, ids)
    if ids is not None:
        raise ValueError(f"ids: expected None, since {name} is a datastore and has its own ids")
    source: RowSource = item
    return source


def check_ids(ids: Sequence[SampleId] | np.ndarray | None) -> list[SampleId] | None:
    """The ids of arrays as a list of str and int, none twice."""
    if ids is None:
        return None
    if isinstance(ids, (str, bytes)) or not hasattr(ids, "__len__"):
        raise TypeError(f"ids: expected a sequence of str or int, got {type(ids).__name__}")
    plain: list[SampleId] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    seen: set[SampleId] = set()
    for row, i in enumerate(plain):
        if isinstance(i, bool) or not isinstance(i, (str, int)):
            raise TypeError(f"ids: expected str or int, got {type(i).__name__} in row {row}")
        if i in seen:
            raise ValueError(f"ids: expected each id once, got {i!r} again in row {row}")
        seen.add(i)
    return plain


def row_ids(name: str, sources: Sequence[RowSource], *, allow_partial: bool) -> list[SampleId | None]:
    """The id of every row, None where no source has it; all sources must tell of the same samples in the same order."""
    ids = _ids_by_row(sources[0])
    for c, source in enumerate(sources[1:], start=1):
        others = _ids_by_row(source)
        if len(others) != len(ids) and not allow_partial:
            raise SpecMismatchError(
                f"{name}[{c}]: expected {len(ids)} rows as {name}[0] has, got {len(others)}; "
                "collect the same samples at every checkpoint"
            )
        longer = max(len(ids), len(others))
        ids += [None] * (longer - len(ids))
        for row, (want, got) in enumerate(zip(ids, others, strict=False)):
            if want is None:
                ids[row] = got
            elif got is not None and want != got:
                raise SpecMismatchError(
                    f"{name}[{c}]: expected the ids of {name}[0] in the same order, got {got!r} instead of {want!r} "
                    f"in row {row}; collect the same samples in the same order at every checkpoint"
                )
    return ids


def _ids_by_row(source: RowSource) -> list[SampleId | None]:
    there = iter(source.ids())
    ids: list[SampleId | None] = []
    for gap in source.gaps():
        ids += itertools.islice(there, gap.start - len(ids))
        ids += [None] * len(gap)
    ids += there
    return ids


def check_complete(name: str, sources: Sequence[RowSource], *, advice: str) -> None:
    """Refuses stores with rows that were never written."""
    for c, source in enumerate(sources):
        gaps = source.gaps()
        if gaps:
            shown = ", ".join(f"{g.start}…{g.stop - 1}" for g in gaps[:5]) + (" …" if len(gaps) > 5 else "")
            missing = sum(len(g) for g in gaps)
            raise DatastoreIncompleteError(
                f"{name}[{c}]: expected a complete datastore, got one that lacks {missing} rows ({shown}); {advice}"
            )


def check_pair(a_name: str, a: RowSource, b_name: str, b: RowSource) -> None:
    """Refuses rows of different projections, parameters or checkpoints."""
    if isinstance(b, JoinedSource):
        for i, part in enumerate(b.parts):
            check_pair(a_name, a, f"{b_name}[{i}]", part)
        return
    if a.proj_dim != b.proj_dim:
        raise SpecMismatchError(
            f"{b_name}: expected rows of {a.proj_dim} numbers as {a_name} has, got {b.proj_dim}; "
            "collect both with one ProjectionSpec"
        )
    if a.spec is not None and b.spec is not None:
        check_comparable(a.spec, b.spec, names=(a_name, b_name))


def describe(source: RowSource) -> dict[str, Any]:
    """What a record keeps of a source, so that a reader knows whether he has the same one."""
    record: dict[str, Any] = {"rows": len(source), "proj_dim": source.proj_dim}
    if isinstance(source, JoinedSource):
        return record | {"parts": [describe(part) for part in source.parts]}
    if isinstance(source, ArraySource):
        return record | {"array": source.dtype}
    if source.spec is not None:
        record["store"] = source.spec.digest
        record["checkpoint"] = dict(source.spec.checkpoint)
        record["data"] = dict(source.spec.data)
    path = getattr(source, "path", None)
    if path is not None:
        record["path"] = str(path)
    return record


def checkpoint_names(sources: Sequence[RowSource]) -> list[str]:
    """(C,) the names that the stores give their checkpoints, else their numbers."""
    return [str(c if s.spec is None else s.spec.checkpoint.get("name", c)) for c, s in enumerate(sources)]


class IdsDigest:
    """BLAKE2b-128 of ids in order, those of strings and of integers apart."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)

    def update(self, ids: Iterable[SampleId | None]) -> None:
        for i in ids:
            text = f"{type(i).__name__}:{i}".encode("utf-8", "surrogatepass")
            self._digest.update(len(text).to_bytes(8, "little") + text)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def ids_digest(ids: Iterable[SampleId | None]) -> str:
    """`IdsDigest` of all `ids`."""
    digest = IdsDigest()
    digest.update(ids)
    return digest.hexdigest()
