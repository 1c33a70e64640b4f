"""`gradsift.ops.score_rows`."""

from __future__ import annotations

import numpy as np
import pytest

from gradsift.ops.score_rows import BlockScores, RowScorer, score_rows

TILE_ROWS = 64  # of csrc/score_rows
BACKENDS = ("cpu", "reference")

# float32 products of P <= 1024 entries: the error of a cosine stays below a few units in the last place of one
BUDGET = 1e-6


@pytest.fixture
def rng():
    return np.random.default_rng(20240204)


@pytest.fixture(params=sorted(BACKENDS))
def backend(request):
    return request.param


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def cosines(rows, targets):
    rows, targets = rows.astype(np.float64), targets.astype(np.float64)
    return rows @ targets.T / np.linalg.norm(rows, axis=1)[:, None]


@pytest.mark.parametrize("n", [0, 1, 7, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1])
@pytest.mark.parametrize("n_targets", [1, 2, 17])
def test_is_the_dot_product_with_the_normalised_row(n, n_targets, backend, rng):
    rows = rng.standard_normal((n, 256)).astype(np.float32)
    targets = unit(rng.standard_normal((n_targets, 256)))
    out = np.full((n, n_targets), np.nan, np.float32)
    assert score_rows(rows, targets, out=out, backend=backend) is out
    np.testing.assert_allclose(out, cosines(rows, targets), atol=BUDGET, rtol=0)


def test_small_integers_agree_bit_for_bit_between_backends_ties_included(rng):
    rows = rng.integers(-4, 5, size=(2 * TILE_ROWS + 5, 257)).astype(np.float32)
    rows[70:] = rows[: len(rows) - 70]
    targets = rng.integers(-4, 5, size=(3, 257)).astype(np.float32)
    got = score_rows(rows, targets, backend="cpu")
    np.testing.assert_array_equal(got, score_rows(rows, targets, backend="reference"))
    np.testing.assert_array_equal(got[70:], got[: len(rows) - 70])
    assert len(got[70:]) == 63


