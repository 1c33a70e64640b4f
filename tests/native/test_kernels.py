"""The kernels below the public ops: edges of tiles, what is not finite, memory left alone, refused arguments."""

import numpy as np
import pytest

from gradsift import Gamma, ProjectionSpec, ops

SPEC = ProjectionSpec(512, seed=3)


def integers(rng, *shape):
    return rng.integers(-3, 4, size=shape).astype(np.float32)


@pytest.mark.parametrize("gamma", [Gamma.sgd(), Gamma.sign()], ids=lambda g: g.kind)
@pytest.mark.parametrize("d_out", [1, 3, 4, 5, 8, 9, 16, 65])
@pytest.mark.parametrize("d_in", [1, 7, 8, 15, 17, 31, 33, 127, 128, 129, 257])
def test_integers_are_exact_at_every_edge_of_a_tile(isa, rng, d_in, d_out, gamma):
    a, g = integers(rng, 2, 3, d_in), integers(rng, 2, 3, d_out)
    want = ops.project_linear(a, g, SPEC, param="w", gamma=gamma, backend="reference")
    out, norms = np.full((2, 512), np.nan, np.float32), np.full((2, 2), np.nan)
    ops.project_linear(a, g, SPEC, param="w", gamma=gamma, backend="cpu", out=out, norms=norms)
    np.testing.assert_array_equal(out, want)
    grads = np.einsum("bto,bti->boi", g, a)
    np.testing.assert_array_equal(norms[:, 0], np.square(grads).sum((1, 2)))
    np.testing.assert_array_equal(ops.project_rows(grads, SPEC, param="w", gamma=gamma, backend="cpu"), want)


def test_nothing_is_read_beyond_the_arrays(isa, rng):
    """Arrays end where NaN begins: one element too far would show."""
    a, g, m = (np.full(shape, np.nan, np.float32) for shape in ((2, 5, 150), (2, 5, 13), (14, 141)))
    a[:, 1:4, 3:144], g[:, 1:4, 2:12] = integers(rng, 2, 3, 141), integers(rng, 2, 3, 10)
    m[2:12] = integers(rng, 10, 141)
    moments = (m[2:12], m[2:12] ** 2 + 1)
    adam = Gamma.adam(step=2)
    got = ops.project_linear(
        a[:, 1:4, 3:144], g[:, 1:4, 2:12], SPEC, param="w", gamma=adam, moments=moments, backend="cpu"
    )
    assert np.isfinite(got).all()


def test_nothing_is_written_between_strided_rows_of_outputs(isa, rng):
    room, norm_room = np.full((3, 700), 7.0, np.float32), np.full((3, 5), 7.0)
    ops.project_linear(
        integers(rng, 3, 4, 40),
        integers(rng, 3, 4, 9),
        SPEC,
        param="w",
        out=room[:, 60:572],
        norms=norm_room[:, 1:3],
        backend="cpu",
    )
    assert (room[:, :60] == 7).all()
    assert (room[:, 572:] == 7).all()
    assert (norm_room[:, [0, 3, 4]] == 7).all()


@pytest.mark.parametrize("gamma", [Gamma.sgd(), Gamma.less(), Gamma.sign()], ids=lambda g: g.kind)
def test_what_is_not_finite_stays_in_its_sample_and_is_seen_there(isa, rng, gamma):
    a, g = integers(rng, 4, 3, 70), integers(rng, 4, 3, 10) + 10
    a[1, 2, 69], a[2, 0, 3] = np.nan, np.inf
    moments = (integers(rng, 10, 70), np.ones((10, 70), np.float32)) if gamma.needs_moments else None
    norms = np.zeros((4, 2))
    got = ops.project_linear(a, g, SPEC, param="w", gamma=gamma, moments=moments, norms=norms, backend="cpu")
    assert np.isfinite(got[[0, 3]]).all()
    assert np.isfinite(norms[[0, 3]]).all()
    assert np.isnan(got[1]).any()
    assert np.isnan(norms[1]).all()
    assert not np.isfinite(norms[2, 0])


def test_sign_of_zero_is_zero(isa):
    grads = np.array([[0.0, -0.0, 2.0, -0.5]], np.float32)
    norms = np.zeros((1, 2))
    ops.project_rows(grads, SPEC, param="w", gamma=Gamma.sign(), norms=norms, backend="cpu")
    assert norms[0, 1] == 2


def test_squares_that_float32_cannot_hold_are_in_the_norms(isa):
    grads = np.array([[3e-30, 4e-30], [3e25, 4e25]], np.float32)
    norms = np.zeros((2, 2))
    ops.project_rows(grads, SPEC, param="w", norms=norms, backend="cpu")
    np.testing.assert_allclose(norms[:, 0], [25e-60, 25e50], rtol=1e-6)


