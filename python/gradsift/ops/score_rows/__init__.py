"""Scores of a block of rows against target columns: the op that selection streams a datastore through."""

from __future__ import annotations

import sys

import numpy as np

from gradsift.ops import _arrays
from gradsift.ops._arrays import Array
from gradsift.ops.score_rows import numpy_blas, reference

# "numpy" stands beside the compiled backends of the other ops: NumPy brings a tuned BLAS of its own
BACKENDS = {"reference": reference.score_rows, "numpy": numpy_blas.score_rows}
ROW_DTYPES = ("float32", "float16", "bfloat16")


def score_rows(rows: Array, targets: Array, *, out: Array | None = None, backend: str = "auto") -> Array:
    """Score each row against each target: ``out[i, s] = ⟨rows[i], targets[s]⟩ / ‖rows[i]‖``.

    Rows are normalised here and targets are not. With a target of norm one the score is the cosine; with the mean of
    unit vectors it is the mean of their cosines, which is how a whole subtask costs one column.

    Parameters
    ----------
    rows : array, shape (n, P), float32, float16 or bfloat16
        Sketches. A row of zeros scores 0; a row with a NaN or an infinity scores NaN, in all columns, and spoils no
        other row.
    targets : array, shape (S, P), float32
        Finite, of moderate norm (products are formed in float32).
    out : array, shape (n, S), float32, optional
        Overwritten; must not overlap an operand.
    backend : {"auto", "numpy", "reference"}
        ``"auto"`` is ``"numpy"``. ``"reference"`` computes in float64.

    Returns
    -------
    array, shape (n, S), float32
        A torch tensor where `rows` is one, else a NumPy array; `out` where it was given.

    Raises
    ------
    TypeError, ValueError
        For arguments that break the above.

    Notes
    -----
    ``"numpy"`` forms products and squared norms in float32, 256 rows at a time through one BLAS shape. A row's score
    therefore does not depend on how the rows were cut into blocks (of equal memory layout), and equal rows score
    equally; another BLAS, CPU or number of targets may change the last bits. Costs 2·n·P·S operations and one pass
    over the rows; works in 256·(P + S) floats besides `out`.
    """
    _arrays.check_array("rows", rows, shape="(n, P)", ndim=2, dtypes=ROW_DTYPES)
    _arrays.check_array("targets", targets, shape="(S, P)", ndim=2, dtypes=("float32",))
    n, proj_dim = _arrays.shape_of(rows)
    n_targets, target_dim = _arrays.shape_of(targets)
    if target_dim != proj_dim:
        raise ValueError(f"targets: expected {proj_dim} columns as rows has, got {target_dim}")
    target_array = _arrays.numpy_view(targets)
    bad = np.flatnonzero(~np.isfinite(target_array).all(axis=1))
    if bad.size:
        raise ValueError(f"targets: expected finite values, got NaN or infinity in row {bad[0]}; leave that target out")
    _arrays.check_outputs(out, None, accumulate=False, batch=n, proj_dim=n_targets, inputs=(rows, targets))
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {('auto', *BACKENDS)}, got {backend!r}")

    result = _arrays.allocate_out(rows, n, n_targets) if out is None else out
    BACKENDS["numpy" if backend == "auto" else backend](_numpy_rows(rows), target_array, _arrays.numpy_view(result))
    return result


def _numpy_rows(rows: Array) -> np.ndarray:
    """The rows as NumPy; torch's bfloat16, which NumPy has not, becomes float32."""
    if _arrays.is_tensor(rows) and rows.dtype == sys.modules["torch"].bfloat16:
        rows = rows.float()
    return _arrays.numpy_view(rows)
