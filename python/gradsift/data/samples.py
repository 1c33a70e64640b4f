"""Samples: rows that have been checked, named and put in order."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from gradsift.data.records import Message, RowError, is_unicode, messages_of
from gradsift.data.sources import find_sources
from gradsift.errors import DataError
from gradsift.specs import canonical_json, digest_of

_LISTED = 20


@dataclass(frozen=True)
class Sample:
    """One chat and where it came from.

    Attributes
    ----------
    id : str
        Unique in its set: the row's own, or 32 hexadecimal digits made from `messages`.
    messages : tuple of ``{"role", "content"}``
    subtask : str or None
    source, line : str, int
        File (or dataset) and line; for Parquet, arrays and datasets the row, counted from 1.
    record : dict
        The row as it was read.
    """

    id: str
    messages: tuple[Message, ...]
    subtask: str | None
    source: str
    line: int
    record: dict[str, Any]

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"


@dataclass(frozen=True)
class BadRow:
    """A row that was left out. `kind` is one of shape, role, empty, no_assistant, encoding, json, id, duplicate,
    subtask."""

    source: str
    line: int
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class SourceInfo:
    """What was read: its name, the sha256 of its bytes (None where it is not one file), how many rows it had."""

    name: str
    sha256: str | None
    rows: int


class SampleSet(Sequence[Sample]):
    """Samples in order, ids unique, with what was left out and where they came from.

    Attributes
    ----------
    bad_rows : tuple of BadRow
    sources : tuple of SourceInfo
    """

    def __init__(
        self, samples: Iterable[Sample], *, bad_rows: Iterable[BadRow] = (), sources: Iterable[SourceInfo] = ()
    ) -> None:
        self._samples = tuple(samples)
        self.bad_rows = tuple(bad_rows)
        self.sources = tuple(sources)

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self._samples[index]

    @property
    def ids(self) -> list[str]:
        return [sample.id for sample in self._samples]

    @property
    def subtasks(self) -> list[str | None]:
        return [sample.subtask for sample in self._samples]

    @property
    def bad_row_counts(self) -> dict[str, int]:
        """How many rows were left out, by kind; ``"duplicate"`` are those that repeat an id or, without id, a chat."""
        return dict(sorted(Counter(row.kind for row in self.bad_rows).items()))

    @functools.cached_property
    def _by_id(self) -> dict[str, Sample]:
        return {sample.id: sample for sample in self._samples}

    @functools.cached_property
    def digest(self) -> str:
        """BLAKE2b-128 of ids, messages and subtasks in order: equal where the same data would be used."""
        digest = hashlib.blake2b(digest_size=16)
        for sample in self._samples:
            digest.update(canonical_json([sample.id, sample.messages, sample.subtask]).encode() + b"\n")
        return digest.hexdigest()

    def take(self, ids: Iterable[str]) -> SampleSet:
        """The samples of these ids, in the order of `ids`.

        Raises
        ------
        DataError
            An id that is not there (up to 20 are listed), or the same one twice.
        """
        wanted = list(ids)
        unknown = [name for name in wanted if name not in self._by_id]
        if unknown:
            raise DataError(
                f"ids: expected ids of the {len(self)} samples, got {len(unknown)} that are not among them:"
                f" {_some(unknown)}; ids of this set look like {_some(self.ids[:3])}"
            )
        twice = [name for name, count in Counter(wanted).items() if count > 1]
        if twice:
            raise DataError(f"ids: expected each id once, got {len(twice)} repeated: {_some(twice)}")
        return SampleSet((self._by_id[name] for name in wanted), bad_rows=self.bad_rows, sources=self.sources)


def read_samples(
    sources: Any,
    *,
    id_field: str = "id",
    subtask_field: str | None = None,
    subtask_from_file: bool = False,
    bad_rows: str = "error",
    limit: int | None = None,
    ids: str | os.PathLike[str] | Iterable[str] | None = None,
) -> SampleSet:
    """Read, check and name the samples of files, directories, globs, Hugging Face datasets or rows in memory.

    Parameters
    ----------
    sources : see `gradsift.data.find_sources`
    id_field : str
        Column of ids (strings or integers). A row without it is named by BLAKE2b-128 of its messages.
    subtask_field : str, optional
        Column of subtask names (strings or integers); a row without it is bad.
    subtask_from_file : bool
        The subtask is the file's name without its ending (for datasets, their name).
    bad_rows : {"error", "skip"}
        What to do about rows that cannot be used: raise with the first 20 of them, or leave them out and list them
        in `SampleSet.bad_rows`.
    limit : int, optional
        Keep the first `limit` samples; without `ids`, what lies behind them is not read.
    ids : path of a text file with one id a line, or an iterable of ids, optional
        Keep these, in this order.

    Raises
    ------
    DataError
        Nothing to read, an unreadable file, bad rows (by choice), unknown ids, or no sample left.
    """
    if bad_rows not in ("error", "skip"):
        raise ValueError(f'bad_rows: expected "error" or "skip", got {bad_rows!r}')
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise TypeError(f"limit: expected an int or None, got {type(limit).__name__}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}")
    if subtask_field is not None and subtask_from_file:
        raise ValueError("subtask_from_file: expected False beside subtask_field, got True; choose one of the two")
    wanted = None if ids is None else _read_ids(ids)
    stop_at = limit if wanted is None else None
    found = find_sources(sources)
    if subtask_from_file and (nameless := [source.name for source in found if source.stem is None]):
        raise ValueError(
            f"subtask_from_file: expected files or named datasets, got {_some(nameless)}; use subtask_field"
        )

    samples: list[Sample] = []
    bad: list[BadRow] = []
    infos: list[SourceInfo] = []
    first_place: dict[str, str] = {}
    for source in found:
        rows = 0
        for line, row in source.rows():
            rows += 1
            subtask = source.stem if subtask_from_file else None
            try:
                sample = _sample(row, source.name, line, id_field, subtask_field, subtask)
                _check_new(sample, first_place, id_field)
            except RowError as error:
                bad.append(BadRow(source.name, line, error.kind, error.reason))
                continue
            samples.append(sample)
            if len(samples) == stop_at:
                break
        if rows == 0:
            bad.append(BadRow(source.name, 0, "empty", "expected at least one row, got an empty file"))
        infos.append(SourceInfo(source.name, source.sha256(), rows))
        if len(samples) == stop_at:
            break

    if bad and bad_rows == "error":
        raise DataError(_bad_row_message(bad, len(samples)))
    if not samples:
        looked = ", ".join(f"{info.name} ({info.rows} rows)" for info in infos[:_LISTED])
        first = f"; the first bad row is {bad[0]}" if bad else ""
        raise DataError(f"sources: expected at least one usable sample, got none in {looked}{first}")
    whole = SampleSet(samples, bad_rows=bad, sources=infos)
    if wanted is None:
        return whole
    return whole.take(wanted if limit is None else wanted[:limit])


def _sample(
    row: dict[str, Any] | RowError,
    source: str,
    line: int,
    id_field: str,
    subtask_field: str | None,
    subtask: str | None,
) -> Sample:
    if isinstance(row, RowError):
        raise row
    messages = messages_of(row)
    own = row.get(id_field)
    name = digest_of(list(messages)) if own is None else _name(own, id_field, "id")
    if subtask_field is not None:
        subtask = _name(row.get(subtask_field), subtask_field, "subtask")
    return Sample(name, messages, subtask, source, line, row)


def _name(value: Any, column: str, kind: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        got = "nothing" if value is None else type(value).__name__
        raise RowError(kind, f"{column}: expected a string or an integer, got {got}")
    name = str(value)
    # Ids are kept one a line in text files.
    if not name.strip() or name != name.strip() or len(name.splitlines()) > 1 or not is_unicode(name):
        raise RowError(kind, f"{column}: expected one line of text without space around it, got {name!r}")
    return name


def _check_new(sample: Sample, first_place: dict[str, str], id_field: str) -> None:
    first = first_place.get(sample.id)
    if first is None:
        first_place[sample.id] = sample.place
        return
    if sample.record.get(id_field) is None:
        raise RowError("duplicate", f"expected a chat of its own or an id, got the same messages as {first}")
    raise RowError("duplicate", f"{id_field}: expected an id of its own, got {sample.id!r} as in {first}")


def _read_ids(ids: str | os.PathLike[str] | Iterable[str]) -> list[str]:
    if isinstance(ids, (str, os.PathLike)):
        path = Path(ids).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: expected a text file with one id a line, got {error}") from error
        names = [line.strip() for line in text.splitlines() if line.strip()]
        what = str(path)
    else:
        names = list(ids)
        what = "ids"
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"ids: expected strings, got {type(name).__name__}")
    if not names:
        raise DataError(f"{what}: expected at least one id, got none")
    return names


def _bad_row_message(bad: Sequence[BadRow], good: int) -> str:
    lines = [f"rows: expected all to be usable, got {len(bad)} bad beside {good} good:"]
    lines += [f"  {row}" for row in bad[:_LISTED]]
    if len(bad) > _LISTED:
        lines.append(f"  and {len(bad) - _LISTED} more")
    lines.append('correct them, or leave them out with bad_rows="skip"')
    return "\n".join(lines)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown}, …"
