"""project_linear: one definition on every backend, instruction set, layout, split and number of threads."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradsift import Gamma, ProjectionSpec
from gradsift.ops import project_linear, project_rows, projection

W = "model.layers.0.self_attn.q_proj.weight"
SPEC = ProjectionSpec(1024, seed=5)
SPECS = [
    ProjectionSpec(256, 2**64 - 1),
    ProjectionSpec(1024, 1, nonzeros=4),
    ProjectionSpec(8192, 2),
    ProjectionSpec(16384, 3),
    ProjectionSpec(65536, 4, nonzeros=4),
    ProjectionSpec(256, 5, kind="rademacher"),
]
# (B, T, d_out, d_in): 0, 1, primes, LoRA's two shapes, one less and one more than a chunk and a register block
SIZES = [
    (0, 3, 4, 5),
    (2, 0, 4, 5),
    (2, 3, 0, 5),
    (2, 3, 4, 0),
    (1, 1, 1, 1),
    (3, 7, 5, 131),
    (2, 5, 63, 127),
    (2, 5, 64, 128),
    (2, 5, 65, 129),
    (1, 16, 8, 576),
    (1, 17, 193, 8),
    (1, 2, 7, 1031),
]


def integers(rng, B, T, d_out, d_in):
    """Operands whose gradients, and all sums of them, are exact in float32 and bfloat16."""
    return (
        rng.integers(-3, 4, size=(B, T, d_in)).astype(np.float32),
        rng.integers(-2, 3, size=(B, T, d_out)).astype(np.float32),
    )


def floats(rng, B, T, d_out, d_in, dtype="float32"):
    a, g = rng.normal(size=(B, T, d_in)), 1e-2 * rng.normal(size=(B, T, d_out))
    return torch.tensor(a).to(getattr(torch, dtype)), torch.tensor(g).to(getattr(torch, dtype))


# The definition


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[1], SPECS[5]], ids=str)
def test_reference_is_the_matrix_times_the_sum_of_outer_products(spec, rng):
    a, g = rng.normal(size=(2, 3, 130)).astype(np.float32), rng.normal(size=(2, 3, 5)).astype(np.float32)
    want = np.zeros((2, spec.proj_dim))
    for b in range(2):
        G = sum(np.outer(g[b, t].astype(np.float64), a[b, t].astype(np.float64)) for t in range(3))
        want[b] = projection.matrix(spec, W, G.shape) @ G.ravel()
    got = project_linear(a, g, spec, param=W, backend="reference")
    np.testing.assert_allclose(got, want, rtol=2e-7, atol=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_backend_is_exact_on_integers(spec, size, backend, rng):
    a, g = integers(rng, *size)
    want = project_linear(a, g, spec, param=W, backend="reference")
    got = project_linear(a, g, spec, param=W, backend=backend)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", ["sgd", "sign"])
def test_every_backend_is_exact_on_bfloat16_integers(kind, backend, rng):
    a, g = integers(rng, 2, 7, 65, 131)
    want = project_linear(a, g, SPEC, param=W, gamma=Gamma(kind), backend="reference")
    tensors = torch.tensor(a).bfloat16(), torch.tensor(g).bfloat16()
    got = project_linear(*tensors, SPEC, param=W, gamma=Gamma(kind), backend=backend)
    assert isinstance(got, torch.Tensor)
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), want)


def test_bfloat16_numpy_arrays_of_ml_dtypes_are_taken(backend, rng):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    a, g = integers(rng, 2, 7, 5, 131)
    want = project_linear(a, g, SPEC, param=W, backend="reference")
    got = project_linear(a.astype(ml_dtypes.bfloat16), g.astype(ml_dtypes.bfloat16), SPEC, param=W, backend=backend)
    np.testing.assert_array_equal(got, want)


def test_sign_of_a_zero_entry_is_zero(backend):
    a, g = np.ones((1, 2, 3), np.float32), np.array([[[1, 0], [-1, 2]]], np.float32)  # G = [[0,0,0],[2,2,2]]
    norms = np.full((1, 2), np.nan)
    project_linear(a, g, SPEC, param=W, gamma=Gamma.sign(), norms=norms, backend=backend)
    np.testing.assert_array_equal(norms, [[12, 3]])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_packed_batch_is_exact_on_integers(backend, data):
    lengths = data.draw(st.lists(st.integers(0, 9), max_size=5))
    d_out, d_in = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 270))
    spec = data.draw(st.sampled_from(SPECS[:4]))
    (a,), (g,) = integers(np.random.default_rng(data.draw(st.integers(0, 99))), 1, sum(lengths), d_out, d_in)
    arguments = {
        "param": W,
        "cu_seqlens": np.cumsum([0, *lengths]),
        "gamma": Gamma(data.draw(st.sampled_from(["sgd", "sign"]))),
    }
    want = project_linear(a, g, spec, backend="reference", **arguments)
    np.testing.assert_array_equal(project_linear(a, g, spec, backend=backend, **arguments), want)


# Floats


@pytest.mark.parametrize("size", [(3, 40, 16, 576), (2, 300, 65, 131)], ids=str)
@pytest.mark.parametrize("moments_dtype", ["float32", "bfloat16"])
def test_floats_stay_within_budget(
    size, dtype, moments_dtype, gamma, backend, rng, budget, relative_error, moments_like
):
    a, g = floats(rng, *size, dtype)
    moments = moments_like(rng, size[2:], moments_dtype) if gamma.needs_moments else None
    results = {}
    for name in ("reference", backend):
        norms = np.full((size[0], 2), np.nan)
        rows = project_linear(a, g, SPEC, param=W, gamma=gamma, moments=moments, norms=norms, backend=name)
        results[name] = rows, norms
    (want, want_norms), (got, norms) = results["reference"], results[backend]
    assert relative_error(got, want) <= budget("project_linear", gamma.kind)
    np.testing.assert_allclose(norms, want_norms, rtol=budget("project_linear", "norms"), atol=0)


@pytest.mark.parametrize("spec", [SPECS[1], SPECS[3], SPECS[5], ProjectionSpec(1024, 1, nonzeros=2)], ids=str)
def test_every_kind_of_projection_stays_within_budget(spec, backend, rng, budget, relative_error):
    a, g = floats(rng, 2, 40, 33, 140)
    want = project_linear(a, g, spec, param=W, backend="reference")
    got = project_linear(a, g, spec, param=W, backend=backend)
    quantity = "rademacher" if spec.kind == "rademacher" else "sgd"
    assert relative_error(got, want) <= budget("project_linear", quantity)


def test_norms_are_those_before_projection(backend, rng):
    a, g = integers(rng, 3, 5, 7, 130)
    norms = np.full((3, 2), np.nan)
    project_linear(a, g, SPEC, param=W, gamma=Gamma.sign(), norms=norms, backend=backend)
    G = np.einsum("bto,bti->boi", g, a)
    np.testing.assert_array_equal(norms[:, 0], np.sum(G * G, axis=(1, 2)))
    np.testing.assert_array_equal(norms[:, 1], np.count_nonzero(G, axis=(1, 2)))


def test_a_sample_without_tokens_still_has_the_momentum_of_adam(backend, rng, budget, relative_error, moments_like):
    a, g = floats(rng, 1, 4, 5, 130)
    moments, gamma = moments_like(rng, (5, 130)), Gamma.adam(step=3)
    arguments = {"param": W, "gamma": gamma, "moments": moments}
    norms = np.full((2, 2), np.nan)
    got = project_linear(a[0], g[0], SPEC, cu_seqlens=np.array([0, 0, 4]), norms=norms, backend=backend, **arguments)
    want = project_rows(torch.zeros(1, 5, 130), SPEC, backend="reference", **arguments)
    assert np.linalg.norm(want) > 0
    assert relative_error(got[:1], want) <= budget("project_linear", "adam")
    assert norms[0, 0] == 0
    assert norms[0, 1] > 0


# The same bits, however the call is cut


@pytest.fixture
def adam_case(rng, moments_like):
    a, g = floats(rng, 7, 11, 33, 140)
    return a, g, {"param": W, "gamma": Gamma.adam(step=9), "moments": moments_like(rng, (33, 140))}


@pytest.mark.parametrize("split", [2, 3, 7])
def test_same_bits_for_every_batch_split(split, backend, adam_case):
    a, g, arguments = adam_case
    whole = project_linear(a, g, SPEC, backend=backend, **arguments)
    parts = zip(a.tensor_split(split), g.tensor_split(split), strict=True)
    got = torch.cat([project_linear(x, y, SPEC, backend=backend, **arguments) for x, y in parts])
    np.testing.assert_array_equal(got, whole)


@pytest.mark.parametrize("spec", [SPEC, SPECS[3], SPECS[5]], ids=str)
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_same_bits_for_every_number_of_threads(threads, spec, backend, adam_case):
    a, g, arguments = adam_case
    one, many = np.full((7, 2), np.nan), np.full((7, 2), np.nan)
    want = project_linear(a, g, spec, backend=backend, norms=one, threads=1, **arguments)
    got = project_linear(a, g, spec, backend=backend, norms=many, threads=threads, **arguments)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(many, one)


def test_same_bits_padded_and_packed(backend, adam_case):
    a, g, arguments = adam_case
    lengths = [11, 0, 1, 5, 11, 2, 7]
    for b, n in enumerate(lengths):
        g[b, n:] = 0
    keep = [(b, t) for b, n in enumerate(lengths) for t in range(n)]
    packed = [torch.stack([x[b, t] for b, t in keep]) for x in (a, g)]
    padded = project_linear(a, g, SPEC, backend=backend, **arguments)
    cu_seqlens = np.cumsum([0, *lengths])
    np.testing.assert_array_equal(
        project_linear(*packed, SPEC, cu_seqlens=cu_seqlens, backend=backend, **arguments), padded
    )


@pytest.mark.parametrize("offsets", [torch.tensor([0, 3, 3, 9]), np.array([0, 3, 3, 9], np.int32)], ids=type)
def test_offsets_come_as_any_integer_array(offsets, backend, rng):
    (a,), (g,) = integers(rng, 1, 9, 5, 131)
    want = project_linear(a, g, SPEC, param=W, cu_seqlens=np.array([0, 3, 3, 9]), backend="reference")
    np.testing.assert_array_equal(project_linear(a, g, SPEC, param=W, cu_seqlens=offsets, backend=backend), want)


# Layouts


def wider(x):
    big = torch.full((*x.shape[:-1], x.shape[-1] + 3), 99.0)
    big[..., 1:-2] = x
    return big[..., 1:-2]


LAYOUTS = {
    "wider rows": wider,
    "every other column": lambda x: torch.stack([x, x + 50], dim=-1)[..., 0],
    "transposed": lambda x: x.mT.contiguous().mT,
    "batch last": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "one token for all": lambda x: x[:, :1].expand(-1, x.shape[1], -1),
    "requires grad": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_give_the_same_sketch(layout, dtype, backend, rng):
    a, g = (LAYOUTS[layout](torch.tensor(x).to(getattr(torch, dtype))) for x in integers(rng, 3, 6, 9, 133))
    want = project_linear(a.detach().contiguous(), g.detach().contiguous(), SPEC, param=W, backend="reference")
    got = project_linear(a, g, SPEC, param=W, backend=backend)
    assert not got.requires_grad
    np.testing.assert_array_equal(got, want)


def test_numpy_views_with_negative_strides_and_odd_addresses_are_taken(backend, rng):
    a, g = integers(rng, 3, 6, 9, 133)
    want = project_linear(a, g, SPEC, param=W, backend="reference")
    raw = np.zeros(a.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(a.shape)
    unaligned[...] = a
    backward = np.ascontiguousarray(g[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    np.testing.assert_array_equal(project_linear(unaligned, backward, SPEC, param=W, backend=backend), want)


def test_strided_moments_are_those_of_the_parameter(backend, rng, moments_like, budget, relative_error):
    a, g = floats(rng, 2, 5, 9, 133)
    m, v = moments_like(rng, (9, 133))
    arguments = {"param": W, "gamma": Gamma.adam(step=2)}
    want = project_linear(a, g, SPEC, moments=(m, v), backend="reference", **arguments)
    got = project_linear(a, g, SPEC, moments=(m.T.contiguous().T, wider(v)), backend=backend, **arguments)
    assert relative_error(got, want) <= budget("project_linear", "adam")


# Outputs


@pytest.mark.parametrize("family", ["numpy", "torch"])
def test_out_is_overwritten_and_nothing_beside_it(family, backend, rng):
    a, g = integers(rng, 3, 4, 5, 131)
    want = project_linear(a, g, SPEC, param=W, backend="reference")
    buffer = np.full((5, SPEC.proj_dim + 7), np.nan, np.float32)
    norm_buffer = np.full((5, 7), np.nan)
    out, norms = buffer[1:4, 3:-4], norm_buffer[1:4, 2:4]
    if family == "torch":
        a, g, out, norms = map(torch.from_numpy, (a, g, out, norms))
    assert project_linear(a, g, SPEC, param=W, out=out, norms=norms, backend=backend) is out
    np.testing.assert_array_equal(out, want)
    assert np.isfinite(norm_buffer[1:4, 2:4]).all()
    buffer[1:4, 3:-4], norm_buffer[1:4, 2:4] = np.nan, np.nan
    assert np.isnan(buffer).all()
    assert np.isnan(norm_buffer).all()


def test_accumulate_adds_the_parameters_of_a_model(backend, rng):
    a, g = integers(rng, 3, 4, 5, 131)
    parts, part_norms = [], []
    out, norms = np.full((3, SPEC.proj_dim), np.nan, np.float32), np.full((3, 2), np.nan)
    for n, name in enumerate(("a", "b", "c")):
        project_linear(a, g, SPEC, param=name, out=out, norms=norms, accumulate=n > 0, backend=backend)
        part_norms.append(np.full((3, 2), np.nan))
        parts.append(project_linear(a, g, SPEC, param=name, norms=part_norms[-1], backend="reference"))
    np.testing.assert_array_equal(out, sum(parts))
    np.testing.assert_array_equal(norms, sum(part_norms))


def test_inputs_are_left_alone(backend, adam_case):
    a, g, arguments = adam_case
    tensors = (a, g, *arguments["moments"])
    before = [t.clone() for t in tensors]
    project_linear(a, g, SPEC, backend=backend, **arguments)
    for was, is_now in zip(before, tensors, strict=True):
        np.testing.assert_array_equal(is_now, was)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_that_is_not_finite_spoils_no_other(bad, backend, rng):
    a, g = integers(rng, 3, 4, 5, 131)
    want = project_linear(a, g, SPEC, param=W, backend="reference")
    g[1, 2, 3] = bad
    norms = np.full((3, 2), np.nan)
    with np.errstate(invalid="ignore"):
        got = project_linear(a, g, SPEC, param=W, norms=norms, backend=backend)
    np.testing.assert_array_equal(got[[0, 2]], want[[0, 2]])
    assert not np.isfinite(got[1]).all()
    assert np.isfinite(norms).all(axis=1).tolist() == [True, False, True]


# Errors: (changes to a call that is right, error, message)

GOOD = {
    "activations": np.zeros((2, 3, 5), np.float32),
    "output_grads": np.zeros((2, 3, 4), np.float32),
    "spec": SPEC,
    "param": W,
}
PACKED = {"activations": np.zeros((6, 5), np.float32), "output_grads": np.zeros((6, 4), np.float32)}
MOMENTS = (np.zeros((4, 5), np.float32), np.zeros((4, 5), np.float32))
SHARED = np.zeros(2 * SPEC.proj_dim, np.float32)
ADAM = {"gamma": Gamma.adam(step=1)}
BAD = {
    "list": (
        {"activations": [[[0.0]]]},
        TypeError,
        "activations: expected a NumPy array or a torch tensor, got list",
    ),
    "two axes": (
        {"activations": np.zeros((3, 5), np.float32)},
        ValueError,
        "activations: expected shape (B, T, d_in), got (3, 5)",
    ),
    "three axes packed": (
        {"cu_seqlens": np.array([0, 6])},
        ValueError,
        "activations: expected shape (N, d_in) with cu_seqlens, got (2, 3, 5)",
    ),
    "tokens": (
        {"output_grads": np.zeros((2, 4, 4), np.float32)},
        ValueError,
        "output_grads: expected shape (2, 3, d_out) to match activations, got (2, 4, 4)",
    ),
    "float64": (
        {"activations": np.zeros((2, 3, 5))},
        TypeError,
        "activations: expected dtype float32 or bfloat16, got float64; convert it first",
    ),
    "float16": (
        {"output_grads": torch.zeros(2, 3, 4, dtype=torch.float16)},
        TypeError,
        "output_grads: expected dtype float32 or bfloat16, got float16; convert it first",
    ),
    "byte order": (
        {"activations": np.zeros((2, 3, 5), ">f4")},
        TypeError,
        "activations: expected dtype float32 or bfloat16, got byte-swapped float32; convert it first",
    ),
    "mixed dtypes": (
        {"activations": torch.zeros(2, 3, 5), "output_grads": torch.zeros(2, 3, 4, dtype=torch.bfloat16)},
        TypeError,
        "output_grads: expected dtype float32 like activations, got bfloat16",
    ),
    "mixed families": (
        {"output_grads": torch.zeros(2, 3, 4)},
        TypeError,
        "output_grads: expected a numpy.ndarray like activations, got torch.Tensor",
    ),
    "device": (
        {"activations": torch.zeros(2, 3, 5, device="meta")},
        ValueError,
        "activations: expected a tensor on the CPU or a CUDA device, got device meta; move it to one",
    ),
    "sparse": (
        {"activations": torch.zeros(2, 3, 5).to_sparse()},
        TypeError,
        "activations: expected a strided tensor, got layout torch.sparse_coo; call .to_dense()",
    ),
    "spec": ({"spec": 8192}, TypeError, "spec: expected a ProjectionSpec, got int"),
    "param type": ({"param": 3}, TypeError, "param: expected a str, got int"),
    "param empty": ({"param": ""}, ValueError, "param: expected a parameter's canonical name, got ''"),
    "gamma": ({"gamma": "adam"}, TypeError, "gamma: expected a Gamma or None, got str"),
    "backend": (
        {"backend": "gpu"},
        ValueError,
        "backend: expected one of ('auto', 'triton', 'cpu', 'reference'), got 'gpu'",
    ),
    "threads type": ({"threads": 1.0}, TypeError, "threads: expected an int or None, got float"),
    "threads": ({"threads": 0}, ValueError, "threads: expected at least 1, got 0"),
    "offsets type": (
        PACKED | {"cu_seqlens": [0, 6]},
        TypeError,
        "cu_seqlens: expected a NumPy array or a torch tensor, got list",
    ),
    "offsets dtype": (
        PACKED | {"cu_seqlens": np.array([0.0, 6.0])},
        TypeError,
        "cu_seqlens: expected dtype int64 or int32, got float64; convert it first",
    ),
    "offsets shape": (
        PACKED | {"cu_seqlens": np.array([[0, 6]])},
        ValueError,
        "cu_seqlens: expected shape (B + 1,), got (1, 2)",
    ),
    "offsets empty": (
        PACKED | {"cu_seqlens": np.zeros(0, np.int64)},
        ValueError,
        "cu_seqlens: expected at least one offset, got shape (0,)",
    ),
    "offsets start": (
        PACKED | {"cu_seqlens": np.array([1, 6])},
        ValueError,
        "cu_seqlens: expected the first offset to be 0, got 1",
    ),
    "offsets fall": (
        PACKED | {"cu_seqlens": np.array([0, 4, 2, 6])},
        ValueError,
        "cu_seqlens: expected offsets that never fall, got 4 then 2 at 1 and 2",
    ),
    "offsets end": (
        PACKED | {"cu_seqlens": np.array([0, 4, 7])},
        ValueError,
        "cu_seqlens: expected the last offset to be 6 (the tokens of activations), got 7",
    ),
    "moments missing": (
        ADAM,
        ValueError,
        f"moments: expected (exp_avg, exp_avg_sq) of {W!r}, since Gamma 'adam' reads them, got None",
    ),
    "moments unread": (
        {"moments": MOMENTS},
        ValueError,
        "moments: expected None, since Gamma 'sgd' reads none, got moments; name the gamma you mean",
    ),
    "moments alone": (
        ADAM | {"moments": MOMENTS[0]},
        TypeError,
        "moments: expected a pair (exp_avg, exp_avg_sq), got numpy.ndarray",
    ),
    "moments three": (
        ADAM | {"moments": (*MOMENTS, MOMENTS[0])},
        TypeError,
        "moments: expected a pair (exp_avg, exp_avg_sq), got 3 items",
    ),
    "moments shape": (
        ADAM | {"moments": (MOMENTS[0], MOMENTS[1].T)},
        ValueError,
        f"moments[1] (exp_avg_sq): expected shape (4, 5) of {W!r}, got (5, 4)",
    ),
    "moments dtype": (
        ADAM | {"moments": (MOMENTS[0].astype(np.float64), MOMENTS[1])},
        TypeError,
        "moments[0] (exp_avg): expected dtype float32 or bfloat16, got float64; convert it first",
    ),
    "out shape": (
        {"out": np.zeros((2, 512), np.float32)},
        ValueError,
        "out: expected shape (2, 1024), got (2, 512)",
    ),
    "out dtype": (
        {"out": np.zeros((2, 1024))},
        TypeError,
        "out: expected dtype float32, got float64; convert it first",
    ),
    "out read-only": (
        {"out": np.broadcast_to(np.zeros(1024, np.float32), (2, 1024))},
        ValueError,
        "out: expected a writable array, got a read-only one",
    ),
    "out overlapping itself": (
        {"out": torch.zeros(1024).expand(2, 1024)},
        ValueError,
        "out: expected contiguous rows that do not overlap, got strides (0, 1) in elements",
    ),
    "out columns": (
        {"out": torch.zeros(1024, 2).T},
        ValueError,
        "out: expected contiguous rows that do not overlap, got strides (1, 2) in elements",
    ),
    "out tracked": (
        {"out": torch.zeros(2, 1024, requires_grad=True)},
        ValueError,
        "out: expected a tensor without gradient tracking, got requires_grad=True; pass it detached",
    ),
    "out unaligned": (
        {"out": np.zeros(2 * 4096 + 1, np.uint8)[1:].view(np.float32).reshape(2, 1024)},
        ValueError,
        "out: expected an aligned array, got one at an address that its dtype does not divide",
    ),
    "norms overlap out": (
        {"out": SHARED.reshape(2, -1), "norms": SHARED[:8].view(np.float64).reshape(2, 2)},
        ValueError,
        "norms: expected memory of its own, got an array that overlaps out",
    ),
    "out overlaps": (
        {"activations": SHARED[7:37].reshape(2, 3, 5), "out": SHARED.reshape(2, -1)},
        ValueError,
        "out: expected memory of its own, got an array that overlaps an input",
    ),
    "norms shape": ({"norms": np.zeros(2)}, ValueError, "norms: expected shape (2, 2), got (2,)"),
    "norms dtype": (
        {"norms": np.zeros((2, 2), np.float32)},
        TypeError,
        "norms: expected dtype float64, got float32; convert it first",
    ),
    "accumulate type": ({"accumulate": 1}, TypeError, "accumulate: expected a bool, got int"),
    "accumulate nothing": (
        {"accumulate": True},
        ValueError,
        "out: expected an array to add to, since accumulate is True, got None",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_named_with_what_was_expected(case):
    changes, error, message = BAD[case]
    arguments = {"backend": "reference", **GOOD, **changes}
    with pytest.raises(error) as caught:
        project_linear(arguments.pop("activations"), arguments.pop("output_grads"), arguments.pop("spec"), **arguments)
    assert str(caught.value) == message


def test_a_call_that_fails_leaves_out_as_it_was():
    out = np.full((2, 1024), 7, np.float32)
    with pytest.raises(ValueError, match="threads"):
        project_linear(
            GOOD["activations"], GOOD["output_grads"], SPEC, param=W, out=out, threads=-1, backend="reference"
        )
    assert (out == 7).all()
