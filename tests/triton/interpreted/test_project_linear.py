"""The Triton kernels of project_linear, run by Triton's interpreter against the reference."""

import sys

import numpy as np
import pytest
import torch

from gradsift import Gamma, ProjectionSpec
from gradsift.ops import project_linear

W = "model.layers.0.self_attn.q_proj.weight"
# (spec, T, d_out, d_in, dtype): every tile, ragged by one on either side, LoRA's two shapes, several steps of tokens,
# several slices
EXACT = [
    (ProjectionSpec(256, 2**64 - 1), 67, 17, 129, "float32"),
    (ProjectionSpec(1024, 1, nonzeros=4), 2, 65, 20, "bfloat16"),
    (ProjectionSpec(8192, 2), 3, 65, 260, "bfloat16"),
    (ProjectionSpec(8192, 2), 33, 8, 131, "float32"),
    (ProjectionSpec(8192, 3), 2, 260, 8, "bfloat16"),
    (ProjectionSpec(16384, 3, nonzeros=4), 2, 3, 127, "float32"),
    (ProjectionSpec(65536, 4), 1, 1, 1, "float32"),
]


def integers(rng, B, T, d_out, d_in):
    return (
        torch.tensor(rng.integers(-3, 4, size=(B, T, d_in)), dtype=torch.float32),
        torch.tensor(rng.integers(-2, 3, size=(B, T, d_out)), dtype=torch.float32),
    )


