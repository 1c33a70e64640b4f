"""Sketches of the per-sample weight gradients of one linear layer."""

from __future__ import annotations

from gradsift.ops import _arrays
from gradsift.ops._arrays import Array
from gradsift.ops._dispatch import implementation
from gradsift.specs import Gamma, ProjectionSpec


def project_linear(
    activations: Array,
    output_grads: Array,
    spec: ProjectionSpec,
    *,
    param: str,
    cu_seqlens: Array | None = None,
    gamma: Gamma | None = None,
    moments: tuple[Array, Array] | None = None,
    out: Array | None = None,
    norms: Array | None = None,
    accumulate: bool = False,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """Sketch each sample's gradient of a linear layer's weight, mapped by Γ: row b is ``R · vec(Γ(G_b))``.

    ``G_b = Σ_t output_grads[t] activations[t]ᵀ`` (d_out, d_in) over the tokens t of sample b; Γ is elementwise; vec is
    row-major; R is the matrix that `spec` and `param` name (docs/projection-spec.md). The ``"cpu"`` backend never
    writes G_b to memory.

    Parameters
    ----------
    activations : array, shape (B, T, d_in), or (N, d_in) with `cu_seqlens`; float32, bfloat16, on CUDA float16
        Input of the layer: a NumPy array or a torch tensor, in CPU memory or on a CUDA device, any strides.
    output_grads : array, shape (B, T, d_out) or (N, d_out); family, dtype and device of `activations`
        Gradient of the sum over samples of each sample's own loss, at the layer's output. A mean over the batch would
        scale every sketch by 1/B; padding positions must be zero.
    spec : ProjectionSpec
    param : str
        Canonical name of the weight (`gradsift.canonical_name`): parameters of different names use different matrices.
    cu_seqlens : integer array, shape (B + 1,), optional
        Sample b owns tokens ``cu_seqlens[b]:cu_seqlens[b + 1]``. A sample may have none: its gradient is zero, and Γ
        still applies (Adam's momentum decays). Read on the CPU: a CUDA tensor is copied, which waits for the device.
    gamma : Gamma, optional
        The map Γ; None is ``Gamma.sgd()``, the gradient itself.
    moments : (exp_avg, exp_avg_sq), each (d_out, d_in), float32 or bfloat16
        Given exactly if ``gamma.needs_moments``.
    out : array, shape (B, P), float32, optional
        Overwritten, or added to if `accumulate`. Rows contiguous; must not overlap an input.
    norms : array, shape (B, 2), float64, optional
        Receives, or is added, the squared norms ``‖G_b‖²`` and ``‖Γ(G_b)‖²`` before projection.
    accumulate : bool
        Add to `out` and `norms`: the sketch of a model is the sum over its parameters.
    backend : {"auto", "triton", "cpu", "reference"}
        Changes speed, never R. ``gradsift.backends.explain("project_linear")`` says what "auto" takes.
    threads : int, optional
        Threads of the ``"cpu"`` backend; the result has the same bits for every number.

    Returns
    -------
    array, shape (B, P), float32
        `out`, or a new array of the family of `activations`, on its device.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is written above; the message says which and how.
    BackendUnavailableError
        No backend that reads the device of `activations` can run here, or the named one cannot.

    Notes
    -----
    ``"cpu"`` accumulates in float32; ``"reference"`` works in float64 and forms every G_b. Error budgets, and how norms
    are summed: docs/numerics.md. Costs about B·T·d_in·d_out multiply-adds and B·d_in·d_out evaluations of Γ.
    """
    run = implementation("project_linear", backend, _arrays.device_type("activations", activations))
    gamma = _arrays.check_names(spec, param, gamma)
    offsets = None
    if cu_seqlens is None:
        _arrays.check_array("activations", activations, shape="(B, T, d_in)", ndim=3)
        _arrays.check_array("output_grads", output_grads, shape="(B, T, d_out)", ndim=3)
    else:
        _arrays.check_array("activations", activations, shape="(N, d_in) with cu_seqlens", ndim=2)
        _arrays.check_array("output_grads", output_grads, shape="(N, d_out) with cu_seqlens", ndim=2)
    _arrays.check_alike("output_grads", output_grads, "activations", activations)
    tokens = _arrays.shape_of(activations)[:-1]
    if _arrays.shape_of(output_grads)[:-1] != tokens:
        want = ", ".join(map(str, tokens))
        raise ValueError(
            f"output_grads: expected shape ({want}, d_out) to match activations, got {_arrays.shape_of(output_grads)}"
        )
    if cu_seqlens is not None:
        offsets = _arrays.check_offsets("cu_seqlens", cu_seqlens, "the tokens of activations", tokens[0])
    batch = tokens[0] if offsets is None else offsets.size - 1
    shape = (int(output_grads.shape[-1]), int(activations.shape[-1]))
    moments = _arrays.check_moments(moments, gamma, param, shape, _arrays.device_of(activations))
    inputs = (activations, output_grads, *(moments or ()))
    _arrays.check_outputs(out, norms, accumulate=accumulate, batch=batch, proj_dim=spec.proj_dim, inputs=inputs)
    _arrays.check_threads(threads)
    if out is None:
        out = _arrays.allocate_out(activations, batch, spec.proj_dim)
    run(activations, output_grads, spec, param, offsets, gamma, moments, out, norms, accumulate, threads)
    return out