def with_squares_out_of_range(case, shape):
    """Entries whose squares float32 cannot hold among others, in a matrix of several runs and tiles."""
    g = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    if case == "one overflows":
        g[shape[0] // 2, shape[1] // 2] = 3e25
    elif case == "all underflow":
        g *= np.float32(1e-30)
    elif case == "one row is left":
        g[1:] *= np.float32(1e-32)
        g[0] *= np.float32(1e-21)
    elif case == "sums overflow":
        g *= np.float32(1.5e19)
    return g


@pytest.mark.parametrize("case", ["one overflows", "all underflow", "one row is left", "sums overflow"])
@pytest.mark.parametrize("nonzeros", [1, 2])
@pytest.mark.parametrize("shape", [(9, 70), (40, 300)], ids=str)
def test_norms_are_right_where_squares_leave_float32(isa, case, nonzeros, shape):
    g = with_squares_out_of_range(case, shape)
    spec = ProjectionSpec(512, seed=3, nonzeros=nonzeros)
    gamma = Gamma.second_moment(eps=1e-3, step=5)
    moments = (np.zeros(shape, np.float32), np.ones(shape, np.float32))
    want = [np.square(g, dtype=np.float64).sum()] * 2
    want[1] /= (1 / np.sqrt(1 - gamma.beta2**5) + 1e-3) ** 2
    norms = np.zeros((1, 2))
    ops.project_rows(g[None], spec, param="w", gamma=gamma, moments=moments, norms=norms, backend="cpu")
    np.testing.assert_allclose(norms[0], want, rtol=1e-6)
    # G itself as the product with one token a row
    tokens = (g[None], np.eye(shape[0], dtype=np.float32)[None])
    ops.project_linear(*tokens, spec, param="w", gamma=gamma, moments=moments, norms=norms, backend="cpu")
    np.testing.assert_allclose(norms[0], want, rtol=1e-6)


def test_zero_gradients_and_moments_make_zero_for_the_smallest_epsilon(isa):
    zero = np.zeros((1, 6), np.float32)
    gamma = Gamma.second_moment(eps=2.0**-126)
    got = ops.project_rows(zero, SPEC, param="w", gamma=gamma, moments=(zero[0], zero[0]), backend="cpu")
    assert (got == 0).all()


class Arguments:
    """A valid call of each native function, to spoil in one place."""

    def __init__(self):
        self.a, self.g = np.ones((5, 40), np.float32), np.ones((5, 9), np.float32)
        self.offsets, self.ids = np.array([0, 2, 5], np.int64), np.arange(5, dtype=np.int64)
        self.out = np.zeros((2, 256), np.float32)

    def shared(self):
        return {
            "cu_seqlens": self.offsets.ctypes.data,
            "samples": 2,
            "d_out": 9,
            "d_in": 40,
            "projection": (0, 256, 0, 1),
            "param_id": 1,
            "gamma": (0, 0.0, 0.0, 0.0, 0),
            "first_moment": (0, 0),
            "second_moment": (0, 0),
            "output": (self.out.ctypes.data, 256, 0, 0, False),
            "threads": 1,
        }

    def linear(self):
        rows = {"activations": (self.a.ctypes.data, 0, 0, 40), "output_grads": (self.g.ctypes.data, 0, 0, 9)}
        return {**self.shared(), **rows, "padded": False}

    def rows(self):
        return {**self.shared(), "grads": (self.a.ctypes.data, 0, 0, 40), "row_ids": self.ids.ctypes.data}


SPOILED = [
    ({"projection": (2, 256, 0, 1)}, "projection kind: .*got 2"),
    ({"projection": (0, 300, 0, 1)}, "proj_dim: .*got 300"),
    ({"projection": (0, 131072, 0, 1)}, "proj_dim: .*got 131072"),
    ({"projection": (0, 256, 0, 3)}, "nonzeros: .*got 3"),
    ({"projection": (1, 256, 0, 2)}, "nonzeros: expected 1 .*got 2"),
    ({"gamma": (9, 0.0, 0.0, 0.0, 0)}, "gamma kind: .*got 9"),
    ({"gamma": (1, 1.0, 0.9, 1e-8, 1), "first_moment": (8, 0), "second_moment": (8, 0)}, "beta1: .*got 1"),
    ({"gamma": (1, 0.9, 0.9, 0.0, 1), "first_moment": (8, 0), "second_moment": (8, 0)}, "eps: .*got 0"),
    ({"gamma": (1, 0.9, 0.9, 1e-8, 0), "first_moment": (8, 0), "second_moment": (8, 0)}, "step: .*got 0"),
    ({"gamma": (1, 0.9, 0.9, 1e-8, 1)}, "moments: expected the first"),
    ({"gamma": (4, 0.0, 0.9, 1e-8, 1)}, "moments: expected the second"),
    ({"gamma": (4, 0.0, 0.9, 1e-8, 1), "second_moment": (8, 5)}, r"moments\[1\]: .*got 5"),
    ({"threads": 0}, "threads: .*got 0"),
    ({"output": (8, 255, 0, 0, False)}, "out: .*got 255"),
    ({"output": (0, 256, 0, 0, False)}, "out: .*got none"),
    ({"d_in": -1}, "expected a width >= 0, got -1"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILED, ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("op", ["project_linear", "project_rows"])
def test_arguments_that_break_the_contract_are_refused_with_their_values(native, op, spoil, message):
    held = Arguments()
    arguments = held.linear() if op == "project_linear" else held.rows()
    getattr(native, op)(**arguments)
    with pytest.raises(ValueError, match=message):
        getattr(native, op)(**{**arguments, **spoil})


@pytest.mark.parametrize("op", ["project_linear", "project_rows"])
def test_offsets_that_fall_are_refused(native, op):
    held = Arguments()
    held.offsets[:] = [0, 4, 3]
    arguments = held.linear() if op == "project_linear" else held.rows()
    with pytest.raises(ValueError, match=r"cu_seqlens: .*got 4 then 3 at sample 1"):
        getattr(native, op)(**arguments)


def test_rows_outside_of_the_parameter_are_refused(native):
    held = Arguments()
    held.ids[3] = 9
    with pytest.raises(ValueError, match="row_ids: expected 0 to 8, got 9 at position 3"):
        native.project_rows(**held.rows())
