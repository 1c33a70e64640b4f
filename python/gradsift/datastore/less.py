"""Rows that the released LESS code wrote (princeton-nlp/LESS, less/data_selection/collect_grad_reps.py).

A folder ``dim<P>`` of it holds ``grads-<count>.pt`` (`count`: samples so far), ``all_unormalized.pt`` (the same rows in
one tensor) and ``all_orig.pt`` (each row divided by its length, in the stored dtype); tensors (N, P) of float32 as a
rule, float16 or bfloat16 from its slow projector. Nothing else is in there, so much about these rows cannot be known.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradsift.datastore.reader import Datastore
from gradsift.datastore.rows import widen
from gradsift.datastore.table import FLAG_NONFINITE, FLAG_ZERO
from gradsift.errors import DatastoreCorruptError, DatastoreError, DependencyMissingError
from gradsift.specs import ForeignProjection, Gamma, StoreSpec, digest_of

if TYPE_CHECKING:
    import torch

WHOLE, NORMALIZED = "all_unormalized.pt", "all_orig.pt"  # [sic]
WHICH = ("auto", "unnormalized", "chunks", "normalized")
# What its --gradient_type did: Adam as in `Gamma.less`, whatever the optimizer's own numbers were.
_GAMMAS = {"adam": Gamma.less, "sgd": Gamma.sgd, "sign": Gamma.sign}
_NOT_KNOWN = ("projection.matrix", "parameters", "ids", "grad_norm", "gamma_norm", "tokens", "loss", "data.digest")
_CHUNK = re.compile(r"grads-([0-9]{1,15})\.pt", re.ASCII)
_STEP_BYTES = 32 << 20
_HASH_BYTES = 1 << 20


@dataclass(frozen=True)
class LessImport:
    """What `import_less` did: `flagged` rows hold NaN or Inf, `zero` ones nothing; `not_known` is what no file says."""

    path: str
    files: tuple[str, ...]
    rows: int
    proj_dim: int
    dtype: str
    normalized: bool
    flagged: int
    zero: int
    not_known: tuple[str, ...]

    def __str__(self) -> str:
        first, last = self.files[0], self.files[-1]
        return "\n".join(
            [
                f"{self.path}: {self.rows} rows of {self.proj_dim} {self.dtype} numbers, "
                f"{'each divided by its length' if self.normalized else 'as long as they were'}, from "
                f"{first if first == last else f'{first} … {last} ({len(self.files)} files)'}",
                f"  with NaN or Inf (flagged, never selected): {self.flagged}; zero: {self.zero}",
                f"  not known, as the files do not say it: {', '.join(self.not_known)}",
            ]
        )


def import_less(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    which: str = "auto",
    dtype: str | None = None,
    matrix: str | None = None,
    gradient_type: str | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    ids: Sequence[str] | Sequence[int] | None = None,
    shard_rows: int = 4096,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> LessImport:
    """Makes the store `out` of the rows in a ``dim<P>`` folder that the released LESS code wrote.

    Files are mapped and read in parts; old-style ones that cannot be mapped are loaded one at a time. They are loaded
    as weights only: no code in them runs.

    Parameters
    ----------
    source : path
        The folder.
    out : path or URL
        The store to make.
    which : {"auto", "unnormalized", "chunks", "normalized"}
        ``all_unormalized.pt``, ``grads-*.pt`` or ``all_orig.pt``; ``"auto"`` takes the first of them that is there.
        All hold the same samples; the last has lost the lengths of the rows, which cosines do not need.
    dtype : {"float32", "float16", "bfloat16"}, optional
        How rows are stored; as in the files by default, bit for bit.
    matrix : str, optional
        A name for the random matrix. The files do not say which it was, and it depended on seed, dimension and GPU
        model. Stores imported under one name are taken to share it; without one the rows compare with no others.
    gradient_type : {"adam", "sgd", "sign"}, optional
        What LESS was run with; not known by default.
    checkpoint : mapping, optional
        What is known of the checkpoint, as in `StoreSpec`.
    ids : N strings or integers, optional
        Ids of the samples, in the order of the training file; 0 … N − 1 by default.
    shard_rows, resume, storage_options
        As in `Datastore.create`; a resumed import refuses files that have changed.

    Raises
    ------
    DatastoreError
        No such files, or other kinds of tensors. DatastoreCorruptError: files that are damaged, or hold more than
        tensors. ValueError: P is not a power of two from 256 to 65,536; a row that `dtype` cannot hold.
    """
    if which not in WHICH:
        raise ValueError(f"which: expected one of {WHICH}, got {which!r}")
    if gradient_type is not None and gradient_type not in _GAMMAS:
        raise ValueError(f"gradient_type: expected one of {sorted(_GAMMAS)}, got {gradient_type!r}")
    folder = Path(source)
    files = _files(folder, which)
    first = _load(files[0][0])
    n_rows = files[-1][1] if files[-1][1] is not None else len(first)
    proj_dim, stored = int(first.shape[1]), _dtype_name(first)
    if ids is not None and len(ids) != n_rows:
        raise ValueError(f"ids: expected {n_rows}, one a row, got {len(ids)}")
    normalized = files[0][0].name == NORMALIZED
    not_known = [
        name
        for name, known in (
            *(
                (name, (name == "projection.matrix" and matrix) or (name == "ids" and ids is not None))
                for name in _NOT_KNOWN
            ),
            ("gamma", gradient_type),
            ("checkpoint", checkpoint),
        )
        if not known
    ]
    spec = StoreSpec(
        ForeignProjection(proj_dim, "less", matrix),
        None if gradient_type is None else _GAMMAS[gradient_type](),
        checkpoint=dict(checkpoint or {}),
        data={
            "rows": n_rows,
            "imported": {
                "from": "less",
                "files": len(files),
                "digest": digest_of([[path.name, _file_digest(path)] for path, _ in files]),
                "dtype": stored,
                "normalized": normalized,
                "not_known": not_known,
            },
        },
    )
    with Datastore.create(
        out,
        spec=spec,
        dtype=dtype or stored,
        shard_rows=shard_rows,
        resume=resume,
        storage_options=storage_options,
    ) as writer:
        for start, rows in _pieces(files, first, writer.missing()):
            part = range(start, start + len(rows))
            writer.append(list(part) if ids is None else ids[part.start : part.stop], rows, first=start)
    with Datastore.open(out, storage_options=storage_options) as store:
        flags = store.metadata()["flags"]
        return LessImport(
            store.path,
            tuple(path.name for path, _ in files),
            len(store),
            proj_dim,
            store.dtype,
            normalized,
            int(np.count_nonzero(flags & FLAG_NONFINITE)),
            int(np.count_nonzero(flags & FLAG_ZERO)),
            tuple(not_known),
        )


def _files(folder: Path, which: str) -> list[tuple[Path, int | None]]:
    """The files of `which`, in order, each with the number of samples up to its end where its name says it."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DatastoreError(f"{str(folder)!r}: expected a folder that LESS wrote, got {error.strerror}") from error
    if any(name.startswith("reps-") for name in names):
        raise DatastoreError(
            f"{str(folder)!r}: expected gradients (grads-*.pt), got hidden states (reps-*.pt), which have no projection"
        )
    chunks = sorted((int(match[1]), name) for name in names if (match := _CHUNK.fullmatch(name)))
    there: dict[str, list[tuple[Path, int | None]]] = {
        "unnormalized": [(folder / WHOLE, None)] if WHOLE in names else [],
        "chunks": [(folder / name, count) for count, name in chunks],
        "normalized": [(folder / NORMALIZED, None)] if NORMALIZED in names else [],
    }
    for kind, files in there.items():
        if files and which in ("auto", kind):
            return files
    wanted = {"unnormalized": WHOLE, "chunks": "grads-<count>.pt", "normalized": NORMALIZED}
    raise DatastoreError(
        f"{str(folder)!r}: expected {' or '.join(wanted.values()) if which == 'auto' else wanted[which]}, got "
        f"{names[:8]}; name the folder dim<P> that LESS wrote"
    )