@pytest.mark.parametrize("block", [1, 3, 100, TILE_ROWS, TILE_ROWS + 1])
def test_a_score_has_the_same_bits_wherever_the_rows_are_cut(block, backend, rng):
    rows = rng.standard_normal((600, 512)).astype(np.float32)
    rows[1::2] = rows[0]  # copies at every offset of a tile must tie
    targets = unit(rng.standard_normal((5, 512)))
    whole = score_rows(rows, targets, backend=backend)
    parts = [score_rows(rows[i : i + block], targets, backend=backend) for i in range(0, len(rows), block)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (whole[1::2] == whole[0]).all()


def test_a_mean_of_unit_targets_scores_the_mean_of_their_cosines(backend, rng):
    rows = rng.standard_normal((9, 256)).astype(np.float32)
    targets = unit(rng.standard_normal((6, 256)))
    got = score_rows(rows, targets.mean(axis=0, keepdims=True), backend=backend)[:, 0]
    np.testing.assert_allclose(got, cosines(rows, targets).mean(axis=1), atol=BUDGET, rtol=0)


@pytest.mark.parametrize("scale", [1e-38, 1e-22, 1e-8, 1e8, 1e22, 1e36])
def test_the_scale_of_a_row_does_not_matter(scale, backend, rng):
    rows = rng.uniform(0.5, 2.0, size=(4, 256)).astype(np.float32)
    targets = unit(rng.standard_normal((3, 256)))
    tiny = (rows * np.float32(scale)).astype(np.float32)
    got = score_rows(tiny, targets, backend=backend)
    np.testing.assert_allclose(got, cosines(tiny, targets), atol=BUDGET, rtol=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_nan_and_spoils_no_other(bad, backend, rng):
    rows = rng.standard_normal((8, 256)).astype(np.float32)
    targets = unit(rng.standard_normal((3, 256)))
    targets[:, 11] = 0.0  # inf times zero inside the product
    want = score_rows(rows, targets, backend=backend)
    rows[5, 11] = bad
    got = score_rows(rows, targets, backend=backend)
    assert np.isnan(got[5]).all()
    keep = np.arange(8) != 5
    np.testing.assert_array_equal(got[keep], want[keep])


def test_a_row_of_zeros_scores_zero(backend, rng):
    rows = rng.standard_normal((3, 256)).astype(np.float32)
    rows[1] = 0.0
    got = score_rows(rows, unit(rng.standard_normal((2, 256))), backend=backend)
    np.testing.assert_array_equal(got[1], [0.0, 0.0])


def test_half_precision_and_strided_rows_score_as_their_float32_values(backend, rng):
    targets = unit(rng.standard_normal((2, 256)))
    half = rng.standard_normal((TILE_ROWS + 3, 256)).astype(np.float16)
    want = score_rows(half.astype(np.float32), targets, backend=backend)
    np.testing.assert_array_equal(score_rows(half, targets, backend=backend), want)
    strided = np.full((TILE_ROWS + 3, 300), np.nan, np.float32)
    strided[:, :256] = half
    np.testing.assert_array_equal(score_rows(strided[:, :256], targets, backend=backend), want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_come_back_as_tensors(dtype, backend, rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rows = torch.from_numpy(rng.standard_normal((5, 256)).astype(np.float32)).to(getattr(torch, dtype))
    targets = torch.from_numpy(unit(rng.standard_normal((2, 256))))
    got = score_rows(rows, targets, backend=backend)
    assert isinstance(got, torch.Tensor)
    want = score_rows(rows.float().numpy(), targets.numpy(), backend=backend)
    np.testing.assert_allclose(got.numpy(), want, atol=BUDGET, rtol=0)


ROWS = np.ones((4, 256), np.float32)
TARGETS = np.ones((2, 256), np.float32)


@pytest.mark.parametrize(
    ("rows", "targets", "options", "error", "message"),
    [
        ([[1.0]], TARGETS, {}, TypeError, r"rows: expected a NumPy array or a torch tensor, got list"),
        (ROWS[0], TARGETS, {}, ValueError, r"rows: expected shape \(n, P\), got \(256,\)"),
        (ROWS.astype(int), TARGETS, {}, TypeError, r"rows: expected dtype float32 or float16 or bfloat16, got int64"),
        (ROWS, TARGETS.astype(float), {}, TypeError, r"targets: expected dtype float32, got float64"),
        (ROWS, TARGETS[:, :255], {}, ValueError, r"targets: expected 256 columns as rows has, got 255"),
        (
            ROWS,
            np.full((2, 256), np.nan, np.float32),
            {},
            ValueError,
            r"targets: expected finite values, got NaN .*row 0",
        ),
        (
            ROWS,
            TARGETS,
            {"out": np.empty((4, 3), np.float32)},
            ValueError,
            r"out: expected shape \(4, 2\), got \(4, 3\)",
        ),
        (ROWS, TARGETS, {"out": ROWS[:, :2]}, ValueError, r"out: expected memory of its own"),
        (ROWS, TARGETS, {"backend": "cuda"}, ValueError, r"backend: expected one of .*, got 'cuda'"),
    ],
)
def test_bad_arguments_are_named(rows, targets, options, error, message):
    with pytest.raises(error, match=message):
        score_rows(rows, targets, **options)


@pytest.mark.parametrize(
    ("targets", "weights", "dtypes", "seeds", "message"),
    [
        ([], [], [], None, r"targets: expected at least one array, got none"),
        ([TARGETS], [1.0, 2.0], ["float32"], None, r"weights: expected 1, one a checkpoint as targets, got 2"),
        ([TARGETS] * 2, [1.0] * 2, ["float32"], None, r"dtypes: expected 2, one a checkpoint as targets, got 1"),
        ([TARGETS], [1.0], ["int8"], [], r"seeds: expected 1, one a checkpoint as targets, got 0"),
        ([TARGETS], [1.0], ["float64"], None, r"dtypes\[0\]: expected one of .*, got 'float64'"),
        ([TARGETS, ROWS], [1.0] * 2, ["float32"] * 2, None, r"targets\[1\]: expected as many columns as targets\[0\]"),
    ],
)
def test_what_a_scorer_is_made_of_is_named_where_it_is_wrong(targets, weights, dtypes, seeds, message):
    with pytest.raises(ValueError, match=message):
        RowScorer(targets, weights, dtypes, seeds=seeds, backend="reference")


@pytest.mark.parametrize(
    ("rows", "scales", "error", "message"),
    [
        ([ROWS], None, ValueError, r"rows: expected 2, one a checkpoint, got 1"),
        ([ROWS] * 3, None, ValueError, r"rows: expected 2, one a checkpoint, got 3"),
        ([ROWS] * 2, [None], ValueError, r"scales: expected 2, one a checkpoint, got 1"),
        ([ROWS, ROWS[:3]], None, ValueError, r"rows\[1\]: expected shape \(4, …\) of 1024 bytes a row"),
        ([ROWS, ROWS[:, 0]], None, ValueError, r"rows\[1\]: expected shape \(4, …\) .*got \(4,\) of float32"),
        ([ROWS, ROWS.astype(np.int32)], None, TypeError, r"rows\[1\]: expected dtype float32, got int32"),
        ([ROWS, ROWS.astype(">f4")], None, TypeError, r"rows\[1\]: expected dtype float32, got byte-swapped float32"),
        ([ROWS, ROWS.tolist()], None, TypeError, r"rows\[1\]: expected a NumPy array or a torch tensor, got list"),
    ],
)
def test_blocks_that_are_not_what_the_scorer_was_made_for_are_refused(rows, scales, error, message, backend):
    scorer = RowScorer([TARGETS] * 2, [0.5, 0.5], ["float32"] * 2, backend=backend)
    with pytest.raises(error, match=message):
        scorer.score(rows, BlockScores(influence=np.empty(4, np.float32)), scales=scales)
