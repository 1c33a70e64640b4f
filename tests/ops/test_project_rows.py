"""project_rows: the same matrix and Γ as project_linear, for gradients that exist already."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradsift import Gamma, ProjectionSpec
from gradsift.ops import project_linear, project_rows, projection
from gradsift.ops.gamma import apply_gamma

W = "model.embed_tokens.weight"
SPEC = ProjectionSpec(1024, seed=5)
SPECS = [
    ProjectionSpec(256, 2**64 - 1),
    ProjectionSpec(1024, 1, nonzeros=4),
    ProjectionSpec(8192, 2),
    ProjectionSpec(16384, 3),
    ProjectionSpec(256, 5, kind="rademacher"),
]
GOLDEN = json.loads((Path(__file__).parent / "golden_projection.json").read_text(encoding="utf-8"))["cases"]
SHAPES = [(), (0,), (1,), (127,), (1031,), (5, 131), (64, 128), (65, 129), (0, 3), (3, 0), (4, 3, 3, 5)]


def integers(rng, B, shape):
    return rng.integers(-9, 10, size=(B, *shape)).astype(np.float32)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_reference_is_the_matrix_times_the_gradient(spec, rng):
    g = rng.normal(size=(2, 5, 131)).astype(np.float32)
    want = g.reshape(2, -1).astype(np.float64) @ projection.matrix(spec, W, (5, 131)).T
    np.testing.assert_allclose(project_rows(g, spec, param=W, backend="reference"), want, rtol=2e-7, atol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "sign"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_backend_is_exact_on_integers(spec, shape, kind, dtype, backend, rng):
    g = integers(rng, 3, shape)
    norms, want_norms = np.full((3, 2), np.nan), np.full((3, 2), np.nan)
    want = project_rows(g, spec, param=W, gamma=Gamma(kind), norms=want_norms, backend="reference")
    tensor = torch.tensor(g).to(getattr(torch, dtype))
    got = project_rows(tensor, spec, param=W, gamma=Gamma(kind), norms=norms, backend=backend)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(norms, want_norms)


# Signs are drawn for 128 runs of 128 entries at a time: one run more, several panels, rows and columns that end within.
PANELS = [
    (ProjectionSpec(256, 7), (1, 129 * 128 + 1)),
    (ProjectionSpec(256, 8, nonzeros=4), (131, 130)),
    (ProjectionSpec(4096, 9), (257, 3)),
    (ProjectionSpec(65536, 10), (130, 390)),
    (ProjectionSpec(65536, 11), (33000,)),
    (ProjectionSpec(512, 12, nonzeros=2), (70, 260)),
    (ProjectionSpec(32768, 13, nonzeros=8), (129, 129)),
]


@pytest.mark.parametrize(("spec", "shape"), PANELS, ids=lambda x: str(x))
def test_every_panel_of_a_parameter_is_drawn_as_specified(spec, shape, backend, rng):
    g = integers(rng, 2, shape)
    want = project_rows(g, spec, param=W, backend="reference")
    got = project_rows(g, spec, param=W, backend=backend, threads=2)
    if spec.nonzeros in (2, 8):  # 1/√s is rounded
        np.testing.assert_allclose(got, want, rtol=3e-7)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: "{kind}-{proj_dim}-s{nonzeros}".format(**c))
def test_every_backend_gives_the_published_sketches(case, backend):
    spec = ProjectionSpec(case["proj_dim"], case["seed"], case["kind"], case["nonzeros"])
    i, j = np.indices(case["shape"])
    G = ((7 * i + 5 * j + i * j) % 11 - 5).astype(np.float32)
    got = project_rows(G[None], spec, param=case["param"], backend=backend)
    unscaled = got * math.sqrt(spec.proj_dim if spec.kind == "rademacher" else spec.nonzeros)
    assert hashlib.blake2b(unscaled.astype("<i4").tobytes(), digest_size=16).hexdigest() == case["sketch_blake2b"]


def test_an_empty_batch_has_no_sketches(backend):
    assert project_rows(np.zeros((0, 5, 3), np.float32), SPEC, param=W, backend=backend).shape == (0, 1024)


def test_is_project_linear_of_the_formed_gradient(backend, rng):
    a, g = rng.integers(-3, 4, size=(2, 5, 131)), rng.integers(-3, 4, size=(2, 5, 9))
    G = np.einsum("bto,bti->boi", g, a).astype(np.float32)
    linear = project_linear(a.astype(np.float32), g.astype(np.float32), SPEC, param=W, backend=backend)
    np.testing.assert_array_equal(project_rows(G, SPEC, param=W, backend=backend), linear)


@pytest.mark.parametrize(("shape", "matrix"), [((131,), (1, 131)), ((4, 3, 3, 5), (4, 45))])
def test_other_shapes_are_the_matrix_they_are_stored_as(shape, matrix, backend, rng):
    g = integers(rng, 2, shape)
    want = project_rows(g.reshape(2, *matrix), SPEC, param=W, backend="reference")
    np.testing.assert_array_equal(project_rows(g, SPEC, param=W, backend=backend), want)


@pytest.mark.parametrize("moments_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(33, 140), (3001,)], ids=str)
def test_floats_stay_within_budget(
    shape, dtype, moments_dtype, gamma, backend, rng, budget, relative_error, moments_like
):
    g = torch.tensor(rng.normal(size=(3, *shape))).to(getattr(torch, dtype))
    moments = moments_like(rng, shape, moments_dtype) if gamma.needs_moments else None
    results = {}
    for name in ("reference", backend):
        norms = np.full((3, 2), np.nan)
        rows = project_rows(g, SPEC, param=W, gamma=gamma, moments=moments, norms=norms, backend=name)
        results[name] = rows, norms
    (want, want_norms), (got, norms) = results["reference"], results[backend]
    assert relative_error(got, want) <= budget("project_rows", gamma.kind)
    np.testing.assert_allclose(norms, want_norms, rtol=budget("project_rows", "norms"), atol=0)


# The same bits, however the call is cut


@pytest.mark.parametrize("split", [2, 5])
def test_same_bits_for_every_batch_split_and_number_of_threads(split, backend, rng, moments_like):
    g = torch.tensor(rng.normal(size=(5, 70, 140)), dtype=torch.float32)
    arguments = {"param": W, "gamma": Gamma.adam(step=4), "moments": moments_like(rng, (70, 140)), "backend": backend}
    whole = project_rows(g, SPEC, threads=1, **arguments)
    parts = torch.cat([project_rows(part, SPEC, threads=split, **arguments) for part in g.tensor_split(split)])
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(project_rows(g, SPEC, threads=3, **arguments), whole)


@pytest.mark.parametrize("shape", [(9, 40), (300, 1100), (3, 90000)], ids=str)
def test_same_bits_for_every_group_of_samples(shape, backend, rng, moments_like):
    """In one slice and in several, cut along rows and along columns; alone, in groups of any size, and added on."""
    spec, gamma = ProjectionSpec(8192, 6), Gamma.adam(step=4)
    g = rng.normal(size=(5, *shape)).astype(np.float32)
    arguments = {"param": W, "gamma": gamma, "moments": moments_like(rng, shape), "backend": backend}
    arguments["moments"] = tuple(m.numpy() for m in arguments["moments"])
    begun, begun_norms = rng.normal(size=(5, 8192)).astype(np.float32), rng.normal(size=(5, 2))

    def run(part, threads, accumulate):
        out, norms = begun[part].copy(), begun_norms[part].copy()
        project_rows(g[part], spec, out=out, norms=norms, accumulate=accumulate, threads=threads, **arguments)
        return out, norms

    for accumulate in (False, True):
        whole = run(slice(None), 1, accumulate)
        for threads, width in ((2, 5), (3, 2), (1, 1)):
            parts = [run(slice(b, b + width), threads, accumulate) for b in range(0, 5, width)]
            for k in range(2):
                np.testing.assert_array_equal(np.concatenate([part[k] for part in parts]), whole[k])


LAYOUTS = {
    "every other column": lambda x: torch.stack([x, x + 50], dim=-1)[..., 0],
    "batch last": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "transposed": lambda x: x.mT.contiguous().mT,
    "one for all": lambda x: x[:1].expand(x.shape[0], -1, -1),
    "wider batch stride": lambda x: torch.cat([x, x + 1], dim=1)[:, : x.shape[1]],
    "requires grad": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_give_the_same_sketch(layout, backend, rng):
    g = LAYOUTS[layout](torch.tensor(integers(rng, 3, (9, 133))))
    want = project_rows(g.detach().contiguous(), SPEC, param=W, backend="reference")
    np.testing.assert_array_equal(project_rows(g, SPEC, param=W, backend=backend), want)


def test_unaligned_numpy_views_are_taken(backend, rng):
    g = integers(rng, 3, (9, 133))
    unaligned = np.zeros(g.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(g.shape)
    unaligned[...] = g
    want = project_rows(g, SPEC, param=W, backend="reference")
    np.testing.assert_array_equal(project_rows(unaligned, SPEC, param=W, backend=backend), want)


def test_out_is_overwritten_or_added_to_and_nothing_beside_it(backend, rng):
    g = integers(rng, 3, (9, 133))
    want_norms = np.full((3, 2), np.nan)
    want = project_rows(g, SPEC, param=W, norms=want_norms, backend="reference")
    buffer, norms = np.full((5, SPEC.proj_dim + 7), np.nan, np.float32), np.full((3, 2), np.nan)
    out = buffer[1:4, 3:-4]
    assert project_rows(g, SPEC, param=W, out=out, norms=norms, backend=backend) is out
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(norms, want_norms)
    project_rows(g, SPEC, param=W, out=out, norms=norms, accumulate=True, backend=backend)
    np.testing.assert_array_equal(out, 2 * want)
    np.testing.assert_array_equal(norms, 2 * want_norms)
    out[...] = np.nan
    assert np.isnan(buffer).all()


# Row-sparse


def sparse_case(rng, lengths, n_rows, d_in):
    ids = [rng.permutation(n_rows)[:n] for n in lengths]
    dense = np.zeros((len(lengths), n_rows, d_in), np.float32)
    for b, rows in enumerate(ids):
        dense[b, rows] = rng.integers(-9, 10, size=(len(rows), d_in))
    packed = [dense[b, rows] for b, rows in enumerate(ids)]
    grads = np.concatenate([np.zeros((0, d_in), np.float32), *packed])
    return dense, grads, np.concatenate([np.zeros(0, np.int64), *ids]), np.cumsum([0, *lengths])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_row_sparse_is_dense(backend, data):
    n_rows, d_in = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 270))
    lengths = data.draw(st.lists(st.integers(0, min(n_rows, 9)), max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    dense, grads, ids, offsets = sparse_case(rng, lengths, n_rows, d_in)
    arguments = {"param": W, "gamma": Gamma(data.draw(st.sampled_from(["sgd", "sign"])))}
    spec = data.draw(st.sampled_from(SPECS[:4]))
    norms, want_norms = np.full((len(lengths), 2), np.nan), np.full((len(lengths), 2), np.nan)
    want = project_rows(dense, spec, norms=want_norms, backend="reference", **arguments)
    got = project_rows(
        grads, spec, shape=(n_rows, d_in), row_ids=ids, cu_seqlens=offsets, norms=norms, backend=backend, **arguments
    )
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(norms, want_norms)


def test_row_sparse_reads_the_moments_of_its_own_rows_and_no_others(backend, rng, moments_like, budget, relative_error):
    _, grads, ids, offsets = sparse_case(rng, [3, 2], 40, 131)
    m, v = moments_like(rng, (40, 131))
    gamma = Gamma.adam(step=5)
    got = project_rows(
        grads,
        SPEC,
        param=W,
        gamma=gamma,
        moments=(m, v),
        shape=(40, 131),
        row_ids=ids,
        cu_seqlens=offsets,
        backend=backend,
    )
    want = np.zeros((2, SPEC.proj_dim))
    for b in range(2):
        rows = ids[offsets[b] : offsets[b + 1]]
        update = apply_gamma(
            gamma, grads[offsets[b] : offsets[b + 1]].astype(np.float64), m.numpy()[rows], v.numpy()[rows]
        )
        whole = np.zeros((40, 131))
        whole[rows] = update
        want[b] = projection.matrix(SPEC, W, (40, 131)) @ whole.ravel()
    assert relative_error(got, want) <= budget("project_rows", "adam")


def test_row_sparse_takes_torch_ids_of_either_width(backend, rng):
    dense, grads, ids, offsets = sparse_case(rng, [3, 0, 2], 40, 131)
    want = project_rows(dense, SPEC, param=W, backend="reference")
    for kind in (torch.int32, torch.int64):
        got = project_rows(
            torch.tensor(grads),
            SPEC,
            param=W,
            shape=(40, 131),
            row_ids=torch.tensor(ids).to(kind),
            cu_seqlens=torch.tensor(offsets).to(kind),
            backend=backend,
        )
        np.testing.assert_array_equal(got, want)


# Errors: (changes to a call that is right, error, message)

DENSE = {"grads": np.zeros((2, 4, 5), np.float32), "spec": SPEC, "param": W}
SPARSE = {
    "grads": np.zeros((3, 5), np.float32),
    "shape": (7, 5),
    "row_ids": np.array([0, 6, 0]),
    "cu_seqlens": np.array([0, 2, 3]),
}
BAD = {
    "scalar": (
        {"grads": np.float32(3)},
        TypeError,
        "grads: expected a NumPy array or a torch tensor, got numpy.float32",
    ),
    "no batch": ({"grads": np.array(3, np.float32)}, ValueError, "grads: expected shape (B, *shape), got ()"),
    "shape": ({"shape": (5, 4)}, ValueError, "grads: expected shape (B, *(5, 4)), got (2, 4, 5)"),
    "shape type": ({"shape": 5}, TypeError, "shape: expected a tuple of int, got int"),
    "dtype": (
        {"grads": np.zeros((2, 4, 5))},
        TypeError,
        "grads: expected dtype float32 or bfloat16, got float64; convert it first",
    ),
    "device": (
        {"grads": torch.zeros(2, 4, 5, device="meta")},
        ValueError,
        "grads: expected a tensor on the CPU or a CUDA device, got device meta; move it to one",
    ),
    "moments shape": (
        {"gamma": Gamma.adam(), "moments": (np.zeros((20,), np.float32),) * 2},
        ValueError,
        f"moments[0] (exp_avg): expected shape (4, 5) of {W!r}, got (20,)",
    ),
    "backend": (
        {"backend": "cuda"},
        ValueError,
        "backend: expected one of ('cpu', 'reference') for arrays on device 'cpu', got 'cuda'; "
        "move the arrays, or leave the choice to 'auto'",
    ),
    "out": ({"out": np.zeros((3, 1024), np.float32)}, ValueError, "out: expected shape (2, 1024), got (3, 1024)"),
    "offsets alone": (
        {"cu_seqlens": np.array([0, 2])},
        ValueError,
        "row_ids: expected an integer array, since cu_seqlens is given, got None",
    ),
    "ids alone": (
        SPARSE | {"cu_seqlens": None},
        ValueError,
        "cu_seqlens: expected offsets (B + 1,), since row_ids is given, got None",
    ),
    "no shape": (
        SPARSE | {"shape": None},
        ValueError,
        "shape: expected (n_rows, d_in), since row_ids is given, got None",
    ),
    "vector shape": (
        SPARSE | {"shape": (7,)},
        ValueError,
        "shape: expected (n_rows, d_in), since row_ids is given, got (7,)",
    ),
    "columns": (
        SPARSE | {"shape": (7, 6)},
        ValueError,
        "grads: expected shape (R, 6) with row_ids, got (3, 5)",
    ),
    "ids dtype": (
        SPARSE | {"row_ids": np.array([0.0, 1.0, 2.0])},
        TypeError,
        "row_ids: expected dtype int64 or int32, got float64; convert it first",
    ),
    "ids shape": (
        SPARSE | {"row_ids": np.array([0, 1])},
        ValueError,
        "row_ids: expected shape (3,) to match grads, got (2,)",
    ),
    "ids too large": (SPARSE | {"row_ids": np.array([0, 7, 0])}, ValueError, "row_ids: expected rows 0 … 6, got 7"),
    "ids negative": (SPARSE | {"row_ids": np.array([0, -1, 0])}, ValueError, "row_ids: expected rows 0 … 6, got -1"),
    "ids twice": (
        SPARSE | {"row_ids": np.array([4, 4, 0])},
        ValueError,
        "row_ids: expected each row once in a sample, got row 4 twice in sample 0; add up its gradients first",
    ),
    "offsets end": (
        SPARSE | {"cu_seqlens": np.array([0, 2])},
        ValueError,
        "cu_seqlens: expected the last offset to be 3 (the rows of grads), got 2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_named_with_what_was_expected(case):
    changes, error, message = BAD[case]
    arguments = {"backend": "reference", **DENSE, **changes}
    with pytest.raises(error) as caught:
        project_rows(arguments.pop("grads"), arguments.pop("spec"), **arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("changes", [{}, SPARSE], ids=["dense", "sparse"])
def test_the_calls_that_the_bad_ones_are_made_from_are_right(changes):
    arguments = DENSE | changes
    assert project_rows(arguments.pop("grads"), arguments.pop("spec"), backend="reference", **arguments).shape == (
        2,
        1024,
    )
