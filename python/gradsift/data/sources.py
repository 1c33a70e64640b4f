"""What to read: files, directories, globs, Hugging Face datasets and rows in memory, as one stream of rows each."""

from __future__ import annotations

import base64
import datetime
import decimal
import glob
import gzip
import hashlib
import json
import math
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradsift.data.records import RowError
from gradsift.errors import DataError, DependencyMissingError

DIRECTORY_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
# A lone .json in a directory is more often a manifest than data, so it must be named or matched.
FILE_SUFFIXES = (*DIRECTORY_SUFFIXES, ".json", ".json.gz")

_HF = re.compile(r"hf:(?P<name>[^:]+)(:(?P<config>[^:\[]+))?:(?P<split>[^:\[]+(\[[^\]]*\])?)")

Row = tuple[int, "dict[str, Any] | RowError"]


@dataclass(frozen=True)
class Source:
    """One place rows come from: `rows()` yields ``(number, row)``, numbers from 1 (lines of a text file).

    A row that cannot be read comes as the `RowError` that says why. `sha256` is None where there is no single file.
    """

    name: str
    stem: str | None
    kind: str
    payload: Any

    def rows(self) -> Iterator[Row]:
        """
        Raises
        ------
        DataError
            The source itself cannot be read to its end.
        """
        readers = {"jsonl": _read_json_lines, "json": _read_json, "parquet": _read_parquet}
        if self.kind not in readers:
            yield from _read_objects(self.payload)
            return
        try:
            yield from readers[self.kind](Path(self.payload))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.name}: expected a readable file, got {type(error).__name__}: {error}") from error

    def sha256(self) -> str | None:
        if not isinstance(self.payload, Path):
            return None
        digest = hashlib.sha256()
        with self.payload.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()


def find_sources(sources: Any) -> list[Source]:
    """The sources that `sources` names, in the order given; what a directory or a glob matches, sorted by path.

    A file that is reached twice is read once, at its first place.

    Parameters
    ----------
    sources : str, path, list of dict, ``datasets.Dataset``, or a sequence of these
        Paths may be a file (.jsonl, .json, .parquet, the first two also .gz), a directory (searched at all depths for
        .jsonl, .jsonl.gz and .parquet), a directory made by ``Dataset.save_to_disk``, a glob, or
        ``"hf:NAME:SPLIT"`` / ``"hf:NAME:CONFIG:SPLIT"`` for ``datasets.load_dataset``.

    Raises
    ------
    TypeError
        Something that is none of these.
    DataError
        Nothing there, or nothing of a known format.
    DependencyMissingError
        ``datasets`` or ``pyarrow`` is needed and not installed.
    """
    found: list[Source] = []
    seen: set[Path] = set()
    for position, item in enumerate(_items(sources)):
        for source in _expand(item, position):
            if isinstance(source.payload, Path):
                resolved = source.payload.resolve()
                if resolved in seen:
                    continue
                seen.add(resolved)
            found.append(source)
    if not found:
        raise DataError("sources: expected at least one file or dataset, got an empty list")
    return found


def _items(sources: Any) -> list[Any]:
    if isinstance(sources, (str, os.PathLike)) or _is_dataset(sources):
        return [sources]
    if isinstance(sources, Sequence) and not isinstance(sources, (bytes, bytearray)):
        items = list(sources)
        return [items] if items and all(isinstance(item, Mapping) for item in items) else items
    raise TypeError(f"sources: expected paths, Hugging Face datasets or a list of dicts, got {type(sources).__name__}")


def _expand(item: Any, position: int) -> list[Source]:
    if isinstance(item, str) and item.startswith("hf:"):
        return [_hugging_face(item)]
    if isinstance(item, (str, os.PathLike)):
        return _expand_path(Path(item).expanduser())
    if _is_dataset(item):
        return [Source(f"dataset {position}", None, "dataset", item)]
    if (
        isinstance(item, Sequence)
        and not isinstance(item, (bytes, bytearray))
        and all(isinstance(row, Mapping) for row in item)
    ):
        return [Source(f"rows {position}", None, "memory", item)]
    raise TypeError(f"sources: expected a path, a Hugging Face dataset or a list of dicts, got {type(item).__name__}")


def _expand_path(path: Path) -> list[Source]:
    if path.is_dir():
        return _expand_directory(path)
    if path.exists():
        return [_file(path)]
    if glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        # A pattern like data/** also matches the README; a directory it matches stands for its data files.
        files = [m for m in matches if m.is_file() and _suffix(m)]
        inside = [s for m in matches if m.is_dir() for s in _expand_directory(m, may_be_empty=True)]
        if not files and not inside:
            raise DataError(
                f"{path}: expected a pattern that matches {_listed(FILE_SUFFIXES)} files,"
                f" got {len(matches)} other matches"
            )
        return [*(_file(file) for file in files), *inside]
    raise DataError(f"{path}: expected a file, a directory or a pattern, got a path that does not exist")


