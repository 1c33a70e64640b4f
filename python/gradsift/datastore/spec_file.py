"""``spec.json``: what the rows of a store mean, as canonical JSON that may come from a stranger."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from gradsift.datastore.format import KNOWN_REQUIRED_FEATURES, MAX_FIRST, ROW_DTYPES, VERSION, required_features
from gradsift.errors import DatastoreCorruptError, DatastoreVersionError
from gradsift.specs import ProjectionSpec, StoreSpec, canonical_json

FILE_NAME = "spec.json"
FORMAT = "gradsift-datastore"
MAX_BYTES = 16 << 20
MAX_DEPTH = 32
_KEYS = {"digest", "format", "required_features", "row_dtype", "spec", "version"}
_STRING = re.compile(r'"[^"]*"?')
_SHOWN = 200


def pack_spec(spec: StoreSpec, dtype: str) -> bytes:
    """The bytes of ``spec.json``. Raises ValueError for a spec that could not be read back."""
    try:
        record = {
            "digest": spec.digest,
            "format": FORMAT,
            "required_features": required_features(dtype),
            "row_dtype": dtype,
            "spec": spec.to_dict(),
            "version": VERSION,
        }
        packed = canonical_json(record).encode()
        parse_spec(packed, "spec")
    except (TypeError, ValueError, RecursionError, DatastoreCorruptError) as error:
        raise ValueError(f"spec: expected a StoreSpec of plain JSON values, got one that is not: {error}") from error
    return packed


def parse_spec(raw: bytes, file: str) -> tuple[StoreSpec, str]:
    """The spec and the row dtype that ``spec.json`` with these bytes holds.

    Raises DatastoreCorruptError for anything but the canonical bytes of a valid spec, DatastoreVersionError for a
    later version.
    """

    def refuse(field: str, expected: object, got: object) -> NoReturn:
        raise DatastoreCorruptError(f"{file}: {field}: expected {expected}, got {_short(got)}")

    if len(raw) > MAX_BYTES:
        refuse("size", f"at most {MAX_BYTES} bytes", len(raw))
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError as error:
        refuse("text", "ASCII (other characters escaped)", error)
    depth = _depth(text)
    if depth > MAX_DEPTH:
        refuse("nesting", f"at most {MAX_DEPTH} levels", depth)
    try:
        record = json.loads(text, object_pairs_hook=_unique_keys, parse_int=_bounded_int, parse_constant=_no_constant)
    except ValueError as error:
        refuse("JSON", "one valid object", error)
    if not isinstance(record, dict):
        refuse("JSON", "one object", type(record).__name__)
    if record.get("format") != FORMAT:
        refuse("format", repr(FORMAT), repr(record.get("format")))
    version, required = record.get("version"), record.get("required_features")
    if type(version) is not int or version != VERSION:
        raise DatastoreVersionError(
            f"{file}: expected format version {VERSION}, got {_short(repr(version))}; open it with a gradsift "
            "that reads that version"
        )
    if type(required) is not int or required & ~KNOWN_REQUIRED_FEATURES:
        raise DatastoreVersionError(
            f"{file}: expected no required feature bits but {KNOWN_REQUIRED_FEATURES:#x}, got "
            f"{_short(repr(required))}; open it "
            "with a newer gradsift"
        )
    if set(record) != _KEYS:
        refuse("keys", sorted(_KEYS), sorted(record))
    try:
        if canonical_json(record) != text:
            refuse("text", "canonical JSON (sorted keys, no spaces)", "another spelling of the same values")
    except ValueError as error:
        refuse("numbers", "finite ones", error)
    if not isinstance(record["row_dtype"], str) or record["row_dtype"] not in ROW_DTYPES:
        raise DatastoreVersionError(
            f"{file}: row_dtype: expected one of {sorted(ROW_DTYPES)}, got "
            f"{_short(repr(record['row_dtype']))}; open it with a newer gradsift"
        )
    wanted = required_features(record["row_dtype"])
    if required != wanted:
        refuse("required_features", f"{wanted} for {record['row_dtype']}", required)
    return _spec(record["spec"], record["digest"], file), record["row_dtype"]


def expected_rows(spec: StoreSpec) -> int | None:
    """How many rows a finished store of `spec` holds; None where the spec does not say."""
    rows = spec.data.get("rows")
    if rows is None:
        return None
    if isinstance(rows, bool) or not isinstance(rows, int) or not 0 <= rows <= MAX_FIRST:
        raise ValueError(f'spec.data["rows"]: expected a count 0 … {MAX_FIRST} or None, got {rows!r}')
    return rows


def _spec(record: Any, digest: Any, file: str) -> StoreSpec:
    projection = record.get("projection") if isinstance(record, dict) else None
    version = projection.get("version") if isinstance(projection, dict) else None
    if isinstance(version, int) and version > ProjectionSpec.VERSION:
        raise DatastoreVersionError(
            f"{file}: expected a projection of version {ProjectionSpec.VERSION}, got {version}; open it with a newer "
            "gradsift"
        )
    try:
        if not all(isinstance(record.get(key, {}), Mapping) for key in ("checkpoint", "data")):
            raise TypeError("checkpoint and data must be objects")
        spec = StoreSpec.from_dict(record)
        same = canonical_json(spec.to_dict()) == canonical_json(record)
        expected_rows(spec)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DatastoreCorruptError(f"{file}: spec: expected a store's spec, got {_short(error)}") from error
    if not same:
        raise DatastoreCorruptError(f"{file}: spec: expected every field of a store's spec, got some left out")
    if spec.digest != digest:
        raise DatastoreCorruptError(f"{file}: digest: expected {spec.digest} (of the spec), got {_short(repr(digest))}")
    return spec


def _depth(text: str) -> int:
    """Nesting of brackets outside strings; found before parsing, because the parser recurses.

    Takes a time proportional to the text: escapes go first, so that no string need be tried from several quotes.
    """
    plain = _STRING.sub("", text.replace("\\\\", "").replace('\\"', ""))
    codes = np.frombuffer(plain.encode(), np.uint8)
    opening, closing = ((codes == ord(a)) | (codes == ord(b)) for a, b in ("[{", "]}"))
    return int(np.cumsum(opening.view(np.int8) - closing.view(np.int8), dtype=np.int32).max(initial=0))


def _short(value: object) -> str:
    """`value` as text that a message can hold, whatever the length of what a stranger wrote."""
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} … ({len(text)} characters)"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise ValueError(f"the key {key!r} stands there twice")
        record[key] = value
    return record


def _bounded_int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"the integer {digits[:24]} … does not fit 64 bits")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
