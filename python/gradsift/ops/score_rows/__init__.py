"""Scores of rows against target columns: the op that selection streams datastores through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradsift import backends
from gradsift.ops import _arrays
from gradsift.ops._arrays import Array
from gradsift.ops._dispatch import implementation
from gradsift.ops._native_args import rows_view
from gradsift.ops.score_rows.blocks import (
    QUANTISED,
    ROW_FORMATS,
    STATUS_NONFINITE,
    STATUS_ZERO,
    BlockScores,
    Part,
)

__all__ = ["BlockScores", "RowScorer", "faster_if_rounded", "score_rows"]

FLOAT_ROWS = ("float32", "float16", "bfloat16")


def score_rows(
    rows: Array, targets: Array, *, out: Array | None = None, backend: str = "auto", threads: int | None = None
) -> Array:
    """Score each row against each target: ``out[i, s] = ⟨rows[i], targets[s]⟩ / ‖rows[i]‖``.

    Rows are normalised here and targets are not. With a target of norm one the score is the cosine; with the mean of
    unit vectors it is the mean of their cosines, which is how a whole subtask costs one column.

    Parameters
    ----------
    rows : array, shape (n, P), float32, float16 or bfloat16
        Sketches, in CPU memory or on a CUDA device. A row of zeros scores 0; a row with a NaN or an infinity scores
        NaN, in all columns, and spoils no other row.
    targets : array, shape (S, P), float32
        Finite, of moderate norm (products are formed in float32). From a CUDA device they are copied to the CPU.
    out : array, shape (n, S), float32, optional
        Overwritten; must not overlap an operand.
    backend : {"auto", "cuda", "cpu", "reference"}
        ``"reference"`` computes in float64.
    threads : int, optional
        Threads of the ``"cpu"`` backend.

    Returns
    -------
    array, shape (n, S), float32
        A torch tensor where `rows` is one, else a NumPy array; `out` where it was given.

    Raises
    ------
    TypeError, ValueError
        For arguments that break the above.
    BackendUnavailableError
        The named backend cannot run here.

    Notes
    -----
    ``"cpu"`` forms products and squared norms in float32, and divides in float64. A row's score for a target depends
    on the two alone, not on blocks, threads or other targets, so that equal rows score equally; another instruction
    set may change the last bits. bfloat16 rows meet targets as two bfloat16 numbers each where the CPU multiplies
    these, or as one where that is exact. Costs 2·n·P·S operations and one read of the rows; targets are packed anew in
    each call, which `RowScorer` spares. ``"cuda"`` holds targets in as many 16-bit floats, or 8-bit integers, each as
    keep a score within 8e-7: how many may depend on the other targets.
    """
    _arrays.check_array("rows", rows, shape="(n, P)", ndim=2, dtypes=FLOAT_ROWS)
    _arrays.check_array("targets", targets, shape="(S, P)", ndim=2, dtypes=("float32",))
    n, proj_dim = _arrays.shape_of(rows)
    n_targets, target_dim = _arrays.shape_of(targets)
    if target_dim != proj_dim:
        raise ValueError(f"targets: expected {proj_dim} columns as rows has, got {target_dim}")
    target_array = np.ascontiguousarray(_arrays.numpy_view(targets.cpu() if _arrays.is_tensor(targets) else targets))
    _check_finite("targets", target_array)
    _arrays.check_outputs(out, None, accumulate=False, batch=n, proj_dim=n_targets, inputs=(rows, targets))
    _arrays.check_threads(threads)
    device = _arrays.device_type("rows", rows)
    prepare = implementation("score_rows", backend, device, "prepare_targets")
    run = implementation("score_rows", backend, device)

    result = _arrays.allocate_out(rows, n, n_targets) if out is None else out
    if n and n_targets:
        in_cpu_memory = device == "cpu"
        part = Part(
            prepare(target_array, _arrays.dtype_name(rows), 0), rows_view(rows) if in_cpu_memory else rows, None, 1.0
        )
        scores = BlockScores(scores=_arrays.numpy_view(result) if in_cpu_memory else result)
        run([part], scores, reduce="max", excluded=None, hide=STATUS_NONFINITE, threads=threads)
    return result


class RowScorer:
    """Scores blocks of rows, as they are stored, at all checkpoints: ``Σ_c weight_c · ⟨row_c, target_c⟩ / ‖row_c‖``.

    Targets are prepared once. A row of which a checkpoint has a NaN, an infinity or only zeros has no influence.

    Parameters
    ----------
    targets : one array a checkpoint, shape (S, P), float32
    weights : one number a checkpoint
    dtypes : one of `ROW_FORMATS` a checkpoint
        How its rows are stored.
    seeds : one int a checkpoint, optional
        Of the rotation of quantised rows.
    reduce : {"max", "mean"}
        Over columns.
    backend : {"auto", "cuda", "cpu", "reference"}
    threads : int, optional
        Threads of the ``"cpu"`` backend.
    device : {"cpu", "cuda"}
        Where rows, and what is filled, will lie. Targets are always NumPy arrays.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError
        As `score_rows`.
    """

    def __init__(
        self,
        targets: Sequence[np.ndarray],
        weights: Sequence[float],
        dtypes: Sequence[str],
        *,
        seeds: Sequence[int] | None = None,
        reduce: str = "max",
        backend: str = "auto",
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        if reduce not in ("max", "mean"):
            raise ValueError(f"reduce: expected 'max' or 'mean', got {reduce!r}")
        _arrays.check_threads(threads)
        prepare = implementation("score_rows", backend, device, "prepare_targets")
        self._run = implementation("score_rows", backend, device)
        self._device = device
        self._reduce, self._threads = reduce, threads
        self._weights = [float(weight) for weight in weights]
        self._dtypes = list(dtypes)
        self._prepared: list[Any] = []
        seeds = [0] * len(self._dtypes) if seeds is None else seeds
        if len(targets) == 0:
            raise ValueError("targets: expected at least one array, got none")
        for name, given in (("weights", weights), ("dtypes", dtypes), ("seeds", seeds)):
            if len(given) != len(targets):
                raise ValueError(f"{name}: expected {len(targets)}, one a checkpoint as targets, got {len(given)}")
        for c, (target, dtype, seed) in enumerate(zip(targets, dtypes, seeds, strict=True)):
            name = f"targets[{c}]"
            _arrays.check_array(name, target, shape="(S, P)", ndim=2, dtypes=("float32",))
            if target.shape[0] != targets[0].shape[0] or 0 in target.shape:
                raise ValueError(f"{name}: expected as many columns as targets[0], at least one, got {target.shape}")
            if dtype not in ROW_FORMATS:
                raise ValueError(f"dtypes[{c}]: expected one of {tuple(ROW_FORMATS)}, got {dtype!r}")
            _check_finite(name, target)
            self._prepared.append(prepare(np.ascontiguousarray(target), dtype, seed))
        self._row_bytes = [t.shape[1] * ROW_FORMATS[d][1] // 8 for t, d in zip(targets, dtypes, strict=True)]
        self.n_columns = int(targets[0].shape[0])

    def score(
        self,
        rows: Sequence[Array],
        out: BlockScores,
        *,
        scales: Sequence[Array | None] | None = None,
        excluded: Array | None = None,
    ) -> None:
        """Fill `out` for a block of n rows.

        Parameters
        ----------
        rows : one array a checkpoint, (n, …)
            As stored (`Part`).
        scales : one array (n,) float32 a checkpoint, of quantised rows; else None
        excluded : array (n,) uint8, optional
            Nonzero where a row is not to have an influence.
        """
        scales = [None] * len(rows) if scales is None else scales
        for name, given in (("rows", rows), ("scales", scales)):
            if len(given) != len(self._prepared):
                raise ValueError(f"{name}: expected {len(self._prepared)}, one a checkpoint, got {len(given)}")
        n = len(rows[0])
        parts = [
            self._part(c, block, scale, n, None) for c, (block, scale) in enumerate(zip(rows, scales, strict=True))
        ]
        for name, array, shape, dtype in (
            ("influence", out.influence, (n,), "float32"),
            ("best", out.best, (n,), "int32"),
            ("status", out.status, (n,), "uint8"),
            ("excluded", excluded, (n,), "uint8"),
            ("scores", out.scores, (n, self.n_columns), "float32"),
        ):
            self._check(name, array, shape, dtype)
        self._call(parts, out, excluded)

    def score_checkpoint(self, checkpoint: int, rows: Array, out: Array, *, scales: Array | None = None) -> None:
        """Fill `out`, (n, S) float32, with the scores of a block at one checkpoint alone.

        0 for a row of zeros and NaN for one that is not finite, as `score_rows` has it.
        """
        self._call([self._part(checkpoint, rows, scales, len(rows), out)], BlockScores(), None)

    def _part(self, c: int, rows: Array, scales: Array | None, n: int, scores: Array | None) -> Part:
        name, dtype = f"rows[{c}]", self._dtypes[c]
        _arrays.check_type(name, rows)
        if dtype in ("float32", "float16"):  # bfloat16 and codes come as any type of their size
            _arrays.check_dtype(name, rows, (dtype,))
        shape = _arrays.shape_of(rows)
        if len(shape) != 2 or shape[0] != n or shape[1] * rows.itemsize != self._row_bytes[c]:
            raise ValueError(
                f"{name}: expected shape ({n}, …) of {self._row_bytes[c]} bytes a row, as {dtype} rows have, got "
                f"{shape} of {_arrays.dtype_name(rows)}"
            )
        if dtype in QUANTISED:
            if scales is None:
                raise ValueError(f"scales[{c}]: expected shape ({n},) float32 for {dtype} rows, got None")
            scales = np.ascontiguousarray(scales) if isinstance(scales, np.ndarray) else scales
            self._check(f"scales[{c}]", scales, (n,), "float32")
        self._check("out", scores, (n, self.n_columns), "float32")
        view = rows_view(rows) if self._device == "cpu" else rows
        return Part(self._prepared[c], view, scales, self._weights[c], scores)

    def _call(self, parts: Sequence[Part], out: BlockScores, excluded: Array | None) -> None:
        if len(parts[0].rows):
            hide = STATUS_NONFINITE | STATUS_ZERO
            self._run(parts, out, reduce=self._reduce, excluded=excluded, hide=hide, threads=self._threads)

    def _check(self, name: str, array: Array | None, shape: tuple[int, ...], dtype: str) -> None:
        if array is None:
            return
        _arrays.check_array(name, array, shape=str(shape), ndim=len(shape), dtypes=(dtype,))
        if self._device == "cpu" and not isinstance(array, np.ndarray):
            raise TypeError(f"{name}: expected a NumPy array, got {_arrays.type_name(array)}")
        if _arrays.device_type(name, array) != self._device:
            raise ValueError(f"{name}: expected a tensor on a CUDA device, got one on {_arrays.device_of(array)}")
        if _arrays.shape_of(array) != shape or (0 not in shape and _arrays.strides_of(array)[-1] != 1):
            raise ValueError(f"{name}: expected shape {shape}, contiguous, got {_arrays.shape_of(array)}")


def faster_if_rounded(dtype: str) -> bool:
    """Whether rows of `dtype` in CPU memory meet targets that bfloat16 holds in fewer operations than others."""
    if dtype != "bfloat16" or backends.choose("score_rows") != "cpu":
        return False
    return bool(implementation("score_rows", "cpu", "cpu", "multiplies_bfloat16")())


def _check_finite(name: str, targets: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(targets).all(axis=1))
    if bad.size:
        raise ValueError(f"{name}: expected finite values, got NaN or infinity in row {bad[0]}; leave that target out")