def _pieces(
    files: list[tuple[Path, int | None]], first: torch.Tensor, missing: list[range]
) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of `missing`, in float32, in pieces of bounded size, each with the number of its first row.

    `first` is the tensor of the first file.
    """
    proj_dim, stored = int(first.shape[1]), _dtype_name(first)
    step = max(1, _STEP_BYTES // (4 * proj_dim))
    at = 0
    for path, count in files:
        tensor = first if path == files[0][0] else _load(path)
        if tensor.shape[1] != proj_dim or _dtype_name(tensor) != stored:
            raise DatastoreError(
                f"{str(path)!r}: expected {stored} rows of {proj_dim} as in {files[0][0].name}, got "
                f"{_dtype_name(tensor)} rows of {tensor.shape[1]}"
            )
        stop = at + len(tensor)
        if count is not None and stop != count:
            raise DatastoreError(
                f"{str(path)!r}: expected rows {at} … {count - 1}, as its name and those before say, got {len(tensor)} "
                "rows; a file is missing, or comes from another run"
            )
        for gap in missing:
            for start in range(max(at, gap.start), min(stop, gap.stop), step):
                yield start, _float32(tensor[start - at : min(start + step, stop, gap.stop) - at], stored)
        at = stop


def _load(path: Path) -> torch.Tensor:
    """The tensor (N, P) in the file; mapped where the file allows it."""
    try:
        import torch
    except ImportError as error:
        raise DependencyMissingError(
            f"{str(path)!r}: expected torch, which reads such files, got none; pip install 'gradsift[torch]'"
        ) from error
    try:
        mapped = zipfile.is_zipfile(path)
        if mapped:
            _check_archive(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise DatastoreError(f"{str(path)!r}: cannot be read: {error.strerror or error}") from error
    except DatastoreError:
        raise
    except Exception as error:  # a damaged file makes torch raise whatever its bytes lead it to
        reason = next(iter(str(error).splitlines()), "")
        raise DatastoreCorruptError(
            f"{str(path)!r}: expected a tensor as torch.save writes it, got a file that is damaged or holds more than "
            f"tensors ({type(error).__name__}: {reason}); nothing in it was run"
        ) from error
    if not isinstance(found, torch.Tensor):
        raise DatastoreError(f"{str(path)!r}: expected one tensor, got {type(found).__name__}")
    if found.layout != torch.strided or found.ndim != 2 or not len(found):
        raise DatastoreError(f"{str(path)!r}: expected a tensor (N, P), got {found.layout} of {tuple(found.shape)}")
    # A tensor of a few bytes may claim to repeat them without end.
    claimed = found.numel() * found.element_size()
    if found.untyped_storage().nbytes() < claimed:
        raise DatastoreCorruptError(
            f"{str(path)!r}: expected {claimed} bytes for a tensor {tuple(found.shape)}, got "
            f"{found.untyped_storage().nbytes()}, which it repeats"
        )
    if found.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise DatastoreError(f"{str(path)!r}: expected float32, float16 or bfloat16, got {found.dtype}")
    return found.detach()


def _check_archive(path: Path) -> None:
    """Raises DatastoreCorruptError unless every entry lies there uncompressed, as mapping needs it, and undamaged."""
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        bad = packed[0] if packed else archive.testzip()
    if bad:
        raise DatastoreCorruptError(
            f"{str(path)!r}: entry {bad!r}: expected {'no compression' if packed else 'its checksum'}, got another"
        )


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _float32(rows: torch.Tensor, stored: str) -> np.ndarray:
    if stored == "bfloat16":
        import torch

        return widen(rows.view(torch.int16).numpy().view("<u2"), stored)
    return widen(rows.numpy(), stored)


def _file_digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while part := file.read(_HASH_BYTES):
            digest.update(part)
    return digest.hexdigest()