@pytest.mark.parametrize(("spec", "T", "d_out", "d_in", "dtype"), EXACT, ids=str)
def test_integers_are_exact(spec, T, d_out, d_in, dtype, rng):
    a, g = (x.to(getattr(torch, dtype)) for x in integers(rng, 2, T, d_out, d_in))
    norms = {name: torch.full((2, 2), np.nan, dtype=torch.float64) for name in ("reference", "triton")}
    want, got = (project_linear(a, g, spec, param=W, norms=norms[b], backend=b) for b in norms)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(norms["triton"], norms["reference"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["sgd", "sign"])
def test_integers_of_sixteen_bits_are_exact_packed(kind, dtype, rng, monkeypatch):
    monkeypatch.setattr("gradsift.ops._arrays.FLOAT_DTYPES", ("float32", "bfloat16", "float16"))  # as on CUDA
    (a,), (g,) = integers(rng, 1, 9, 5, 131)
    arguments = {"param": W, "cu_seqlens": np.array([0, 4, 4, 9]), "gamma": Gamma(kind)}
    spec = ProjectionSpec(1024, seed=5)
    want = project_linear(a, g, spec, backend="reference", **arguments)
    tensors = (x.to(getattr(torch, dtype)) for x in (a, g))
    np.testing.assert_array_equal(project_linear(*tensors, spec, backend="triton", **arguments), want)


GAMMAS = [
    (Gamma.adam(step=37), "float32"),
    (Gamma.less(), "bfloat16"),
    (Gamma.affine(step=37), "float32"),
    (Gamma.second_moment(step=37), "bfloat16"),
]


@pytest.mark.parametrize(("gamma", "dtype"), GAMMAS, ids=str)
def test_floats_stay_within_budget(gamma, dtype, rng, budget, relative_error, moments_like):
    a = torch.tensor(rng.normal(size=(3, 40, 140))).to(getattr(torch, dtype))
    g = torch.tensor(1e-2 * rng.normal(size=(3, 40, 20))).to(getattr(torch, dtype))
    moments = moments_like(rng, (20, 140), dtype)
    norms = {name: np.full((3, 2), np.nan) for name in ("reference", "triton")}
    spec = ProjectionSpec(1024, 5)
    want, got = (
        project_linear(a, g, spec, param=W, gamma=gamma, moments=moments, norms=torch.from_numpy(norms[b]), backend=b)
        for b in norms
    )
    assert relative_error(got, want) <= budget("project_linear", gamma.kind)
    np.testing.assert_allclose(norms["triton"], norms["reference"], rtol=budget("project_linear", "norms"), atol=0)


@pytest.mark.parametrize("scale", [1e-23, 1e17])
def test_squares_that_float32_does_not_hold_are_summed(scale, rng, budget):
    a, g = integers(rng, 1, 3, 4, 5)
    norms = {name: torch.full((1, 2), np.nan, dtype=torch.float64) for name in ("reference", "triton")}
    for name, pair in norms.items():
        project_linear(a, scale * g, ProjectionSpec(256), param=W, norms=pair, backend=name)
    np.testing.assert_allclose(norms["triton"], norms["reference"], rtol=budget("project_linear", "norms"), atol=0)


def test_a_sample_that_is_not_finite_spoils_no_other(rng):
    a, g = integers(rng, 3, 4, 5, 20)
    want = project_linear(a, g, ProjectionSpec(256), param=W, backend="reference")
    g[1, 2, 3] = np.inf
    norms = torch.zeros(3, 2, dtype=torch.float64)
    with np.errstate(invalid="ignore"):
        got = project_linear(a, g, ProjectionSpec(256), param=W, norms=norms, backend="triton")
    np.testing.assert_array_equal(got[[0, 2]], want[[0, 2]])
    assert norms.isfinite().all(dim=1).tolist() == [True, False, True]


def test_outputs_are_overwritten_or_added_to_and_nothing_beside_them(rng):
    a, g = integers(rng, 2, 3, 5, 20)
    spec = ProjectionSpec(256)
    squares = torch.zeros(2, 2, dtype=torch.float64)
    want = project_linear(a, g, spec, param=W, norms=squares, backend="reference")
    buffer, norm_buffer = torch.full((4, 300), np.nan), torch.full((4, 6), np.nan, dtype=torch.float64)
    out, norms = buffer[1:3, 7:263], norm_buffer[1:3, 3:5]
    for times in (1, 2):
        arguments = {"out": out, "norms": norms, "accumulate": times == 2}
        project_linear(a, g, spec, param=W, backend="triton", **arguments)
        np.testing.assert_array_equal(out, times * want)
        np.testing.assert_array_equal(norms, times * squares)
    out[:], norms[:] = np.nan, np.nan
    assert buffer.isnan().all()
    assert norm_buffer.isnan().all()


LAYOUTS = {
    "wider rows": lambda x: torch.nn.functional.pad(x, (1, 2))[..., 1:-2],
    "every other column": lambda x: torch.stack([x, x + 50], dim=-1)[..., 0],
    "batch last": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "one token for all": lambda x: x[:, :1].expand(-1, x.shape[1], -1),
    "NumPy": lambda x: x.numpy()[:, ::-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_give_the_same_sketch(layout, rng):
    a, g = (LAYOUTS[layout](x) for x in integers(rng, 2, 3, 9, 33))
    want = project_linear(a, g, ProjectionSpec(256), param=W, backend="reference")
    np.testing.assert_array_equal(project_linear(a, g, ProjectionSpec(256), param=W, backend="triton"), want)


def test_same_bits_for_every_split_of_the_batch_and_of_the_workspace(rng, moments_like, monkeypatch):
    a = torch.tensor(rng.normal(size=(3, 5, 260)), dtype=torch.float32)
    g = torch.tensor(rng.normal(size=(3, 5, 20)), dtype=torch.float32)
    arguments = {"param": W, "gamma": Gamma.adam(step=2), "moments": moments_like(rng, (20, 260)), "backend": "triton"}
    spec = ProjectionSpec(256)
    whole = project_linear(a, g, spec, **arguments)
    parts = [project_linear(x, y, spec, **arguments) for x, y in zip(a.split(2), g.split(2), strict=True)]
    np.testing.assert_array_equal(torch.cat(parts), whole)
    monkeypatch.setattr(sys.modules["gradsift.ops.project_linear.triton"], "WORKSPACE_BYTES", 1)  # one sample a launch
    np.testing.assert_array_equal(project_linear(a, g, spec, **arguments), whole)


@pytest.mark.parametrize("size", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)], ids=str)
def test_empty_inputs_give_zeros(size, rng):
    a, g = integers(rng, *size)
    norms = torch.full((size[0], 2), np.nan, dtype=torch.float64)
    got = project_linear(a, g, ProjectionSpec(256), param=W, norms=norms, backend="triton")
    np.testing.assert_array_equal(got, np.zeros((size[0], 256)))
    np.testing.assert_array_equal(norms, np.zeros((size[0], 2)))


def test_the_dense_projection_is_refused(rng):
    a, g = integers(rng, 1, 2, 3, 4)
    with pytest.raises(ValueError, match=r'spec.kind: expected "xor" on backend "triton", got \'rademacher\''):
        project_linear(a, g, ProjectionSpec(256, kind="rademacher"), param=W, backend="triton")
