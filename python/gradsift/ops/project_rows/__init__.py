"""Sketches of gradients that exist already."""

from __future__ import annotations

from gradsift.ops import _arrays
from gradsift.ops._arrays import Array
from gradsift.ops._dispatch import implementation
from gradsift.ops.projection import matrix_shape
from gradsift.specs import Gamma, ProjectionSpec


def project_rows(
    grads: Array,
    spec: ProjectionSpec,
    *,
    param: str,
    gamma: Gamma | None = None,
    moments: tuple[Array, Array] | None = None,
    shape: tuple[int, ...] | None = None,
    row_ids: Array | None = None,
    cu_seqlens: Array | None = None,
    out: Array | None = None,
    norms: Array | None = None,
    accumulate: bool = False,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """Sketch explicit gradients of one parameter, one a sample: row b is ``R · vec(Γ(grads[b]))``.

    R is the matrix that `spec` and `param` name, the same as in `project_linear`; Γ is elementwise; vec is row-major.
    A parameter of shape (n,) is the matrix (1, n), of shape (out, in, kh, kw) the matrix (out, in·kh·kw).

    Parameters
    ----------
    grads : array, shape (B, *shape), float32, bfloat16, on CUDA float16
        A NumPy array or a torch tensor, in CPU memory or on a CUDA device, any strides. With `row_ids`: (R, d_in), the
        rows of all samples one after the other.
    spec : ProjectionSpec
    param : str
        Canonical name of the parameter (`gradsift.canonical_name`).
    gamma : Gamma, optional
        The map Γ; None is ``Gamma.sgd()``, the gradient itself.
    moments : (exp_avg, exp_avg_sq), each of the parameter's shape, float32 or bfloat16
        Given exactly if ``gamma.needs_moments``.
    shape : tuple of int
        The parameter's shape. Needed with `row_ids`, as (n_rows, d_in); else read off `grads`.
    row_ids : integer array, shape (R,), optional
        Row-sparse form, for embeddings: ``grads[cu_seqlens[b]:cu_seqlens[b + 1]]`` are the rows
        ``row_ids[cu_seqlens[b]:cu_seqlens[b + 1]]`` of sample b's gradient, each row at most once a sample. Other rows
        are zero and are **not** sketched: sketch and ``‖Γ‖²`` are those of the listed rows alone, which is the whole
        only where Γ(0) = 0. A caller with momentum adds ``R · vec(Γ(0))`` of the rows that are not listed.
    cu_seqlens : integer array, shape (B + 1,)
        Given exactly with `row_ids`. Both are read on the CPU: a CUDA tensor is copied, which waits for the device.
    out : array, shape (B, P), float32, optional
        Overwritten, or added to if `accumulate`. Rows contiguous; must not overlap an input.
    norms : array, shape (B, 2), float64, optional
        Receives, or is added, ``‖g_b‖²`` and ``‖Γ(g_b)‖²`` before projection.
    accumulate : bool
        Add to `out` and `norms`: the sketch of a model is the sum over its parameters.
    backend : {"auto", "cuda", "cpu", "reference"}
        Changes speed, never R. ``gradsift.backends.explain("project_rows")`` says what "auto" takes.
    threads : int, optional
        Threads of the ``"cpu"`` backend; the result has the same bits for every number.

    Returns
    -------
    array, shape (B, P), float32
        `out`, or a new array of the family of `grads`, on its device.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is written above; the message says which and how.
    BackendUnavailableError
        No backend that reads the device of `grads` can run here, or the named one cannot.

    Notes
    -----
    Sums in float32 (``"cpu"``) or float64 (``"reference"``); budgets in docs/numerics.md. Reads each gradient once
    and writes B·P numbers.
    """
    run = implementation("project_rows", backend, _arrays.device_type("grads", grads))
    gamma = _arrays.check_names(spec, param, gamma)
    if shape is not None and not isinstance(shape, (tuple, list)):
        raise TypeError(f"shape: expected a tuple of int, got {_arrays.type_name(shape)}")
    offsets = ids = None
    if row_ids is None:
        if cu_seqlens is not None:
            raise ValueError("row_ids: expected an integer array, since cu_seqlens is given, got None")
        _arrays.check_type("grads", grads)
        if len(grads.shape) == 0:
            raise ValueError("grads: expected shape (B, *shape), got ()")
        own_shape = _arrays.shape_of(grads)[1:]
        if shape is not None and tuple(shape) != own_shape:
            raise ValueError(f"grads: expected shape (B, *{tuple(shape)}), got {_arrays.shape_of(grads)}")
        _arrays.check_array("grads", grads, shape="(B, *shape)", ndim=len(grads.shape))
        batch = int(grads.shape[0])
    else:
        own_shape = _sparse_shape(shape)
        if cu_seqlens is None:
            raise ValueError("cu_seqlens: expected offsets (B + 1,), since row_ids is given, got None")
        _arrays.check_array("grads", grads, shape=f"(R, {own_shape[1]}) with row_ids", ndim=2)
        if int(grads.shape[1]) != own_shape[1]:
            raise ValueError(f"grads: expected shape (R, {own_shape[1]}) with row_ids, got {_arrays.shape_of(grads)}")
        offsets = _arrays.check_offsets("cu_seqlens", cu_seqlens, "the rows of grads", int(grads.shape[0]))
        ids = _arrays.check_row_ids(row_ids, int(grads.shape[0]), own_shape[0], offsets)
        batch = offsets.size - 1
    matrix = matrix_shape(own_shape)
    moments = _arrays.check_moments(moments, gamma, param, own_shape, _arrays.device_of(grads))
    inputs = (grads, *(moments or ()))
    _arrays.check_outputs(out, norms, accumulate=accumulate, batch=batch, proj_dim=spec.proj_dim, inputs=inputs)
    _arrays.check_threads(threads)
    if out is None:
        out = _arrays.allocate_out(grads, batch, spec.proj_dim)
    flat = grads if ids is not None else grads.reshape(batch, matrix[0] * matrix[1])
    if moments is not None:
        moments = (moments[0].reshape(matrix), moments[1].reshape(matrix))
    run(flat, spec, param, matrix, ids, offsets, gamma, moments, out, norms, accumulate, threads)
    return out


def _sparse_shape(shape: tuple[int, ...] | None) -> tuple[int, int]:
    if shape is None or len(shape) != 2:
        got = None if shape is None else tuple(shape)
        raise ValueError(f"shape: expected (n_rows, d_in), since row_ids is given, got {got}")
    return int(shape[0]), int(shape[1])