def _expand_directory(path: Path, *, may_be_empty: bool = False) -> list[Source]:
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(str(child) for child in sorted(path.iterdir()) if child.is_dir())
        raise DataError(f"{path}: expected one split of a saved dataset, got all of them; name one of {splits}")
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return [Source(str(path), path.name, "saved", _load(str(path), "load_from_disk", str(path)))]
    files = sorted(
        (file for file in path.rglob("*") if file.is_file() and _suffix(file) in DIRECTORY_SUFFIXES),
        key=lambda file: file.relative_to(path).as_posix(),
    )
    if not files and not may_be_empty:
        raise DataError(
            f"{path}: expected a directory with {_listed(DIRECTORY_SUFFIXES)} files at some depth, got none;"
            " name a .json file itself"
        )
    return [_file(file) for file in files]


def _file(path: Path) -> Source:
    suffix = _suffix(path)
    if suffix is None:
        raise DataError(f"{path}: expected a file that ends in {_listed(FILE_SUFFIXES)}, got {path.name}")
    kind = "parquet" if suffix == ".parquet" else "jsonl" if suffix.startswith(".jsonl") else "json"
    return Source(str(path), path.name[: -len(suffix)], kind, path)


def _suffix(path: Path) -> str | None:
    name = path.name.lower()
    return next((s for s in FILE_SUFFIXES if name.endswith(s) and len(name) > len(s)), None)


def _listed(suffixes: Iterable[str]) -> str:
    return ", ".join(suffixes)


def _hugging_face(text: str) -> Source:
    match = _HF.fullmatch(text)
    if match is None:
        raise ValueError(f"sources: expected hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT, got {text!r}")
    name, config, split = match["name"], match["config"], match["split"]
    return Source(text, name.rsplit("/", 1)[-1], "hf", _load(text, "load_dataset", name, name=config, split=split))


def _load(what: str, function: str, *args: Any, **kwargs: Any) -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DependencyMissingError(
            f'{what}: expected the package datasets, got none installed; pip install "gradsift[hf]"'
        ) from error
    try:
        return getattr(datasets, function)(*args, **kwargs)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{what}: expected a dataset that loads, got {type(error).__name__}: {error}") from error


def _is_dataset(value: Any) -> bool:
    # A dataset object can only exist where its package has been imported already.
    datasets = sys.modules.get("datasets")
    if datasets is None:
        return False
    if isinstance(value, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        raise TypeError(
            f"sources: expected one split of a dataset, got {type(value).__name__}; pass one of {', '.join(value)}"
        )
    return isinstance(value, (datasets.Dataset, datasets.IterableDataset))


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _read_json_lines(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if data.strip():
                yield number, _parse(data)


def _read_json(path: Path) -> Iterator[Row]:
    """A .json file holds JSON lines or, as Alpaca's own does, one array of rows (numbered from 1)."""
    with _open(path) as file:
        data = file.read().removeprefix(b"\xef\xbb\xbf")
    if data.lstrip()[:1] != b"[":
        yield from _read_json_lines(path)
        return
    rows = _decode(data)
    if isinstance(rows, RowError):
        raise DataError(f"{path}: expected an array of rows, got text that cannot be read: {rows.reason}")
    yield from enumerate((_object(row) for row in rows), 1)


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise DependencyMissingError(
            f'{path}: expected the package pyarrow, got none installed; pip install "gradsift[hf]"'
        ) from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _plain_row(row)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: expected a readable Parquet file, got {error}") from error


def _read_objects(rows: Iterable[Any]) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        yield number, _plain_row(row)


def _parse(data: bytes) -> dict[str, Any] | RowError:
    value = _decode(data)
    return value if isinstance(value, RowError) else _object(value)


def _decode(data: bytes) -> Any:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return RowError("encoding", f"expected UTF-8, got byte 0x{data[error.start]:02x} at offset {error.start}")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return RowError("json", f"expected JSON, got text that cannot be read: {error}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object(value: Any) -> dict[str, Any] | RowError:
    if not isinstance(value, dict):
        return RowError("json", f"expected a JSON object, got {type(value).__name__}")
    return value


def _plain_row(row: Any) -> dict[str, Any] | RowError:
    try:
        plain = {str(column): _plain(value, str(column)) for column, value in row.items()}
    except RowError as error:
        return error
    return plain


def _plain(value: Any, column: str) -> Any:
    """`value` as JSON can hold it, so that a selected row can be written out again."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        # pandas writes missing values of a column of numbers as NaN
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, column) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, column) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if type(value).__module__ == "numpy":
        return _plain(value.tolist(), column)
    raise RowError(
        "json", f"{column}: expected a value that JSON can hold, got {type(value).__name__}; drop the column"
    )
